"""A paired session: one person types, another one sees it, and both agree to what it did before it is committed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acceptance.pairing import (
    AFTER,
    BEFORE,
    CHANGE,
    CORRECTION,
    LADDER,
    OURS,
    PEOPLE,
    RUN,
    applicants,
    configure,
    pair_of,
    session,
    watch,
)
from acceptance.prompt import Going
from acceptance.team import Team
from backout.ledger.statement import Kind, Signed, Statement
from backout.ledger.store import Ledger
from servers import PostgresServers


@pytest.fixture
def team(tmp_path: Path, postgres_servers: PostgresServers) -> Iterator[Team]:
    with pair_of(tmp_path, postgres_servers) as made:
        yield made


def test_session_is_committed_when_both_have_agreed_and_can_be_undone(team: Team) -> None:
    with session(team) as ann:
        ann.until("production " + team.databases["production"].application_role)
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        ann.type("\\q\n")
        ann.until(f"{RUN} waits for ann and somebody other than ann")
        assert "old@example.org → new@example.org" in ann.said
        first = team.says("ann", "statement", "agree", RUN, "--yes")
        ann.until(f"{RUN} waits for somebody other than ann")
        assert applicants(team) == BEFORE
        second = team.says("bob", "statement", "agree", RUN, "--yes")
        report = ann.reports(0)

    assert applicants(team) == AFTER
    content = first["details"]["content"]
    assert f"content: sha256 {content}" in ann.said
    assert (first["kind"], first["signed"], second["details"]) == ("agree", True, first["details"])
    assert report["agreement"] == {
        "sha256": content, "people": ["ann", "bob"], "statements": [first["statement"], second["statement"]],
    }  # fmt: skip
    assert (report["outcome"], report["proof"]["complete"], report["transcript"]["statements"]) == (
        "committed",
        True,
        1,
    )
    kept = team.says("bob", "show", "show", RUN)["report"]
    assert kept["agreement"] == report["agreement"]
    team.says("bob", "run", "undo", RUN, "--yes")
    assert applicants(team) == BEFORE


def waiting(team: Team, ann: Going) -> None:
    """Ann has corrected the address, and the session waits."""
    ann.type(CORRECTION + "\\q\n")
    ann.until(f"{RUN} waits for ann and somebody other than ann")


def test_either_may_say_no_which_rolls_back(team: Team) -> None:
    with session(team) as ann:
        waiting(team, ann)
        team.says("ann", "statement", "agree", RUN, "--yes")
        no = team.says("bob", "statement", "agree", RUN, "--no", "--why", "she has moved again")
        report = ann.reports(3)

    assert (no["kind"], no["details"]["why"]) == ("refuse", "she has moved again")
    assert (report["outcome"], report["state"]) == ("refused", "rolled back")
    assert report["error"]["message"] == "bob said no: she has moved again"
    assert applicants(team) == BEFORE


def test_no_may_be_said_while_the_other_one_still_types(team: Team) -> None:
    with session(team) as ann:
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        team.says("bob", "statement", "agree", RUN, "--no", "--why", "that is the wrong applicant")
        report = ann.reports(4)

    assert report["error"]["message"] == "bob said no: that is the wrong applicant"
    assert applicants(team) == BEFORE


def test_session_to_which_nobody_agrees_in_time_is_rolled_back(team: Team) -> None:
    configure(team, 'agree_within = "1 s"\n')
    with session(team) as ann:
        waiting(team, ann)
        report = ann.reports(3)

    assert report["error"]["message"] == "not agreed within 1 s: it waited for ann and somebody other than ann"
    assert applicants(team) == BEFORE
    assert team.rows("production", "SELECT * FROM rescue.session") == []
    rescue = "SELECT relname FROM pg_class WHERE relnamespace = 'rescue'::regnamespace AND relname LIKE 'run%'"
    assert team.rows("production", rescue) == []


def test_session_in_which_nothing_is_typed_for_too_long_is_rolled_back(team: Team) -> None:
    configure(team, 'program_idle = "1 s"\n')
    with session(team) as ann:
        ann.type(CORRECTION)
        report = ann.reports(4)

    assert report["error"]["message"] == (
        "the session was ended: it was idle, with the transaction open, for longer than 1 s"
    )
    assert applicants(team) == BEFORE


def test_one_person_cannot_agree_for_two(team: Team) -> None:
    configure(team, 'agree_within = "5 s"\n')
    with session(team) as ann:
        waiting(team, ann)
        team.says("ann", "statement", "agree", RUN, "--yes")
        ann.until("waits for somebody other than ann")
        refused = team.refused("ann", "agree", RUN, "--yes")
        report = ann.reports(3)

    assert "ann has agreed already: it waits for somebody other than ann" in refused
    assert report["error"]["message"] == "not agreed within 5 s: it waited for somebody other than ann"
    assert applicants(team) == BEFORE


def test_agreement_that_nobody_signed_is_none(team: Team) -> None:
    configure(team, 'agree_within = "5 s"\n')
    with session(team) as ann:
        waiting(team, ann)
        said = team.says("ann", "statement", "agree", RUN, "--yes")
        forged = Statement(
            Kind.AGREE, said["change"], said["digest"], "production", "bob@example.org", datetime.now(UTC), said["details"],
            "clinic",
        )  # fmt: skip
        ledger = Ledger(team.databases["ledger"].application_url)
        ledger.append_all([Signed(forged, None).body])
        ledger.close()
        report = ann.reports(3)

    assert report["error"]["message"] == "not agreed within 5 s: it waited for somebody other than ann"
    assert applicants(team) == BEFORE


def test_what_was_agreed_to_cannot_be_agreed_to_when_it_is_over(team: Team) -> None:
    with session(team) as ann:
        ann.type("\\q\n")
        report = ann.reports(0)

    assert report["agreement"] is None
    assert report["notes"][-1] == "nothing was changed, so nobody was asked to agree"
    assert f'"{RUN}" waits for nobody: it is committed' in team.refused("bob", "agree", RUN, "--yes")


def test_second_person_sees_statements_then_rows_then_who_has_agreed(team: Team) -> None:
    with session(team) as ann:
        ann.until("backout watch")
        with watch(team) as bob:
            ann.type(CORRECTION)
            bob.until("> UPDATE applicant SET email = 'new@example.org' WHERE id = 7\n  UPDATE 1\n")
            ann.type("SELECT nothing;\n")
            bob.until("> SELECT nothing\n  ERROR 42703\n")
            ann.type("\\q\n")
            bob.until("old@example.org → new@example.org")
            bob.until(f"{RUN} waits for ann and somebody other than ann: backout agree {RUN}\n")
            team.says("bob", "statement", "agree", RUN, "--yes")
            bob.until("agreed: bob\n")
            team.says("ann", "statement", "agree", RUN, "--yes")
            bob.ends(0)
        ann.reports(0)

    assert bob.said.endswith(f"{RUN} is committed, agreed by ann and bob\n")
    assert applicants(team) == AFTER


def test_session_whose_watcher_leaves_is_rolled_back(team: Team) -> None:
    configure(team, 'watcher_gone = "2 s"\n')
    with session(team) as ann:
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        with watch(team) as bob:
            bob.until("the session is open")
        report = ann.reports(4)

    assert report["error"]["message"] == "bob, who watched the session, has left"
    assert applicants(team) == BEFORE


def test_nobody_types_unwatched_where_a_watcher_is_required(team: Team) -> None:
    configure(team, 'watcher = "required"\n')
    with session(team) as ann:
        ann.until("production asks for somebody other than ann who watches")
        with Going(team.folder, "watch", RUN, key=team.key("ann"), loud="stdout") as herself:
            herself.until("the session is waiting for a watcher")
        assert " > " not in ann.said
        with watch(team) as bob:
            ann.until("production " + team.databases["production"].application_role)
            bob.until("the session is open")
            ann.type("\\rollback\n")
            assert ann.reports(4)["error"]["message"] == "given up at the prompt"
            bob.ends(0)

    assert bob.said.endswith(f"{RUN} is rolled back\n")


def test_session_below_is_the_rehearsal_of_a_session(team: Team) -> None:
    team.configure(LADDER)
    begin = ("session", "correct-address", "--on", "production", "--yes")
    refused = team.refused("ann", *begin)
    assert "it was not rehearsed on dev" in refused
    assert "hint: backout session correct-address --on dev" in refused

    with session(team, on="dev") as ann:
        ann.type(CORRECTION + "\\q\n")
        ann.until("dev-1 waits for")
        for person in PEOPLE:
            team.says(person, "statement", "agree", "dev-1", "--yes")
        ann.reports(0)

    status = team.says("ann", "status", "status", "correct-address", "--on", "production")
    assert (status["may_run"], status["next"]) == (True, "backout session correct-address --on production")
    with session(team) as ann:
        ann.until("> ")
        ann.type("\\rollback\n")
        ann.reports(4)


def test_emergency_skips_approvals_and_not_the_second_person(team: Team) -> None:
    configure(team, 'agree_within = "3 s"\napprovals = ["pair"]\nemergency = ["ann"]\n')
    begin = ("session", "correct-address", "--on", "production", "--yes")
    team.says("ann", "statement", "submit", "correct-address")
    assert '"pair" is not approved' in team.refused("ann", *begin)

    with session(team, "--emergency", "--why", "the award goes out today") as ann:
        waiting(team, ann)
        team.says("ann", "statement", "agree", RUN, "--yes")
        report = ann.reports(3)

    assert report["authority"]["emergency"] == "the award goes out today"
    assert report["error"]["message"] == "not agreed within 3 s: it waited for somebody other than ann"
    assert applicants(team) == BEFORE


def test_of_phi_the_watcher_sees_no_value(team: Team) -> None:
    file = team.folder / "changes" / "correct-address.sql"
    file.write_text(CHANGE.replace("-- session", '-- data = "phi"\n-- session'))
    configure(team, 'reveal = ["developer"]\n')
    with session(team) as ann:
        ann.until("backout watch")
        with watch(team) as bob:
            waiting(team, ann)
            bob.until("content: sha256")
            team.says("bob", "statement", "agree", RUN, "--no", "--why", "no")
            bob.ends(0)
        report = ann.reports(3)

    assert "UPDATE applicant SET email" in bob.said
    assert "example.org" not in bob.said + str(report)
    assert [kind for kind in ("reveal",) if kind in str(team.tables("ledger"))] == ["reveal"]


def test_assertions_of_the_file_hold_at_the_end_of_the_session(team: Team) -> None:
    file = team.folder / "changes" / "correct-address.sql"
    file.write_text(CHANGE + "-- @assert \"every address is one\"\nSELECT bool_and(email LIKE '%@%') FROM applicant;\n")
    with session(team) as ann:
        ann.type("UPDATE applicant SET email = 'none' WHERE id = 7;\n\\q\n")
        report = ann.reports(4)

    assert report["error"]["code"] == "assertion_failed"
    assert applicants(team) == BEFORE


def test_own_transactions_stand_in_the_prompt_and_what_is_not_committed_is_not_kept(team: Team) -> None:
    with session(team) as ann:
        ann.type("BEGIN;\n")
        ann.until(" *> ")
        ann.type("SELECT nothing;\n")
        ann.until(" !> ")
        ann.type("ROLLBACK;\nBEGIN;\nSELECT count(*), NULL AS nothing\n")
        ann.until(" -> ")
        ann.type("FROM applicant;\n")
        ann.until("count | nothing\n------+--------\n2     | NULL\nSELECT 1\n")
        ann.type(CORRECTION + "\\q\n")
        report = ann.reports(0)

    assert "note: what your open transaction did is taken back, since it was not committed" in ann.said
    assert (report["agreement"], applicants(team)) == (None, BEFORE)


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_is_the_prompt_where_it_is_installed_and_there_is_a_terminal(team: Team) -> None:
    with session(team, loud="terminal") as ann:
        ann.until(f"production {team.databases['production'].application_role} > ")
        ann.type("BEGIN;\n")
        ann.until(" *> ")
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        ann.type("COMMIT;\n")
        ann.until("COMMIT\r\n")
        ann.type("\\q\n")
        ann.until(f"{RUN} waits for ann and somebody other than ann")
        for person in PEOPLE:
            team.says(person, "statement", "agree", RUN, "--yes")
        report = ann.reports(0)

    assert "statements were typed at psql" in report["notes"][0]
    assert report["agreement"]["people"] == ["ann", "bob"]
    assert applicants(team) == AFTER


def test_session_whose_process_is_gone_is_rolled_back_whatever_is_said_later(team: Team) -> None:
    with session(team) as ann:
        waiting(team, ann)
        team.says("ann", "statement", "agree", RUN, "--yes")
        ann.process.kill()
    while team.rows("production", OURS) != [(0,)]:
        pass  # until the server has noticed
    said = team.refused("bob", "agree", RUN, "--yes")

    assert f'"{RUN}" waits for nobody: it is interrupted' in said
    assert applicants(team) == BEFORE


def test_session_whose_connection_is_lost_while_it_waits_is_not_committed(team: Team) -> None:
    with session(team) as ann:
        waiting(team, ann)
        kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        assert team.rows("production", f"{kill} AND datname = current_database()") == [(1,)]
        for person in PEOPLE:
            team.says(person, "statement", "agree", RUN, "--yes")
        report = ann.reports(8)

    assert (report["outcome"], report["error"]["state"]) == ("interrupted", "rolled back")
    assert applicants(team) == BEFORE


def test_interrupted_session_is_rolled_back(team: Team) -> None:
    with session(team) as ann:
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        ann.process.send_signal(signal.SIGINT)
        report = ann.reports(8)

    assert report["error"]["state"] == "rolled back"
    assert applicants(team) == BEFORE


def test_watched_session_ends_with_its_prompt_also_where_that_is_psql(team: Team) -> None:
    configure(team, 'watcher_gone = "2 s"\n')
    with session(team, loud="terminal") as ann:
        ann.until("> ")
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        with watch(team) as bob:
            bob.until("the session is open")
        report = ann.reports(4)

    assert report["error"]["message"] == "bob, who watched the session, has left"
    assert applicants(team) == BEFORE


def test_session_of_a_private_change_has_nothing_in_the_repository(team: Team) -> None:
    file = team.folder / "changes" / "correct-address.sql"
    team.says("ann", "statement", "submit", "--private", str(file))
    file.unlink()
    with session(team) as ann:
        waiting(team, ann)
        for person in PEOPLE:
            team.says(person, "statement", "agree", RUN, "--yes")
        ann.reports(0)

    assert applicants(team) == AFTER


@pytest.mark.parametrize("verb", ["run", "ghost", "rehearse"])
def test_session_has_no_text_that_could_be_run_in_another_way(team: Team, verb: str) -> None:
    said = team.refused("ann", verb, "correct-address", "--on", "production", "--yes", status=2)

    assert '"correct-address" is a session: what it does is typed at a prompt' in said
    assert "hint: backout session correct-address --on production" in said
