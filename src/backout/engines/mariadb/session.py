"""One connection to the server, said in SQL.

A session is in autocommit: START TRANSACTION, COMMIT and ROLLBACK are written out by the transaction that owns it. Its
reading of text, its strictness and its time zone are ours, whatever the server's defaults are.
Not for: deciding anything. Invariant: no PyMySQL error leaves this file untranslated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import SERVER_STATUS

from backout.engines.mariadb.address import address_of, pinned
from backout.engines.mariadb.errors import connection_failed, translated
from backout.engines.mariadb.names import literal
from backout.engines.values import TableName
from backout.errors import DatabaseFailed, Interrupted
from backout.sql.mariadb import tokens_of
from backout.sql.tokens import TokenKind

Parameters = Sequence[Any] | Mapping[str, Any]

#: Modes of the server that a change keeps; those that alter how text is read (ANSI_QUOTES, NO_BACKSLASH_ESCAPES, ORACLE…)
#: are left out, and strictness is added (MariaDB manual, "SQL_MODE").
_KEPT_MODES = frozenset({
    "ALLOW_INVALID_DATES", "EMPTY_STRING_IS_NULL", "ERROR_FOR_DIVISION_BY_ZERO", "HIGH_NOT_PRECEDENCE",
    "NO_AUTO_VALUE_ON_ZERO", "NO_UNSIGNED_SUBTRACTION", "NO_ZERO_DATE", "NO_ZERO_IN_DATE", "ONLY_FULL_GROUP_BY",
    "PAD_CHAR_TO_FULL_LENGTH", "PIPES_AS_CONCAT", "REAL_AS_FLOAT", "SIMULTANEOUS_ASSIGNMENT", "TIME_ROUND_FRACTIONAL",
})  # fmt: skip
_STRICT = ("STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "NO_ENGINE_SUBSTITUTION")

#: For statements of ours, which copy what is there, zero dates and invalid ones included.
OWN_MODE = "STRICT_TRANS_TABLES,STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION"


@dataclass(frozen=True)
class Answer:
    """The answer to one statement; implements `engines.protocol.Result`."""

    affected: int
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


class Session:
    """A connection; `modes` is the sql_mode that a change runs under."""

    def __init__(self, url: str) -> None:
        self.address = address_of(pinned(url))
        try:
            self.connection: Connection[Any] = pymysql.connect(**self.address.options)
        except (pymysql.Error, OSError) as error:
            raise connection_failed(error, self.address.shown) from None
        self.number = int(self.connection.thread_id())  # type: ignore[no-untyped-call]  # known from the log-in: an interrupt may come right now
        modes, zone, letter_case = self.one("SELECT @@SESSION.sql_mode, @@SESSION.time_zone, @@lower_case_table_names")
        self.modes = ",".join([*(mode for mode in str(modes).split(",") if mode in _KEPT_MODES), *_STRICT])
        self.time_zone = str(zone)
        self.ignores_case = bool(int(letter_case))
        self.ours()

    def folded(self, name: TableName) -> TableName:
        """What two spellings of one table have in common (manual, "lower_case_table_names": 0 tells them apart)."""
        return TableName(name.schema.lower(), name.name.lower()) if self.ignores_case else name

    def ours(self) -> None:
        """From now on statements are our own: exact copies, times in UTC, every character of UTF-8."""
        self.run(f"SET SESSION sql_mode = '{OWN_MODE}', time_zone = '+00:00', group_concat_max_len = 4194304")

    def of_the_change(self) -> None:
        """From now on statements are the change's: strict, with the server's own time zone."""
        self.run(f"SET SESSION sql_mode = {literal(self.modes)}, time_zone = {literal(self.time_zone)}")

    def run(
        self,
        text: str,
        parameters: Parameters = (),
        *,
        doing: str = "ask the server",
        state: str = "rolled back",
        tuples: bool = True,
    ) -> Answer:
        """Execute one statement; all rows are fetched. `parameters` replace `:name`, `?`, `%s` and `%(name)s`."""
        try:
            statement = bound(text, parameters) if parameters else text
            cursor = self.connection.cursor()
            cursor.execute(statement)
            columns = tuple(column[0] for column in cursor.description or ())
            rows = cursor.fetchall() if columns else ()
            while cursor.nextset():  # a procedure's further results, and its status
                if not columns and cursor.description:
                    columns = tuple(column[0] for column in cursor.description)
                    rows = cursor.fetchall()
            return Answer(max(cursor.rowcount, 0), columns, rows if tuples else list(rows))
        except pymysql.Error as error:
            raise translated(error, doing, state=state) from None
        except OSError as error:
            raise Interrupted(
                f"unable to {doing}: the connection to the server was lost: {error}", state=state
            ) from None
        except KeyboardInterrupt:
            self.abandon()
            raise Interrupted(f"interrupted while trying to {doing}", state=state) from None

    def rows(self, text: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a query of ours."""
        return self.run(text).rows

    def one(self, text: str) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.run(text).rows
        return row

    def value(self, text: str) -> Any:
        """The only value of a query."""
        return self.one(text)[0]

    def write(self, text: str, *, doing: str = "ask the server") -> int:
        """Rows that a statement of ours wrote."""
        return self.run(text, doing=doing).affected

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, as the server's last answer says (SERVER_STATUS_IN_TRANS)."""
        status: int = getattr(self.connection, "server_status", 0)  # of the last answer; not in the stubs
        return bool(status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return not self.connection.open

    def abandon(self) -> None:
        """End the session on the server too, whatever it is doing: an answer that nobody reads is on its way."""
        with suppress(pymysql.Error, OSError):
            other: Connection[Any] = pymysql.connect(**self.address.options)
            with suppress(pymysql.Error, OSError):
                other.cursor().execute(f"KILL CONNECTION {self.number}")
            other.close()
        self.close()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        with suppress(pymysql.Error, OSError):
            self.connection.close()


#: Modes that alter what a condition means, not what may be stored.
_MEANING = frozenset({
    "EMPTY_STRING_IS_NULL", "HIGH_NOT_PRECEDENCE", "NO_UNSIGNED_SUBTRACTION", "PAD_CHAR_TO_FULL_LENGTH", "PIPES_AS_CONCAT",
})  # fmt: skip


@contextmanager
def predicate_modes(session: Session, of: Session) -> Iterator[None]:
    """Inside, a condition of the change means to `session` what it meant to the change; copies stay exact."""
    modes = ",".join([OWN_MODE, *(mode for mode in of.modes.split(",") if mode in _MEANING)])
    session.run(f"SET SESSION sql_mode = '{modes}', time_zone = {literal(of.time_zone)}")
    try:
        yield
    finally:
        if not session.lost:
            session.ours()


def bound(text: str, parameters: Parameters) -> str:
    """The statement with its placeholders replaced by constants; DatabaseFailed where they do not fit each other."""
    parts, at, taken = [], 0, 0
    try:
        for token in tokens_of(text):
            if token.kind is not TokenKind.PARAMETER:
                continue
            if isinstance(parameters, Mapping):
                value = parameters[token.text.strip(":%()").removesuffix(")s") if token.text != "?" else ""]
            else:
                value = parameters[taken]
                taken += 1
            parts += [text[at : token.start], literal(value)]
            at = token.end
        if not isinstance(parameters, Mapping) and taken != len(parameters):
            raise IndexError(f"{len(parameters)} given, {taken} used")
    except (KeyError, IndexError, TypeError) as error:
        raise DatabaseFailed(f"the parameters do not fit the statement: {error}") from None
    return "".join([*parts, text[at:]])
