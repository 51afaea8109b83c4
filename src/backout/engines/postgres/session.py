"""One connection to the server, said in SQL.

A session is in autocommit: BEGIN, COMMIT and ROLLBACK are written out by the transaction that owns it, so that nothing
begins or ends by itself. Not for: deciding anything. Invariant: no psycopg error leaves this file untranslated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import RawCursor, pq
from psycopg.types.string import TextLoader

from backout.engines.postgres.errors import connection_failed, translated
from backout.engines.postgres.hosts import pinned
from backout.engines.postgres.relay import Relay
from backout.errors import Interrupted

_First = TypeVar("_First")
_Second = TypeVar("_Second")


@dataclass(frozen=True)
class Answer:
    """The answer to one statement; implements `engines.protocol.Result`.

    `following`: the answers to the statements behind it, where several went in one message (without parameters).
    """

    affected: int
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    following: tuple[Answer, ...] = ()


#: Text in and out is exact and does not depend on the role's or the server's settings.
#: Sources: manual 20.11.2 (DateStyle, IntervalStyle, extra_float_digits), 8.5, 4.1.2.1.
EXACT_TEXT = {
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
}


class Session:
    """A connection. `purpose` shows in pg_stat_activity, so that others can see who holds a lock.

    With a relay it goes through that, and closes it; the URL is for messages then.
    """

    def __init__(self, url: str, purpose: str, relay: Relay | None = None) -> None:
        self.relay = relay
        url = reached(url)
        try:
            self.connection = psycopg.connect(
                relay.conninfo if relay is not None else url,
                autocommit=True,
                application_name=f"backout: {purpose}",
                cursor_factory=RawCursor,
                prepare_threshold=None,
            )
        except psycopg.Error as error:
            raise connection_failed(error, shown(url)) from None
        self.connection.add_notice_handler(lambda _: None)
        self.pid = self.connection.info.backend_pid
        # Compiling costs more than running: a batch on Debian's PostgreSQL 15 took 26 s with it and 3.4 s without.
        chosen = {**EXACT_TEXT, "jit": "off"}
        settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in chosen.items())
        self.run(f"SELECT {settings}")

    def run(
        self, text: str, parameters: Sequence[Any] = (), *, doing: str = "ask the server", state: str = "rolled back"
    ) -> Answer:
        """Execute one statement with `$1`-style parameters; all rows are fetched."""
        try:
            cursor = self.connection.execute(_query(text), parameters or None)
            first, following = _answer(cursor), []
            while cursor.nextset():
                following.append(_answer(cursor))
            return replace(first, following=tuple(following)) if following else first
        except psycopg.Error as error:
            raise translated(error, doing, state=state) from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted while trying to {doing}", state=state) from None

    def run_as_text(self, text: str, *, doing: str = "ask the server") -> Answer:
        """Execute one statement, with each value as the server prints it."""
        try:
            cursor = self.connection.cursor()
            for known in cursor.adapters.types:
                for oid in {known.oid, known.array_oid} - {0}:
                    cursor.adapters.register_loader(oid, TextLoader)
            return _answer(cursor.execute(_query(text)))
        except psycopg.Error as error:
            raise translated(error, doing) from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted while trying to {doing}", state="rolled back") from None

    def copy_in(self, text: str, rows: str, *, doing: str) -> None:
        """Execute one COPY … FROM STDIN with these rows, which are in COPY's text format."""
        try:
            with self.connection.cursor().copy(_query(text)) as copy:
                copy.write(rows)
        except psycopg.Error as error:
            raise translated(error, doing) from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted while trying to {doing}", state="rolled back") from None

    def one(self, text: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.run(text, parameters).rows
        return row

    def value(self, text: str, parameters: Sequence[Any] = ()) -> Any:
        """The only value of a query."""
        return self.one(text, parameters)[0]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not, as the protocol's ReadyForQuery says."""
        return self.connection.info.transaction_status in {
            pq.TransactionStatus.INTRANS,
            pq.TransactionStatus.INERROR,
        }

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed or self.connection.info.status != pq.ConnStatus.OK

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        self.connection.close()
        if self.relay is not None:
            self.relay.close()


def at_once(
    first: Callable[[], _First], second: Callable[[], _Second], *, beside: bool = True
) -> tuple[_First, _Second]:
    """Both answers, of two sessions that work at the same time; one after the other where it is one session.

    Waits for both, also where one raises: a session must be idle before anything else is asked of it.
    """
    if not beside:
        return first(), second()
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(first)
        mine = second()
        return other.result(), mine


def pipe(source: Session, copy_out: str, target: Session, copy_in: str) -> int:
    """Send a COPY of one session into a COPY of the other, block by block, at constant memory. Returns how many rows.

    In COPY's text format a line is a row: a line feed in a value is escaped (manual: COPY, "Text Format").
    """
    rows = 0
    try:
        with (
            source.connection.cursor().copy(_query(copy_out)) as outgoing,
            target.connection.cursor().copy(_query(copy_in)) as incoming,
        ):
            for block in outgoing:
                rows += bytes(block).count(b"\n")
                incoming.write(block)
    except psycopg.Error as error:
        raise translated(error, "compare what the two sessions see") from None
    return rows


def reached(url: str) -> str:
    """The URL of the one host that is used. UsageError where none of several can be connected to."""
    try:
        return pinned(url)
    except psycopg.Error as error:
        raise connection_failed(error, shown(url)) from None


def shown(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


def _answer(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Answer:
    columns = tuple(column.name for column in cursor.description or ())
    return Answer(max(cursor.rowcount, 0), columns, cursor.fetchall() if columns else [])


def _query(text: str) -> bytes:
    # psycopg's Query asks for a LiteralString to catch injection; ours is built by `names.py` or written by the user.
    return text.encode()
