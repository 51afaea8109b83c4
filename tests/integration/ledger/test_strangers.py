"""Ways round the gates that somebody with an operator's rights could try, each with the words that stop it.

Beside `tests/unit/test_gates.py`, which has each gate as values, and `test_four_eyes.py`, which has the ordinary way.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backout.engines.values import RunState
from backout.errors import BackoutError, Refused, UsageError
from backout.gates.certificate import GHOST_UNDO, REHEARSED, Certificate
from backout.gates.checklist import checklist
from backout.ledger.statement import Kind, Signed, Statement
from backout.ledger.store import Ledger
from backout.project import Project, permit
from backout.project.certificates import certificate_statement
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes
from integration.ledger.keys import allow

OPEN = [(1, "open"), (2, "open"), (3, "closed")]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path / "clinic")


def say(clinic: Clinic, key: str, kind: Kind, name: str, **more: Any) -> None:
    """A statement that this key signs, under whatever name, put into the ledger past every verb."""
    details = {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}
    statement = Statement(
        kind, "close", clinic.change.digest, more.pop("environment", "production"), f"{name}@example.org",
        datetime.now(UTC), more.pop("details", details), "clinic",
    )  # fmt: skip
    speaker = clinic.project(key).statements._speaker("ssh")
    Ledger(f"sqlite:///{clinic.ledger}").append(speaker.say(statement).body)


def raw(clinic: Clinic, text: str) -> None:
    """A statement of these very words, unsigned."""
    body = json.dumps({"kind": "statement", "statement": text, "signature": None})
    Ledger(f"sqlite:///{clinic.ledger}").append(body)


# -- each leaves out one thing that the policy asks for, and tries to get round it


def the_author_approves_under_a_colleagues_name(clinic: Clinic) -> str:
    allow(clinic.signers, "cem@example.org", clinic.key("ann"))
    clinic.prepare(leave_out="safety")
    say(clinic, "ann", Kind.APPROVE, "cem")
    return '"safety" is not approved: cem wrote or edited it'


def approvals_of_a_playground_without_a_name_are_copied(clinic: Clinic) -> str:
    clinic.configure(CONFIG.replace('name = "clinic"\n', ""))
    clinic.prepare()
    clinic.configure(CONFIG)
    return '"close" was not submitted as it is now'


def the_ledger_of_another_project_is_put_in_place(clinic: Clinic) -> str:
    other = Clinic(clinic.folder.parent / "other")
    other.configure(CONFIG.replace('name = "clinic"', 'name = "other"'))
    other.prepare()
    clinic.ledger.parent.mkdir(exist_ok=True)
    shutil.copy2(other.ledger, clinic.ledger)
    return '"close" was not submitted as it is now'


def an_own_undo_is_a_link_to_a_file_elsewhere(clinic: Clinic) -> str:
    clinic.write(CHANGE.replace("-- ///\n-- @expect", '-- backout = "close.undo.sql"\n-- ///\n-- @expect', 1))
    real = clinic.folder / "elsewhere.sql"
    real.write_text("UPDATE referral SET status = 'open' WHERE id < 3;\n")
    (clinic.folder / "changes" / "close.undo.sql").symlink_to(real)
    clinic.prepare()
    return 'the file of "close" is reached through a symbolic link'


def a_certificate_is_made_up_by_nobody_in_particular(clinic: Clinic) -> str:
    clinic.prepare(leave_out="rehearse")
    rehearsal = clinic.project("eve").rehearse(clinic.change, "staging", ask=yes)
    assert rehearsal.certificate is not None
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE body LIKE '%certificate%'")
    clinic.rechain()
    made = certificate_statement(rehearsal.certificate, "mallory@example.org", "clinic", datetime.now(UTC))
    Ledger(f"sqlite:///{clinic.ledger}").append(Signed(made, None).body)
    return "it was not rehearsed on staging"


def a_certificate_is_of_another_digest(clinic: Clinic) -> str:
    clinic.write(f"{CHANGE}-- another text\n")
    clinic.project("eve").rehearse(clinic.change, "staging", ask=yes)
    clinic.sql("staging", "UPDATE referral SET status = 'open' WHERE id < 3")
    clinic.write(CHANGE)
    clinic.prepare(leave_out="rehearse")
    return "it was not rehearsed on staging"


def a_receipt_is_signed_by_a_stranger(clinic: Clinic) -> str:
    clinic.prepare(leave_out="announce")
    allow(clinic.signers, "mallory@example.org", clinic.key("cem"))
    details = {"to": ["everybody"], "database_at": datetime.now(UTC).isoformat()}
    say(clinic, "cem", Kind.ANNOUNCE, "mallory", details=details)
    return "it was not announced"


def half_a_character_is_written_into_the_ledger(clinic: Clinic) -> str:
    """It cannot be encoded, so that no hash and no signature can be made of it: it is no statement."""
    clinic.prepare(leave_out="safety")
    words = Statement(Kind.APPROVE, "close", clinic.change.digest, "production", "x", datetime.now(UTC)).text
    raw(clinic, words.replace('"x"', '"\ud800"'))
    return '"safety" is not approved'


def a_time_that_no_calendar_has_is_written_into_the_ledger(clinic: Clinic) -> str:
    clinic.prepare(leave_out="safety")
    statement = Statement(Kind.APPROVE, "close", clinic.change.digest, "production", "x", datetime.now(UTC))
    at = json.loads(statement.text)["at"]
    raw(clinic, statement.text.replace(at, "0001-01-01T00:00:00.000000+14:00"))
    return '"safety" is not approved'


ATTEMPTS: tuple[Callable[[Clinic], str], ...] = (
    the_author_approves_under_a_colleagues_name,
    approvals_of_a_playground_without_a_name_are_copied,
    the_ledger_of_another_project_is_put_in_place,
    an_own_undo_is_a_link_to_a_file_elsewhere,
    a_certificate_is_made_up_by_nobody_in_particular,
    a_certificate_is_of_another_digest,
    a_receipt_is_signed_by_a_stranger,
    half_a_character_is_written_into_the_ledger,
    a_time_that_no_calendar_has_is_written_into_the_ledger,
)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda one: one.__name__)
def test_a_way_round_a_gate_ends_at_it(clinic: Clinic, attempt: Callable[[Clinic], str]) -> None:
    words = attempt(clinic)
    assert clinic.refusal()[: len(words)] == words
    assert clinic.rows() == OPEN


# -- the library


def test_nobody_else_does_what_was_approved(clinic: Clinic) -> None:
    """A library's caller gives an approved change somebody of their own to do it."""
    clinic.prepare()

    def serve(*_anything: object) -> Any:
        raise AssertionError("it was asked")

    with pytest.raises(Refused, match="they have not read a command that is typed"):
        clinic.run(serve=serve)
    with pytest.raises(UsageError, match="`waiting` is for a session"):
        clinic.run(serve=serve, waiting=serve)
    assert clinic.rows() == OPEN


