"""What the suite must know of an engine to test it: a database, the application's sessions in it, and where SQL differs.

Not for: knowing how backout works there. A new engine brings one `Target` and one `Dialect`, and no test changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from backout.engines.values import Capabilities
from conformance.grammar import Grammar

Row = Mapping[str, str | None]
Dump = dict[str, list[Row]]
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Dialect:
    """The text of what the engines write differently. Statements end without a semicolon."""

    quote: str  # around a name
    mark: str  # a parameter, in a Python change
    moment: str  # the type of a point in time
    amount: str  # the type of an exact decimal number
    coin: str  # a condition that holds now and then
    delete_using: str  # {table}, {other}, {where}
    update_from: str  # {table}, {sets}, {other}, {where}
    upsert: str  # appended to INSERT: {key}, {column} takes the value that was to be inserted
    ignore: str  # the whole INSERT that leaves rows out whose key is taken: {into}
    stamp: Sequence[str]  # a trigger: on update of {table} the column "updated_at" becomes the time of day
    audit: Sequence[str]  # triggers: each write to {table} adds the row ("what") to {audit}
    view: Sequence[str]  # {view} with "id" and {column} of {table}, which can be updated
    types: Mapping[str, Sequence[str]]  # type of a column -> literals, the hard ones first; see `test_values.py`
    counted: str  # the definition of a key "id" that the database numbers
    doubled: str  # the definition of a generated column that is twice the column "a"
    routines: str = ""  # functions and procedures that write to the table stock (id, item, amount)
    calls: Sequence[str] = ()  # statements that call them
    partitioned: str = ""  # the table visit (id, year, note) with the key (id, year), rows of 2025 and 2026 apart
    preamble: str = ""  # what `types` need

    def name(self, name: str) -> str:
        """A quoted name."""
        return self.quote + name.replace(self.quote, self.quote * 2) + self.quote

    def numbers(self, table: str, count: int, columns: str = "i") -> str:
        """Rows with `i` from 1 to `count`."""
        return (
            f"INSERT INTO {table} WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            f"SELECT {columns} FROM n"
        )


class Session(Protocol):
    """A session of the application's in which a transaction is open."""

    def execute(self, statement: str) -> Any:
        """Run one statement."""

    def commit(self) -> None: ...


class Target(Protocol):
    """One fresh database on one engine."""

    name: str  # as in the test's id: "pg18", "sqlite"
    engine: str  # the folder of the engine
    capabilities: Capabilities
    dialect: Dialect
    grammar: Grammar  # what generated programs may be made of

    @property
    def schema(self) -> str:
        """What stands before the dot in a table's name, as reports print it."""

    @property
    def options(self) -> Mapping[str, str]:
        """The keys of the environment in backout.toml, as TOML."""

    def execute(self, statements: str) -> None:
        """Statements, divided by semicolons, of the application; each is committed."""

    def rows(self, query: str) -> Rows:
        """The answer to a query."""

    @property
    def refusal(self) -> type[Exception]:
        """What a session raises where the database refuses a statement."""

    def session(self) -> AbstractContextManager[Session]:
        """A session with an open transaction, rolled back at the end unless committed."""

    def dump(self) -> Dump:
        """Every row of every table of the user's as exact text, sorted; generated columns included."""

    def printed(self, cell: str | None) -> str | None:
        """A cell of a dump as backout prints the value."""

    def triggers(self) -> Rows:
        """Every trigger of the application's, with whatever it has of a state."""

    def rescue_tables(self) -> list[str]:
        """What lies in the rescue."""

    def leftovers(self) -> list[str]:
        """Sessions and locks that backout holds though no run is at work, in words."""

    def reset(self) -> None:
        """Make it as fresh as it was: no tables, no journal."""
