"""Run one statement and say what came of it; quote names; print values as the database does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import apsw


@dataclass(frozen=True)
class SqliteResult:
    """The answer to one statement; see `protocol.Result`."""

    affected: int
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


Parameters = Sequence[Any] | Mapping[str, Any]


def quote_name(name: str) -> str:
    """An identifier as SQL; the one place that does it. Source: https://sqlite.org/lang_keywords.html."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def main_table(name: str) -> str:
    """A table of the main database; always qualified, since a temporary table of that name would be found first."""
    return "main." + quote_name(name)


def printed(expression: str) -> str:
    """SQL for a value as text: texts as they are, NULL as NULL, numbers and blobs as SQL literals.

    CAST of a REAL to text has 15 digits only; quote() has all of them (measured with 3.54: 0.1 + 0.2).
    """
    return f"CASE typeof({expression}) WHEN 'text' THEN {expression} WHEN 'null' THEN NULL ELSE quote({expression}) END"


def same(left: str, right: str) -> str:
    """SQL: two stored values are the same, of the same type; neither affinity nor collation of a column matters.

    A unary plus takes the affinity away, an explicit COLLATE wins (https://sqlite.org/datatype3.html, 4.2 and 7.1).
    """
    return f"(+{left} IS (+{right} COLLATE BINARY) AND typeof({left}) = typeof({right}))"


def concatenated(parts: list[str]) -> str:
    """SQL concat() in groups: a function takes at most 1,000 arguments (https://sqlite.org/limits.html)."""
    groups = [parts[i : i + 100] for i in range(0, len(parts), 100)] or [["''"]]
    return " || ".join(f"concat({', '.join(group)})" for group in groups)


def signature(alias: str, columns: list[str]) -> str:
    """SQL for a text that two rows share only if they are the same, value by value and type by type."""
    parts = []
    for column in columns:
        value = f"{alias}.{quote_name(column)}"
        coded = f"substr(typeof({value}), 1, 1) || hex({value})"  # quote() ends a text at its first NUL; hex() does not
        parts.append(f"CASE WHEN typeof({value}) IN ('text', 'blob') THEN {coded} ELSE quote({value}) END || ','")
    return concatenated(parts)


def run(
    connection: apsw.Connection, statement: str, parameters: Parameters = (), *, cached: bool = True
) -> SqliteResult:
    """Execute and fetch all; `affected` is changes() of the last statement that writes, else 0."""
    columns: tuple[str, ...] = ()
    writes = False

    def look(cursor: apsw.Cursor, _sql: str, _bindings: Any) -> bool:
        # apsw forgets the description once a cursor is exhausted, also when there was no row: look before it runs.
        nonlocal columns, writes
        columns = tuple(column[0] for column in cursor.get_description())
        writes = not cursor.is_readonly
        return True

    cursor = connection.cursor()
    cursor.exec_trace = look
    rows = cursor.execute(statement, bindings_of(parameters), can_cache=cached).fetchall()
    return SqliteResult(connection.changes() if writes else 0, columns, rows)


def bindings_of(parameters: Parameters) -> dict[str, Any] | tuple[Any, ...] | None:
    """The parameters as apsw takes them; None: there are none."""
    if isinstance(parameters, Mapping):
        return {name: storable(value) for name, value in parameters.items()} or None
    return tuple(map(storable, parameters)) or None


def storable(value: Any) -> Any:
    """A parameter as SQLite has it, which knows neither decimals nor times: what a literal in the statement would be.

    Times are the text that SQLite's own functions make and read (https://sqlite.org/lang_datefunc.html).
    """
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if exponent == 0 and abs(value) < 2**63 else float(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date) else value


def single(connection: apsw.Connection, query: str, parameters: Parameters = ()) -> Any:
    """The only value of a query, or None."""
    bindings = dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)
    return connection.execute(query, bindings or None).get


def fetch(connection: apsw.Connection, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query of ours, whose types the caller knows."""
    return connection.execute(query, tuple(parameters) or None).fetchall()
