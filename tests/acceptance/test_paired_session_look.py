"""What a session has changed so far, seen by both while it goes on; and where psql cannot reach from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.pairing import AFTER, BEFORE, CHANGE, CORRECTION, PEOPLE, RUN, applicants, pair_of, session, watch
from acceptance.team import Team
from backout.endpoint.child import why_not_closed
from servers import PostgresServers

needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="NOT TESTED: psql is not installed")


@pytest.fixture
def team(tmp_path: Path, postgres_servers: PostgresServers) -> Iterator[Team]:
    with pair_of(tmp_path, postgres_servers) as made:
        yield made


def test_both_see_what_was_changed_so_far_and_the_session_goes_on(team: Team) -> None:
    with session(team) as ann:
        ann.until("backout watch")
        with watch(team) as bob:
            ann.type("\\backout diff\n")
            ann.until("SHOW\n")
            ann.type(CORRECTION)
            ann.until("UPDATE 1")
            ann.type("DELETE FROM applicant WHERE id = 6;\n")
            ann.until("DELETE 1")
            ann.type("\\backout diff\n")
            ann.until("email new@example.org")
            said = " ".join(ann.said.split())
            assert "public.applicant | - | id 6, email six@example.org | (no row)" in said
            assert "public.applicant | ~ id 7 | email old@example.org | email new@example.org" in said
            bob.until("so far:\nbefore → after\npublic.applicant\n")
            bob.until("old@example.org → new@example.org")
            assert "more" not in bob.said
            ann.type("INSERT INTO applicant VALUES (6, 'six@example.org');\n")
            ann.until("INSERT 0 1")
            ann.type("\\q\n")
            ann.until(f"{RUN} waits for ann and somebody other than ann")
            for person in PEOPLE:
                team.says(person, "statement", "agree", RUN, "--yes")
            bob.ends(0)
        report = ann.reports(0)

    assert (report["proof"]["complete"], report["transcript"]["statements"]) == (True, 3)
    assert applicants(team) == AFTER
    team.says("bob", "run", "undo", RUN, "--yes")
    assert applicants(team) == BEFORE


def test_look_inside_of_a_transaction_shows_what_may_still_be_taken_back(team: Team) -> None:
    with session(team) as ann:
        ann.until("backout watch")
        ann.type("BEGIN;\n" + CORRECTION + "\\backout diff\n")
        ann.until("email new@example.org")
        ann.type("SELECT 1/0;\n\\backout diff\n")
        ann.until("ERROR: current transaction is aborted")
        ann.type("ROLLBACK;\nSELECT 'and nothing' AS now;\n\\backout diff\nSELECT 'but this' AS now;\n")
        ann.until("but this")
        assert "public.applicant" not in ann.said[ann.said.index("and nothing") :]
        ann.type("\\q\n")
        report = ann.reports(0)

    assert report["notes"][-1] == "nothing was changed, so nobody was asked to agree"
    assert applicants(team) == BEFORE


def test_look_at_phi_shows_no_value_to_anybody(team: Team) -> None:
    (team.folder / "changes" / "correct-address.sql").write_text(
        CHANGE.replace("-- session", '-- data = "phi"\n-- session')
    )
    team.configure('[environments.production]\n{production}\nprofile = "solo"\nidentity = "ssh"\nreveal = ["ann"]\n')
    with session(team) as ann:
        ann.until("backout watch")
        with watch(team) as bob:
            ann.type(CORRECTION + "\\backout diff\n")
            ann.until("| ~ id ")
            bob.until("so far:")
            bob.until("•••")
            ann.type("\\rollback\n")
            ann.reports(4)
            bob.ends(0)

    assert "example.org" not in bob.said
    assert "old@example.org" not in ann.said


@needs_psql
def test_psql_shows_it_as_well(team: Team) -> None:
    with session(team, loud="terminal") as ann:
        ann.until("> ")
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        ann.type("\\pset pager off\n:diff\n")
        ann.until("email new@example.org")
        ann.until("(1 row)")
        ann.type("\\q\n")
        ann.until(f"{RUN} waits for ann and somebody other than ann")
        for person in PEOPLE:
            team.says(person, "statement", "agree", RUN, "--yes")
        report = ann.reports(0)

    assert report["proof"]["complete"]
    assert applicants(team) == AFTER


@needs_psql
@pytest.mark.skipif(why_not_closed() is not None, reason=f"NOT TESTED: {why_not_closed()}")
def test_psql_reaches_no_other_server_over_the_network(team: Team) -> None:
    url = team.databases["production"].superuser_url
    with session(team, loud="terminal") as ann:
        ann.until("> ")
        ann.type(f"\\connect {url}\n")
        ann.until("Connection refused")
        ann.until("Previous connection kept")
        ann.type(f"\\! psql {url} -c 'SELECT 1'\n")
        ann.until("Connection refused")
        ann.type(f"\\copy applicant FROM PROGRAM 'psql {url} -Atc \"SELECT 8, 1\"'\n")
        ann.until("Connection refused")
        ann.type(CORRECTION)
        ann.until("UPDATE 1")
        ann.type("\\q\n")
        ann.until(f"{RUN} waits for ann and somebody other than ann")
        for person in PEOPLE:
            team.says(person, "statement", "agree", RUN, "--yes")
        report = ann.reports(0)

    assert (
        "psql reached nothing but the endpoint over the network; what \\! does to files is not seen" in report["notes"]
    )
    assert applicants(team) == AFTER
