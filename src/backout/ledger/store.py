"""The store of the ledger: an SQLite file, or a PostgreSQL database for a team.

Not for: what an entry means. Invariant: entries are only appended, each in a transaction that holds the one lock of the
ledger from reading its head until COMMIT, so that writers of any number of processes make one chain.

Errors of the database end here, as UsageError: the ledger is not the database that a run writes to, which is untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from backout.errors import Refused, UsageError
from backout.ledger.entry import Entry, Head, link
from backout.ledger.schema import VERSION, entry_table, migrate, version_of

_PATIENCE_S = 30  # for another writer, who needs milliseconds
_SELECT = "SELECT position, previous, hash, body FROM backout_ledger_entry ORDER BY position"


class Ledger:
    """An open ledger; `url` as in `backout.toml`. It is made when it is first written to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)
        self._ready = False

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def exists(self) -> bool:
        """Whether somebody has written there before."""
        if self._engine.dialect.name == "sqlite" and not Path(self._engine.url.database or "").exists():
            return False
        with self._connected() as connection:
            return version_of(connection)[0] > 0

    def append(self, body: str) -> Entry:
        """Add an entry; when this returns it is durable, and nobody else has its place."""
        return self.append_all((body,))[0]

    def append_all(self, bodies: Sequence[str]) -> tuple[Entry, ...]:
        """Add entries one after the other in one transaction: all of them, or none."""
        made = []
        with self._writing() as connection:
            head = _head(connection)
            for body in bodies:
                entry = link(head, body)
                connection.execute(entry_table.insert().values(
                    position=entry.position, previous=entry.previous, hash=entry.hash, body=entry.body
                ))  # fmt: skip
                head = Head(entry.position, entry.hash)
                made.append(entry)
        return tuple(made)

    def head(self) -> Head:
        """The last entry's place and hash."""
        if not self.exists():
            return Head()
        with self._reading() as connection:
            return _head(connection)

    def entries(self) -> Sequence[Entry]:
        """All entries by position, as one state of the ledger. Bodies and hashes are as stored: nothing is checked."""
        if not self.exists():
            return ()
        with self._reading() as connection:
            # The driver's own rows: SQLAlchemy's take three times as long (10,000 entries: 17 ms and 45 ms, SQLite 3.40).
            cursor = connection.exec_driver_sql(_SELECT).cursor
            assert cursor is not None, "a SELECT has rows"
            return list(map(Entry._make, cursor.fetchall()))

    # -- transactions --------------------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _translated(self, error) from None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._connected() as connection:
            self._require_readable(connection)
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that nobody else's is beside."""
        if self._engine.dialect.name == "sqlite":
            _make_folder(Path(self._engine.url.database or ""))
        with self._connected() as connection:
            _lock(connection)
            version = self._require_readable(connection)
            if version < VERSION:
                migrate(connection, version)
            yield connection
            connection.commit()

    def _require_readable(self, connection: Connection) -> int:
        version, readable_by = version_of(connection)
        if readable_by > VERSION:
            raise Refused(
                "ledger", f"the ledger was made by a newer backout (its version is {version}, ours is {VERSION})",
                hint="upgrade backout on this machine",
            )  # fmt: skip
        return version


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(re.sub(r"^postgres(ql)?:", "postgresql+psycopg:", url))
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise UsageError(
                f'no ledger can be in a database of kind "{parsed.get_backend_name()}"',
                hint="ledger = \"sqlite:///path/to/file\" or \"postgresql://…\"",
            )  # fmt: skip
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": _PATIENCE_S})
            # The driver begins transactions by itself, too late for us: it would read the head before it has the lock.
            # Source: SQLAlchemy 2 manual, "SQLite: Serializable isolation / Savepoints / Transactional DDL".
            event.listen(engine, "connect", _leave_transactions_to_us)
            event.listen(engine, "begin", _begin)
            return engine
        return create_engine(
            parsed, poolclass=NullPool,
            connect_args={"connect_timeout": 10, "application_name": "backout ledger"},
        )  # fmt: skip
    except ArgumentError:
        raise UsageError("the ledger's URL is not one", hint='ledger = "postgresql://user@host/database"') from None


def _leave_transactions_to_us(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # sqlite3.Connection


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("backout_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _lock(connection: Connection) -> None:
    """Keep every other writer out until the end of the transaction.

    SQLite: the write lock, which BEGIN IMMEDIATE takes (https://sqlite.org/lang_transaction.html, 2.2); see `_begin`.
    PostgreSQL: an advisory lock of the transaction (manual 9.28.10), since the table may not be there yet; the number
    is "bkolledg" in ASCII.
    """
    connection.execution_options(backout_writes=True)
    connection.begin()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'"))
        connection.execute(text("SELECT pg_catalog.pg_advisory_xact_lock(7091318039311017063)"))


def _head(connection: Connection) -> Head:
    last = select(entry_table.c.position, entry_table.c.hash).order_by(entry_table.c.position.desc()).limit(1)
    row = connection.execute(last).first()
    return Head(int(row[0]), str(row[1])) if row else Head()


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to make the folder of the ledger "{file}": {reason}') from None


def _translated(ledger: Ledger, error: SQLAlchemyError) -> UsageError:
    shown = make_url(ledger.url).render_as_string(hide_password=True)
    reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    return UsageError(
        f'unable to use the ledger "{shown}": {reason}',
        hint="see `backout doctor`; the ledger is the key `ledger` of [project]",
    )
