"""Rows as SQL text: exact values, rescue tables, samples.

A rescue table has the columns of the user's table, of the very same types, without constraints, defaults that act, or
generated columns; a pair of tables per captured table, named by run and place. Facts, measured with 10.11.19:
`CREATE TABLE … AS SELECT … LIMIT 0` keeps type, length, character set and collation of each column; copying column to
column keeps zero dates, invalid ENUM values (index 0) and bits also in strict mode; `CAST(x AS CHAR)` of a FLOAT has six
digits only, of a DOUBLE all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backout.engines.mariadb.names import comma, qualified, quoted
from backout.engines.mariadb.session import Session
from backout.engines.values import CapturedTable, Column, RowChange, Table, TableName

_BIG = re.compile(r"(tiny|medium|long)?(text|blob)|json|geometry|point|linestring|polygon|multi\w+", re.IGNORECASE)
_Row = dict[str, str | None]


def exact(column: Column, alias: str) -> str:
    """An expression that is equal (`<=>`) for two values of the column only if they are the same, byte by byte."""
    value = f"{alias}.{quoted(column.name)}"
    kind = column.type.lower()
    if kind.startswith("float"):
        return f"CAST(CAST({value} AS DOUBLE) AS BINARY)"
    if kind.startswith(("enum", "set")):
        return f"({value} + 0)"
    if re.match(r"(tiny|small|medium|big)?int|bit|year|decimal", kind):
        return value  # their equality is identity: one scale, no sign of zero
    return f"CAST({value} AS BINARY)"


def exact_as(column: Column, type_of: Column, alias: str) -> str:
    """`exact` of a column that has, by now, another name or type; compared in the way of `type_of`."""
    return exact(Column(column.name, type_of.type, 0), alias)


def same(columns: Iterable[Column], left: str, right: str) -> str:
    """SQL: the two rows have the same values in these columns."""
    return " AND ".join(f"{exact(column, left)} <=> {exact(column, right)}" for column in columns) or "TRUE"


def row_text(columns: Iterable[Column], alias: str) -> str:
    """SQL for a binary text that two rows share only if they are the same; long values stand for themselves by MD5."""
    parts = []
    for column in columns:
        value = exact(column, alias)
        if _BIG.match(column.type):  # a text beyond max_allowed_packet would become NULL
            value = f"MD5({value})"
        elif column.type.lower().startswith("bit"):
            value = f"({value} + 0)"
        parts.append(f"IFNULL(OCTET_LENGTH({value}), '~'), IFNULL({value}, '')")
    return f"CONCAT_WS(_binary'|', {comma(parts)})"


def row_hash(columns: Sequence[Column], alias: str) -> str:
    """SQL for 32 hexadecimal digits."""
    return f"MD5({row_text(columns, alias)})"


def key_match(key: Iterable[str], left: str, right: str) -> str:
    """SQL: both rows have the same key, as the table's own index compares it."""
    return " AND ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in key)


def is_there(alias: str, key_column: str) -> str:
    """SQL: an outer join has found a row. Not by IS NULL, which is true of the date 0000-00-00 (manual, "IS NULL")."""
    return f"(NOT ({alias}.{quoted(key_column)} <=> NULL))"


def column_list(columns: Iterable[Column], alias: str | None = None) -> str:
    """Names, qualified by an alias where there is one."""
    return comma(f"{alias}.{quoted(column.name)}" if alias else quoted(column.name) for column in columns)


def columns_named(table: Table, names: Iterable[str]) -> tuple[Column, ...]:
    """The table's columns with these names, in the table's order."""
    wanted = set(names)
    return tuple(column for column in table.columns if column.name in wanted)


def rescue_name(run: int, place: int, part: str) -> str:
    """Made of numbers, so that no two can collide however long the user's names are."""
    return f"run_{run}_{place}_{part}"


def spare_name(wanted: str, table: Table) -> str:
    """A column name that the table does not use."""
    taken = {column.name.lower() for column in table.columns}
    while wanted in taken:
        wanted += "_"
    return wanted


def row_column(table: Table) -> str:
    """The number of a row in the rescue tables of a table without a key."""
    return spare_name("backout_row", table)


