"""What a run wrote becomes its rescue tables: from the session's changeset, and from what triggers have written.

Which of the two a table has is decided by `rescue_triggers`; both give the same images (tests/integration/sqlite).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw

from backout.engines.sqlite import images, logged, spool
from backout.engines.sqlite.catalogue import ForeignKey, foreign_keys
from backout.engines.sqlite.changeset import SpooledChangeset
from backout.engines.sqlite.rescue_triggers import RescueTriggers
from backout.engines.sqlite.spool import Found
from backout.engines.sqlite.statements import main_table, quote_name, same, signature, single
from backout.engines.values import CapturedTable


def store_images(
    connection: apsw.Connection,
    session: apsw.Session,
    triggers: RescueTriggers,
    run: int,
    *,
    earlier: Sequence[CapturedTable],
    loose: Mapping[str, int],
    keep: bool,
) -> tuple[tuple[CapturedTable, ...], tuple[str, ...]]:
    """Write what was seen into the rescue tables of a run; returns the tables in order of name, and tripwires.

    `earlier` are the tables of a capture before, in the same transaction; `loose` has the rows that tables with loose
    keys had at the start.
    """
    tripwires: list[str | None] = []
    captured: list[CapturedTable] = []
    by_triggers = {entry.table.name.name: entry for entry in triggers.take_off()}
    with SpooledChangeset(session) as changeset:
        by_session = spool.read(connection, changeset.changes())
        if keep and by_session:
            changeset.keep(connection, run)
    with triggers.resting():
        for position, name in enumerate(sorted({*by_triggers, *by_session}), images.next_position(earlier)):
            if name in by_triggers:
                one, tripwire = logged.store(connection, run, position, by_triggers[name])
                triggers.stored(name, one.before_rescue if one else None)
            else:
                one, tripwire = _store_followed(connection, run, position, by_session[name], earlier, loose.get(name))
            tripwires.append(tripwire)
            captured += [one] if one else []
        _mark_orphans(connection, tuple(captured))
    tripwires += [_missing_rows(connection, entry) for entry in captured]
    tripwires += triggers.tripwires
    tripwires += [f'table "{name}" is followed twice' for name in sorted(set(by_triggers) & set(by_session))]
    return tuple(captured), tuple(text for text in tripwires if text is not None)


def _store_followed(
    connection: apsw.Connection,
    run: int,
    position: int,
    entry: Found,
    earlier: Sequence[CapturedTable],
    rows_at_start: int | None,
) -> tuple[CapturedTable | None, str | None]:
    """One table that the session followed; `rows_at_start` is known where its key is loose."""
    entry.position = position
    spool.fill(connection, run, entry)
    tripwire = None if rows_at_start is None else _drop_echoes(connection, run, entry, earlier, rows_at_start)
    if _came_back(connection, run, entry):
        _drop_tables(connection, run, entry)
        return None, tripwire
    return _captured(run, entry), tripwire


def _drop_echoes(
    connection: apsw.Connection, run: int, entry: Found, earlier: Sequence[CapturedTable], rows_at_start: int
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


def _came_back(connection: apsw.Connection, run: int, entry: Found) -> bool:
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


def _drop_tables(connection: apsw.Connection, run: int, entry: Found) -> None:
    for part in ("before", "after"):
        connection.execute(f"DROP TABLE IF EXISTS {main_table(images.rescue_name(run, entry.position, part))}")


def _captured(run: int, entry: Found) -> CapturedTable:
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
