"""The seal that a run leaves in its database's journal spares the next run the chain, and hides nothing from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backout.engines.values import RunState
from backout.errors import Refused
from backout.ledger import reading
from backout.ledger.entry import Entry, first_break
from backout.ledger.seal import Bodies, Sealing, read_seal
from backout.ledger.store import Ledger
from integration.ledger.clinic import Clinic, yes

ALTER = "UPDATE backout_ledger_entry SET body = replace(body, 'ann', 'eve') WHERE position = 1"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """After a run: its journal has a seal over the ledger as it was when that run began."""
    made = Clinic(tmp_path)
    made.prepare()
    made.run()
    return made


@pytest.fixture
def recomputed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of the entries whose links are recomputed from now on."""
    seen: list[int] = []

    def spy(entries: Any, after: Any = None) -> Any:
        several: list[Entry] = list(entries)
        seen.extend(one.position for one in several)
        return first_break(several, after)

    monkeypatch.setattr(reading, "first_break", spy)
    return seen


def undo(clinic: Clinic) -> RunState:
    return clinic.project("cem").undo("production-1", ask=yes).outcome


def seal_of(clinic: Clinic) -> str:
    ((report,),) = clinic.sql("production", "SELECT report FROM backout_run WHERE number = 1")
    return str(json.loads(report)["authority"]["ledger_seal"])


def forge(clinic: Clinic, seal: str) -> None:
    statement = "UPDATE backout_run SET report = replace(report, ?, ?) WHERE number = 1"
    clinic.sql("production", statement, seal_of(clinic), seal)


def test_the_next_run_recomputes_only_the_links_behind_the_seal(clinic: Clinic, recomputed: list[int]) -> None:
    seal = read_seal(seal_of(clinic))
    assert seal is not None
    (count,) = clinic.sql("ledger", "SELECT max(position) FROM backout_ledger_entry")[0]
    assert undo(clinic) is RunState.COMMITTED
    assert recomputed == list(range(seal.count + 1, count + 1))


def test_without_a_seal_or_under_one_that_does_not_fit_every_link_is(clinic: Clinic, recomputed: list[int]) -> None:
    (count,) = clinic.sql("ledger", "SELECT max(position) FROM backout_ledger_entry")[0]
    count_of_seal = seal_of(clinic).partition(":")[0]
    forge(clinic, f"{count_of_seal}:{'0' * 64}")
    assert undo(clinic) is RunState.COMMITTED
    assert recomputed == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("forgery", "words"),
    [
        (ALTER, "the ledger is not as it was written: entry 1: altered"),
        (
            "DELETE FROM backout_ledger_entry WHERE position = 2",
            "the ledger is not as it was written: entry 2: removed",
        ),
        (
            "UPDATE backout_ledger_entry SET hash = replace(hash, substr(hash, 1, 4), 'ffff') WHERE position = 3",
            "the ledger is not as it was written: entry 3: altered",
        ),
        (
            "UPDATE backout_ledger_entry SET body = x'7b7d' WHERE position = 2",
            "the ledger is not as it was written: entry 2: altered",
        ),
        (
            "UPDATE backout_ledger_entry SET position = 'first' WHERE position = 1",
            "the ledger is not as it was written: entry 1: removed",
        ),
    ],
)
def test_what_is_altered_under_the_seal_shows_as_before(clinic: Clinic, forgery: str, words: str) -> None:
    clinic.unguard()
    clinic.sql("ledger", forgery)
    with pytest.raises(Refused) as caught:
        undo(clinic)
    assert (caught.value.gate, caught.value.message[: len(words)]) == ("ledger", words)


def test_a_chain_that_was_made_to_fit_again_does_not_have_what_the_journal_has_seen(clinic: Clinic) -> None:
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE position = 2")
    clinic.rechain()
    with pytest.raises(Refused, match=r"its end was cut off, or this is another ledger"):
        undo(clinic)


def test_who_forges_the_ledger_and_the_journal_s_seal_too_is_found_by_the_audit(clinic: Clinic) -> None:
    """Whoever can write both could as well make the chain fit and exchange the head in the journal: then nothing shows."""
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = '{}' WHERE position = 2")
    rows = Ledger(f"sqlite:///{clinic.ledger}").rows()
    seal = Sealing(Bodies(rows), None).seal()
    assert seal is not None
    forge(clinic, seal.text)
    assert undo(clinic) is RunState.COMMITTED
    found = clinic.project(None).audit("production")
    assert (found.problems[0].position, found.problems[0].text[:7]) == (2, "altered")


def test_a_ledger_that_does_not_hold_is_never_sealed(clinic: Clinic) -> None:
    """An environment that asks nothing of people begins its run whatever the ledger is."""
    clinic.unguard()
    clinic.sql("ledger", ALTER)
    clinic.configure('[project]\nname = "clinic"\n[environments.production]\nurl = "sqlite:{folder}/production.db"\n'
                     'profile = "solo"\n{people}')  # fmt: skip
    clinic.project(None).undo("production-1", ask=yes)
    ((report,),) = clinic.sql("production", "SELECT report FROM backout_run WHERE number = 2")
    assert json.loads(report)["authority"]["ledger_seal"] is None
