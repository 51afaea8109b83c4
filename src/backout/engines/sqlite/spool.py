"""From a session's changeset to the rescue tables: read once, set down in temporary tables, joined with the rows of now.

A changeset has the old values of the columns that changed only; the whole row before is the row of now with those put
back. Changesets leave generated columns out, and have the rowid as first column of a table without a key (measured
with 3.54). Row by row only what the changeset says is copied; the images are made by one statement per shape of change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.catalogue import describe
from backout.engines.sqlite.statements import main_table, quote_name
from backout.engines.values import Table

_BATCH_ROWS = 1000  # rows held in Python at once per shape of change
_INSERTED, _DELETED = "inserted", "deleted"
_Shape = tuple[int, ...] | str  # positions of the changed columns among the restorable ones, or one of the two above


@dataclass
class _Batch:
    """Rows of one shape that wait to be written."""

    statement: str
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # from a changeset's row, what is kept of it
    rows: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass
class Found:
    """What the changeset has of one table."""

    table: Table
    number: int  # of its temporary table
    position: int = 0  # of its rescue tables
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    shapes: dict[_Shape, int] = field(default_factory=dict)

    @cached_property
    def rowid(self) -> int:
        """1 where the changeset has the rowid in front of the columns."""
        return 0 if self.table.key else 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns that a changeset has."""
        return tuple(column.name for column in self.table.restorable)

    @cached_property
    def identity(self) -> tuple[int, ...]:
        """Where a changeset's row has what identifies it."""
        return tuple(self.names.index(column) for column in self.table.key) or (0,)

    @property
    def spool(self) -> str:
        """The temporary table: `number`, `shape`, k0… what identifies the row, v0… old values as the shape has them."""
        return f"temp.backout_change_{self.number}"

    @property
    def after_columns(self) -> tuple[str, ...]:
        """The columns of post-images: all if there are inserts, else the key and what changed."""
        if self.inserted or not self.table.key:
            return self.names
        changed = {place for shape in self.shapes if not isinstance(shape, str) for place in shape}
        return tuple(n for i, n in enumerate(self.names) if i in changed or n in self.table.key)


def read(connection: apsw.Connection, changes: Iterator[apsw.TableChange]) -> dict[str, Found]:
    """Set all changes down in temporary tables; by name of the table."""
    found: dict[str, Found] = {}
    batches: dict[tuple[str, _Shape], _Batch] = {}
    for number, change in enumerate(changes, 1):  # unique over the whole run, so unique in each table
        entry = found.get(change.name)
        if entry is None:
            entry = found[change.name] = _found(connection, change.name, len(found))
        shape, row = _shape(entry, change)
        batch = batches.get((change.name, shape))
        if batch is None:
            batch = batches[change.name, shape] = _batch(entry, shape)
        batch.rows.append((number, *batch.pick(row)))
        if len(batch.rows) >= _BATCH_ROWS:
            connection.executemany(batch.statement, batch.rows)
            batch.rows.clear()
    for batch in batches.values():
        connection.executemany(batch.statement, batch.rows)
    return found


def _found(connection: apsw.Connection, name: str, number: int) -> Found:
    entry = Found(describe(connection, name), number)
    columns = [f"k{i}" for i in range(len(entry.identity))] + [f"v{i}" for i in range(len(entry.names))]
    connection.execute(f"DROP TABLE IF EXISTS {entry.spool}")
    connection.execute(
        f"CREATE TEMP TABLE {entry.spool.removeprefix('temp.')} "
        f"(number INTEGER PRIMARY KEY, shape INTEGER, {', '.join(columns)})"
    )
    return entry


def _shape(entry: Found, change: apsw.TableChange) -> tuple[_Shape, tuple[Any, ...]]:
    """The shape of a change, counted, and its row that has the values to keep."""
    if change.opcode == apsw.SQLITE_INSERT:
        entry.inserted += 1
        return _INSERTED, change.new or ()
    if change.opcode == apsw.SQLITE_DELETE:
        entry.deleted += 1
        return _DELETED, change.old or ()
    entry.updated += 1
    skip = entry.rowid
    return tuple(i - skip for i, v in enumerate(change.new or ()) if v is not apsw.no_change), change.old or ()


def _batch(entry: Found, shape: _Shape) -> _Batch:
    number = entry.shapes.setdefault(shape, len(entry.shapes))
    kept: tuple[int, ...] = ()
    if shape == _DELETED:
        kept = tuple(range(len(entry.names)))
    elif not isinstance(shape, str):
        kept = shape
    columns = [f"k{i}" for i in range(len(entry.identity))] + [f"v{i}" for i in range(len(kept))]
    places = (*entry.identity, *(place + entry.rowid for place in kept))
    marks = ", ".join("?" * len(places))
    return _Batch(
        f"INSERT INTO {entry.spool} (number, shape, {', '.join(columns)}) VALUES (?, {number}, {marks})",
        _picker(places),
    )


def _picker(places: tuple[int, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(places) == 1:
        (place,) = places
        return lambda row: (row[place],)
    return itemgetter(*places)


def fill(connection: apsw.Connection, run: int, entry: Found) -> None:
    """Make the rescue tables of one table, of which `position` is known now."""
    if len(entry.shapes) > 1:
        index = f"{entry.spool}_shape"
        connection.execute(f"CREATE INDEX {index} ON {entry.spool.removeprefix('temp.')} (shape)")
    if entry.updated or entry.deleted:
        before = images.rescue_name(run, entry.position, "before")
        images.create_before(connection, entry.table, before)
        for shape, number in entry.shapes.items():
            if shape != _INSERTED:
                connection.execute(_insert_before(entry, main_table(before), shape, number))
    if entry.updated or entry.inserted:
        after = images.rescue_name(run, entry.position, "after")
        images.create_after(connection, entry.table, after, entry.after_columns)
        values = ", ".join("T." + quote_name(name) for name in entry.after_columns)
        deleted = entry.shapes.get(_DELETED, -1)
        connection.execute(
            f"INSERT INTO {main_table(after)} ({_listed(entry, entry.after_columns)})"
            f" SELECT C.number, {values} {_source(entry)} WHERE C.shape <> {deleted} ORDER BY C.number"
        )
    connection.execute(f"DROP TABLE {entry.spool}")


def _listed(entry: Found, columns: tuple[str, ...]) -> str:
    return ", ".join(quote_name(name) for name in (images.row_column(entry.table), *columns))


def _insert_before(entry: Found, target: str, shape: _Shape, number: int) -> str:
    if isinstance(shape, str):
        values = [f"C.v{i}" for i in range(len(entry.names))]
        source = f"FROM {entry.spool} AS C"
    else:
        values = ["T." + quote_name(name) for name in entry.names]
        for kept, place in enumerate(shape):
            values[place] = f"C.v{kept}"
        source = _source(entry)
    return (
        f"INSERT INTO {target} ({_listed(entry, entry.names)})"
        f" SELECT C.number, {', '.join(values)} {source} WHERE C.shape = {number}"
    )


def _source(entry: Found) -> str:
    """SQL: each change with its row of now. CROSS JOIN keeps the order of the loops (https://sqlite.org/optoverview.html)."""
    columns = entry.table.key or ("_rowid_",)
    match = " AND ".join(f"T.{quote_name(column)} = C.k{i}" for i, column in enumerate(columns))
    return f"FROM {entry.spool} AS C CROSS JOIN {main_table(entry.table.name.name)} AS T ON {match}"
