"""PostgreSQL, under both ways past the application's triggers: as the tables' owner, and in the replica role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from backout.engines.postgres.connect import PostgresDatabase as Engine
from backout.engines.values import Capabilities
from conformance.grammar import Grammar
from conformance.grammars import POSTGRES_GRAMMAR
from conformance.postgres_dialect import POSTGRES
from conformance.target import Dialect, Dump, Rows
from servers import PostgresDatabase

EXACT_TEXT = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET TimeZone = 'UTC'; "
    "SET bytea_output = 'hex'"
)
_TABLES = """
SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'backout', 'rescue') GROUP BY 1, 2 ORDER BY 1, 2
"""
_TRIGGERS = """
SELECT c.relname, g.tgname, g.tgenabled::text FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
 WHERE NOT g.tgisinternal ORDER BY 1, 2
"""
_OURS = """
SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'backout:%'
"""


@dataclass(repr=False)
class PostgresTarget:
    """See `Target`. `replica`: the login role may set session_replication_role."""

    name: str
    database: PostgresDatabase
    replica: bool
    engine: str = "postgres"
    capabilities: Capabilities = Engine.capabilities
    dialect: Dialect = POSTGRES
    grammar: Grammar = POSTGRES_GRAMMAR
    schema: str = "public"

    refusal: type[Exception] = psycopg.Error

    def __post_init__(self) -> None:
        self.allow_replica_role(allowed=self.replica)
        if self.database.version >= 18:
            virtual = "INTEGER GENERATED ALWAYS AS (n * 2) VIRTUAL"
            self.grammar = replace(self.grammar, doubled=(*self.grammar.doubled, virtual))

    def allow_replica_role(self, *, allowed: bool) -> None:
        """Give or take the right to keep triggers out by the replica role."""
        text = "GRANT SET ON PARAMETER session_replication_role TO {}" if allowed else (
            "REVOKE SET ON PARAMETER session_replication_role FROM {}"
        )  # fmt: skip
        self.database.execute(sql.SQL(text).format(sql.Identifier(self.database.login_role)))

    def __repr__(self) -> str:
        return self.name

    @property
    def options(self) -> Mapping[str, str]:
        return {"url": f'"{self.database.login_url}"', "role": f'"{self.database.application_role}"'}

    def execute(self, statements: str) -> None:
        self.database.as_application(statements)

    def rows(self, query: str) -> Rows:
        return self.database.execute(query)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        connection = psycopg.connect(self.database.application_url)
        connection.execute("SELECT 1")
        try:
            yield connection
        finally:
            connection.close()

    def dump(self) -> Dump:
        with psycopg.connect(self.database.superuser_url, autocommit=True) as session:
            session.execute(EXACT_TEXT)
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found: Dump = {}
            for schema, table, columns in session.execute(_TABLES).fetchall():
                cells = sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(one)) for one in columns)
                query = sql.SQL("SELECT {} FROM ONLY {} AS t").format(cells, sql.Identifier(schema, table))
                rows = session.execute(query).fetchall()
                name = table if schema == self.schema else f"{schema}.{table}"
                found[name] = [dict(zip(columns, row, strict=True)) for row in sorted(rows, key=repr)]
            return found

    def printed(self, cell: str | None) -> str | None:
        return cell

    def triggers(self) -> Rows:
        return self.database.execute(_TRIGGERS)

    def rescue_tables(self) -> list[str]:
        rows = self.database.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'rescue' AND c.relkind = 'r' ORDER BY 1"
        )
        return [name for (name,) in rows]

    def leftovers(self) -> list[str]:
        locks = self.database.execute(
            "SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return [name for (name,) in [*self.database.execute(_OURS), *locks]]

    def reset(self) -> None:
        self.database.execute(
            "DROP SCHEMA IF EXISTS backout CASCADE; DROP SCHEMA IF EXISTS rescue CASCADE; "
            "DROP SCHEMA IF EXISTS app CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public; "
            "GRANT ALL ON SCHEMA public TO PUBLIC"
        )
