"""Rows whose key the run has changed, in an undo: both halves of such a row are put back, or none; see `moved.py`.

A row that is left only for the sake of another one has the kind `held` and no number.
Invariant: only the conflict table is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.engines.postgres.moved import moved_name
from backout.engines.postgres.names import qualified
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, HELD, kind_of
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_work import Work
from backout.engines.values import ConflictKind, TableName

_DOING = "find the rows whose key has changed"


def moves_of(main: Session, schema: str, tables: Sequence[object]) -> dict[int, str]:
    """place -> table of pairs, of the tables of an undo that have one."""
    found = {}
    for table in tables:
        if isinstance(table, KeyedTable) and table.undo.captured.before_rescue and table.undo.captured.batch is None:
            name = qualified(TableName(schema, moved_name(table.undo.captured.before_rescue)))
            if main.value("SELECT pg_catalog.to_regclass($1)", [name]) is not None:
                found[table.place] = name
    return found


def in_doubt(work: Work) -> Sequence[Sequence[KeyedTable]]:
    """Tables in which rows may have moved without pairs of them: such as were armed, and the partitions of one table."""
    keyed = [table for table in work.tables if isinstance(table, KeyedTable)]
    roots = dict(
        work.main.run(
            "SELECT c.oid::text, coalesce(pg_catalog.pg_partition_root(c.oid), c.oid)::text FROM pg_catalog.pg_class c "
            "WHERE c.oid = ANY ($1::oid[])",
            [[table.undo.table.identifier for table in keyed]],
        ).rows
    )
    families: dict[str, list[KeyedTable]] = {}
    for table in keyed:
        families.setdefault(roots[table.undo.table.identifier], []).append(table)
    found = []
    for family in families.values():
        sides = [work.wanted[table.place - 1] for table in family]
        across = any(sides[i][2] and sides[j][0] for i in range(len(family)) for j in range(len(family)) if i != j)
        within = any(_may_have_moved(work, table, side) for table, side in zip(family, sides, strict=True))
        if across or within:
            found.append(family)
    return found


def _may_have_moved(work: Work, table: KeyedTable, sides: tuple[int, int, int]) -> bool:
    captured, counted = table.undo.captured, table.undo.captured.counted
    made, _, gone = sides
    if table.place in work.moved or counted is None or not (made and gone):
        return False
    may_change = not set(captured.table.key).isdisjoint(captured.after_columns)
    return may_change and not (captured.is_explained and gone == counted.deleted)


def classify_gone(work: Work) -> None:
    """A row that moved and that others have deleted since is in conflict: it does not come back under its old key.

    Where a row has the old key by now, others have put it back, or that key is used again: both are told elsewhere.
    """
    for table in work.tables:
        if isinstance(table, KeyedTable) and table.place in work.moved:
            still_free = (
                f"SELECT m.became FROM {work.moved[table.place]} m JOIN {table.before_as('b')} ON "
                f"{table.identity('b')} = m.was WHERE NOT EXISTS (SELECT FROM {table.target} AS t WHERE {table.now_is('b')})"
            )
            work.main.run(
                f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT {table.place}, "
                f"{table.identity('q')}, {kind_of(ConflictKind.DELETED)}, ARRAY[]::text[] FROM {table.after_that_are_gone} "
                f"AND {table.identity('q')} IN ({still_free})",
                doing=_DOING,
            )


def hold_halves(work: Work) -> int:
    """Leave the other half of each row in conflict as well, and of what has its key now. Returns how many were added.

    Where nobody knows which half belongs to which, all of them.
    """
    found = 0
    for place, moved in work.moved.items():
        linked = f"(SELECT was AS one, became AS other FROM {moved} UNION ALL SELECT became, was FROM {moved}) e"
        others = f"SELECT e.other AS identity FROM {_left(place)} JOIN {linked} ON e.one = x.identity"
        while added := _held(work, place, others):
            found += added
    for family in work.in_doubt:
        any_left = " OR EXISTS ".join(
            f"(SELECT FROM {_left(one.place)} JOIN ({one.one_sided}) a ON a.identity = x.identity)" for one in family
        )
        for one in family:
            found += _held(work, one.place, f"SELECT b.identity FROM ({one.one_sided}) b WHERE EXISTS {any_left}")
    return found


def _left(place: int) -> str:
    """The rows of a table that are in conflict and not to be overwritten."""
    return f"(SELECT x.identity FROM {CONFLICT_TABLE} x WHERE x.place = {place} AND NOT x.forced) x"


def _held(work: Work, place: int, others: str) -> int:
    """Leave these rows, also such as were to be overwritten. Returns how many were to be written until now."""
    known = f"SELECT FROM {CONFLICT_TABLE} y WHERE y.place = {place} AND y.identity = o.identity"
    return (
        work.main.run(
            f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT DISTINCT {place}, o.identity, "
            f"'{HELD}', ARRAY[]::text[] FROM ({others}) o WHERE NOT EXISTS ({known})",
            doing=_DOING,
        ).affected
        or work.main.run(
            f"UPDATE {CONFLICT_TABLE} y SET forced = false WHERE y.place = {place} AND y.forced "
            f"AND y.identity IN (SELECT o.identity FROM ({others}) o)",
            doing=_DOING,
        ).affected
    )


def release_halves(work: Work) -> None:
    """Some conflicts are to be overwritten now: leave only the halves of the others."""
    if work.moved or work.in_doubt:
        work.main.run(f"DELETE FROM {CONFLICT_TABLE} WHERE kind = '{HELD}'")
        hold_halves(work)


def tell_old_keys(work: Work) -> None:
    """Say in each conflict which key its row had before the run."""
    for place, moved in work.moved.items():
        work.main.run(
            f"UPDATE {CONFLICT_TABLE} x SET detail = coalesce(x.detail || '; ', '') || 'before the run its key was ' || "
            f"pg_catalog.btrim(m.was, '()') FROM {moved} m WHERE x.place = {place} AND x.identity = m.became"
        )


def notes_on_halves(work: Work) -> tuple[str, ...]:
    """How many rows are left for the sake of another one, in words."""
    counted = work.main.run(
        f"SELECT place, count(*) FROM {CONFLICT_TABLE} WHERE kind = '{HELD}' AND NOT forced GROUP BY place ORDER BY place"
    ).rows
    return tuple(
        f'of "{work.tables[place - 1].undo.table.name}" {held} other {"half" if held == 1 else "halves"} of rows that the '
        "run moved are left with them"
        for place, held in counted
    )
