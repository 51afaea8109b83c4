"""From a session's changeset to rescue tables.

A changeset has the old values of the columns that changed only; the whole row before is the row of now with those put
back. Changesets leave generated columns out, and have the rowid as first column of a table without a key (measured
with 3.54).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.catalogue import ForeignKey, describe, foreign_keys
from backout.engines.sqlite.changeset import SpooledChangeset
from backout.engines.sqlite.statements import main_table, quote_name, same, signature, single
from backout.engines.values import CapturedTable, Table

_BATCH_ROWS = 1000  # rows held in Python at once per shape of change


@dataclass
class _Found:
    """What the first reading of the changeset tells of one table; statements are made once per shape of change."""

    table: Table
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    shapes: set[tuple[int, ...]] = field(default_factory=set)  # positions of changed columns among the restorable ones
    position: int = 0
    statements: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)

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
    def after_columns(self) -> tuple[str, ...]:
        """The columns of post-images: all if there are inserts, else the key and what changed."""
        if self.inserted or not self.table.key:
            return self.names
        changed = {place for shape in self.shapes for place in shape}
        return tuple(n for i, n in enumerate(self.names) if i in changed or n in self.table.key)

    def statement(self, kind: str, changed: tuple[int, ...], make: Callable[[], str]) -> str:
        """The SQL for one shape of change."""
        known = self.statements.get((kind, changed))
        if known is None:
            known = self.statements[kind, changed] = make()
        return known


def store_images(
    connection: apsw.Connection,
    session: apsw.Session,
    run: int,
    *,
    earlier: Sequence[CapturedTable],
    loose: Mapping[str, int],
    keep: bool,
) -> tuple[tuple[CapturedTable, ...], tuple[str, ...]]:
    """Write what the session saw into the rescue tables of a run; returns the tables in order of name, and tripwires.

    `earlier` are the tables of a capture before, in the same transaction; `loose` has the rows that tables with loose
    keys had at the start.
    """
    with SpooledChangeset(session) as changeset:
        found = _survey(connection, changeset.changes())
        for position, name in enumerate(sorted(found), images.next_position(earlier)):
            found[name].position = position
            _create_tables(connection, run, found[name])
        _fill(connection, run, found, changeset.changes())
        if keep and found:
            changeset.keep(connection, run)
    tripwires = [_drop_echoes(connection, run, found[name], earlier, loose[name]) for name in found if name in loose]
    captured = []
    for name in sorted(found):
        if _came_back(connection, run, found[name]):
            _drop_tables(connection, run, found[name])
        else:
            captured.append(_captured(run, found[name]))
    _mark_orphans(connection, tuple(captured))
    tripwires += [_missing_rows(connection, entry) for entry in captured]
    return tuple(captured), tuple(text for text in tripwires if text is not None)


def _survey(connection: apsw.Connection, changes: Iterator[apsw.TableChange]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for change in changes:
        entry = found.get(change.name)
        if entry is None:
            entry = found[change.name] = _Found(describe(connection, change.name))
        if change.opcode == apsw.SQLITE_INSERT:
            entry.inserted += 1
        elif change.opcode == apsw.SQLITE_DELETE:
            entry.deleted += 1
        else:
            entry.updated += 1
            entry.shapes.add(_changed(change, entry.rowid))
    return found


def _changed(change: apsw.TableChange, skip: int) -> tuple[int, ...]:
    new = change.new or ()
    return tuple(i - skip for i, value in enumerate(new) if value is not apsw.no_change)


def _create_tables(connection: apsw.Connection, run: int, entry: _Found) -> None:
    if entry.updated or entry.deleted:
        images.create_before(connection, entry.table, images.rescue_name(run, entry.position, "before"))
    if entry.updated or entry.inserted:
        name = images.rescue_name(run, entry.position, "after")
        images.create_after(connection, entry.table, name, entry.after_columns)


def _fill(connection: apsw.Connection, run: int, found: dict[str, _Found], changes: Iterator[apsw.TableChange]) -> None:
    batches: dict[str, list[tuple[Any, ...]]] = {}
    for number, change in enumerate(changes, 1):  # unique over the whole run, so unique in each table
        for statement, values in _rows_of(run, found[change.name], change, number):
            batch = batches.setdefault(statement, [])
            batch.append(values)
            if len(batch) >= _BATCH_ROWS:
                connection.executemany(statement, batch)
                batch.clear()
    for statement, batch in batches.items():
        connection.executemany(statement, batch)


def _rows_of(run: int, entry: _Found, change: apsw.TableChange, number: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The INSERTs with their values that store one change."""
    if change.opcode == apsw.SQLITE_INSERT:
        text = entry.statement("insert", (), lambda: _insert_all(entry, _target(run, entry, "after")))
        yield text, (number, *(change.new or ())[entry.rowid :])
    elif change.opcode == apsw.SQLITE_DELETE:
        text = entry.statement("delete", (), lambda: _insert_all(entry, _target(run, entry, "before")))
        yield text, (number, *(change.old or ())[entry.rowid :])
    else:
        old = change.old or ()
        changed = _changed(change, entry.rowid)
        identity = tuple(old[i] for i in entry.identity)
        values = tuple(old[i + entry.rowid] for i in changed)
        text = entry.statement("before", changed, lambda: _insert_before(entry, _target(run, entry, "before"), changed))
        yield text, (number, *values, *identity)
        text = entry.statement("after", (), lambda: _insert_after(entry, _target(run, entry, "after")))
        yield text, (number, *identity)


