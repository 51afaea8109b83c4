"""Rows of the journal as values and back. Writes inside of whatever transaction is open; never commits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backout.engines.mariadb.names import comma, literal
from backout.engines.mariadb.session import Session
from backout.engines.table_json import table_as_json, table_of_json
from backout.engines.values import (
    CapturedTable,
    Mode,
    RunRecord,
    RunStart,
    RunState,
    TableName,
)

NOW = "UTC_TIMESTAMP(6)"

SELECT_RUN = (
    "SELECT number, `change`, digest, title, mode, environment, operator, undo_of, keep_days, state, started_at, "
    "finished_at, expires_at, report, rescue_dropped_at, open_conflicts FROM backout.run"
)
_SELECT_TABLES = (
    "SELECT run, definition, before_rows, after_rows, both_rows, after_columns, captured_by, before_rescue, "
    "after_rescue, left_rescue, undone FROM backout.run_table"
)


def values(*parts: Any) -> str:
    """A list of constants."""
    return comma(map(literal, parts))


def write_end(
    session: Session, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]
) -> None:
    """Write a run's end; the caller owns the transaction."""
    text = json.dumps(report, default=str, ensure_ascii=False)
    expires = f"{NOW} + INTERVAL ROUND(keep_days * 86400) SECOND" if state is RunState.COMMITTED else "NULL"
    session.run(
        f"UPDATE backout.run SET state = {literal(state.value)}, report = {literal(text)}, finished_at = {NOW}, "
        f"expires_at = {expires} WHERE number = {int(run)}"
    )
    for place, one in enumerate(tables):
        columns = json.dumps(one.after_columns, ensure_ascii=False)
        row = values(
            *(run, place, table_as_json(one.table), one.before_rows, one.after_rows, one.both_rows, columns),
            *(one.captured_by, one.before_rescue, one.after_rescue, one.left_rescue, one.undone),
        )
        session.run(
            "INSERT INTO backout.run_table (run, place, definition, before_rows, after_rows, both_rows, after_columns, "
            f"captured_by, before_rescue, after_rescue, left_rescue, undone) VALUES ({row})"
        )


def begin_undone(session: Session, run: int) -> None:
    """Of a run that is being undone nothing is left, but for what `mark_undone` says: append-only tables stay as they are."""
    session.run(f"UPDATE backout.run_table SET undone = TRUE, left_rescue = NULL WHERE run = {int(run)}")


def mark_undone(session: Session, run: int, name: TableName, *, left_rescue: str | None, undone: bool) -> None:
    """Record what an undo has left of one table."""
    for place, definition in session.rows(f"SELECT place, definition FROM backout.run_table WHERE run = {int(run)}"):
        if table_of_json(definition).name == name:
            session.run(
                f"UPDATE backout.run_table SET undone = {literal(undone)}, left_rescue = {literal(left_rescue)} "
                f"WHERE run = {int(run)} AND place = {int(place)}"
            )


def set_open_conflicts(session: Session, run: int, count: int) -> None:
    """Record what an undo has left; an undo of an undo makes the first run's effects undoable again."""
    session.run(f"UPDATE backout.run SET open_conflicts = {int(count)} WHERE number = {int(run)}")
    session.run(
        "UPDATE backout.run_table t JOIN backout.run r ON r.undo_of = t.run "
        f"SET t.undone = FALSE, t.left_rescue = NULL WHERE r.number = {int(run)}"
    )


def read_runs(session: Session, where: str) -> list[RunRecord]:
    """Runs with their tables; `where` is the rest of the query."""
    rows = session.rows(f"{SELECT_RUN} {where}")
    tables: dict[int, list[CapturedTable]] = {int(row[0]): [] for row in rows}
    if tables:
        numbers = comma(map(str, tables))
        for run, *fields in session.rows(f"{_SELECT_TABLES} WHERE run IN ({numbers}) ORDER BY run, place"):
            tables[int(run)].append(_captured(fields))
    return [_record(row, tuple(tables[int(row[0])])) for row in rows]


def _record(row: Sequence[Any], tables: tuple[CapturedTable, ...]) -> RunRecord:
    number, change, digest, title, mode, environment, operator, undo_of, keep_days = row[:9]
    state, started_at, finished_at, expires_at, report, dropped_at, open_conflicts = row[9:]
    start = RunStart(change, digest, title, Mode(mode), environment, operator, undo_of, float(keep_days))
    return RunRecord(
        number=int(number),
        start=start,
        state=RunState(state),
        started_at=started_at.replace(tzinfo=UTC),
        finished_at=_time(finished_at),
        expires_at=_time(expires_at),
        tables=tables,
        report=json.loads(report),
        rescue_dropped_at=_time(dropped_at),
        open_conflicts=int(open_conflicts),
    )


def _time(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(tzinfo=UTC)


def _captured(fields: Sequence[Any]) -> CapturedTable:
    definition, before, after, both, columns, captured_by, before_rescue, after_rescue, left, undone = fields
    return CapturedTable(
        table=table_of_json(definition),
        counted=None,
        before_rows=int(before),
        after_rows=int(after),
        after_columns=tuple(json.loads(columns)),
        captured_by=captured_by,
        before_rescue=before_rescue,
        after_rescue=after_rescue,
        left_rescue=left,
        undone=bool(undone),
        both_rows=int(both),
    )
