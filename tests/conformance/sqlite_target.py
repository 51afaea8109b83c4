"""SQLite: a file of the test's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import Capabilities
from conformance.grammar import Grammar
from conformance.grammars import SQLITE_GRAMMAR
from conformance.sqlite_dialect import SQLITE
from conformance.target import Dialect, Dump, Rows

_TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') "
    "AND name NOT GLOB 'sqlite_*' AND name NOT IN ('backout_meta', 'backout_run', 'backout_run_table') "
    "AND name NOT GLOB 'rescue_run_[0-9]*' ORDER BY name"
)


@dataclass
class FileSession:
    """See `Session`. Deferred foreign keys are checked at once: nothing but COMMIT would, and it would keep nothing."""

    connection: apsw.Connection

    def execute(self, statement: str) -> Any:
        found = self.connection.execute(statement).fetchall()
        if self.connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            raise apsw.ConstraintError("a deferred foreign key is not satisfied")
        return found

    def commit(self) -> None:
        self.connection.execute("COMMIT")


@dataclass(repr=False)
class SqliteTarget:
    """See `Target`."""

    path: Path
    name: str = "sqlite"
    engine: str = "sqlite"
    capabilities: Capabilities = SqliteDatabase.capabilities
    dialect: Dialect = SQLITE
    grammar: Grammar = SQLITE_GRAMMAR
    schema: str = "main"

    refusal: type[Exception] = apsw.Error

    def __post_init__(self) -> None:
        self._connect().close()

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.execute("PRAGMA foreign_keys = ON; PRAGMA synchronous = OFF; PRAGMA busy_timeout = 2000;")
        connection.execute("PRAGMA schema_version").fetchall()  # makes the file
        return connection

    def __repr__(self) -> str:
        return self.name

    @property
    def options(self) -> Mapping[str, str]:
        return {"url": f'"sqlite:///{self.path}"'}

    def execute(self, statements: str) -> None:
        with closing(self._connect()) as connection:
            connection.execute(statements)

    def rows(self, query: str) -> Rows:
        with closing(self._connect()) as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def session(self) -> Iterator[FileSession]:
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield FileSession(connection)
            with suppress(apsw.SQLError):
                connection.execute("ROLLBACK")

    def dump(self) -> Dump:
        with closing(self._connect()) as connection:
            found: Dump = {}
            connection.execute("BEGIN")
            for (table,) in connection.execute(_TABLES).fetchall():
                described = connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main')", (table,)).fetchall()
                columns = [str(name) for (name,) in described]
                cells = ", ".join(_exact(SQLITE.name(column)) for column in columns)
                rows: list[Any] = connection.execute(f"SELECT {cells} FROM main.{SQLITE.name(str(table))}").fetchall()
                found[str(table)] = [dict(zip(columns, row, strict=True)) for row in sorted(rows, key=repr)]
            return found

    def printed(self, cell: str | None) -> str | None:
        return None if cell is None else cell.removeprefix("'")

    def triggers(self) -> Rows:
        return self.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")

    def rescue_tables(self) -> list[str]:
        return [name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE name GLOB 'rescue_run_[0-9]*'")]

    def leftovers(self) -> list[str]:
        with closing(apsw.Connection(str(self.path))) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE; ROLLBACK")
            except apsw.BusyError:
                return ["a lock on the file"]
        return []

    def reset(self) -> None:
        for end in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self._connect().close()


def _exact(column: str) -> str:
    """SQL: a text begins with an apostrophe, other values are as they stand in SQL; nothing else prints alike."""
    return f"CASE typeof({column}) WHEN 'text' THEN '''' || {column} WHEN 'null' THEN NULL ELSE quote({column}) END"