def test_a_change_that_is_called_a_session_in_memory_is_none(clinic: Clinic) -> None:
    clinic.prepare()
    change = clinic.change
    called = replace(change, metadata=replace(change.metadata, session=True))

    def never(*_anything: object) -> Any:
        raise AssertionError("it was asked")

    with pytest.raises(UsageError, match="`waiting` is for a session"):
        clinic.project("cem").run(called, "production", ask=yes, serve=never, waiting=never)  # type: ignore[arg-type]
    assert clinic.rows() == OPEN


# -- the time between the judgement and the run


def test_who_objects_while_the_operator_thinks_about_it_is_heard(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permit, "FRESH_S", 0.0)
    clinic.prepare()

    def thinks(kind: str, _question: str) -> bool:
        if kind == "run":
            clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
        return True

    with pytest.raises(Refused, match="dan objects: month end is running"):
        clinic.project("cem").run(clinic.change, "production", ask=thinks)
    assert clinic.rows() == OPEN
    clinic.project("dan").statements.withdraw(clinic.change, "production")
    report = clinic.run()
    assert (report.outcome, report.authority is not None) == (RunState.COMMITTED, True)


# -- certificates


def made_up(clinic: Clinic, way: str, environment: str, run: str) -> Certificate:
    return Certificate(
        "close", clinic.change.digest, environment, "eve", run, datetime.now(UTC), "SQLite", sqlite3.sqlite_version,
        {"main.referral": (0, 2, 0)}, way=way,
    )  # fmt: skip


