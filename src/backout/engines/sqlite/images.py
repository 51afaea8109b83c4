"""Rescue tables: the rows of a run before and after, one pair per table, in the same file.

`rescue_run_<n>_<i>_before` has whole rows, `…_after` the key and the columns that changed. The two rows of one row of
the user's have the same `backout_row`. No column has a type: a value is stored exactly as it was found, and no later
migration is in the way (https://sqlite.org/datatype3.html, 3.1: a column without type converts nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from backout.engines.sqlite.statements import main_table, printed, quote_name
from backout.engines.values import CapturedTable, RowChange, Table


def row_column(table: Table) -> str:
    """The rescue tables' column that pairs before and after: `backout_row`, unless the user has one of that name."""
    return _free("backout_row", table)


def orphan_column(table: Table) -> str:
    """The before table's column that says: this row referred to nothing already then."""
    return _free("backout_orphan", table)


def _free(name: str, table: Table) -> str:
    taken = {column.name.lower() for column in table.columns}
    while name in taken:
        name += "_"
    return name


def rescue_name(run: int, position: int, part: str) -> str:
    """Named by run and position, never by the user's name: nothing can collide."""
    return f"rescue_run_{run}_{position}_{part}"


def next_position(captured: Sequence[CapturedTable]) -> int:
    """The first position that none of these tables of one run has."""
    names = [name for entry in captured for name in (entry.before_rescue, entry.after_rescue) if name is not None]
    return max((int(name.split("_")[3]) + 1 for name in names), default=0)


def changeset_name(run: int) -> str:
    """The table of the run's compressed changeset."""
    return f"rescue_run_{run}_changeset"


def create_before(connection: apsw.Connection, table: Table, name: str) -> None:
    """An empty table for whole rows."""
    columns = [quote_name(column.name) for column in table.restorable]
    _create(connection, table, name, [*columns, quote_name(orphan_column(table)) + " INTEGER NOT NULL DEFAULT 0"])


def create_after(connection: apsw.Connection, table: Table, name: str, columns: Sequence[str]) -> None:
    """An empty table for the columns of post-images."""
    _create(connection, table, name, [quote_name(column) for column in columns])


def create_left(connection: apsw.Connection, table: Table, name: str) -> None:
    """An empty table for the rows that undo runs have not restored: `backout_row` and the key."""
    connection.execute(f"DROP TABLE IF EXISTS {main_table(name)}")
    _create(connection, table, name, [quote_name(column) for column in table.key])


def keep_first(connection: apsw.Connection, table: Table, name: str) -> None:
    """Of several pre-images of one row only the first is how it was: delete the others."""
    row, key = quote_name(row_column(table)), ", ".join(map(quote_name, table.key))
    connection.execute(
        f"DELETE FROM {main_table(name)} WHERE {row} NOT IN (SELECT min({row}) FROM {main_table(name)} GROUP BY {key})"
    )


def rename(connection: apsw.Connection, name: str, wanted: str) -> None:
    """Give a rescue table another name. In legacy mode a view that is broken already does not stand in the way.

    Source: https://sqlite.org/pragma.html#pragma_legacy_alter_table; nothing refers to a rescue table.
    """
    before = connection.config(apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, -1)
    connection.config(apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, 1)
    try:
        connection.execute(f"ALTER TABLE {main_table(name)} RENAME TO {quote_name(wanted)}")
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, before)


def _create(connection: apsw.Connection, table: Table, name: str, columns: Sequence[str]) -> None:
    row = quote_name(row_column(table)) + " INTEGER PRIMARY KEY"  # VACUUM keeps it, other than a plain rowid
    connection.execute(f"CREATE TABLE {main_table(name)} ({', '.join([row, *columns])})")


def paired_rows(captured: CapturedTable) -> str:
    """SQL for all `backout_row` numbers of a captured table, as a column named `row`."""
    row = quote_name(row_column(captured.table))
    parts = [
        f"SELECT {row} AS row FROM {main_table(name)}"
        for name in (captured.before_rescue, captured.after_rescue)
        if name is not None
    ]
    return " UNION ".join(parts) or "SELECT NULL AS row WHERE 0"


def image_joins(captured: CapturedTable, ids: str) -> str:
    """SQL that joins the images as B and A to a source with a column `row`, aliased U."""
    row = quote_name(row_column(captured.table))
    none = f"(SELECT NULL AS {row})"
    before = main_table(captured.before_rescue) if captured.before_rescue else none
    after = main_table(captured.after_rescue) if captured.after_rescue else none
    return f"{ids} AS U LEFT JOIN {before} AS B ON B.{row} = U.row LEFT JOIN {after} AS A ON A.{row} = U.row"


def columns_before(captured: CapturedTable) -> tuple[str, ...]:
    """Names of the columns in the before table; empty where there is none."""
    return tuple(column.name for column in captured.table.restorable) if captured.before_rescue else ()


def columns_after(captured: CapturedTable) -> tuple[str, ...]:
    """Names of the columns in the after table; empty where there is none."""
    return captured.after_columns if captured.after_rescue else ()


def key_order(captured: CapturedTable) -> str:
    """SQL to sort by the key, then by `row`."""
    parts = [key_value(captured, column) for column in captured.table.key]
    return ", ".join([*parts, "U.row"])


def key_value(captured: CapturedTable, column: str) -> str:
    """SQL for a key column's value: as the run left it, else as it was.

    They can differ within one row: 'a' and 'A' are one key under NOCASE, and a session calls that an update (3.54).
    """
    sides = []
    if captured.after_rescue:
        sides.append("A." + quote_name(column))
    if captured.before_rescue:
        sides.append("B." + quote_name(column))
    return f"coalesce({', '.join(sides)})" if len(sides) > 1 else sides[0]


def sample_rows(connection: apsw.Connection, captured: CapturedTable, limit: int) -> list[RowChange]:
    """Up to `limit` rows before and after, in the order of the key; an after row is whole, from both images."""
    if captured.before_rescue is None and captured.after_rescue is None:
        return []
    before, after = columns_before(captured), columns_after(captured)
    row = quote_name(row_column(captured.table))
    shown = [printed(f"B.{quote_name(name)}") for name in before] + [printed(f"A.{quote_name(name)}") for name in after]
    query = (
        f"SELECT B.{row} IS NOT NULL, A.{row} IS NOT NULL, {', '.join(shown)} "
        f"FROM {image_joins(captured, f'({paired_rows(captured)})')} ORDER BY {key_order(captured)} LIMIT ?"
    )
    changes = []
    for has_before, has_after, *values in connection.execute(query, (limit,)):
        old = dict(zip(before, values[: len(before)], strict=True)) if has_before else None
        new = dict(zip(after, values[len(before) :], strict=True)) if has_after else None
        if old is not None and new is not None:
            new = {**old, **new}
        changes.append(RowChange(captured.table.name, old, new))
    return changes
