"""A throw-away SQLite database for a change's own tests: a file in a directory of its own, gone when it is closed."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from backout.engines.throwaway import Asked
from backout.errors import InvalidFile, Position, UsageError

_BEFORE = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


class SqliteThrowaway:
    """See `engines.throwaway.Throwaway`."""

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="backout-throwaway-"))
        self._path = self._place / "test.db"
        apsw.Connection(str(self._path)).close()

    @property
    def url(self) -> str:
        """The file."""
        return f"sqlite:///{self._path}"

    def load(self, text: str, file: str) -> None:
        """See the protocol."""
        connection = self._open()
        try:
            for line, statement in _statements(text):
                try:
                    connection.execute(statement).fetchall()
                except apsw.Error as error:
                    raise InvalidFile(
                        f"the database refuses it: {error}", _place(line, statement, file, error)
                    ) from None
        finally:
            connection.close()

    def ask(self, statements: Sequence[str], *, tap: bool) -> Sequence[Asked]:
        """See the protocol."""
        if tap:
            raise UsageError("pgTAP is of PostgreSQL", hint="write the tests as queries whose single value is true")
        connection = self._open()
        try:
            connection.execute("BEGIN")
            answers = [_asked(connection, one) for one in statements]
            connection.execute("ROLLBACK")
        finally:
            connection.close()
        return answers

    def _open(self) -> apsw.Connection:
        """A connection that reaches no other file: SQL of a branch that nobody has read yet runs here.

        ATTACH is refused, and with it VACUUM INTO, which attaches (https://sqlite.org/c3ref/c_alter_table.html).
        """
        connection = apsw.Connection(str(self._path))
        refused = (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH)
        connection.authorizer = lambda action, *_: apsw.SQLITE_DENY if action in refused else apsw.SQLITE_OK
        return connection

    def close(self) -> None:
        """Remove the file."""
        shutil.rmtree(self._place, ignore_errors=True)


def _asked(connection: apsw.Connection, statement: str) -> Asked:
    columns: tuple[str, ...] = ()

    def look(cursor: apsw.Cursor, _text: str, _bindings: object) -> bool:
        nonlocal columns
        columns = tuple(column[0] for column in cursor.get_description())
        return True

    try:
        with connection:  # a savepoint: what fails is taken back alone
            cursor = connection.cursor()
            cursor.exec_trace = look
            rows = cursor.execute(statement).fetchall()
    except apsw.Error as error:
        return Asked((), (), str(error))
    return Asked(columns, rows)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(line of its first character, text) of each statement, as SQLite itself tells where one ends.

    Source: https://sqlite.org/c3ref/complete.html, which knows triggers, quotes and comments.
    """
    gathered, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if gathered.strip() else number
        gathered = gathered + line + "\n" if gathered.strip() else line + "\n"
        if ";" in line and apsw.complete(gathered):
            yield first, gathered
            gathered = ""
    if gathered.strip():
        yield first, gathered


def _place(line: int, statement: str, file: str, error: apsw.Error) -> Position:
    """Where SQLite says that it stopped reading, in bytes (sqlite3_error_offset); else the statement's first word."""
    offset = getattr(error, "error_offset", -1)
    ahead = _BEFORE.match(statement)
    begin = statement.encode()[:offset].decode(errors="ignore") if offset >= 0 else ahead[0] if ahead else ""
    return Position(file, line + begin.count("\n"), len(begin) - begin.rfind("\n"))
