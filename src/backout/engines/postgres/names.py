"""Quoting: the one function through which every identifier and literal of ours goes into SQL text.

Source: PostgreSQL manual 4.1.1 (quoted identifiers) and 4.1.2.1 (string constants, standard_conforming_strings = on,
which `session.py` sets on every connection).
"""

from __future__ import annotations

from collections.abc import Iterable

from backout.engines.values import TableName


def quoted(name: str) -> str:
    """An identifier, always in double quotes."""
    if "\0" in name:
        raise ValueError("an identifier cannot contain NUL")
    return '"' + name.replace('"', '""') + '"'


def qualified(table: TableName) -> str:
    """`"schema"."name"`."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def literal(text: str) -> str:
    """A string constant."""
    if "\0" in text:
        raise ValueError("a string constant cannot contain NUL")
    return "'" + text.replace("'", "''") + "'"


def comma(parts: Iterable[str]) -> str:
    """Joined by comma and space."""
    return ", ".join(parts)
