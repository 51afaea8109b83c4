"""What somebody could try who has a key, an operator's rights and this program: other doors, other runs, old words.

Beside `test_strangers.py`. Each ends at the gate that it was to get round, or at the guard of the run.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import backout
from backout.engines.values import Mode, RunState
from backout.errors import BackoutError, ExpectationFailed, Refused, UsageError
from backout.gates.checklist import checklist
from backout.gates.policy import PROFILES
from backout.ledger.statement import Kind, Signed, Statement, read_signed
from backout.ledger.store import Ledger
from backout.project.book import Book
from backout.project.waiting import Waiting
from backout.runs.report import RunReport
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes
from integration.ledger.keys import allow, make_key
from servers import PostgresDatabase

WHY = "the clinic cannot admit anybody"
OPEN = [(1, "open"), (2, "open"), (3, "closed")]
RESTORABLE = CONFIG + 'backup = {{provider = "sqlite", restore_into = "allow"}}\n'
MANY = 60  # more than the newest runs that are looked at, see `run_entries`


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def open_again(clinic: Clinic) -> None:
    clinic.sql("production", "UPDATE referral SET status = 'open' WHERE id < 3")


def ghosts(clinic: Clinic) -> None:
    """Nobody is asked before one."""
    (clinic.folder / "changes" / "look.sql").write_text(CHANGE.replace("-- @expect 2\n", "").partition("-- @assert")[0])
    project = clinic.project(None)
    look = project.change(str(clinic.folder / "changes" / "look.sql"))
    for _ in range(MANY):
        project.ghost(look, "production", ask=yes)


# -- behind many ghosts


def test_an_end_that_was_cut_off_shows_however_many_ghosts_there_were_since(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.project("cem").undo("production-1", ask=yes)
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE position > 5")
    clinic.rechain()
    ghosts(clinic)
    assert "is gone: its end was cut off, or this is another ledger" in clinic.refusal()


def test_an_emergency_that_no_ledger_has_owes_its_review_however_many_ghosts_there_were_since(clinic: Clinic) -> None:
    clinic.prepare()
    away = clinic.ledger.with_suffix(".away")
    clinic.ledger.rename(away)
    clinic.ledger.mkdir()
    clinic.run("eve", emergency=WHY)
    clinic.ledger.rmdir()
    away.rename(clinic.ledger)
    open_again(clinic)
    ghosts(clinic)
    assert clinic.refusal(again="they were opened again") == "emergency run production-1 owes a review by 2 people"


# -- what somebody writes into the ledger beside what is there


def test_a_second_entry_on_a_run_does_not_take_back_the_first(clinic: Clinic) -> None:
    """Somebody adds that the emergency was rolled back, and the journal was made anew since, so that it has no word."""
    clinic.prepare()
    clinic.run("eve", emergency=WHY)
    bodies = [one for (one,) in clinic.sql("ledger", "SELECT body FROM backout_ledger_entry")]
    found = [one for one in map(json.loads, bodies) if '"kind":"run"' in one["statement"] and WHY in one["statement"]]
    text = found[0]["statement"].replace('"outcome":"committed"', '"outcome":"rolled back"')
    Ledger(f"sqlite:///{clinic.ledger}").append(
        Signed(read_signed({**found[0], "statement": text}).statement, None).body
    )
    for (table,) in clinic.sql(
        "production", "SELECT name FROM sqlite_schema WHERE name GLOB 'backout_*' AND type = 'table'"
    ):
        clinic.sql("production", f"DROP TABLE {table}")
    open_again(clinic)
    assert clinic.refusal() == "emergency run production-1 owes a review by 2 people"


@pytest.mark.parametrize("time", ["soon", "2026-11-21", "2026-11-21T12:00:00"])
def test_words_on_a_run_that_cannot_be_read_stop_nobody_with_a_bug(clinic: Clinic, time: str) -> None:
    clinic.prepare()
    clinic.sql("production", "UPDATE referral SET status = 'closed' WHERE id = 1")
    with pytest.raises(ExpectationFailed):
        clinic.run()
    bodies = [one for (one,) in clinic.sql("ledger", "SELECT body FROM backout_ledger_entry")]
    (run,) = [one for one in map(json.loads, bodies) if '"run":"production-1"' in one["statement"]]
    details = json.loads(run["statement"])["details"]
    text = (
        run["statement"].replace(details["finished_at"], time).replace('"run":"production-1"', '"run":"production-9"')
    )
    Ledger(f"sqlite:///{clinic.ledger}").append(json.dumps({**run, "statement": text, "signature": None}))
    assert clinic.refusal().startswith('"correctness" is not approved: the approval by bob is void: run production-1')


# -- two names, one key


def test_an_author_with_a_colleagues_second_key_is_still_the_author(clinic: Clinic) -> None:
    """Ann has submitted with her first key; the second one is cem's as well, and she approves with it in his name."""
    second = make_key(clinic.folder / "keys", "ann-token")
    allow(clinic.signers, "ann@example.org", second)
    allow(clinic.signers, "cem@example.org", second)
    clinic.prepare(leave_out="safety")
    with pytest.raises(Refused, match="this approval would not count: cem wrote or edited it"):
        clinic.approve("cem", "safety")
    assert clinic.refusal() == '"safety" is not approved'


