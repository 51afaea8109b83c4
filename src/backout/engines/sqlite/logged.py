"""A table whose pre-images triggers have written, and how those become the images of a run.

The triggers wrote one row for each row that a statement replaced or deleted. What is left at the end: the first
pre-image of each row, without rows that are again as they were, and the post-images of those that are still there.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.statements import fetch, main_table, quote_name, same, single
from backout.engines.values import CapturedTable, Table

CAPTURED_BY = "rescue triggers"


@dataclass(frozen=True)
class Logged:
    """A table that triggers follow; `before` has its pre-images in the order in which they were replaced."""

    table: Table
    before: str
    statements: int = 0
    events: int = 0  # rows that these statements wrote
    columns: frozenset[str] = frozenset()  # that they set
    on: bool = True  # whether the triggers are still there
    inserted: str | None = None  # the temporary table with the keys of inserted rows; None: there can be none

    @property
    def triggers(self) -> dict[str, str]:
        """Event -> name."""
        events = ("UPDATE", "DELETE", *(["INSERT"] if self.inserted else []))
        return {event: f"{self.before}_{event.lower()}" for event in events}

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that were set, in the order of the table."""
        return tuple(column.name for column in self.table.restorable if column.name in self.columns)


def same_key(table: Table, left: str, right: str) -> str:
    """SQL: two rows have the same key; the left side's column decides how values are compared."""
    return " AND ".join(f"{left}.{quote_name(name)} = {right}.{quote_name(name)}" for name in table.key)


def store(
    connection: apsw.Connection, run: int, position: int, logged: Logged
) -> tuple[CapturedTable | None, str | None]:
    """Make the rescue tables of one table; (what was captured or None, a tripwire's text or None)."""
    stored, tripwire = _count(connection, logged.before), None
    added = _count(connection, logged.inserted) if logged.inserted else 0
    if stored + added != logged.events:
        tripwire = f'table "{logged.table.name.name}": {logged.events} rows captured, {stored + added} stored'
    if logged.statements > 1:  # one statement writes a row once
        images.keep_first(connection, logged.table, logged.before)
    changed = _changed(connection, logged)
    added = _count_added(connection, logged) if added else 0
    after = images.rescue_name(run, position, "after")
    columns = tuple(
        column.name
        for column in logged.table.restorable
        if added or column.name in changed or column.name in logged.table.key
    )
    images.create_after(connection, logged.table, after, columns)
    both = _store_changed(connection, logged, after, columns, changed) if changed else 0
    after_rows = both + (_store_added(connection, logged, after) if added else 0)
    if both != stored:
        _drop_unchanged(connection, logged, after)
    before, before_rows = images.rescue_name(run, position, "before"), _count(connection, logged.before)
    for name, rows, wanted in ((logged.before, before_rows, before), (after, after_rows, after)):
        if not rows:
            connection.execute(f"DROP TABLE {main_table(name)}")
        elif name != wanted:
            images.rename(connection, name, wanted)
    if logged.inserted:
        connection.execute(f"DROP TABLE {logged.inserted}")
    if not before_rows and not after_rows:
        return None, tripwire
    captured = CapturedTable(
        table=logged.table,
        counted=None,
        before_rows=before_rows,
        after_rows=after_rows,
        after_columns=columns if after_rows else (),
        captured_by=CAPTURED_BY,
        before_rescue=before if before_rows else None,
        after_rescue=after if after_rows else None,
        both_rows=both,
    )
    return captured, tripwire


def rows_of(connection: apsw.Connection, logged: Logged) -> int:
    """Rows that the triggers have written: numbered from 1 on, and taken back from the end only. Quick."""
    row = quote_name(images.row_column(logged.table))
    before = single(connection, f"SELECT max({row}) FROM {main_table(logged.before)}") or 0
    added = single(connection, f"SELECT max(_rowid_) FROM {logged.inserted}") or 0 if logged.inserted else 0
    return int(before) + int(added)


