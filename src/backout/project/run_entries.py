"""A run as a statement of its operator: what the ledger keeps of it, and how it catches up with a journal.

Not for: deciding anything by it. Invariant: the journal is the truth about runs; an entry here is a copy, without any
value of a row, and a run has one entry however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backout.engines.protocol import Database
from backout.engines.values import JournalState, Mode, RunRecord, RunState
from backout.gates.evidence import PastRun
from backout.ledger.entry import Head
from backout.ledger.reading import Reading
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book, past_run

_FEW = 50  # runs between two looks of one ledger at a journal, usually; more are asked for where those are all new
_MANY = 100_000


def key_of(identity: str, number: int) -> str:
    """What names a run for ever: the database and the number that its journal gave it."""
    return f"{identity}#{number}"


def run_statement(record: RunRecord, identity: str, person: str, project: str | None, at: datetime) -> Statement:
    """The statement on a run that has ended."""
    authority: Mapping[str, Any] = record.report.get("authority") or {}
    details: dict[str, Any] = {
        "key": key_of(identity, record.number),
        "run": record.identifier,
        "mode": record.start.mode.value,
        "outcome": record.state.value,
        "error": record.report.get("error"),
        "started_at": record.started_at.isoformat(),
        "finished_at": record.finished_at.isoformat() if record.finished_at else None,
        "operator": record.start.operator,
        "undo_of": record.start.undo_of,
        "profile": authority.get("profile"),
        "emergency": authority.get("emergency"),
        "ledger_head": authority.get("ledger_head"),
        "proof": record.report.get("proof"),
        **({"tracking": record.report["tracking"]} if record.report.get("tracking") else {}),
        **({"subset": record.report["subset"]} if record.report.get("subset") else {}),
        **({"agreement": record.report["agreement"]} if record.report.get("agreement") else {}),
        "tables": [
            {key: one.get(key) for key in ("table", "inserted", "updated", "deleted")}
            for one in record.report.get("tables") or ()
        ],
    }
    return Statement(
        Kind.RUN, record.start.change, record.start.digest, record.start.environment, person, at, details, project
    )  # fmt: skip


def person_of(record: RunRecord) -> str:
    """Who ran it, as the journal has it: the person of its authority, else the account."""
    authority: Mapping[str, Any] = record.report.get("authority") or {}
    return str(authority.get("person") or record.start.operator)


def past_run_of(record: RunRecord) -> PastRun:
    """A run of the journal as evidence."""
    statement = run_statement(record, "", person_of(record), None, datetime.now(UTC))
    return past_run(statement.details, record.start.digest, statement.person)


def newest(database: Database) -> Sequence[RunRecord]:
    """The newest runs of the journal; none where there is no journal."""
    return database.journal.runs(_FEW) if database.journal.state() is JournalState.PRESENT else ()


def reconcile(book: Book, reading: Reading, database: Database, records: Sequence[RunRecord]) -> Head:
    """Copy the runs that the ledger lacks; unsigned, since their operators are not here. Returns the last entry known.

    `records` are the newest of the journal.

    Runs under way are left for the next time; ghosts are the journal's alone. Where none of the newest is known, older
    ones may be missing, too.
    """
    identity = database.journal.stamp()[1]
    kept = _kept(records, identity)
    lacking = reading.lacks(kept)
    if len(records) == _FEW and len(lacking) == len(kept):
        kept = _kept(database.journal.runs(_MANY), identity)
        lacking = reading.lacks(kept)
    if not lacking:
        return reading.head
    now = database.clock()
    last = book.ledger.append_all([
        Signed(run_statement(one, identity, person_of(one), book.config.name, now), None).body
        for key, one in reversed(kept.items()) if key in lacking
    ])[-1]  # fmt: skip
    return Head(last.position, last.hash)


def _kept(records: Sequence[RunRecord], identity: str) -> dict[str, RunRecord]:
    """Those that a ledger keeps, by what names them."""
    return {
        key_of(identity, one.number): one
        for one in records
        if one.start.mode is not Mode.GHOST and one.state is not RunState.RUNNING
    }