def _target(run: int, entry: _Found, part: str) -> str:
    return main_table(images.rescue_name(run, entry.position, part))


def _listed(entry: _Found, columns: tuple[str, ...]) -> str:
    return ", ".join(quote_name(name) for name in (images.row_column(entry.table), *columns))


def _insert_all(entry: _Found, target: str) -> str:
    marks = ", ".join("?" * (len(entry.names) + 1))
    return f"INSERT INTO {target} ({_listed(entry, entry.names)}) VALUES ({marks})"


def _insert_before(entry: _Found, target: str, changed: tuple[int, ...]) -> str:
    values = ["?" if i in changed else "T." + quote_name(name) for i, name in enumerate(entry.names)]
    return f"INSERT INTO {target} ({_listed(entry, entry.names)}) SELECT ?, {', '.join(values)} {_source(entry)}"


def _insert_after(entry: _Found, target: str) -> str:
    values = ", ".join("T." + quote_name(name) for name in entry.after_columns)
    return f"INSERT INTO {target} ({_listed(entry, entry.after_columns)}) SELECT ?, {values} {_source(entry)}"


def _source(entry: _Found) -> str:
    columns = entry.table.key or ("_rowid_",)
    condition = " AND ".join(f"T.{quote_name(column)} = ?" for column in columns)
    return f"FROM {main_table(entry.table.name.name)} AS T WHERE {condition}"


def _drop_echoes(
    connection: apsw.Connection, run: int, entry: _Found, earlier: Sequence[CapturedTable], rows_at_start: int
) -> str | None:
    """Take out rows that a session reports twice where keys can be equal and yet differ; a tripwire if any may be left.

    'a' becomes 'A' under NOCASE: the session says UPDATE a -> A *and* INSERT A; 'a' -> 'A' -> 'a': INSERT a, though
    nothing changed (measured, 3.54). An echo is an insert too many, so the number of rows tells whether one is left.
    """
    if entry.inserted:
        after = main_table(images.rescue_name(run, entry.position, "after"))
        row = quote_name(images.row_column(entry.table))
        key = ", ".join(f"A.{quote_name(column)}" for column in entry.table.key)
        known = "0"
        if entry.updated or entry.deleted:
            before = main_table(images.rescue_name(run, entry.position, "before"))
            known = f"A.{row} IN (SELECT B.{row} FROM {before} AS B)"
        ranked = (
            f"SELECT A.{row} AS number, {known} AS paired, "
            f"row_number() OVER (PARTITION BY {key} ORDER BY {known} DESC, A.{row}) AS rank FROM {after} AS A"
        )
        echoes = f"SELECT number FROM ({ranked}) WHERE rank > 1"
        entry.inserted -= _delete(connection, f"DELETE FROM {after} WHERE {row} IN ({echoes})")
        for image in earlier:  # an undo in the same transaction put these back as they were
            if image.table == entry.table and image.before_rescue is not None:
                equal = " AND ".join(same(f"A.{quote_name(n)}", f"E.{quote_name(n)}") for n in entry.names)
                there = f"EXISTS (SELECT 1 FROM {main_table(image.before_rescue)} AS E WHERE {equal})"
                entry.inserted -= _delete(connection, f"DELETE FROM {after} AS A WHERE NOT {known} AND {there}")
    name = entry.table.name.name
    grown = int(single(connection, f"SELECT count(*) FROM {main_table(name)}")) - rows_at_start
    if grown != entry.inserted - entry.deleted:
        return f'table "{name}": keys that are equal but not the same were exchanged, which a session cannot tell apart'
    return None


