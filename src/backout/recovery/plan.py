"""From what a run recorded, and the catalogue of now, to the plan of its undo: a value, computed without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backout.engines.values import CapturedTable, RunRecord, RunState, Table, TableName, UndoPlan, UndoTable
from backout.errors import Refused


@dataclass(frozen=True)
class UndoPolicy:
    """What the project says of undo; table names may be bare or qualified, columns are names.

    `bookkeeping_of` overrides `bookkeeping` for single tables.
    """

    append_only: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()
    bookkeeping_of: Mapping[str, tuple[str, ...]] | None = None

    def is_append_only(self, name: TableName) -> bool:
        """Named bare or qualified."""
        return name.name in self.append_only or str(name) in self.append_only

    def bookkeeping_for(self, name: TableName) -> tuple[str, ...]:
        """The table's own list, else the project's."""
        own = self.bookkeeping_of or {}
        return own.get(str(name), own.get(name.name, self.bookkeeping))


def require_undoable(record: RunRecord) -> None:
    """Raise Refused where the run has nothing (left) that could be undone."""
    name = record.identifier
    stopped = record.batches and record.state in {RunState.INTERRUPTED, RunState.PARTIAL}
    if record.state is not RunState.COMMITTED and not stopped:
        raise Refused(
            "undo", f'run "{name}" is {record.state.value}: there is nothing to undo', hint="see `backout log`"
        )
    if record.start.mode.value == "ghost":
        raise Refused("undo", f'run "{name}" was a ghost run: it left nothing to undo', hint="see `backout log`")
    if record.rescue_dropped_at is not None:
        raise Refused(
            "undo", f'the rescue of run "{name}" was dropped on {record.rescue_dropped_at:%Y-%m-%d %H:%M %Z}',
            hint="what it changed can only come back from a backup",
        )  # fmt: skip
    if record.tables and all(one.undone for one in record.tables):
        raise Refused("undo", f'run "{name}" is undone already', hint="`backout log` shows by which run")


def plan_undo(
    run: int, captured: Sequence[CapturedTable], now: Mapping[TableName, Table | None], policy: UndoPolicy
) -> UndoPlan:
    """The plan for the tables of a run. `now`: each captured table as the catalogue has it at this moment.

    Raises Refused where a table, or a column of its key, is gone.
    """
    tables: list[UndoTable] = []
    notes: list[str] = []
    for one in captured:
        name = one.table.name
        if policy.is_append_only(name):
            notes.append(f'"{name}" is append-only: its rows stay as they are')
            continue
        if one.undone:
            continue
        table = now.get(name)
        if table is None:
            raise Refused(
                "undo", f'table "{name}" is gone: its rows cannot be put back',
                hint="bring the table back first; the rows are in the rescue tables",
            )  # fmt: skip
        columns = _columns(one.table, table, notes)
        missing = [column for column in one.table.key if column not in columns]
        if missing:
            raise Refused(
                "undo", f'column "{missing[0]}" of the key of "{name}" is gone: its rows cannot be found again',
                hint="the rows are in the rescue tables",
            )  # fmt: skip
        bookkeeping = policy.bookkeeping_for(name)
        tables.append(UndoTable(one, table, columns, bookkeeping))
    return UndoPlan(run, tuple(tables), tuple(notes))


def _columns(then: Table, now: Table, notes: list[str]) -> dict[str, str]:
    """Captured column -> column of now: by position where the table is the very same, since that outlives a rename."""
    by_position: dict[int, str] = {}
    if then.identifier == now.identifier and all(column.position for column in then.columns):
        by_position = {column.position: column.name for column in now.columns}
    names = {column.name for column in now.columns}
    matched = {}
    for column in then.columns:
        name = by_position.get(column.position) if by_position else (column.name if column.name in names else None)
        if name is None:
            notes.append(f'column "{column.name}" of "{then.name}" was dropped since: its values are not put back')
            continue
        if name != column.name:
            notes.append(f'column "{column.name}" of "{then.name}" is called "{name}" now')
        matched[column.name] = name
    return matched
