"""A throw-away PostgreSQL for a change's own tests: an embedded server with one database, gone when it is closed.

The owner of the database, an ordinary role, loads the files and runs the change: SQL of a branch that nobody has read
yet must not reach the machine (`COPY … TO PROGRAM` needs a superuser or pg_execute_server_program; manual, COPY).
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg

from backout.engines.postgres.embedded import DISPOSABLE, EmbeddedServer
from backout.engines.postgres.programs import Programs, available_programs, find_programs
from backout.engines.throwaway import Asked
from backout.errors import InvalidFile, UsageError
from backout.sql.source import Source

#: What pg_dump 17.6 and newer write around a dump for psql (release notes of 17.6, CVE-2025-8714): nothing to run.
_RESTRICT = re.compile(r"^\\(?:un)?restrict\b.*$", re.MULTILINE)
_NAME = "backout_test"  # of the role and of its database
_COPY = re.compile(r"^\s*COPY\b[^;]*\bFROM\s+stdin\b", re.MULTILINE | re.IGNORECASE)


class PostgresThrowaway:
    """See `engines.throwaway.Throwaway`. The newest PostgreSQL of this machine; with `tap` the newest that has pgTAP."""

    def __init__(self, *, tap: bool) -> None:
        programs = _with_pgtap() if tap else find_programs()
        self._place = Path(tempfile.mkdtemp(prefix="backout-throwaway-"))
        self._place.chmod(0o711)  # as root, the server runs under an ordinary account
        try:
            self._server = EmbeddedServer.start(
                self._place / "server", programs=programs, settings=DISPOSABLE, ephemeral=True
            )
            self._password = secrets.token_urlsafe(16)
            with psycopg.connect(self._server.url(), autocommit=True) as connection:
                connection.execute(f"CREATE ROLE {_NAME} LOGIN PASSWORD '{self._password}'".encode())
                connection.execute(f"CREATE DATABASE {_NAME} OWNER {_NAME}".encode())
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    @property
    def url(self) -> str:
        """As the owner of the database."""
        return self._server.url(_NAME, user=_NAME, password=self._password)

    def load(self, text: str, file: str) -> None:
        """See the protocol. One message to the server, whose statements are one transaction (manual 54.2.2.1)."""
        source = Source(text, file)
        if match := _COPY.search(text):
            hint = "dump it with pg_dump --inserts"
            raise source.error("rows in the form of COPY … FROM stdin", match.end() - 1, hint)
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(_RESTRICT.sub("", text).encode())
        except psycopg.Error as error:
            raise _placed(error, text, file) from None

    def ask(self, statements: Sequence[str], *, tap: bool) -> Sequence[Asked]:
        """See the protocol."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("BEGIN")
            if tap:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pgtap")
            answers = [_asked(connection, one) for one in statements]
            connection.execute("ROLLBACK")
        return answers

    def close(self) -> None:
        """End the server; its data goes with it."""
        self._server.stop()
        shutil.rmtree(self._place, ignore_errors=True)


def _asked(connection: psycopg.Connection, statement: str) -> Asked:
    connection.execute("SAVEPOINT backout_ask")
    try:
        cursor = connection.execute(statement.encode())
        columns = tuple(column.name for column in cursor.description or ())
        answer = Asked(columns, cursor.fetchall() if columns else ())
        connection.execute("RELEASE SAVEPOINT backout_ask")
    except psycopg.Error as error:
        connection.execute("ROLLBACK TO SAVEPOINT backout_ask")
        return Asked((), (), error.diag.message_primary or str(error))
    return answer


def _placed(error: psycopg.Error, text: str, file: str) -> InvalidFile:
    """The server's words with the place in the file; `statement_position` counts characters from 1 (manual 54.8)."""
    message = f"the database refuses it: {error.diag.message_primary or str(error).strip()}"
    kept = _RESTRICT.sub("", text)
    at = max(int(error.diag.statement_position or 1) - 1, 0)
    line = Source(kept, file).position(min(at, len(kept)))
    hint = None
    if error.sqlstate in ("42704", "42501"):  # no such role; not allowed
        hint = "an ordinary role loads it: dump it with pg_dump --no-owner --no-privileges, without extensions"
    if error.diag.statement_position is None:
        hint = hint or "the server does not say where; run the file by hand, statement by statement"
    return InvalidFile(message, line, hint=hint)


def _with_pgtap() -> Programs:
    for programs in available_programs():
        if any((place / "extension" / "pgtap.control").is_file() for place in _share(programs)):
            return programs
    raise UsageError(
        "these tests use pgTAP, and no PostgreSQL on this machine has it",
        hint="Debian and Ubuntu: apt-get install postgresql-15-pgtap (the version of the server); "
        "or write the tests as queries whose single value is true",
    )


def _share(programs: Programs) -> tuple[Path, ...]:
    """Where an installation keeps its extensions: relative to its programs, or as Debian has it."""
    root = programs.directory.parent
    return root / "share", root / "share" / "postgresql", Path("/usr/share/postgresql") / str(programs.major)
