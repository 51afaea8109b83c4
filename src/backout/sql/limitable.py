"""A statement that can be limited to some keys of a table, as values.

Not for: making one of a statement (`subset`). Invariant: the author's text stays as it is, byte for byte; a condition is
put in at offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyQuery:
    """Asks for the first keys of the rows that the statement would write, each as a literal in SQL."""

    text: str  # ordered by the key, without its LIMIT
    parameters: tuple[str, ...]  # names, in the order of $1, $2 … (SQLite: those that it uses)

    def first(self, count: int) -> str:
        """The query for that many keys."""
        return f"{self.text} LIMIT {count}"


@dataclass(frozen=True)
class Limitable:
    """An UPDATE or DELETE, or a query of a check, that takes one more condition on its table."""

    column: str  # the key as SQL: with the table's alias or name, quoted
    limited: Callable[[str], str]  # condition -> the statement's text with it
    keys: KeyQuery | None  # None: of a query


def quoted(name: str) -> str:
    """An identifier as SQL, in both dialects."""
    return '"' + name.replace('"', '""') + '"'
