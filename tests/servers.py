"""Real PostgreSQL servers for the tests: one per version and test process, started when first asked for.

One per process (xdist worker) rather than one per run: a start costs 0.8 s, needs no lock between workers, and each
server ends with the process that uses it, also when that is killed (see engines/postgres/keeper.py).
Each test gets a database of its own, made from an empty template, and two roles of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from backout.engines.postgres.embedded import DISPOSABLE, EmbeddedServer
from backout.engines.postgres.programs import Programs, available_programs

VERSIONS = (18, 16, 15)  # newest, one between, oldest that is supported
CHOICE = "BACKOUT_TEST_SERVERS"  # e.g. "pg18" or "pg18,pg15"; all that are there where it is not set
PASSWORD = "roles in throw-away databases"
SETTINGS = {
    **DISPOSABLE,
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "4GB",  # no checkpoint in the middle of a test
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_prepared_transactions": "5",
    "log_min_messages": "fatal",
}

Role = Literal["login", "application", "superuser"]


@cache
def present() -> dict[str, Programs]:
    """The servers that this run tests, by id ("pg18")."""
    programs = {f"pg{found.major}": found for found in available_programs()}
    names = [f"pg{version}" for version in VERSIONS]
    return {name: programs[name] for name in names if name in programs and name in chosen()}


def chosen() -> Sequence[str]:
    """The ids that $BACKOUT_TEST_SERVERS names; raises ValueError where it names one that does not exist."""
    names = [f"pg{version}" for version in VERSIONS]
    wanted = [name.strip() for name in os.environ.get(CHOICE, ",".join(names)).split(",") if name.strip()]
    unknown = set(wanted) - {*names, "mariadb"}  # see servers_mariadb.py
    if unknown:
        raise ValueError(f"${CHOICE} names {sorted(unknown)}: the servers are {names}")
    return wanted


def describe() -> list[str]:
    """Lines for the head of a test run: what is tested, and what is not and why."""
    lines = []
    for version in VERSIONS:
        name = f"pg{version}"
        if name in present():
            programs = present()[name]
            lines.append(f"PostgreSQL {programs.version}: tested ({programs.directory})")
        elif name not in chosen():
            lines.append(f"PostgreSQL {version}: NOT TESTED: ${CHOICE} leaves it out")
        else:
            lines.append(f"PostgreSQL {version}: NOT TESTED: its programs are not on this machine")
    return lines


@dataclass
class PostgresDatabase:
    """One test's own database.

    `login_role` may log in, may CREATE in the database, owns nothing and is a member of `application_role`, whose
    rights it inherits; `application_role` may create in the schema "public" and is meant to own the tables.
    """

    server: EmbeddedServer
    name: str
    login_role: str
    application_role: str
    _connections: list[psycopg.Connection[Any]] = field(default_factory=list)

    @property
    def version(self) -> int:
        """The major version."""
        return self.server.programs.major

    @property
    def superuser_url(self) -> str:
        """As the superuser `postgres`."""
        return self.url("superuser")

    @property
    def login_url(self) -> str:
        """As `login_role`: what an environment's `url` is."""
        return self.url("login")

    @property
    def application_url(self) -> str:
        """As `application_role`: the application itself, changing rows behind our back."""
        return self.url("application")

    def url(self, role: Role | str) -> str:
        """As one of the three, or as a role that `create_role` made."""
        if role == "superuser":
            return self.server.url(self.name)
        user = {"login": self.login_role, "application": self.application_role}.get(role, role)
        return self.server.url(self.name, user=user, password=PASSWORD)

    def create_role(self, suffix: str, options: str = "LOGIN") -> str:
        """Make another role, named for this database; returns its name."""
        name = f"{self.name}_{suffix}"
        statement = f"CREATE ROLE {{}} {options} PASSWORD {{}}"
        self.execute(sql.SQL(statement).format(sql.Identifier(name), PASSWORD))
        return name

    def connect(self, role: Role | str = "superuser", *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """A session that is closed at the end of the test."""
        connection = psycopg.connect(self.url(role), autocommit=autocommit)
        self._connections.append(connection)
        return connection

    def execute(self, statement: Any, parameters: Any = None, *, role: Role | str = "superuser") -> list[Any]:
        """Run SQL in a session of its own, each statement committed; returns the rows of the last that has any."""
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            rows: list[Any] = []
            while True:
                if cursor.description is not None:
                    rows = cursor.fetchall()
                if not cursor.nextset():
                    return rows

    def as_application(self, statement: Any, parameters: Any = None) -> list[Any]:
        """`execute` as `application_role`: tables made so are owned by it."""
        return self.execute(statement, parameters, role="application")

    def close(self) -> None:
        """End the sessions that `connect` made."""
        for connection in self._connections:
            with suppress(psycopg.Error):
                connection.close()
        self._connections.clear()


class PostgresServers:
    """The servers of this test process; a resource."""

    def __init__(self, worker: str, more: Mapping[str, str] | None = None) -> None:
        """`more` are settings of the server beside the usual ones."""
        self._worker, self._settings = worker, {**SETTINGS, **(more or {})}
        self._servers: dict[str, EmbeddedServer] = {}
        self._administrators: dict[str, psycopg.Connection[Any]] = {}
        self._numbers = itertools.count(1)
        self._places: list[Path] = []

    def server(self, name: str) -> EmbeddedServer:
        """The running server of that id ("pg18")."""
        if name not in self._servers:
            # Not in pytest's own directory: that is 0700, and as root the server runs under another account.
            place = Path(tempfile.mkdtemp(prefix=f"backout-test-{name}-", dir=_reachable_place()))
            place.chmod(0o711)
            self._places.append(place)
            server = EmbeddedServer.start(
                place / "server", programs=present()[name], settings=self._settings, ephemeral=True
            )
            self._servers[name] = server
            self._administrators[name] = psycopg.connect(server.url(), autocommit=True)
            own: dict[str, sql.Composable] = {"password": sql.Literal(_verifier(server.password))}
            self._run(name, _CREATE_TEMPLATE, own)
            with psycopg.connect(server.url("template_test")) as template:
                template.execute(_FILL_TEMPLATE)
        return self._servers[name]

    def create_database(self, name: str) -> PostgresDatabase:
        """A fresh database with its two roles."""
        server = self.server(name)
        suffix = f"{self._worker}_{next(self._numbers)}"
        database = PostgresDatabase(server, f"test_{suffix}", f"login_{suffix}", f"app_{suffix}")
        names = {
            "db": sql.Identifier(database.name),
            "login": sql.Identifier(database.login_role),
            "app": sql.Identifier(database.application_role),
            "password": sql.Literal(_verifier(PASSWORD)),
        }
        self._run(name, _CREATE_DATABASE, names)
        return database

    def drop_database(self, name: str, database: PostgresDatabase) -> None:
        """Drop it, whoever is still connected. Roles stay: they cost nothing, and own nothing elsewhere."""
        database.close()
        self._run(name, ["DROP DATABASE IF EXISTS {db} WITH (FORCE)"], {"db": sql.Identifier(database.name)})

    def stop(self) -> None:
        """End all servers and remove their data."""
        for connection in self._administrators.values():
            connection.close()
        for server in self._servers.values():
            server.stop()
        for place in self._places:
            shutil.rmtree(place, ignore_errors=True)

    def _run(self, name: str, statements: Sequence[str], names: dict[str, sql.Composable]) -> None:
        for statement in statements:
            self._administrators[name].execute(sql.SQL(statement).format(**names))


# Rights inside a database are given in the template, so that making a database needs no session in it.
_CREATE_TEMPLATE = [
    "ALTER ROLE postgres PASSWORD {password}",
    "CREATE ROLE applications NOLOGIN",
    "CREATE DATABASE template_test TEMPLATE template0",
]
_FILL_TEMPLATE = "GRANT CREATE ON SCHEMA public TO applications"
_CREATE_DATABASE = [
    "CREATE ROLE {app} LOGIN PASSWORD {password} IN ROLE applications",
    "CREATE ROLE {login} LOGIN PASSWORD {password} IN ROLE {app}",
    "CREATE DATABASE {db} TEMPLATE template_test STRATEGY file_copy",  # 21 ms; wal_log: 32 ms
    "GRANT CREATE ON DATABASE {db} TO {login}",
]


def _verifier(password: str) -> str:
    """What the server keeps of a password (RFC 5802), after one round of hashing.

    With the usual 4,096 a client spends 4 ms of a processor on a connection, else 1 ms; a test makes a dozen.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 1)
    client_key, server_key = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    stored, server, salt = (
        base64.b64encode(part).decode() for part in (hashlib.sha256(client_key).digest(), server_key, b"salt")
    )
    return f"SCRAM-SHA-256$1:{salt}${stored}:{server}"


def in_memory() -> str | None:
    """A directory in memory, where there is one with room: thousands of databases are made and dropped there."""
    place = "/dev/shm"
    try:
        roomy = shutil.disk_usage(place).free > 4 * 2**30 and os.access(place, os.W_OK | os.X_OK)
    except OSError:
        return None
    return place if roomy else None


def _reachable_place() -> str | None:
    """Where a server's directory can be: pytest and tools may point $TMPDIR at a private directory."""
    return in_memory() or ("/tmp" if os.geteuid() == 0 else None)
