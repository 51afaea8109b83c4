"""One open SQLite database."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import apsw

from backout.engines.sqlite import lease
from backout.engines.sqlite.catalogue import cascade_targets, find_table, form_of, unfollowed_tables, virtual_tables
from backout.engines.sqlite.contents import read_contents
from backout.engines.sqlite.errors import UNTOUCHED, translated
from backout.engines.sqlite.handle import Handle, open_handle
from backout.engines.sqlite.journal import SqliteJournal
from backout.engines.sqlite.lease import Holder
from backout.engines.sqlite.records import NOW, has_journal
from backout.engines.sqlite.statements import Parameters, SqliteResult, main_table, run, single
from backout.engines.sqlite.transaction import SqliteTransaction
from backout.engines.values import (
    Capabilities,
    Column,
    Contents,
    Missing,
    ServerFacts,
    Settings,
    Table,
    TableFacts,
    TableName,
)
from backout.errors import BackoutError, Busy

_MEASURED_BYTES = 256 * 1024 * 1024  # dbstat reads every page of a table: not in a check of a bigger file


class SqliteDatabase:
    """See `protocol.Database`. One connection; not for use by several threads at once."""

    engine = "sqlite"
    capabilities = Capabilities(
        counts_per_table=Missing("SQLite counts the rows that a connection writes in sum only (`total_changes`)"),
        concurrent_writers=Missing("the run holds the file's only write lock from its beginning to its end"),
        is_a_server=Missing("a database is a file: there is no session that could be lost or ended"),
        isolation_levels=Missing("every transaction is serializable"),
        has_roles=Missing("there are no users; the rights are those of the file"),
        has_row_security=Missing("there is no row-level security, hence nothing that would hide rows"),
        has_sequences=Missing("there are no sequences"),
        sqlalchemy=Missing("the run's connection is apsw's, which SQLAlchemy has no dialect for: use `db.execute`"),
        writing_ctes=Missing("a CTE can only read"),
        writing_functions=Missing("there are no stored functions or procedures"),
        batches=Missing("SQLite has one writer at a time and no row locks: a change is one transaction"),
        tracking=Missing("tracking files are not built for SQLite: the rows of `@pre` and `@post` are counted"),
        merge=Missing("there is no MERGE; `INSERT … ON CONFLICT DO UPDATE` is captured"),
        pairs_moved_rows=Missing(
            "nothing tells which row became which where a key was changed: one row in conflict leaves all of them"
        ),
        identity_always=Missing("there are no identity columns; AUTOINCREMENT keys are captured like any other"),
        partitions=Missing("there are no partitioned tables"),
        references_to_partitions=Missing("there are no partitioned tables"),
        inheritance=Missing("there is no inheritance between tables"),
        deferrable_unique=Missing("unique constraints are always checked row by row"),
        finds_renamed_columns=Missing(
            "the schema is kept as text, and nothing in it outlives a rename: columns and tables are found by name"
        ),
        changes_constraints=Missing("ALTER TABLE cannot add a constraint: the table has to be made anew"),
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._handle: Handle = open_handle(settings)
        self._holder = Holder()
        lease.enter(self._holder)
        self.journal = SqliteJournal(self._handle, self._holder)

    @property
    def _connection(self) -> apsw.Connection:
        return self._handle.connection

    def facts(self) -> ServerFacts:
        """The library, the file, whether it can be written, and its stored identity (empty without a journal)."""
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            identity = ""
            if has_journal(self._connection):
                identity = single(self._connection, "SELECT value FROM main.backout_meta WHERE name = 'identity'") or ""
            return ServerFacts(
                product="SQLite",
                version=apsw.sqlite_lib_version(),
                database=self._handle.name,
                login_role=None,
                role=None,
                is_primary=not self._connection.readonly("main") and not self.journal.missing_rights(),
                is_superuser=False,
                identity=identity,
                free_bytes=self._free_bytes(),
            )

    def _free_bytes(self) -> int | None:
        if self._handle.path is None or not hasattr(os, "statvfs"):
            return None
        disk = os.statvfs(self._handle.path.resolve().parent)
        return disk.f_bavail * disk.f_frsize

    def lease(self, change: str, operator: str) -> None:
        """Take the right to write here until `close`; raises Busy, naming the holder."""
        with translated(self._handle.name, state=UNTOUCHED):
            since = str(single(self._connection, f"SELECT {NOW}"))
        wanted = replace(self._holder, change=change, operator=operator, since=since)
        other = self.journal.take_lease(wanted)
        if other is not None:
            raise Busy(
                f'database "{self._handle.name}" is in use: {other}',
                hint="wait until it is done; if that machine is gone for good, "
                "DELETE FROM backout_meta WHERE name = 'lease'",
            )

    def table(self, name: TableName, identifier: str | None = None) -> Table | None:  # noqa: ARG002  the protocol's
        """The table as it is now, by name: SQLite has nothing else that outlives a rename."""
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            return find_table(self._connection, name.name)

    def undo_obstacle(self, tables: Sequence[Table]) -> str | None:  # noqa: ARG002  the protocol's
        """Nothing: whoever can write the file can switch triggers off for its own connection."""
        return None

    def table_facts(self, schema: str | None, name: str) -> TableFacts | None:
        """For `check --on`; virtual tables too (key and columns unknown); None: no such table."""
        if schema is not None and schema.lower() != "main":
            return None
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            table = find_table(self._connection, name) or self._virtual(name)
            if table is None:
                return None
            reason = unfollowed_tables(self._connection).get(table.name.name.lower())
            notes = [f'table "{table.name.name}" {reason}'] if reason else []
            if not table.key:
                notes.append("no primary key: its rows are told apart by all their values")
            return TableFacts(
                table=table,
                estimated_rows=self._estimated_rows(table),
                bytes=self._bytes(table),
                cascades_to=cascade_targets(self._connection, table.name.name),
                undo_needs=reason,
                notes=tuple(notes),
            )

    def _virtual(self, name: str) -> Table | None:
        for virtual in virtual_tables(self._connection):
            if virtual.lower() == name.lower():
                rows = self._connection.execute("SELECT name, type, cid FROM pragma_table_xinfo(?, 'main')", (virtual,))
                columns = tuple(Column(str(column), str(kind), int(str(cid))) for column, kind, cid in rows)
                return Table(TableName("main", virtual), virtual, columns, key=())
        return None

    def _estimated_rows(self, table: Table) -> int | None:
        """From ANALYZE's statistics, else the greatest rowid: both are quick, and neither is exact."""
        name = table.name.name
        if single(self._connection, "SELECT count(*) FROM main.sqlite_master WHERE name = 'sqlite_stat1'"):
            text = single(self._connection, "SELECT stat FROM main.sqlite_stat1 WHERE tbl = ? LIMIT 1", (name,))
            if text is not None:
                return int(str(text).split()[0])
        alias = form_of(self._connection, name).rowid_alias
        if alias is None:
            return None
        return int(single(self._connection, f"SELECT max({alias}) FROM {main_table(name)}") or 0)

    def _bytes(self, table: Table) -> int | None:
        pages = int(single(self._connection, "PRAGMA page_count")) * int(single(self._connection, "PRAGMA page_size"))
        if pages > _MEASURED_BYTES:
            return None
        query = "SELECT sum(pgsize) FROM dbstat('main', 1) WHERE name = ?"
        return single(self._connection, query, (table.name.name,))  # type: ignore[no-any-return]

    def transaction(
        self,
        known_tables: Sequence[tuple[str | None, str]],
        *,
        snapshot: bool = False,  # noqa: ARG002  the protocol's
        to_lend: bool = False,  # noqa: ARG002  the protocol's
    ) -> SqliteTransaction:
        """Begin; every transaction of SQLite is serializable (https://sqlite.org/isolation.html), `snapshot` or not.

        Raises Busy, or Refused for a table that cannot be captured; nothing is written.
        """
        return SqliteTransaction(self._handle, known_tables)

    def query(self, statement: str, parameters: Parameters = ()) -> SqliteResult:
        """A query outside of any run; SQLite itself refuses writes meanwhile (pragma query_only)."""
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            self._connection.execute("PRAGMA query_only = ON")
            try:
                return run(self._connection, statement, parameters)
            finally:
                self._connection.execute("PRAGMA query_only = OFF")

    def understand(self, statement: str, parameters: Sequence[str]) -> None:
        """See the protocol. EXPLAIN compiles it and runs nothing of it (https://sqlite.org/lang_explain.html)."""
        self.query(f"EXPLAIN {statement}", dict.fromkeys(parameters))

    def clock(self) -> datetime:
        """See the protocol: an SQLite database has the clock of the machine that reads it."""
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            return datetime.fromisoformat(single(self._connection, f"SELECT {NOW}"))

    def contents(self, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
        """See the protocol."""
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            return read_contents(self._connection, exactly)

    def close(self) -> None:
        """Give back the lease and close; may be called twice."""
        lease.leave(self._holder)
        with suppress(BackoutError, apsw.ConnectionClosedError):  # a lease without a living process is free anyway
            self.journal.give_lease_back(self._holder)
        self._connection.close()