# -- a clock that was moved


def test_a_key_whose_time_is_over_approves_nothing_that_came_later(clinic: Clinic) -> None:
    """Cem has left; with his clock set back to then his signature is good, as of then."""
    left = datetime.now(UTC) - timedelta(days=3)
    clinic.prepare(leave_out="safety")
    lines = clinic.signers.read_text().replace(
        'cem@example.org namespaces="statement@backout"',
        f'cem@example.org namespaces="statement@backout",valid-before="{left:%Y%m%d%H%M%SZ}"',
    )
    clinic.signers.write_text(lines)
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "cem@example.org", left - timedelta(hours=1),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    signed = clinic.project("cem").statements._speaker("ssh").say(statement)
    Ledger(f"sqlite:///{clinic.ledger}").append(signed.body)
    status = clinic.project("bob").status(clinic.change, "production")
    (approvals,) = [one.text for one in status.verdicts if one.gate == "approvals"]
    assert approvals == '"safety" is not approved: cem approved before the text was submitted'


# -- a rehearsal as a run


def test_a_rehearsal_that_stays_applied_is_a_second_run_like_any_other(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    open_again(clinic)
    with pytest.raises(Refused) as caught:
        clinic.project("cem").rehearse(clinic.change, "production", reapply=True, ask=yes)
    assert (caught.value.message, caught.value.hint) == (
        'change "close" has run here already: production-1',
        "take it back first: backout undo production-1; or rehearse it without --reapply",
    )  # fmt: skip
    assert clinic.rows() == OPEN
    rehearsal = clinic.project("cem").rehearse(clinic.change, "production", ask=yes)
    assert (rehearsal.run.outcome, clinic.rows()) == (RunState.COMMITTED, OPEN)


def test_what_a_rehearsal_leaves_applied_is_signed_in_the_ledger(clinic: Clinic) -> None:
    clinic.prepare()
    rehearsal = clinic.project("cem").rehearse(clinic.change, "production", reapply=True, ask=yes)
    assert rehearsal.reapplied is not None
    bodies = [json.loads(one) for (one,) in clinic.sql("ledger", "SELECT body FROM backout_ledger_entry")]
    signed = {
        json.loads(one["statement"])["details"]["run"]: one["signature"] is not None
        for one in bodies if '"kind":"run"' in one["statement"] and '"environment":"production"' in one["statement"]
    }  # fmt: skip
    assert signed[rehearsal.reapplied.identifier] is True


# -- a subset as the whole


def test_a_subset_that_is_more_than_the_whole_should_be_ends_like_the_whole(clinic: Clinic) -> None:
    clinic.write(CHANGE.replace("-- @expect 2", "-- @subset referral by=id\n-- @expect 2"))
    clinic.prepare()
    clinic.sql("production", "INSERT INTO referral VALUES (4, 'open')")
    with pytest.raises(ExpectationFailed, match="wrote 3 rows, and 2 were expected"):
        clinic.run(subset="id >= 0")
    assert clinic.rows() == [*OPEN, (4, "open")]


# -- a ghost of something smaller


def test_a_ghost_with_other_values_proves_nothing_of_these(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace("operators =", "accept_ghost_undo = true\noperators ="))
    declared = '-- [parameters]\n-- upto = {type = "int", per_environment = true}\n-- ///\n-- @expect 2'
    clinic.write(CHANGE.replace("-- ///\n-- @expect 2", declared, 1).replace("'open';", "'open' AND id <= :upto;"))
    clinic.project("ann").statements.submit(clinic.change)
    for person, kind in (("bob", "correctness"), ("cem", "safety")):
        project = clinic.project(person)
        project.approve(clinic.change, "production", kind, ticked=checklist(kind), parameters={"upto": 3})
    clinic.project("cem").announced(clinic.change, "production", ["everybody"])
    clinic.sql("production", "INSERT INTO referral VALUES (0, 'open'), (-1, 'open')")
    clinic.sql("production", "UPDATE referral SET status = 'closed' WHERE id > 0")

    def ghost(upto: int) -> None:
        clinic.project("cem").ghost(clinic.change, "production", parameters={"upto": upto}, undo=True, ask=yes)

    ghost(0)
    assert clinic.refusal(parameters={"upto": 3}) == "it was not rehearsed on staging"
    assert "approved other values of its parameters" in clinic.refusal(parameters={"upto": 0})
    ghost(3)
    assert clinic.run(parameters={"upto": 3}).outcome is RunState.COMMITTED


# -- a backup in the place of production


def test_a_backup_takes_the_place_of_production_when_somebody_else_has_approved_it(clinic: Clinic) -> None:
    clinic.configure(RESTORABLE)
    backup = clinic.project("cem").backup("production").identifier
    clinic.sql("production", "UPDATE referral SET status = 'lost'")

    def restore() -> None:
        clinic.project("cem").restore(backup, "production", replace_all=True, ask=yes)

    def is_refused() -> bool:
        before = clinic.rows()
        with pytest.raises(Refused) as caught:
            restore()
        assert clinic.rows() == before
        words = f'a restore into "production": nobody else approved that {backup} takes the place of production'
        hint = f"backout approve {backup} --restore --on production"
        return (caught.value.gate, caught.value.message, caught.value.hint) == ("restore", words, hint)

    assert is_refused()
    clinic.project("cem").approve_restore(backup, "production")
    assert is_refused()
    typed = backout(clinic.folder, "approve", backup, "--restore", "--on", "production", "--key", "keys/bob")
    assert f"approved a restore of {backup}" in typed.out
    restore()
    assert clinic.rows() == OPEN
    clinic.sql("production", "UPDATE referral SET status = 'new'")
    assert is_refused()  # what was approved has been done
    assert clinic.project(None).audit().is_sound


def test_an_approval_of_a_restore_that_was_forged_lets_nobody(clinic: Clinic) -> None:
    clinic.configure(RESTORABLE)
    backup = clinic.project("cem").backup("production").identifier
    signed = clinic.project("cem").approve_restore(backup, "production").signed
    text = signed.statement.text.replace("cem@example.org", "bob@example.org")
    Ledger(f"sqlite:///{clinic.ledger}").append(
        json.dumps({"kind": "statement", "statement": text, "signature": signed.signature})
    )
    with pytest.raises(Refused, match="its signature is not of these words"):
        clinic.project("cem").restore(backup, "production", replace_all=True, ask=yes)


def test_an_undo_that_was_approved_for_another_environment_is_not(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.project("cem").undo("production-1", ask=yes)
    run, _, subject = clinic.project("bob").about_run("production-2")
    clinic.project("bob").statements.approve_undo(run, subject, "staging")
    with pytest.raises(Refused, match="this undo of production-2 wants one more approval"):
        clinic.project("cem").undo("production-2", ask=yes)


# -- in batches, on PostgreSQL

BATCHES = CHANGE.partition("-- @expect")[0] + (
    "-- @batch referral by=id size=1\n"
    "UPDATE referral SET status = CASE WHEN id = 3 THEN (1 / (id - 3))::text ELSE 'closed' END;\n"
)


@pytest.fixture
def on_postgres(clinic: Clinic, postgres18: PostgresDatabase) -> Clinic:
    postgres18.execute("CREATE TABLE public.referral (id bigint PRIMARY KEY, status text)", role="application")
    postgres18.execute("INSERT INTO public.referral VALUES (1, 'open'), (2, 'open'), (3, 'open')", role="application")
    clinic.configure(
        CONFIG.replace("sqlite:{folder}/production.db", postgres18.login_url).replace(
            "roles = {{", f'role = "{postgres18.application_role}"\nroles = {{{{'
        )
    )
    return clinic


def test_an_emergency_in_batches_that_ended_early_owes_a_review(
    on_postgres: Clinic, postgres18: PostgresDatabase
) -> None:
    clinic = on_postgres
    clinic.write(BATCHES)
    with pytest.raises(BackoutError):
        clinic.project("eve").run(clinic.change, "production", emergency=WHY, ask=yes)
    assert postgres18.execute("SELECT count(*) FROM referral WHERE status = 'closed'") == [(2,)]
    (record,) = [one for one in clinic.project(None).log("production") if one.start.mode is Mode.REAL]
    assert (record.state, record.batches) == (RunState.PARTIAL, 2)
    clinic.write(CHANGE)
    with pytest.raises(Refused) as caught:
        clinic.project("cem").run(clinic.change, "production", ask=yes)
    assert "review" in caught.value.message
    reviews = [
        one for one in clinic.project("cem").status(clinic.change, "production").verdicts if one.gate == "review"
    ]
    assert reviews[0].text == "emergency run production-1 owes a review by 2 people"


# -- a session, whose end is two people's

SESSION = (
    '-- /// change\n-- title = "Look at what is open"\n-- author = "ann@example.org"\n-- session = true\n'
    '-- request = "https://tracker.internal/4712"\n-- requested_by = "dan@example.org"\n'
    '-- risk = "A row that is typed wrongly could be closed."\n-- mitigation = "Two people look at each row."\n-- ///\n'
)


class Yes(Waiting):
    """Somebody's own idea of people who agree."""

    def agree(self, _transaction: object, _found: object, report: RunReport) -> RunReport:
        return report


def test_nobody_says_yes_in_the_place_of_those_whom_a_session_waits_for(on_postgres: Clinic) -> None:
    clinic = on_postgres
    clinic.write(SESSION)
    project = clinic.project("cem")
    environment = project.config.environment("production")
    ours = Waiting(project._book, environment.policy, environment, "cem", "internal", print, never)
    others = (
        Yes(project._book, environment.policy, environment, "cem", "internal", print, never),
        replace(ours, book=Book(project.config)),
        replace(ours, policy=PROFILES["solo"]),
        replace(ours, environment=project.config.environment("staging")),
        replace(ours, first="eve"),
    )
    for waiting in others:
        with pytest.raises(UsageError, match="a session waits for people by the project that runs it"):
            project.run(clinic.change, "production", serve=never, waiting=waiting, ask=yes)
    with pytest.raises(Refused, match="was not submitted as it is now"):  # its own comes as far as the gates
        project.run(clinic.change, "production", serve=never, waiting=ours, ask=yes)


def never(*_anything: object) -> Any:
    raise AssertionError("it was asked")