def create_rescue(control: Session, schema: str, table: Table, name: str, columns: Sequence[Column]) -> None:
    """Make an empty table for rows of `table`; by another session than the run's, since DDL commits."""
    key = f"PRIMARY KEY ({comma(map(quoted, table.key))})"
    if not table.key:
        row = quoted(row_column(table))
        key = f"{row} BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY"
    control.run(
        f"CREATE TABLE {qualified(TableName(schema, name))} ({key}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC "
        f"AS SELECT {column_list(columns, 't')} FROM {qualified(table.name)} t LIMIT 0",
        doing="make a rescue table",
    )


def sample_rows(session: Session, schema: str, captured: CapturedTable, limit: int) -> list[RowChange]:
    """Up to `limit` rows before and after, in the order of the key, values as the server prints them."""
    table = captured.table
    before = _rows(session, schema, captured.before_rescue, table, table.restorable, limit)
    names = {*table.key, *captured.after_columns} if table.key else {column.name for column in table.restorable}
    after_columns = columns_named(table, names)
    if not table.key:
        after = _rows(session, schema, captured.after_rescue, table, after_columns, limit)
        return [RowChange(table.name, row, None) for row in before] + [
            RowChange(table.name, None, row) for row in after
        ]
    after_of = {
        _identity(row, table): row
        for row in _rows(session, schema, captured.after_rescue, table, after_columns, limit, of=captured.before_rescue)
    }
    changes = []
    for row in before:
        made = after_of.get(_identity(row, table))
        changes.append(RowChange(table.name, row, None if made is None else {**row, **made}))
    if len(changes) < limit:
        new = _rows(session, schema, captured.after_rescue, table, after_columns, limit, but=captured.before_rescue)
        changes += [RowChange(table.name, None, row) for row in new[: limit - len(changes)]]
    elif limit > 2 and captured.both_rows < captured.after_rows:  # of a mixed change some new rows are shown, too
        new = _rows(
            session, schema, captured.after_rescue, table, after_columns, limit // 3, but=captured.before_rescue
        )
        changes = changes[: limit - len(new)] + [RowChange(table.name, None, row) for row in new]
    return changes


def _identity(row: _Row, table: Table) -> tuple[str, ...]:
    return tuple((row[name] or "").casefold().rstrip(" ") for name in table.key)


def printed(column: Column, alias: str) -> str:
    """SQL for a value as text: numbers and times as the server prints them, bits and bytes as hexadecimal literals."""
    value = f"{alias}.{quoted(column.name)}"
    kind = column.type.lower()
    if kind.startswith("float"):
        return f"CAST(CAST({value} AS DOUBLE) AS CHAR)" if kind != "float" else f"CAST({value} AS CHAR)"
    if kind.startswith("bit"):
        return f"CONCAT('0b', BIN({value} + 0))"
    if re.match(r"(var)?binary|(tiny|medium|long)?blob|geometry|point|linestring|polygon|multi", kind):
        return f"CONCAT('0x', HEX({value}))"
    return f"CONVERT({value} USING utf8mb4)" if "char" in kind or "text" in kind else f"CAST({value} AS CHAR)"


def _rows(
    session: Session,
    schema: str,
    rescue: str | None,
    table: Table,
    columns: Sequence[Column],
    limit: int,
    *,
    of: str | None = None,
    but: str | None = None,
) -> list[_Row]:
    """Rows of a rescue table: all, those that `of` has among its first, or those that `but` has not."""
    if rescue is None:
        return []
    order = comma(f"r.{quoted(name)}" for name in table.key) or f"r.{quoted(row_column(table))}"
    source = f"{qualified(TableName(schema, rescue))} r"
    if of is not None:
        first = comma(quoted(name) for name in table.key)
        firsts = f"(SELECT {first} FROM {qualified(TableName(schema, of))} ORDER BY {first} LIMIT {int(limit)}) o"
        source += f" JOIN {firsts} ON {key_match(table.key, 'o', 'r')}"
    if but is not None:
        other = f"SELECT 1 FROM {qualified(TableName(schema, but))} o WHERE {key_match(table.key, 'o', 'r')}"
        source += f" WHERE NOT EXISTS ({other})"
    cells = comma(printed(column, "r") for column in columns)
    rows = session.rows(f"SELECT {cells} FROM {source} ORDER BY {order} LIMIT {int(limit)}")
    names = [column.name for column in columns]
    return [dict(zip(names, map(_text, row), strict=True)) for row in rows]


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
