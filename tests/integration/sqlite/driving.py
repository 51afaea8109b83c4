"""Drive the SQLite engine as `runs/supervise.py` does: begin, execute, capture, record, commit; and plan an undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from backout.engines.sqlite import connect
from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import (
    Capture,
    CapturedTable,
    Mode,
    Resolution,
    RunRecord,
    RunStart,
    RunState,
    Settings,
    UndoOutcome,
    UndoPlan,
    UndoTable,
)

ASK = Resolution()


def make(path: Path, schema: str) -> Path:
    """A new database file with that schema and data."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(schema)
    connection.close()
    return path


def elsewhere(path: Path, statements: str) -> None:
    """Somebody else's statements, on a connection of their own."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(statements)
    connection.close()


def opened(path: Path | str, **settings: Any) -> SqliteDatabase:
    """The database, with a journal."""
    settings.setdefault("lock_timeout_s", 0.1)
    options = settings.pop("options", "")
    database = connect(Settings(url=f"sqlite:///{path}{options}", environment="test", **settings))
    database.journal.create()
    return database


def dump(path: Path) -> dict[str, list[str]]:
    """Every row of every table of the user's, with types, sorted; without rowids and AUTOINCREMENT's counters."""
    connection = apsw.Connection(str(path))
    rows = {}
    names = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') AND name NOT GLOB 'sqlite_*'"
        " AND name NOT GLOB 'backout_*' AND name NOT GLOB 'rescue_run_*'"
    ).fetchall()
    for (name,) in names:
        quoted = '"' + str(name).replace('"', '""') + '"'
        rows[str(name)] = sorted(repr(row) for row in connection.execute(f"SELECT * FROM main.{quoted}"))
    connection.close()
    return rows


def start(mode: Mode = Mode.REAL, undo_of: int | None = None) -> RunStart:
    """A run of nobody in particular."""
    return RunStart("change", "d", "A change", mode, "test", "me@example.org", undo_of)


def change(
    database: SqliteDatabase, *statements: str, known: Sequence[tuple[str | None, str]] = ()
) -> tuple[RunRecord, Capture]:
    """Run and commit."""
    return supervise(database, start(), lambda transaction: [transaction.execute(s, ()) for s in statements], known)


def supervise(
    database: SqliteDatabase,
    begin: RunStart,
    act: Callable[[Any], object],
    known: Sequence[tuple[str | None, str]] = (),
) -> tuple[RunRecord, Capture]:
    """One run from beginning to end; rolled back if anything fails."""
    run = database.journal.begin_run(begin)
    transaction = database.transaction(known)
    try:
        act(transaction)
        capture = transaction.capture(run, (), keep=True)
        transaction.record(run, RunState.COMMITTED, capture.tables, {})
        transaction.commit()
    except BaseException:
        transaction.rollback()
        raise
    record = database.journal.run(run)
    assert record is not None
    return record, capture


def plan_of(
    database: SqliteDatabase, run: int, tables: Sequence[CapturedTable], bookkeeping: tuple[str, ...] = ()
) -> UndoPlan:
    """The plan that `recovery` would make, columns by name."""
    found = []
    for captured in tables:
        table = database.table(captured.table.name)
        if table is None or captured.undone:
            continue
        now = {column.name for column in table.columns}
        columns = {column.name: column.name for column in captured.table.columns if column.name in now}
        found.append(UndoTable(captured, table, columns, bookkeeping))
    return UndoPlan(run, tuple(found))


def undo(
    database: SqliteDatabase, record: RunRecord, resolution: Resolution = ASK, bookkeeping: tuple[str, ...] = ()
) -> tuple[UndoOutcome, RunRecord | None]:
    """Undo a run: committed, or rolled back where the outcome is refused."""
    plan = plan_of(database, record.number, record.tables, bookkeeping)
    run = database.journal.begin_run(start(Mode.UNDO, record.number))
    transaction = database.transaction([(None, entry.table.name.name) for entry in plan.tables])
    outcome = transaction.revert(plan, resolution)
    if outcome.refused:
        transaction.rollback()
        database.journal.end_run(run, RunState.REFUSED, (), {})
        return outcome, None
    capture = transaction.capture(run, (), keep=True)
    assert capture.tripwires == ()
    transaction.record(run, RunState.COMMITTED, capture.tables, {})
    transaction.commit()
    return outcome, database.journal.run(run)