def _delete(connection: apsw.Connection, statement: str) -> int:
    before = connection.total_changes()
    connection.execute(statement)
    return connection.total_changes() - before


def _came_back(connection: apsw.Connection, run: int, entry: _Found) -> bool:
    """Whether nothing is left, or a table without a key has the rows that it had, only under other rowids."""
    if entry.inserted == entry.updated == entry.deleted == 0:
        return True
    if entry.table.key or entry.inserted != entry.deleted:
        return False
    sides = [
        f"SELECT {signature('I', list(entry.names))} AS signature, {sign} AS sign "
        f"FROM {main_table(images.rescue_name(run, entry.position, part))} AS I"
        for part, sign in (("before", 1), ("after", -1))
    ]
    query = f"SELECT 1 FROM ({' UNION ALL '.join(sides)}) GROUP BY signature HAVING sum(sign) <> 0 LIMIT 1"
    return bool(connection.execute(query).get is None)


def _drop_tables(connection: apsw.Connection, run: int, entry: _Found) -> None:
    for part in ("before", "after"):
        connection.execute(f"DROP TABLE IF EXISTS {main_table(images.rescue_name(run, entry.position, part))}")


def _captured(run: int, entry: _Found) -> CapturedTable:
    before, after = entry.updated + entry.deleted, entry.updated + entry.inserted
    return CapturedTable(
        table=entry.table,
        counted=None,
        before_rows=before,
        after_rows=after,
        after_columns=entry.after_columns if after else (),
        captured_by="session",
        before_rescue=images.rescue_name(run, entry.position, "before") if before else None,
        after_rescue=images.rescue_name(run, entry.position, "after") if after else None,
        both_rows=entry.updated,
    )


def _missing_rows(connection: apsw.Connection, captured: CapturedTable) -> str | None:
    """A tripwire's text where the rescue tables have not as many rows as the changeset, else None."""
    for name, rows in ((captured.before_rescue, captured.before_rows), (captured.after_rescue, captured.after_rows)):
        if name is None:
            continue
        stored = single(connection, f"SELECT count(*) FROM {main_table(name)}")
        if stored != rows:
            return f'table "{captured.table.name.name}": {rows} rows captured, {stored} stored in "{name}"'
    return None


def _mark_orphans(connection: apsw.Connection, captured: tuple[CapturedTable, ...]) -> None:
    """Remember rows that referred to nothing before the run already: their undo needs no parent."""
    by_name = {entry.table.name.name: entry for entry in captured}
    for key in foreign_keys(connection):
        child = by_name.get(key.child)
        if child is None or child.before_rescue is None:
            continue
        if set(key.columns) <= {column.name for column in child.table.restorable}:
            _mark(connection, child, key, by_name.get(key.parent))


def _mark(connection: apsw.Connection, child: CapturedTable, key: ForeignKey, parent: CapturedTable | None) -> None:
    columns = [quote_name(name) for name in key.columns]
    targets = [quote_name(name) for name in key.parent_columns]
    filled = " AND ".join(f"B.{column} IS NOT NULL" for column in columns)
    # P.x = +B.y: the parent's affinity and collation decide (https://sqlite.org/foreignkeys.html, 3)
    equal = " AND ".join(f"P.{target} = +B.{column}" for target, column in zip(targets, columns, strict=True))
    gone = ""
    kept = {column.name for column in parent.table.restorable} if parent is not None else set()
    if parent is not None and parent.before_rescue is not None and set(key.parent_columns) <= kept:
        tuple_now = ", ".join(f"B.{column}" for column in columns)
        there = ", ".join(f"R.{target}" for target in targets)
        known = " AND ".join(f"R.{target} IS NOT NULL" for target in targets)
        gone = f" AND ({tuple_now}) NOT IN (SELECT {there} FROM {main_table(parent.before_rescue)} AS R WHERE {known})"
    connection.execute(
        f"UPDATE {main_table(child.before_rescue or '')} AS B SET {quote_name(images.orphan_column(child.table))} = 1"
        f" WHERE {filled} AND NOT EXISTS (SELECT 1 FROM {main_table(key.parent)} AS P WHERE {equal}){gone}"
    )
