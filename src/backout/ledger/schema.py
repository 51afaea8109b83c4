"""The ledger's tables and the steps by which an older ledger becomes a newer one.

Not for: what is in a body (`entry`, `statement`). Invariant: a step only adds, so that the last release's code goes on
working on the newer schema (`readable_by` says which versions do), and data written by any older code are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, Text, UniqueConstraint, inspect, text

VERSION = 2
READABLE_BY = 1  # the oldest code that still may read and append

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