def test_a_ghost_here_that_this_journal_does_not_have_certifies_nothing(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace("operators =", "accept_ghost_undo = true\noperators ="))
    clinic.prepare(leave_out="rehearse")
    clinic.run("eve", emergency="the clinic cannot admit anybody")
    clinic.project("cem").undo("production-1", ask=yes)
    for name in ("bob", "dan"):
        project = clinic.project(name)
        run, on, subject = project.about_run("production-1")
        project.statements.review(run, subject, on)
    for run in ("production-1", "production-99", "production-x"):
        made = made_up(clinic, GHOST_UNDO, "production", run)
        clinic.project("eve").statements.certify(clinic.change, made)
    assert clinic.refusal().startswith("it was not rehearsed on staging")
    clinic.project("eve").ghost(clinic.change, "production", undo=True, ask=yes)
    assert clinic.run().outcome is RunState.COMMITTED


def test_a_certificate_is_in_the_journal_too_and_the_audit_holds_one_against_the_other(clinic: Clinic) -> None:
    clinic.prepare()
    (report,) = [
        json.loads(one) for (one,) in clinic.sql("staging", "SELECT report FROM backout_run") if '"certificate"' in one
    ]
    assert (report["certificate"]["digest"], report["certificate"]["way"]) == (clinic.change.digest, "rehearsal")
    assert clinic.project(None).audit("staging").is_sound
    vouched = made_up(clinic, REHEARSED, "staging", report["certificate"]["run"])
    clinic.project("eve").statements.certify(clinic.change, vouched)
    (problem,) = clinic.project(None).audit("staging").problems
    assert problem.text.startswith(f"it says of {vouched.run} what the journal does not")


def test_a_certificate_of_a_rehearsal_that_never_was_is_told_by_the_audit(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.project("eve").run(clinic.change, "staging", again="to have a run that was no rehearsal", ask=yes)
    run = clinic.project(None).log("staging", limit=1)[0].identifier
    for name in ("staging-99", run):
        clinic.project("eve").statements.certify(clinic.change, made_up(clinic, REHEARSED, "staging", name))
    found = clinic.project(None).audit("staging")
    assert [note.partition(": ")[2] for note in found.notes if "certifies" in note] == [
        "eve@example.org certifies staging-99, and the journal has no such run",
        f"eve@example.org certifies {run}, and its journal has no certificate of it",
    ]


# -- the database


def test_a_stamp_that_was_forged_is_refused_under_its_old_name_and_told_by_the_new_ones_hosts(clinic: Clinic) -> None:
    """Whoever can write to the database's journal can call it staging; then it is production no more, and that shows."""
    clinic.prepare()
    clinic.run()
    clinic.sql("production", "UPDATE backout_meta SET value = 'staging' WHERE value = 'production'")
    with pytest.raises(Refused) as caught:
        clinic.project("cem").undo("production-1", ask=yes)
    assert (caught.value.gate, caught.value.message) == (
        "stamp", 'this database says that it is "staging", not "production"',
    )  # fmt: skip
    with pytest.raises(BackoutError, match='says that it is "staging"'):
        clinic.project(None).audit("production")


def test_a_policy_that_was_made_easier_for_one_run_shows_in_the_audit(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.configure(CONFIG.replace('operators = ["cem"]', 'operators = ["cem", "eve"]'))
    clinic.project("eve").undo("production-1", ask=yes)
    found = clinic.project(None).audit("production")
    assert "production-2 ran under another policy than production-1: backout.toml or its files differ" in found.notes


def test_a_policy_that_was_taken_away_for_one_run_shows_in_the_audit(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    (clinic.folder / "elsewhere").mkdir()
    lax = clinic.folder / "elsewhere" / "backout.toml"
    lax.write_text(f'[environments.production]\nurl = "sqlite:{clinic.folder}/production.db"\nprofile = "solo"\n')
    assert Project.find(lax).undo("production-1", ask=yes).outcome is RunState.COMMITTED
    found = clinic.project(None).audit("production")
    assert "production-2 ran where there was no ledger to ask, and production-1 was asked" in found.notes
