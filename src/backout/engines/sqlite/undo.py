"""Conflict-aware undo: judge every captured row against now, try, learn what refuses, decide, do.

Application triggers do not fire: `SQLITE_DBCONFIG_ENABLE_TRIGGER` (https://sqlite.org/c3ref/c_dbconfig_defensive.html).
Invariant: what was not put back is in a `left` table, and a later undo looks at exactly those rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw

from backout.engines.conflicts import Found, allows, refusals, renumbered
from backout.engines.conflicts import fingerprint as fingerprint_of
from backout.engines.halves import hold, notes_on_halves, release
from backout.engines.sqlite import images, undo_report, undo_rows
from backout.engines.sqlite.handle import Handle
from backout.engines.sqlite.records import begin_undone, mark_undone, set_open_conflicts
from backout.engines.sqlite.statements import main_table, quote_name, single
from backout.engines.sqlite.undo_apply import Offender, apply
from backout.engines.sqlite.undo_references import dangling
from backout.engines.sqlite.undo_rows import Work
from backout.engines.values import Conflict, Counts, Resolution, TableName, UndoOutcome, UndoPlan

HOW = "triggers and foreign key actions off for this connection, foreign keys checked afterwards"
_FINAL = frozenset({"REFERENCED", "PARENT_GONE", "CONSTRAINT"})  # no order of ours makes these rows valid


def revert(handle: Handle, plan: UndoPlan, resolution: Resolution) -> tuple[UndoOutcome, int]:
    """Put back what `plan` says; returns the outcome and the number of rows written."""
    connection = handle.connection
    with _quiet(connection), _savepoint(connection) as savepoint:
        works = undo_rows.prepare(connection, plan)
        _bind_indexes(connection, works)
        written = _settle(handle, works)
        met = undo_report.conflicts(connection, works)
        fingerprint = fingerprint_of(met)
        notes = list(plan.notes)
        left = met
        if resolution.overwrite and resolution.seen != fingerprint:
            notes.append("the conflicts are not those that were seen: look at the list and decide again")
            return _refusal(savepoint, met, fingerprint, notes), 0
        if not allows(resolution, {entry.conflict.number for entry in met}):
            return _refusal(savepoint, met, fingerprint, notes), 0
        if _force(connection, works, met, resolution):
            written = _settle(handle, works)
            left = renumbered(undo_report.conflicts(connection, works), met)
        notes.extend(refusals(left, resolution))
        notes.extend(
            notes_on_halves(lambda q: single(connection, q), {work.table: work.plan.table.name for work in works})
        )
        if left and not resolution.partial:
            return _refusal(savepoint, left, fingerprint, notes), 0
        restored = _restored(connection, works)
        _remember(connection, plan, works)
        undo_rows.drop(connection)
    return UndoOutcome(
        restored, tuple(f.conflict for f in left), HOW, refused=False, fingerprint=fingerprint, notes=tuple(notes)
    ), written


@contextmanager
def _quiet(connection: apsw.Connection) -> Iterator[None]:
    """Neither triggers nor foreign key actions inside of the block."""
    switches = (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, apsw.SQLITE_DBCONFIG_ENABLE_FKEY)
    before = [connection.config(switch, -1) for switch in switches]
    for switch in switches:
        connection.config(switch, 0)
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            connection.config(switch, value)


class _Savepoint:
    """The undo's savepoint; temporary tables follow it too."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        connection.execute("SAVEPOINT backout_undo", can_cache=False)

    def back(self) -> None:
        """Undo everything since its start."""
        self._connection.execute("ROLLBACK TO backout_undo", can_cache=False)

    def release(self) -> None:
        """Keep what was done, as far as the transaction does."""
        self._connection.execute("RELEASE backout_undo", can_cache=False)


@contextmanager
def _savepoint(connection: apsw.Connection) -> Iterator[_Savepoint]:
    savepoint = _Savepoint(connection)
    try:
        yield savepoint
    except BaseException:
        if connection.in_transaction:
            savepoint.back()
            savepoint.release()
        raise
    savepoint.release()


def _bind_indexes(connection: apsw.Connection, works: Sequence[Work]) -> None:
    """A virtual table's shadow tables are one thing: if others changed a row of it, all of it is in conflict."""
    for name in {work.virtual for work in works if work.virtual}:
        group = [work for work in works if work.virtual == name]
        if not any(single(connection, f"SELECT 1 FROM {w.table} WHERE kind IS NOT NULL LIMIT 1") for w in group):
            continue
        for work in group:
            connection.execute(
                f"UPDATE {work.table} SET action = NULL, kind = coalesce(kind, 'CHANGED'), detail = ?",
                (f'part of virtual table "{name}", which was written since',),
            )


