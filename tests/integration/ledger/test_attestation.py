"""A run is unvalidated until as many people as the policy asks have looked, on every screen that shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import backout, told
from backout.ledger.statement import Kind, Signed, Statement
from backout.ledger.store import Ledger
from integration.ledger.clinic import CONFIG, Clinic, yes

ATTEST = CONFIG + "attest = 2\n"
SAW = "the referral list shows them as closed"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    clinic.configure(ATTEST)
    return clinic


def attest(clinic: Clinic, person: str, run: str) -> None:
    project = clinic.project(person)
    identifier, where, subject = project.about_run(run)
    project.statements.attest(identifier, subject, where, SAW)


def have_run(clinic: Clinic) -> None:
    clinic.prepare()
    for person in ("bob", "dan"):
        attest(clinic, person, "staging-2")
    assert clinic.run().identifier == "production-1"


def of_the_run(clinic: Clinic) -> dict[str, Any]:
    """What `log` says of production-1, once `show` and `status` have been seen to say the same."""
    (run,) = told(clinic.folder, "log", "log", "--on", "production")["runs"]
    shown = told(clinic.folder, "show", "show", "production-1")
    status = told(clinic.folder, "status", "status", "close", "--on", "production", "--key", "keys/cem")
    assert run["validation"] == shown["validation"] == status["validation"]
    assert status["run"] == "production-1"
    found: dict[str, Any] = run["validation"]
    return found


def test_a_rehearsal_that_nobody_attested_is_no_ground_for_a_run(clinic: Clinic) -> None:
    clinic.prepare()
    assert clinic.refusal() == "rehearsal staging-2 is unvalidated (0 of 2 have attested)"
    attest(clinic, "bob", "staging-2")
    assert clinic.refusal() == "rehearsal staging-2 is unvalidated (1 of 2 have attested)"
    attest(clinic, "bob", "staging-2")
    status = told(clinic.folder, "status", "status", "close", "--on", "production", "--key", "keys/cem")
    assert (status["next"], status["who"]) == (
        'backout attest staging-2 --saw "…"', "anybody who looked at the application, other than bob",
    )  # fmt: skip
    attest(clinic, "dan", "staging-2")
    clinic.run()


def test_a_rehearsal_says_at_once_that_people_have_to_look(clinic: Clinic) -> None:
    rehearsal = clinic.project("eve").rehearse(clinic.change, "staging", ask=yes)
    assert rehearsal.run.notes[-1] == (
        "unvalidated (0 of 2 have attested): look at the application, then "
        'backout attest staging-2 --saw "…"'
    )  # fmt: skip


def test_a_run_is_unvalidated_until_two_people_have_attested_it(clinic: Clinic) -> None:
    have_run(clinic)
    assert of_the_run(clinic) == {
        "validated": False, "wanted": 2, "people": [], "text": "unvalidated (0 of 2 have attested)",
    }  # fmt: skip
    attest(clinic, "dan", "production-1")
    assert of_the_run(clinic)["text"] == "unvalidated (1 of 2 have attested)"
    attest(clinic, "cem", "production-1")
    assert of_the_run(clinic) == {
        "validated": True, "wanted": 2, "people": ["cem", "dan"], "text": "validated by cem, dan",
    }  # fmt: skip


def test_screens_and_the_report_say_so(clinic: Clinic) -> None:
    have_run(clinic)
    attest(clinic, "dan", "production-1")
    words = "unvalidated (1 of 2 have attested)"
    status = backout(clinic.folder, "status", "close", "--on", "production", "--key", "keys/cem")
    assert f"run: production-1 is {words}" in status.out
    assert 'next: backout attest production-1 --saw "…"' in status.out
    assert words in backout(clinic.folder, "show", "production-1").out
    assert "unvalidated" in backout(clinic.folder, "log", "--on", "production").out
    assert words in backout(clinic.folder, "report", "close", "--key", "keys/cem").out.replace("\\", "")


def test_an_undo_and_a_ghost_have_nothing_to_look_at(clinic: Clinic) -> None:
    have_run(clinic)
    project = clinic.project("cem")
    project.undo("production-1", ask=yes)
    project.ghost(clinic.change, "production")
    runs = told(clinic.folder, "log", "log", "--on", "production")["runs"]
    assert [(one["mode"], one["validation"] is None) for one in runs] == [
        ("ghost", True), ("undo", True), ("real", False),
    ]  # fmt: skip


@pytest.mark.parametrize("forgery", ["unsigned", "signed by another", "of another run"])
def test_attestations_that_are_written_into_the_ledger_directly_do_not_count(clinic: Clinic, forgery: str) -> None:
    have_run(clinic)
    run = "production-2" if forgery == "of another run" else "production-1"
    statement = Statement(
        Kind.ATTEST, "close", clinic.change.digest, "production", "dan@example.org", datetime.now(UTC),
        {"run": run, "saw": SAW}, "clinic",
    )  # fmt: skip
    signer = {"unsigned": None, "signed by another": "eve", "of another run": "dan"}[forgery]
    speaker = clinic.project(signer).statements._speaker("ssh") if signer else None
    ledger = Ledger(f"sqlite:///{clinic.ledger}")
    ledger.append((speaker.say(statement) if speaker else Signed(statement, None)).body)
    ledger.close()
    assert of_the_run(clinic)["text"] == "unvalidated (0 of 2 have attested)"


def test_a_ledger_that_was_altered_validates_nothing(clinic: Clinic) -> None:
    have_run(clinic)
    for person in ("dan", "cem"):
        attest(clinic, person, "production-1")
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = replace(body, 'ann', 'eve') WHERE position = 1")
    (run,) = told(clinic.folder, "log", "log", "--on", "production")["runs"]
    assert run["validation"]["text"] == (
        "unvalidated (the ledger is not as it was written: entry 1: altered: its text is not what its hash was made of)"
    )


def test_nobody_is_asked_where_the_policy_asks_nobody(clinic: Clinic) -> None:
    clinic.configure(CONFIG)
    clinic.prepare()
    report = clinic.run()
    assert not [note for note in report.notes if "attest" in note]
    (run,) = told(clinic.folder, "log", "log", "--on", "production")["runs"]
    assert run["validation"] is None
