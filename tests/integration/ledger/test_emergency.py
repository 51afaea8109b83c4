"""What an emergency skips, and what it never does, on real databases with real keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backout.engines.values import RunState
from backout.errors import BackoutError
from integration.ledger.clinic import CHANGE, CONFIG, Clinic

WHY = "the clinic cannot admit anybody"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
CLOSED = [(1, "closed"), (2, "closed"), (3, "closed")]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def test_it_waits_for_nobody_and_for_no_hour(clinic: Clinic) -> None:
    """Not submitted, not rehearsed, not approved, no consent, nobody told, an objection, outside of the window."""
    another_day = DAYS[(datetime.now(UTC).weekday() + 3) % 7]
    clinic.configure(CONFIG + f'consent = true\nwindow = ["{another_day} 03:00-03:01 UTC"]\n')
    clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
    status = clinic.project("cem").status(clinic.change, "production")
    waiting = {one.gate for one in status.verdicts if not one.satisfied}
    assert waiting >= {"author", "ladder", "approvals", "consent", "announcement", "objections", "window"}
    report = clinic.run("eve", emergency=WHY)
    assert (report.outcome, clinic.rows()) == (RunState.COMMITTED, CLOSED)


def test_a_backup_of_any_age_will_do_and_one_there_is(clinic: Clinic) -> None:
    clinic.configure(CONFIG + 'backup = "sqlite"\n')
    old = clinic.project("cem").backup("production")
    report = clinic.run("eve", emergency=WHY)
    assert report.backup is not None
    assert report.backup["id"] == old.identifier
    assert [one.identifier for one in clinic.project("cem").backups("production")] == [old.identifier]


def test_without_any_backup_it_makes_one(clinic: Clinic) -> None:
    clinic.configure(CONFIG + 'backup = "sqlite"\n')
    report = clinic.run("eve", emergency=WHY)
    (made,) = clinic.project("cem").backups("production")
    assert report.backup is not None
    assert report.backup["id"] == made.identifier


def documents(clinic: Clinic) -> str:
    clinic.write(CHANGE.replace("A referral that was reopened by hand could be closed again.", "TBD"))
    return '"risk" says nothing: "TBD"'


def a_reason_of_more_than_a_word(_clinic: Clinic) -> str:
    return 'the reason of the emergency says too little: "fire"'


def claim_of_another(clinic: Clinic) -> str:
    clinic.project("bob").statements.claim(clinic.change, "production")
    return "bob is on it since"


def soundness_of_the_ledger(clinic: Clinic) -> str:
    clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = replace(body, 'dan', 'bob') WHERE position = 1")
    return "the ledger is not as it was written: entry 1: altered"


def host(clinic: Clinic) -> str:
    clinic.configure(CONFIG + 'hosts = ["db.example.org"]\n')
    return 'the URL has host "none", which is not in `hosts`'


def stamp(clinic: Clinic) -> str:
    clinic.prepare()
    clinic.run()
    clinic.sql("production", "UPDATE backout_meta SET value = 'staging' WHERE value = 'production'")
    return 'this database says that it is "staging", not "production"'


def undoability(clinic: Clinic) -> str:
    clinic.write(f"{CHANGE}DROP TABLE referral;\n")
    return f"{clinic.path}:"


@pytest.mark.parametrize(
    ("guard", "why"),
    [
        (documents, WHY), (a_reason_of_more_than_a_word, "fire"), (claim_of_another, WHY),
        (soundness_of_the_ledger, WHY), (host, WHY), (stamp, WHY), (undoability, WHY),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)  # fmt: skip
def test_it_never_skips(clinic: Clinic, guard: Callable[[Clinic], str], why: str) -> None:
    words = guard(clinic)
    assert clinic.refusal("eve", emergency=why)[: len(words)] == words


def test_it_never_skips_who_it_is(clinic: Clinic) -> None:
    with pytest.raises(BackoutError, match="may not run anything on production"):
        clinic.run("dan", emergency=WHY)
    clinic.signers.write_text("")
    assert clinic.refusal("eve", emergency=WHY).startswith("nobody can sign: there are no keys")