def _settle(handle: Handle, works: Sequence[Work]) -> int:
    """Apply, mark what refuses, take back, until all that is left to do can be done; returns the rows written.

    Ends, since every round takes at least one row out. Leaves the savepoint `backout_try` open, for `_take_back`.
    """
    connection = handle.connection
    keyed = _keyed(works)
    while True:
        hold(lambda query: single(connection, query), connection.execute, keyed)
        connection.execute("SAVEPOINT backout_try", can_cache=False)
        before = connection.total_changes()
        offenders = apply(connection, works)
        if not offenders and handle.foreign_keys:
            offenders = list(dangling(connection, works))
        if not offenders:
            return connection.total_changes() - before
        _take_back(connection)
        _mark(connection, offenders)


def _keyed(works: Sequence[Work]) -> list[str]:
    """The work tables in which a row is told by its key."""
    return [work.table for work in works if work.key and not work.virtual]


def _take_back(connection: apsw.Connection) -> None:
    connection.execute("ROLLBACK TO backout_try", can_cache=False)
    connection.execute("RELEASE backout_try", can_cache=False)


def _mark(connection: apsw.Connection, offenders: Sequence[Offender]) -> None:
    for offender in offenders:
        connection.execute(
            f"UPDATE {offender.work.table} SET action = NULL, forced = 0, kind = ?, detail = ? WHERE row = ?",
            (offender.kind, offender.detail, offender.row),
        )


def _force(
    connection: apsw.Connection, works: Sequence[Work], met: Sequence[Found[Work]], resolution: Resolution
) -> bool:
    """Give the rows that `overwrite` names something to do; True if there are any. What was applied is taken back."""
    named = [entry for entry in met if entry.conflict.number in resolution.overwrite and _can_be_forced(entry)]
    if named:
        _take_back(connection)
        release(connection.execute, _keyed(works))
        for entry in met:
            # What only a foreign key or another constraint refused is tried again: the forced rows may be what it met.
            if entry in named or (entry.conflict.kind.name in _FINAL and not entry.work.virtual):
                connection.execute(
                    f"UPDATE {entry.work.table} SET action = ?, forced = ?, kind = NULL, detail = NULL WHERE row = ?",
                    (_action(entry.conflict), int(entry in named), entry.row),
                )
    return bool(named)


def _can_be_forced(entry: Found[Work]) -> bool:
    conflict = entry.conflict
    gone = conflict.now is None and conflict.before is None
    return not (conflict.kind.name in _FINAL or entry.work.virtual or gone)


def _action(conflict: Conflict) -> str:
    """What puts the row back."""
    if conflict.kind.name == "KEY_REUSED":
        return "replace"
    if conflict.now is None:
        return "insert"
    return "update" if conflict.before is not None else "delete"


def _refusal(savepoint: _Savepoint, left: Sequence[Found[Work]], fingerprint: str, notes: Sequence[str]) -> UndoOutcome:
    savepoint.back()
    conflicts = tuple(entry.conflict for entry in left)
    return UndoOutcome({}, conflicts, HOW, refused=True, fingerprint=fingerprint, notes=tuple(notes))


def _restored(connection: apsw.Connection, works: Sequence[Work]) -> dict[TableName, Counts]:
    restored = {}
    for work in works:
        counts = dict(
            connection.execute(f"SELECT action, count(*) FROM {work.table} WHERE action IS NOT NULL GROUP BY action")
        )
        restored[work.plan.table.name] = Counts(
            inserted=counts.get("insert", 0),
            updated=counts.get("update", 0) + counts.get("replace", 0),
            deleted=counts.get("delete", 0),
        )
    return restored


def _remember(connection: apsw.Connection, plan: UndoPlan, works: Sequence[Work]) -> None:
    """Write down what is left of each table."""
    open_rows = 0
    begin_undone(connection, plan.run)
    for work in works:
        captured = work.plan.captured
        count = int(single(connection, f"SELECT count(*) FROM {work.table} WHERE kind IS NOT NULL") or 0)
        open_rows += count
        name = (captured.before_rescue or captured.after_rescue or "").rpartition("_")[0] + "_left"
        images.create_left(connection, captured.table, name)
        keys = captured.table.key
        columns = ", ".join(quote_name(column) for column in (images.row_column(captured.table), *keys))
        values = ", ".join(["U.row", *(images.key_value(captured, column) for column in keys)])
        connection.execute(
            f"INSERT INTO {main_table(name)} ({columns}) SELECT {values} FROM {work.images} WHERE U.kind IS NOT NULL"
        )
        mark_undone(connection, plan.run, captured.table.name, left_rescue=name, undone=count == 0)
    set_open_conflicts(connection, plan.run, open_rows)
