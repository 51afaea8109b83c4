"""PostgreSQL's engine driven by hand, and what a third session sees: the truth that captures are compared with."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from backout.engines import postgres
from backout.engines.postgres.connect import PostgresDatabase as Engine
from backout.engines.postgres.transaction import PostgresTransaction
from backout.engines.values import (
    Capture,
    JournalState,
    Mode,
    Resolution,
    RunStart,
    RunState,
    Settings,
    UndoOutcome,
)
from backout.recovery.plan import UndoPolicy, plan_undo
from backout.recovery.proof import Verdict, prove
from servers import PostgresDatabase, chosen

#: The seed of the hunts of this process; say HUNT_SEED=… to repeat one.
SEED = int(os.environ.get("HUNT_SEED") or random.SystemRandom().randrange(2**32))

#: `make quick` names one server, and then the searches are three times shorter as well.
SHORTER = 1 if len(chosen()) > 1 else 3

EXACT_TEXT = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET TimeZone = 'UTC'; "
    "SET bytea_output = 'hex'"
)

Row = Mapping[str, str | None]
Dump = dict[str, list[Row]]


@dataclass(frozen=True)
class Ran:
    """A committed run of the engine's: its number, what it captured, and the verdict."""

    number: int
    capture: Capture
    verdict: Verdict


@contextmanager
def opened(database: PostgresDatabase, **settings: Any) -> Iterator[Engine]:
    """The engine on that database, with a journal; the application's role does the change."""
    found = Settings(database.login_url, "test", role=database.application_role, lock_timeout_s=10.0, **settings)
    engine = postgres.connect(found)
    try:
        if engine.journal.state() is JournalState.ABSENT:
            engine.journal.create()
        yield engine
    finally:
        engine.close()


def start(mode: Mode = Mode.REAL, undo_of: int | None = None) -> RunStart:
    """What a run says of itself."""
    return RunStart("change", "digest", "title", mode, "test", "tester", undo_of)


@contextmanager
def transaction(
    engine: Engine, *, known: Sequence[tuple[str | None, str]] = (), snapshot: bool = False
) -> Iterator[PostgresTransaction]:
    """A supervised transaction, rolled back unless committed inside."""
    found = engine.transaction(known, snapshot=snapshot)
    try:
        yield found
    finally:
        found.rollback()


def finish(engine: Engine, opened_transaction: PostgresTransaction, number: int, capture: Capture) -> Ran:
    """Prove, record and commit what was captured."""
    verdict = prove(capture)
    assert not verdict.failures
    opened_transaction.record(number, RunState.COMMITTED, capture.tables, {})
    opened_transaction.commit()
    return Ran(number, capture, verdict)


def undo(engine: Engine, ran: Ran, resolution: Resolution | None = None) -> UndoOutcome:
    """Undo a run in a run of its own, and commit it."""
    record = engine.journal.run(ran.number)
    assert record is not None
    now = {one.table.name: engine.table(one.table.name, one.table.identifier) for one in record.tables}
    plan = plan_undo(ran.number, record.tables, now, UndoPolicy())
    number = engine.journal.begin_run(start(Mode.UNDO, ran.number))
    known = [(one.table.name.schema, one.table.name.name) for one in plan.tables]
    with transaction(engine, known=known) as found:
        outcome = found.revert(plan, resolution or Resolution())
        assert not outcome.refused, outcome.conflicts
        finish(engine, found, number, found.capture(number, (), keep=True))
    return outcome


def images(session: psycopg.Connection[Any], ran: Ran) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Whole rows as text of each captured table's images; post-images must not have been narrowed."""
    found = {}
    for one in ran.capture.tables:
        sides = []
        for name, expected in ((one.before_rescue, one.before_rows), (one.after_rescue, one.after_rows)):
            columns = ", ".join(f'i."{column.name}"' for column in one.table.restorable)
            rows = session.execute(f"SELECT ROW({columns})::text FROM rescue.{name} i").fetchall() if name else []
            assert len(rows) == expected
            sides.append(Counter(row[0] for row in rows))
        found[one.table.name.name] = (sides[0], sides[1])
    return found


def tables(session: psycopg.Connection[Any], schema: str) -> list[tuple[str, list[str]]]:
    """Tables that hold rows themselves, partitions included, with their columns."""
    return session.execute(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a "
        "ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' GROUP BY 1 ORDER BY 1",
        [schema],
    ).fetchall()


def dump(database: PostgresDatabase, schema: str) -> Dump:
    """Every row of every table, all values as exact text, in an order that only depends on the rows."""
    with psycopg.connect(database.superuser_url, autocommit=True) as session:
        session.execute(EXACT_TEXT)
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found: Dump = {}
        for table, columns in tables(session, schema):
            cells = ", ".join(f't."{column}"::text' for column in columns)
            rows = session.execute(f'SELECT {cells} FROM ONLY "{schema}"."{table}" AS t').fetchall()
            found[table] = [dict(zip(columns, row, strict=True)) for row in sorted(rows, key=repr)]
        session.execute("ROLLBACK")
        return found


def whole_rows(database: PostgresDatabase, schema: str, only: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Whole rows as text; `only` has a condition on `t` per table."""
    with psycopg.connect(database.superuser_url, autocommit=True) as session:
        session.execute(EXACT_TEXT)
        return {
            table: Counter(
                row[0]
                for row in session.execute(
                    f'SELECT ROW(t.*)::text FROM ONLY "{schema}"."{table}" AS t WHERE {only[table]}'
                )
            )
            for table, _ in tables(session, schema)
        }


def run_all(session: psycopg.Connection[Any], statements: Sequence[str]) -> None:
    """Execute each statement."""
    for statement in statements:
        session.execute(statement)


_announced: set[int] = set()


def announce(capsys: pytest.CaptureFixture[str]) -> None:
    """Print the seed of this process's hunts, once."""
    if SEED not in _announced:
        _announced.add(SEED)
        with capsys.disabled():
            print(f"\nHUNT_SEED={SEED}")
