"""After the rows are back, with foreign keys off: which of them point to nothing, which are missed by others.

Enforcement is switched off by `sqlite3_db_config(SQLITE_DBCONFIG_ENABLE_FKEY)`: other than the pragma it also works
inside of a transaction (measured with 3.54; https://sqlite.org/foreignkeys.html, 2, has the pragma's limit), so that no
CASCADE reaches other people's rows. What enforcement would have said is asked here, for the rows concerned only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.catalogue import ForeignKey, foreign_keys
from backout.engines.sqlite.statements import fetch, main_table, quote_name, same
from backout.engines.sqlite.undo_apply import MOVED, Offender
from backout.engines.sqlite.undo_rows import Work


def dangling(connection: apsw.Connection, works: Sequence[Work]) -> Iterator[Offender]:
    """Rows that must not be put back because of a foreign key."""
    by_name = {work.plan.table.name.name: work for work in works}
    for key in foreign_keys(connection):
        child, parent = by_name.get(key.child), by_name.get(key.parent)
        if child is not None and (query := _without_parent(child, key)) is not None:
            for (row,) in fetch(connection, query):
                yield Offender(child, int(row), "PARENT_GONE", f'no such row in table "{key.parent}"')
        if child is not None and parent is not None and (query := _given_to_stranger(child, parent, key)) is not None:
            for (row,) in fetch(connection, query):
                yield Offender(child, int(row), "PARENT_GONE", f'another row of table "{key.parent}" has its key now')
        if parent is not None and (query := _with_children(parent, key)) is not None:
            for (row,) in fetch(connection, query):
                yield Offender(parent, int(row), "REFERENCED", f'rows of table "{key.child}" refer to it')


def _missing(key: ForeignKey, child: Sequence[str]) -> str:
    """SQL: no parent has these values; the parent's affinity and collation decide (foreignkeys.html, 3)."""
    equal = " AND ".join(f"P.{quote_name(t)} = +{value}" for t, value in zip(key.parent_columns, child, strict=True))
    return f"NOT EXISTS (SELECT 1 FROM {main_table(key.parent)} AS P WHERE {equal})"


def _without_parent(work: Work, key: ForeignKey) -> str | None:
    """SQL for restored rows of the child table whose reference we put back, and whose parent is not there."""
    found = _put_back(work, key)
    return found and f"{found[0]} AND {_missing(key, found[1])}"


def _given_to_stranger(work: Work, parent: Work, key: ForeignKey) -> str | None:
    """SQL for those whose parent the run deleted, and whose parent's key others have used again: a key, but no parent."""
    found = _put_back(work, key)
    old = {pair.new: pair.old for pair in (*parent.key, *parent.pairs)}
    captured = parent.plan.captured
    if found is None or captured.before_rescue is None or not set(key.parent_columns) <= set(old):
        return None
    row = quote_name(images.row_column(captured.table))
    equal = " AND ".join(
        f"PB.{quote_name(old[target])} = +{value}" for target, value in zip(key.parent_columns, found[1], strict=True)
    )
    return (
        f"{found[0]} AND EXISTS (SELECT 1 FROM {parent.table} AS PU JOIN {main_table(captured.before_rescue)} AS PB "
        f"ON PB.{row} = PU.row WHERE PU.kind = 'KEY_REUSED' AND {equal})"
    )


def _put_back(work: Work, key: ForeignKey) -> tuple[str, list[str]] | None:
    """(SQL for restored rows of the child table whose reference we put back, SQL for the values of that reference)."""
    captured = work.plan.captured
    by_new = {pair.new: pair for pair in (*work.key, *work.pairs)}
    if captured.before_rescue is None or not set(key.columns) <= set(by_new):
        return None
    values = [f"B.{quote_name(by_new[column].old)}" for column in key.columns]
    filled = " AND ".join(f"{value} IS NOT NULL" for value in values)
    unchanged = " AND ".join(
        same(f"U.n{by_new[column].place}", value) for column, value in zip(key.columns, values, strict=True)
    )
    orphan = f"B.{quote_name(images.orphan_column(captured.table))}"
    back = "U.action IN ('insert', 'replace')"
    if work.key:  # an update puts back touched columns only: look at the row as it is now
        match = " AND ".join(f"T.{quote_name(p.new)} = {images.key_value(captured, p.old)}" for p in work.key)
        kept = " AND ".join(same(f"T.{quote_name(c)}", v) for c, v in zip(key.columns, values, strict=True))
        put_back = f"EXISTS (SELECT 1 FROM {work.target} AS T WHERE {match} AND {kept})"
        back = f"({back} OR (U.action = 'update' AND {put_back}))"
    else:
        back = "U.action IN ('insert', 'update')"
    return (
        f"SELECT U.row FROM {work.images} WHERE {back} AND {filled} AND NOT {orphan} AND NOT (U.n AND {unchanged})",
        values,
    )


def _with_children(work: Work, key: ForeignKey) -> str | None:
    """SQL for rows that we removed or whose referenced values we put back, and that others still refer to."""
    places = {name: place for place, name in enumerate(work.now_columns)}
    if not set(key.parent_columns) <= set(places):
        return None
    identity = {pair.new for pair in work.key}
    which = "U.action = 'delete'" if set(key.parent_columns) <= identity else f"U.{MOVED}"
    # The child's column on the left of "=": its index serves; SQLite makes one for the query where there is none.
    join = " AND ".join(
        f"C.{quote_name(column)} = U.n{places[target]}"
        for column, target in zip(key.columns, key.parent_columns, strict=True)
    )
    missing = _missing(key, [f"C.{quote_name(column)}" for column in key.columns])
    return (
        f"SELECT DISTINCT U.row FROM {work.table} AS U JOIN {main_table(key.child)} AS C ON {join} "
        f"WHERE {which} AND {missing}"
    )
