"""Drive the MariaDB engine as `runs/supervise.py` does: begin, execute, capture, prove, record, commit; and undo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from backout.engines import mariadb
from backout.engines.mariadb.connect import MariaDatabase as Engine
from backout.engines.mariadb.transaction import MariaTransaction
from backout.engines.values import (
    Capture,
    JournalState,
    Mode,
    Resolution,
    RunRecord,
    RunStart,
    RunState,
    Settings,
    UndoOutcome,
)
from backout.recovery.plan import UndoPolicy, plan_undo
from backout.recovery.proof import Verdict, prove
from servers_mariadb import MariaDatabase

ASK = Resolution()
Dump = dict[str, list[tuple[Any, ...]]]


def make(database: MariaDatabase, schema: str) -> None:
    """The application's tables and rows; one session, several statements."""
    database.as_application(schema)


@contextmanager
def opened(database: MariaDatabase, **settings: Any) -> Iterator[Engine]:
    """The engine on that database, with a journal."""
    settings.setdefault("lock_timeout_s", 1.0)
    engine = mariadb.connect(Settings(database.login_url, "test", **settings))
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
def transaction(engine: Engine, known: Sequence[tuple[str | None, str]] = ()) -> Iterator[MariaTransaction]:
    """A supervised transaction, rolled back unless committed inside."""
    found = engine.transaction(known)
    try:
        yield found
    finally:
        found.rollback()


def supervise(engine: Engine, act: Callable[[MariaTransaction], object]) -> tuple[RunRecord, Capture, Verdict]:
    """One run from beginning to end."""
    number = engine.journal.begin_run(start())
    with transaction(engine) as found:
        act(found)
        capture = found.capture(number, (), keep=True)
        verdict = prove(capture)
        assert verdict.failures == (), [
            (str(one.table.name), one.before_rows, one.after_rows, one.both_rows) for one in capture.tables
        ]
        found.record(number, RunState.COMMITTED, capture.tables, {})
        found.commit()
    record = engine.journal.run(number)
    assert record is not None
    return record, capture, verdict


def change(engine: Engine, *statements: str) -> tuple[RunRecord, Capture, Verdict]:
    """Run these statements and commit."""
    return supervise(engine, lambda found: [found.execute(statement) for statement in statements])


def undo(
    engine: Engine, record: RunRecord, resolution: Resolution = ASK, policy: UndoPolicy | None = None
) -> tuple[UndoOutcome, RunRecord | None]:
    """Undo a run in a run of its own: committed, or rolled back where the outcome is refused."""
    known = engine.journal.run(record.number)
    assert known is not None
    now = {one.table.name: engine.table(one.table.name, one.table.identifier) for one in known.tables}
    plan = plan_undo(known.number, known.tables, now, policy or UndoPolicy())
    number = engine.journal.begin_run(start(Mode.UNDO, known.number))
    with transaction(engine) as found:
        outcome = found.revert(plan, resolution)
        if outcome.refused:
            found.rollback()
            engine.journal.end_run(number, RunState.REFUSED, (), {})
            return outcome, None
        capture = found.capture(number, (), keep=True)
        assert prove(capture).failures == ()
        found.record(number, RunState.COMMITTED, capture.tables, {})
        found.commit()
    return outcome, engine.journal.run(number)


def dump(database: MariaDatabase) -> Dump:
    """Every row of every table of the test's database: the bytes of its values, in an order that only depends on them."""
    session = database.connect()
    with session.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s "
            "ORDER BY TABLE_NAME, ORDINAL_POSITION",
            (database.name,),
        )
        columns: dict[str, list[str]] = {}
        for table, column, kind in cursor.fetchall():
            name = "`" + column.replace("`", "``") + "`"
            value = f"CAST({name} AS DOUBLE)" if kind == "float" else f"{name} + 0" if kind in ("enum", "set") else name
            columns.setdefault(table, []).append(f"HEX(CAST({value} AS BINARY))")
        found: Dump = {}
        for table, cells in columns.items():
            quoted = "`" + table.replace("`", "``") + "`"
            cursor.execute(f"SELECT {', '.join(cells)} FROM {quoted}".replace("%", "%%"), ())
            found[table] = sorted(cursor.fetchall(), key=repr)
    session.close()
    return found
