"""Names and values as SQL text; the one place that quotes them.

Source: MariaDB manual, "Identifier Names" and "String Literals". Values are written so that neither sql_mode nor the
connection's character set can change them: texts as hexadecimal UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from backout.engines.values import TableName


def quoted(name: str) -> str:
    """An identifier."""
    if "\0" in name:
        raise ValueError("an identifier cannot contain NUL")
    return "`" + name.replace("`", "``") + "`"


def qualified(table: TableName) -> str:
    """`` `database`.`table` ``."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def decoded(kept: str) -> str:
    """SQL for "schema, table" of a column with a name as InnoDB keeps it; a partition's is that of its table.

    InnoDB has names as file names: the server's own character set `filename` reads them (measured with 10.11.19; manual,
    "Identifier to File Name Mapping"). A `#` of its own only comes before a partition's name.
    """
    parts = (f"SUBSTRING_INDEX({kept}, '/', 1)", f"SUBSTRING_INDEX(SUBSTRING_INDEX({kept}, '/', -1), '#', 1)")
    return comma(f"CONVERT(CAST({part} AS BINARY) USING filename)" for part in parts)


def comma(parts: Iterable[str]) -> str:
    """Joined by comma and space."""
    return ", ".join(parts)


def text_literal(text: str) -> str:
    """A text constant; plain where it is harmless, so that people can read what the server logs."""
    if text.isascii() and text.isprintable() and "\\" not in text and "'" not in text:
        return f"'{text}'"
    return f"CONVERT(x'{text.encode('utf-8').hex()}' USING utf8mb4)"


def literal(value: Any) -> str:
    """A constant for a Python value; TypeError for one that MariaDB has no type for."""
    if value is None:
        return "NULL"
    for kind, written in _WRITTEN:
        if isinstance(value, kind):
            return written(value)
    raise TypeError(f"a parameter of type {type(value).__name__} has no counterpart in MariaDB")


def _float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124  NaN is what differs from itself
        raise TypeError("MariaDB stores neither NaN nor infinity")
    text = repr(value)
    return text if "e" in text else f"{text}e0"  # an approximate number, not a decimal one


def _time(value: timedelta) -> str:
    microseconds = value // timedelta(microseconds=1)
    sign, rest = ("-", -microseconds) if microseconds < 0 else ("", microseconds)
    seconds, fraction = divmod(rest, 1_000_000)
    return f"'{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}'"


# In this order: a bool is an int, a datetime is a date.
_WRITTEN: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (bool, lambda value: "TRUE" if value else "FALSE"),
    (int, str),
    (Decimal, lambda value: format(value, "f")),
    (float, _float),
    ((bytes, bytearray, memoryview), lambda value: f"x'{bytes(value).hex()}'"),
    (datetime, lambda value: f"'{value.replace(tzinfo=None).isoformat(sep=' ')}'"),
    ((date, time), lambda value: f"'{value.isoformat()}'"),
    (timedelta, _time),
    (str, text_literal),
)
