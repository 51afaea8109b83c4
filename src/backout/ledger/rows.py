"""The ledger's rows on its two databases: what an ordinary run needs of them, said to the drivers themselves.

SQLAlchemy makes the tables (`schema`); importing it for each command took 210 ms of a processor (2.0, Python 3.11), more
than all gates. Not for: what is in a row, nor in which order things are done (`store`). Invariant: `begin` keeps every
other writer out until `commit` or `rollback`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from backout.errors import UsageError
from backout.ledger.entry import Entry, Row

if TYPE_CHECKING:
    import sqlite3

    from backout.engines.postgres.session import Session

_IDLE_S = 10  # a run may take hours
PATIENCE_S = 30  # for another writer, who needs milliseconds
#: Of the transaction, since the table may not be there yet (PostgreSQL manual 9.28.10); "bkolledg" in ASCII.
LOCK_OF_POSTGRES = "SELECT pg_catalog.pg_advisory_xact_lock(7091318039311017063)"
_VERSION_TABLE = "backout_ledger_version"
_ALL = "SELECT position, previous, hash, body FROM backout_ledger_entry ORDER BY position"
#: A column of SQLite takes values of any type: what is of another one was written by somebody else, and breaks the chain.
#: Casting each takes a fifth longer, so that it is done only where there is such a value.
_ALL_CAST = (
    "SELECT ifnull(CAST(position AS INTEGER), 0), ifnull(CAST(previous AS TEXT), ''), ifnull(CAST(hash AS TEXT), ''), "
    "ifnull(CAST(body AS TEXT), '') FROM backout_ledger_entry ORDER BY position"
)


class NotAnswered(Exception):
    """The database could not do it; the text is its own."""


class Rows(Protocol):
    """One database. Each method may raise NotAnswered or a BackoutError."""

    shown: str  # the address without its password

    def is_there(self) -> bool: ...  # whether it can be asked at all; a file is not made for that
    def has_tables(self) -> bool: ...
    def select(self, query: str) -> Iterable[tuple[Any, ...]]: ...
    def all(self) -> Sequence[Row]: ...  # by position
    def insert(self, entry: Entry) -> None: ...
    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def rest(self) -> None: ...  # nothing more is asked for now
    def close(self) -> None: ...


class SqliteRows:
    """A file; opened when it is first asked."""

    def __init__(self, file: Path) -> None:
        self.shown = f"sqlite:///{file}"
        self._file = file
        self._opened: sqlite3.Connection | None = None

    def is_there(self) -> bool:
        return self._file.exists()

    def has_tables(self) -> bool:
        return bool(
            list(self.select(f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{_VERSION_TABLE}'"))
        )

    def select(self, query: str) -> Iterable[tuple[Any, ...]]:
        return list(self._run(query))

    def all(self) -> Sequence[Row]:
        """Texts as their bytes: a third of the time goes into making strings of them."""
        if self._opened is not None:
            self._opened.text_factory = bytes
        try:
            found = self._run(_ALL)
            types = [set(map(type, map(itemgetter(column), found))) for column in range(4)]
            return found if not found or types == [{int}, {bytes}, {bytes}, {bytes}] else self._run(_ALL_CAST)
        finally:
            if self._opened is not None:
                self._opened.text_factory = str

    def insert(self, entry: Entry) -> None:
        self._run("INSERT INTO backout_ledger_entry (position, previous, hash, body) VALUES (?, ?, ?, ?)", tuple(entry))

    def begin(self) -> None:
        """With the write lock from here on: https://sqlite.org/lang_transaction.html, 2.2."""
        self._run("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._run("COMMIT")

    def rollback(self) -> None:
        if self._opened is not None and self._opened.in_transaction:
            self._run("ROLLBACK")

    def rest(self) -> None:
        """A file is opened in no time, and may be another one the next time."""
        self.close()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        import sqlite3

        try:
            if self._opened is None:  # in autocommit: transactions are begun and ended above
                self._opened = sqlite3.connect(self._file, timeout=PATIENCE_S, isolation_level=None)
            return self._opened.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise NotAnswered(str(error)) from None


class PostgresRows:
    """A database of a server, by the engine's own session."""

    def __init__(self, url: str) -> None:
        from backout.engines.postgres.session import shown

        self.shown = shown(url)
        self._url = url
        self._opened: Session | None = None
        self._used = 0.0

    def is_there(self) -> bool:
        return True

    def has_tables(self) -> bool:
        return bool(self._session.value(f"SELECT pg_catalog.to_regclass('{_VERSION_TABLE}') IS NOT NULL"))

    def select(self, query: str) -> Iterable[tuple[Any, ...]]:
        return self._session.run(query).rows

    def all(self) -> Sequence[Row]:
        return [
            (place, before.encode(), hashed.encode(), body.encode())
            for place, before, hashed, body in self.select(_ALL)
        ]

    def insert(self, entry: Entry) -> None:
        statement = "INSERT INTO backout_ledger_entry (position, previous, hash, body) VALUES ($1, $2, $3, $4)"
        self._session.run(statement, list(entry))

    def begin(self) -> None:
        self._session.run("BEGIN")
        self._session.run(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
        self._session.run(LOCK_OF_POSTGRES)

    def commit(self) -> None:
        self._session.run("COMMIT")

    def rollback(self) -> None:
        if self._opened is not None and not self._opened.lost and self._opened.in_transaction:
            self._opened.run("ROLLBACK")

    def rest(self) -> None:
        self._used = monotonic()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _session(self) -> Session:
        """The session; a new one where the last was lost, or idle for so long that something in between may have cut it."""
        if self._opened is not None and not self._opened.in_transaction and monotonic() - self._used > _IDLE_S:
            self.close()
        if self._opened is None or self._opened.lost:
            from backout.engines.postgres.session import Session

            self._opened = Session(self._url, "ledger")
            self._used = monotonic()
        return self._opened


def make_folder(file: Path) -> None:
    """The folder of the ledger's file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to make the folder of the ledger "{file}": {reason}') from None
