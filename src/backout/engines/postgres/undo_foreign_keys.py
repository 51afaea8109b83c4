"""The SQL that finds, for one foreign key, the rows of an undo that would break it or act on others' rows.

Each answers by putting the rows into the conflict table.
"""

from __future__ import annotations

from backout.engines.postgres.catalogue import ForeignKey
from backout.engines.postgres.names import quoted
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, kind_of
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.values import ConflictKind


def orphans(table: KeyedTable | KeylessTable, fk: ForeignKey, lock: str) -> str | None:
    """Restored rows that name a parent which is not there (MATCH SIMPLE: a null names none; manual 5.5.5).

    The parents that are there are locked against a delete.
    """
    by_now = {pair.now.name: pair for pair in table.pairs}
    if table.undo.captured.before_rescue is None or any(name not in by_now for name in fk.columns):
        return None
    values = [by_now[name].was("p") for name in fk.columns]
    given = " AND ".join(f"{value} IS NOT NULL" for value in values)
    same = " AND ".join(
        f"r.{quoted(name)} {operator} {value}"
        for name, operator, value in zip(fk.referenced_columns, fk.operators, values, strict=True)
    )
    keyed = KeyedTable(table.undo, table.place, table.rescue_schema)
    source = keyed.before
    if isinstance(table, KeyedTable):
        source = f"{keyed.before} LEFT JOIN {keyed.after} ON {keyed.same_key}"
    return (
        f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT DISTINCT {table.place}, "
        f"{table.identity('p')}, {kind_of(ConflictKind.PARENT_GONE)}, ARRAY[]::text[] FROM {source} "
        f"WHERE {table.names_anew(fk.columns)} AND {given} AND NOT EXISTS (SELECT FROM {fk.parent} r WHERE {same} {lock})"
    )


def strangers(child: KeyedTable | KeylessTable, parent: KeyedTable, fk: ForeignKey) -> str | None:
    """Restored rows that would belong to a stranger: the parent that they name has its key used again since.

    The key is there, so that no foreign key objects; but it is not the row that they belonged to.
    """
    by_now = {pair.now.name: pair for pair in child.pairs}
    parents = {pair.now.name: pair for pair in parent.pairs}
    if child.undo.captured.before_rescue is None or not parent.has_before:
        return None
    if any(name not in by_now for name in fk.columns) or any(name not in parents for name in fk.referenced_columns):
        return None
    same = " AND ".join(
        f"{parents[there].was('o')} {operator} {by_now[here].was('p')}"
        for here, there, operator in zip(fk.columns, fk.referenced_columns, fk.operators, strict=True)
    )
    keyed = KeyedTable(child.undo, child.place, child.rescue_schema)
    source, which = keyed.before, "true"
    if isinstance(child, KeyedTable):
        source, which = f"{child.before} LEFT JOIN {child.after} ON {child.same_key}", child.names_anew(fk.columns)
    return (
        f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT DISTINCT {child.place}, "
        f"{child.identity('p')}, {kind_of(ConflictKind.PARENT_GONE)}, ARRAY[]::text[] FROM {source} "
        f"WHERE {which} AND EXISTS (SELECT FROM {parent.before_as('o')} JOIN {CONFLICT_TABLE} x "
        f"ON x.identity = {parent.identity('o')} WHERE x.place = {parent.place} AND NOT x.forced "
        f"AND x.kind = {kind_of(ConflictKind.KEY_REUSED)} AND {same})"
    )


def referenced_by_others(table: KeyedTable | KeylessTable, fk: ForeignKey, ours: str | None) -> str | None:
    """Rows of the post-image whose referenced value is gone, or about to go, and that a child row `c` names.

    `ours`: a condition on `c` that is true of rows which the undo itself puts back; None: look after the writes, and
    at values that are gone.
    """
    kept = {
        p.now.name: p
        for p in table.pairs
        if p.captured.name in (*table.undo.captured.table.key, *table.undo.captured.after_columns)
    }
    if table.undo.captured.after_rescue is None or any(name not in kept for name in fk.referenced_columns):
        return None
    values = [kept[name].was("q") for name in fk.referenced_columns]
    names_it = " AND ".join(
        f"{value} {same} c.{quoted(name)}" for name, same, value in zip(fk.columns, fk.operators, values, strict=True)
    )
    keyed = KeyedTable(table.undo, table.place, table.rescue_schema)
    source = keyed.after
    if isinstance(table, KeyedTable):
        source = f"{keyed.after} LEFT JOIN {keyed.before} ON {keyed.same_key}"
    if ours is None:
        still = " AND ".join(
            f"r.{quoted(name)} {same} {value}"
            for name, same, value in zip(fk.referenced_columns, fk.operators, values, strict=True)
        )
        condition = f"NOT EXISTS (SELECT FROM {fk.parent} r WHERE {still})"
    else:
        condition = "true"
        names_it += f" AND NOT ({ours})"
    return (
        f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT DISTINCT {table.place}, "
        f"{table.identity('q')}, {kind_of(ConflictKind.REFERENCED)}, ARRAY[]::text[] FROM {source} "
        f"WHERE {table.removes(fk.referenced_columns)} AND EXISTS (SELECT FROM {fk.child} c WHERE {names_it}) AND {condition}"
    )
