"""MariaDB: a database of the test's own on the server of this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.converters import encoders

from backout.engines.mariadb.connect import MariaDatabase as Engine
from backout.engines.values import Capabilities
from conformance.grammar import Grammar
from conformance.grammars import MARIADB_GRAMMAR
from conformance.mariadb_dialect import MARIADB
from conformance.target import Dialect, Dump, Rows
from servers_mariadb import HOST, PASSWORD, MariaDatabase

_COLUMNS = """
SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables t
    ON t.table_schema = c.table_schema AND t.table_name = c.table_name
 WHERE c.table_schema = DATABASE() AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position
"""


@dataclass
class ServerSession:
    """See `Session`."""

    connection: Connection[Any]

    def execute(self, statement: str) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def commit(self) -> None:
        self.connection.commit()


@dataclass(repr=False)
class MariadbTarget:
    """See `Target`."""

    database: MariaDatabase
    name: str = "mariadb"
    engine: str = "mariadb"
    capabilities: Capabilities = Engine.capabilities
    dialect: Dialect = MARIADB
    grammar: Grammar = MARIADB_GRAMMAR
    refusal: type[Exception] = pymysql.Error

    @property
    def schema(self) -> str:
        return self.database.name

    def __repr__(self) -> str:
        return self.name

    @property
    def options(self) -> Mapping[str, str]:
        return {"url": f'"{self.database.login_url}"'}

    def execute(self, statements: str) -> None:
        if statements.strip():  # an empty one is an error here
            self.database.as_application(statements)

    def rows(self, query: str) -> Rows:
        return self.database.execute(query)

    @contextmanager
    def session(self) -> Iterator[ServerSession]:
        connection = self.database.connect("application", autocommit=False)
        try:
            yield ServerSession(connection)
        finally:
            connection.close()

    def dump(self) -> Dump:
        columns: dict[str, list[str]] = {}
        for table, column in self.database.execute(_COLUMNS):
            columns.setdefault(table, []).append(column)
        found: Dump = {}
        with closing(self._as_printed()) as session, session.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            for table, names in columns.items():
                cursor.execute(f"SELECT {', '.join(map(MARIADB.name, names))} FROM {MARIADB.name(table)}")
                rows = [dict(zip(names, map(_exact, row), strict=True)) for row in cursor.fetchall()]
                found[table] = sorted(rows, key=repr)
        return found

    def _as_printed(self) -> Connection[Any]:
        """A session that converts nothing: values as the server prints them."""
        conversions: Any = encoders  # of parameters; none of results
        return pymysql.connect(
            host=HOST, port=self.database.server.port, user="root_test", password=PASSWORD,
            database=self.database.name, charset="utf8mb4", conv=conversions,
        )  # fmt: skip

    def printed(self, cell: str | None) -> str | None:
        return cell

    def triggers(self) -> Rows:
        return self.database.execute(
            "SELECT trigger_name, action_statement FROM information_schema.triggers "
            "WHERE trigger_schema = DATABASE() ORDER BY 1"
        )

    def rescue_tables(self) -> list[str]:
        rows = self.database.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'rescue' ORDER BY 1"
        )
        return [str(name) for (name,) in rows]

    def leftovers(self) -> list[str]:
        rows = self.database.execute(
            f"SELECT concat('session ', id) FROM information_schema.processlist WHERE user = '{self.database.login_role}'"
        )
        return [str(name) for (name,) in rows]

    def reset(self) -> None:
        name = MARIADB.name(self.database.name)
        for statement in ("DROP DATABASE IF EXISTS backout", "DROP DATABASE IF EXISTS rescue"):
            self.database.execute(statement)
        self.database.execute(f"DROP DATABASE {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4")


def _exact(cell: Any) -> str | None:
    """Bytes as backout prints them: `0x00` and `0x0000` are two keys, while the numbers 00 and 0000 would be one."""
    return f"0x{cell.hex().upper()}" if isinstance(cell, bytes) else None if cell is None else str(cell)
