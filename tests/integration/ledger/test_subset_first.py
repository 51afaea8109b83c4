"""`subset = true`: some of it first, on the very database, before the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acceptance.program import backout
from backout.errors import ExpectationFailed, Refused
from backout.ledger.statement import Kind, Statement
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes

SUBSET_FIRST = CONFIG + "subset = true\n"
DECLARED = CHANGE.replace("-- @expect 2", "-- @subset referral by=id\n-- @expect 2").replace(
    '-- @assert "nothing', '-- @subset referral by=id\n-- @assert "nothing'
)
REFUSED = "no subset of it was run on production first, and stands there now"
SOLO = '[environments.live]\nurl = "sqlite:{folder}/production.db"\nsubset = true\n'


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    clinic.configure(SUBSET_FIRST)
    clinic.write(DECLARED)
    clinic.prepare()
    return clinic


def test_the_whole_runs_after_a_subset_of_it(clinic: Clinic) -> None:
    assert clinic.refusal() == REFUSED
    clinic.run(subset="1 row")
    assert clinic.rows() == [(1, "closed"), (2, "open"), (3, "closed")]
    clinic.write(DECLARED + "-- edited\n")
    clinic.prepare()
    assert clinic.refusal() == REFUSED  # of another text it says nothing
    clinic.write(DECLARED)
    with pytest.raises(ExpectationFailed, match="the statement wrote 1 rows, and 2 were expected"):
        clinic.run()  # no gate stands in its way any more


def test_the_refusal_says_what_to_type(clinic: Clinic) -> None:
    refused = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert (refused.status, refused.err) == (
        3,
        f'error: {REFUSED}\nstate: untouched\nhint: backout run close --on production --subset "50 rows"  (cem)\n',
    )


def undone(clinic: Clinic) -> None:
    clinic.run(subset="1 row")
    clinic.project("cem").undo("production-1", ask=yes)


def nothing_found(clinic: Clinic) -> None:
    clinic.run(subset="id = 3")


def ghost(clinic: Clinic) -> None:
    clinic.project("cem").ghost(clinic.change, "production", subset="1 row", ask=yes)


def elsewhere(clinic: Clinic) -> None:
    clinic.project("cem").run(clinic.change, "staging", subset="1 row", ask=yes)


def written_into_the_ledger(clinic: Clinic) -> None:
    """By the operator, signed with their own key: the journal has no such run."""
    project = clinic.project("cem")
    details = {
        "key": "made-up#1", "run": "production-1", "mode": "real", "outcome": "committed", "error": None,
        "finished_at": datetime.now(UTC).isoformat(), "subset": "1 row by id", "undo_of": None, "emergency": None,
    }  # fmt: skip
    said = Statement(
        Kind.RUN, "close", clinic.change.digest, "production", "cem@example.org", datetime.now(UTC), details, "clinic"
    )
    project._book.write(project.statements._speaker("ssh").say(said))


@pytest.mark.parametrize("attempt", [undone, nothing_found, ghost, elsewhere, written_into_the_ledger])
def test_what_is_no_run_of_a_subset_here_does_not_count(clinic: Clinic, attempt: Callable[[Clinic], None]) -> None:
    attempt(clinic)
    assert clinic.refusal() == REFUSED


def test_a_change_that_declares_no_subset_is_not_asked_for_one(clinic: Clinic) -> None:
    clinic.write(CHANGE)
    clinic.prepare()
    clinic.run()


def test_it_is_asked_where_nothing_else_is(clinic: Clinic) -> None:
    """Without people, keys and a ledger: a guard rail that is written guards."""
    clinic.configure(SOLO)
    project = clinic.project(None)
    with pytest.raises(Refused) as caught:
        project.run(clinic.change, "live", ask=yes)
    assert (caught.value.gate, caught.value.state) == ("subset", "untouched")
    project.run(clinic.change, "live", subset="1 row", ask=yes)
    clinic.sql("production", "UPDATE referral SET status = 'open'")
    clinic.sql("production", "DELETE FROM referral WHERE id = 3")
    project.run(clinic.change, "live", ask=yes)
    assert clinic.rows() == [(1, "closed"), (2, "closed")]


@pytest.mark.parametrize(
    ("key", "gate"),
    [('window = "00:00-00:00"', None), ('window = ["{day} 00:00-23:59"]', "window"), ('documents = ["date"]', "documents")]
)  # fmt: skip
def test_window_and_documents_guard_where_nobody_is_asked(clinic: Clinic, key: str, gate: str | None) -> None:
    other = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[(datetime.now(UTC).weekday() + 3) % 7]
    clinic.configure(SOLO.replace("subset = true", key.replace("{day}", other)))
    if gate is None:
        clinic.project(None).run(clinic.change, "live", ask=yes)
        return
    with pytest.raises(Refused) as caught:
        clinic.project(None).run(clinic.change, "live", ask=yes)
    assert caught.value.gate == gate
