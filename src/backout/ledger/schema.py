"""The ledger's tables and the steps by which an older ledger becomes a newer one.

Not for: what is in a body (`entry`, `statement`). Invariant: a step only adds, so that the last release's code goes on
working on the newer schema (`readable_by` says which versions do), and data written by any older code are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from backout.ledger.rows import LOCK_OF_POSTGRES, PATIENCE_S, NotAnswered, make_folder
from backout.ledger.version import READABLE_BY, VERSION

metadata = MetaData()

entry_table = Table(
    "backout_ledger_entry",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("previous", name="backout_ledger_entry_no_fork"),  # two entries after one would be a fork
)
version_table = Table(
    "backout_ledger_version",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("readable_by", BigInteger, nullable=False),
)

#: Twin: `entry_table` and `version_table`. Written out, since a step must stay what it was when the tables change.
_TABLES = (
    "CREATE TABLE backout_ledger_version (version bigint PRIMARY KEY, readable_by bigint NOT NULL)",
    (
        "CREATE TABLE backout_ledger_entry (position bigint PRIMARY KEY, previous varchar(64) NOT NULL, "
        "hash varchar(64) NOT NULL, body text NOT NULL, "
        "CONSTRAINT backout_ledger_entry_no_fork UNIQUE (previous))"
    ),
)

#: An accident is refused here; a forger can drop a trigger, and the chain shows what they did.
_GUARDS = {
    "sqlite": (
        (
            "CREATE TRIGGER backout_ledger_entry_no_update BEFORE UPDATE ON backout_ledger_entry "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        ),
        (
            "CREATE TRIGGER backout_ledger_entry_no_delete BEFORE DELETE ON backout_ledger_entry "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION backout_ledger_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        ),
        (
            "CREATE TRIGGER backout_ledger_entry_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON backout_ledger_entry "
            "FOR EACH STATEMENT EXECUTE FUNCTION backout_ledger_refuse()"
        ),
    ),
}


def _make_tables(connection: Connection) -> None:
    for statement in _TABLES:
        connection.execute(text(statement))


def _refuse_changes(connection: Connection) -> None:
    for statement in _GUARDS[connection.dialect.name]:
        connection.execute(text(statement))


#: Step n makes version n of version n - 1.
STEPS: Sequence[Callable[[Connection], None]] = (_make_tables, _refuse_changes)


def version_of(connection: Connection) -> tuple[int, int]:
    """(version, readable_by) of the ledger there; (0, 0) where there is none."""
    if not inspect(connection).has_table(version_table.name):
        return 0, 0
    row = connection.execute(version_table.select().order_by(version_table.c.version.desc())).first()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def migrate(connection: Connection, version: int, *, until: int = VERSION) -> None:
    """Go from `version` to `until`, in the caller's transaction, which holds whatever lock keeps others out."""
    for number in range(version + 1, until + 1):
        STEPS[number - 1](connection)
        connection.execute(version_table.insert().values(version=number, readable_by=READABLE_BY))


def bring_up_to_date(url: str) -> None:
    """Make the ledger, or what it lacks, in one transaction. NotAnswered where the database cannot; it is as it was then.

    A ledger that is newer than this code is left as it is.
    """
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            _lock(connection)
            version, _ = version_of(connection)
            if version < VERSION:
                migrate(connection, version)
            connection.commit()
    except SQLAlchemyError as error:
        raise NotAnswered(str(getattr(error, "orig", None) or error)) from None
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        make_folder(Path(url.removeprefix("sqlite:///").partition("?")[0]))
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": PATIENCE_S})
        # The driver begins transactions by itself, too late for us: it would read the version before it has the lock.
        # Source: SQLAlchemy 2 manual, "SQLite: Serializable isolation / Savepoints / Transactional DDL".
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
        return engine
    return create_engine(
        re.sub(r"^postgres(ql)?(\+psycopg)?:", "postgresql+psycopg:", url), poolclass=NullPool,
        connect_args={"connect_timeout": 10, "application_name": "backout: ledger"},
    )  # fmt: skip


def _leave_transactions_to_us(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # sqlite3.Connection


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _lock(connection: Connection) -> None:
    """Keep every other writer out until the end of the transaction; on SQLite `_begin` has done it. Twin: `rows`."""
    connection.begin()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'"))
        connection.execute(text(LOCK_OF_POSTGRES))
