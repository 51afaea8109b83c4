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

_FEW = 10  # runs between two looks of one ledger at a journal, usually; more are asked for where those are all new
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
        **({"batches": record.batches} if record.batches else {}),
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
    """The newest runs of the journal that were no ghosts; none where there is no journal.

    Ghosts say nothing that a gate judges by, and nobody is asked before one: however many there were since, the last real
    runs are looked at.
    """
    if database.journal.state() is not JournalState.PRESENT:
        return ()
    limit = _FEW
    while True:
        found = database.journal.runs(limit)
        real = [one for one in found if one.start.mode is not Mode.GHOST]
        if len(real) >= _FEW or len(found) < limit or limit >= _MANY:
            return real[:_FEW]
        limit *= 10


def held_against(
    reading: Reading, database: Database, records: Sequence[RunRecord]
) -> tuple[Sequence[RunRecord], Sequence[RunRecord]]:
    """The runs of the journal to hold a ledger against, and those of them that it lacks, oldest first.

    `records` are the newest, see `newest`. Where the ledger knows none of them, older ones may be missing, too: then it is
    all of them. Runs under way are left for the next time.
    """
    if not records:
        return (), ()
    identity = database.journal.stamp()[1]
    unknown = reading.lacks(kept := _kept(records, identity))
    if len(records) == _FEW and len(unknown) == len(kept):
        records = [one for one in database.journal.runs(_MANY) if one.start.mode is not Mode.GHOST]
        unknown = reading.lacks(kept := _kept(records, identity))
    return records, [one for key, one in reversed(kept.items()) if key in unknown]


def reconcile(book: Book, reading: Reading, database: Database, unknown: Sequence[RunRecord]) -> Head:
    """Copy these runs, which the ledger lacks; unsigned, since their operators are not here. Returns the last entry known."""
    if not unknown:
        return reading.head
    identity, now = database.journal.stamp()[1], database.clock()
    last = book.ledger.append_all([
        Signed(run_statement(one, identity, person_of(one), book.config.name, now), None).body for one in unknown
    ])[-1]  # fmt: skip
    return Head(last.position, last.hash)


def _kept(records: Sequence[RunRecord], identity: str) -> dict[str, RunRecord]:
    """Those that a ledger keeps, by what names them."""
    return {
        key_of(identity, one.number): one
        for one in records
        if one.start.mode is not Mode.GHOST and one.state is not RunState.RUNNING
    }
