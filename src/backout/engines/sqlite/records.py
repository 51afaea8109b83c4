"""Rows of the journal as values and back. Writes inside of whatever transaction is open; never commits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import apsw

from backout.engines.sqlite.statements import fetch
from backout.engines.table_json import table_as_json, table_of_json
from backout.engines.values import CapturedTable, Mode, RunRecord, RunStart, RunState, TableName

NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"  # the database's clock, which is that of this machine

_END_RUN = f"""
UPDATE main.backout_run
   SET state = :state, report = :report, finished_at = {NOW},
       expires_at = CASE WHEN :state = 'committed'
                         THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now', (keep_days * 86400) || ' seconds') END
 WHERE number = :run
"""
_INSERT_TABLE = """
INSERT INTO main.backout_run_table
       (run, position, table_name, definition, before_rows, after_rows, after_columns, captured_by,
        before_rescue, after_rescue, left_rescue, undone, both_rows)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT_RUN = """
SELECT number, "change", digest, title, mode, environment, operator, undo_of, keep_days, state, started_at,
       finished_at, expires_at, report, rescue_dropped_at, open_conflicts
  FROM main.backout_run
"""
_SELECT_TABLES = """
SELECT definition, before_rows, after_rows, after_columns, captured_by, before_rescue, after_rescue, left_rescue,
       undone, both_rows
  FROM main.backout_run_table WHERE run = ? ORDER BY position
"""


def has_journal(connection: apsw.Connection) -> bool:
    """Whether the journal's tables are there."""
    query = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name IN ('backout_meta', 'backout_run')"
    return bool(connection.execute(query).get == 2)


def write_end(
    connection: apsw.Connection,
    run: int,
    state: RunState,
    tables: Sequence[CapturedTable],
    report: Mapping[str, Any],
) -> None:
    """Record how a run ended and what it wrote."""
    text = json.dumps(report, default=str, ensure_ascii=False)
    connection.execute(_END_RUN, {"run": run, "state": state.value, "report": text})
    connection.execute("DELETE FROM main.backout_run_table WHERE run = ?", (run,))
    for position, entry in enumerate(tables):
        values = (run, position, entry.table.name.name, table_as_json(entry.table), entry.before_rows, entry.after_rows)
        rescue = (entry.before_rescue, entry.after_rescue, entry.left_rescue, int(entry.undone), entry.both_rows)
        columns = json.dumps(entry.after_columns, ensure_ascii=False)
        connection.execute(_INSERT_TABLE, (*values, columns, entry.captured_by, *rescue))


def begin_undone(connection: apsw.Connection, run: int) -> None:
    """Record that an undo of a run was made: all its tables, those too that are left alone by name.

    Where the run is an undo itself, the effects of the run that it undid are back: that one can be undone again.
    """
    if has_journal(connection):
        connection.execute("UPDATE main.backout_run_table SET undone = 1, left_rescue = NULL WHERE run = ?", (run,))
        connection.execute(
            "UPDATE main.backout_run_table SET undone = 0, left_rescue = NULL "
            "WHERE run = (SELECT undo_of FROM main.backout_run WHERE number = ?)",
            (run,),
        )


def mark_undone(connection: apsw.Connection, run: int, name: TableName, *, left_rescue: str, undone: bool) -> None:
    """Record how far a table of a run has been undone; a run that is not recorded yet (ghost) has no row."""
    if has_journal(connection):
        connection.execute(
            "UPDATE main.backout_run_table SET left_rescue = ?, undone = ? WHERE run = ? AND table_name = ?",
            (left_rescue, int(undone), run, name.name),
        )


def set_open_conflicts(connection: apsw.Connection, run: int, rows: int) -> None:
    """Record how many rows of a run were left by its undo."""
    if has_journal(connection):
        connection.execute("UPDATE main.backout_run SET open_conflicts = ? WHERE number = ?", (rows, run))


def read_runs(connection: apsw.Connection, where: str, parameters: Sequence[Any] = ()) -> list[RunRecord]:
    """Runs with their tables; `where` is the rest of the query."""
    rows = fetch(connection, _SELECT_RUN + where, tuple(parameters))
    return [_record(row, _tables(connection, int(row[0]))) for row in rows]


def _record(row: Sequence[Any], tables: tuple[CapturedTable, ...]) -> RunRecord:
    number, change, digest, title, mode, environment, operator, undo_of, keep_days = row[:9]
    state, started_at, finished_at, expires_at, report, dropped_at, open_conflicts = row[9:]
    return RunRecord(
        number=number,
        start=RunStart(change, digest, title, Mode(mode), environment, operator, undo_of, keep_days),
        state=RunState(state),
        started_at=datetime.fromisoformat(started_at),
        finished_at=_time(finished_at),
        expires_at=_time(expires_at),
        tables=tables,
        report=json.loads(report),
        rescue_dropped_at=_time(dropped_at),
        open_conflicts=open_conflicts,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _tables(connection: apsw.Connection, run: int) -> tuple[CapturedTable, ...]:
    found = []
    for definition, before, after, columns, by, *rescue, undone, both in fetch(connection, _SELECT_TABLES, (run,)):
        found.append(
            CapturedTable(
                table=table_of_json(definition),
                counted=None,
                before_rows=before,
                after_rows=after,
                after_columns=tuple(json.loads(columns)),
                captured_by=by,
                before_rescue=rescue[0],
                after_rescue=rescue[1],
                left_rescue=rescue[2],
                undone=bool(undone),
                both_rows=both,
            )
        )
    return tuple(found)