def _count(connection: apsw.Connection, name: str) -> int:
    qualified = name if name.startswith("temp.") else main_table(name)
    return int(single(connection, f"SELECT count(*) FROM {qualified}"))


def _source(logged: Logged) -> str:
    """SQL: each pre-image I with its row of now T; CROSS JOIN keeps the order of the loops."""
    now = main_table(logged.table.name.name)
    return f"FROM {main_table(logged.before)} AS I CROSS JOIN {now} AS T ON {same_key(logged.table, 'T', 'I')}"


def _differ(name: str) -> str:
    return f"NOT {same(f'T.{quote_name(name)}', f'I.{quote_name(name)}')}"


def _changed(connection: apsw.Connection, logged: Logged) -> tuple[str, ...]:
    """Columns that differ in some row. Of one column alone the post-images will tell."""
    if len(logged.written) < 2:
        return logged.written
    (values,) = fetch(
        connection, f"SELECT {', '.join(f'max({_differ(name)})' for name in logged.written)} {_source(logged)}"
    )
    return tuple(name for name, differ in zip(logged.written, values, strict=True) if differ)


def _count_added(connection: apsw.Connection, logged: Logged) -> int:
    """Rows that were inserted and not there before: an undo inserts again what it has deleted."""
    return int(single(connection, f"SELECT count(*) FROM {logged.inserted} AS I WHERE {_is_new(logged)}"))


def _is_new(logged: Logged) -> str:
    """SQL: an inserted key, of I, has no pre-image."""
    key, own = (", ".join(prefix + quote_name(name) for name in logged.table.key) for prefix in ("", "I."))
    return f"({own}) NOT IN (SELECT {key} FROM {main_table(logged.before)})"


def _store_changed(
    connection: apsw.Connection, logged: Logged, after: str, columns: tuple[str, ...], changed: tuple[str, ...]
) -> int:
    """Post-images of the rows that differ; returns how many there are."""
    row = quote_name(images.row_column(logged.table))
    listed = ", ".join([row, *map(quote_name, columns)])
    values = ", ".join([f"I.{row}", *(f"T.{quote_name(name)}" for name in columns)])
    connection.execute(
        f"INSERT INTO {main_table(after)} ({listed}) SELECT {values} {_source(logged)}"
        f" WHERE {' OR '.join(_differ(name) for name in changed)}"
    )
    return _count(connection, after)


def _store_added(connection: apsw.Connection, logged: Logged, after: str) -> int:
    """Post-images of rows that were not there before; returns how many there are."""
    row, table = quote_name(images.row_column(logged.table)), logged.table
    names = [column.name for column in table.restorable]
    listed = ", ".join([row, *map(quote_name, names)])
    values = ", ".join(f"T.{quote_name(name)}" for name in names)
    last = int(single(connection, f"SELECT max({row}) FROM {main_table(logged.before)}") or 0)
    before = _count(connection, after)
    connection.execute(
        f"INSERT INTO {main_table(after)} ({listed}) SELECT {last} + I._rowid_, {values}"
        f" FROM {logged.inserted} AS I CROSS JOIN {main_table(table.name.name)} AS T ON {same_key(table, 'T', 'I')}"
        f" WHERE {_is_new(logged)}"
    )
    return _count(connection, after) - before


def _drop_unchanged(connection: apsw.Connection, logged: Logged, after: str) -> None:
    """Take out pre-images of rows that are there and have no post-image."""
    row = quote_name(images.row_column(logged.table))
    connection.execute(
        f"DELETE FROM {main_table(logged.before)} AS I WHERE EXISTS"
        f" (SELECT 1 FROM {main_table(logged.table.name.name)} AS T WHERE {same_key(logged.table, 'T', 'I')})"
        f" AND I.{row} NOT IN (SELECT {row} FROM {main_table(after)})"
    )
