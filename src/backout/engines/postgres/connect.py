"""A PostgreSQL database as a target: three sessions of the login role, and the facts that gates judge.

`control` keeps the journal and the lease, in autocommit; `main` and `aux` belong to the transaction. They must reach the
same server directly or through a pooler in session mode: the lease and the proof live in the session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backout.engines.postgres import catalogue
from backout.engines.postgres.armed import size_notes
from backout.engines.postgres.batch_journal import PostgresBatchJournal
from backout.engines.postgres.contents import read_contents
from backout.engines.postgres.journal import LEASE, LOCK_CLASS, PostgresJournal
from backout.engines.postgres.loan import session_to_lend
from backout.engines.postgres.names import literal, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.rights import foresee
from backout.engines.postgres.session import Answer, Session
from backout.engines.postgres.tracking import changes, stream
from backout.engines.postgres.transaction import PostgresTransaction
from backout.engines.postgres.undo_triggers import undo_obstacle
from backout.engines.values import (
    Capabilities,
    CapturedTable,
    Contents,
    Foreseen,
    Missing,
    ServerFacts,
    Settings,
    Table,
    TableFacts,
    TableName,
    Write,
)
from backout.errors import Busy, DatabaseFailed, Refused, UsageError

if TYPE_CHECKING:
    from backout.engines.postgres.batches import PostgresBatches

OLDEST = 150000

#: Errors that no value of a parameter mends: a syntax error; a column, table or schema that is not there. Of others its
#: type may be the reason, which the driver tells the server with the value (PostgreSQL manual, appendix A).
_SURE = {"42601", "42703", "42P01", "3F000"}


class PostgresDatabase:
    """See `engines.protocol.Database`."""

    engine = "postgres"
    capabilities = Capabilities(
        replace=Missing("there is no REPLACE; `INSERT … ON CONFLICT DO UPDATE` is captured"),
        pairs_keyless_rows=Missing(
            "an update gives a row a new place (ctid), so that nothing tells which row before is which one after"
        ),
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._control = Session(settings.url, "journal")
        # Somebody may be reading a rescue table that is to be dropped.
        self._control.run(f"SET lock_timeout = '{int(settings.lock_timeout_s * 1000)}ms'")
        self._others: list[Session] = []
        self.journal = PostgresJournal(self._control, settings)
        number = self._control.value("SELECT current_setting('server_version_num')::int")
        if number < OLDEST:
            self.close()
            raise UsageError(
                f"the server is PostgreSQL {number // 10000}, and backout needs 15 or newer", hint="upgrade the server"
            )

    def facts(self) -> ServerFacts:
        """See the protocol."""
        version, _, database, login, in_recovery, superuser, identity, read_only, _, local = self._control.one(
            query("facts")
        )
        role = self.settings.role
        if role:
            superuser = superuser or self._role_facts(role)
        return ServerFacts(
            "PostgreSQL", version.split(" ")[0], database, login, role, not in_recovery and not read_only,
            bool(superuser), identity, self._free_bytes() if local else None, self._rescue_goes_to(),
            self._control.connection.info.host,
        )  # fmt: skip

    def _rescue_goes_to(self) -> tuple[str, ...]:
        """Publications that cover the rescue schema, and logical slots of plugins that know no publications."""
        rows = self._control.run(query("rescue_goes_to"), [self.settings.rescue_schema]).rows
        return tuple(f'{kind} "{name}"' for kind, name in rows)

    def _role_facts(self, role: str) -> bool:
        rows = self._control.run(query("role_is_usable"), [role]).rows
        login = self._control.value("SELECT session_user::text")
        if not rows:
            raise UsageError(f'the role "{role}" does not exist', hint="check `role` of this environment")
        superuser, member, inherits = rows[0]
        if not member or not inherits:
            grant = f"GRANT {quoted(role)} TO {quoted(login)}"
            if member:  # inheriting is a property of the membership from 16 on, and of the member before
                newer = self._control.value("SELECT current_setting('server_version_num')::int >= 160000")
                grant = f"{grant} WITH INHERIT TRUE" if newer else f"ALTER ROLE {quoted(login)} INHERIT"
            raise Refused(
                "role",
                f'"{login}" may not act as "{role}"' + (" with its rights" if member else ""),
                hint=f"let an administrator run: {grant}",
            )
        return bool(superuser)

    def _free_bytes(self) -> int | None:
        """Free bytes on the data directory's disk, where the server is on this machine and lets us see where."""
        try:
            folder = self._control.run(
                "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory' "
                "AND pg_catalog.pg_has_role(session_user, 'pg_read_all_settings', 'MEMBER')"
            ).rows
            if not folder:
                return None
            disk = os.statvfs(folder[0][0])
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    def clock(self) -> datetime:
        """See the protocol. Not now(), which stands still in a transaction (manual 9.9.5)."""
        now: datetime = self._control.value("SELECT pg_catalog.clock_timestamp()")
        return now

    def lease(self, change: str, operator: str) -> None:
        """See the protocol. An advisory lock of the control session: it ends with the process, however that ends."""
        if self._control.value(f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {LEASE})"):
            name = f"backout: {change} by {operator}"
            self._control.run(f"SET application_name = {literal(name[:60])}")
            return
        rows = self._control.run(
            "SELECT a.pid, a.application_name, a.backend_start FROM pg_catalog.pg_locks l "
            "JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted "
            f"AND l.classid = {LOCK_CLASS} AND l.objid = {LEASE} "
            "AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())"
        ).rows
        holder = f": backend {rows[0][0]} ({rows[0][1]}), since {rows[0][2]:%Y-%m-%d %H:%M:%S %Z}" if rows else ""
        raise Busy(
            f"another run holds this database{holder}",
            state="untouched",
            hint="wait until it has ended; see `backout log`",
        )

    def table(self, name: TableName, identifier: str | None = None) -> Table | None:
        """See the protocol."""
        found = catalogue.table_by_oid(self._control, identifier) if identifier else None
        if found is None:
            oid = catalogue.oid_by_name(self._control, name.schema, name.name)
            found = catalogue.table_by_oid(self._control, oid) if oid else None
        return found

    def undo_obstacle(self, tables: Sequence[Table]) -> str | None:
        """See the protocol."""
        return undo_obstacle(self._control, [table.identifier for table in tables])

    def foresee(self, writes: Sequence[Write]) -> Foreseen:
        """See `Foresees`."""
        return foresee(self._control, self.settings.role, writes)

    def table_facts(self, schema: str | None, name: str) -> TableFacts | None:
        """See the protocol. Asked under the environment's role's search_path."""
        oid = catalogue.oid_by_name(self._control, schema, name)
        table = catalogue.table_by_oid(self._control, oid) if oid else None
        if oid is None or table is None:
            return None
        rows, size, kind, secured, forced, readable = self._control.one(query("size_facts"), [oid])
        keys = catalogue.foreign_keys(self._control, [oid])
        cascades = tuple(sorted({fk.child_name for fk in keys if fk.parent_oid == oid and fk.acts}))
        notes = []
        if not table.key and kind in {"r", "p"}:
            notes.append("no key identifies its rows: they are put back as whole rows, under a short lock")
        if kind == "f":
            notes.append("it is a foreign table: writes to it are refused before COMMIT")
        if secured:
            notes.append("row-level security is on" + (", for its owner too" if forced else ""))
        if not readable:
            notes.append("this role may not SELECT it: capture would fail")
        notes += size_notes(self._control, schema, name, self.settings)
        return TableFacts(table, rows, size, cascades, self.undo_obstacle([table]), tuple(notes))

    def transaction(
        self, known_tables: Sequence[tuple[str | None, str]], *, snapshot: bool = False, to_lend: bool = False
    ) -> PostgresTransaction:
        """See the protocol."""
        url = self.settings.url
        main = session_to_lend(self._control, url, "run") if to_lend else Session(url, "run")
        self._others.append(main)
        aux = Session(url, "before-images")
        self._others.append(aux)
        transaction = PostgresTransaction(self.settings, self.journal, main, aux, snapshot=snapshot)
        try:
            transaction.begin(known_tables)
        except BaseException:
            transaction.rollback()
            raise
        return transaction

    def batches(self, *, to_lend: bool = False) -> PostgresBatches:
        """See `engines.batches.BatchingDatabase`."""
        from backout.engines.postgres.batches import PostgresBatches

        return PostgresBatches(self.settings, self.journal, to_lend=to_lend)

    @property
    def batch_journal(self) -> PostgresBatchJournal:
        """See `engines.batches.BatchingDatabase`."""
        return PostgresBatchJournal(self._control)

    def query(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """See the protocol: a read-only transaction under the environment's role."""
        assert not isinstance(parameters, Mapping)
        self._control.run("BEGIN READ ONLY")
        try:
            if self.settings.role:
                self._control.run(f"SET LOCAL ROLE {quoted(self.settings.role)}")
            return self._control.run(statement, parameters, doing="ask the query")
        finally:
            self._control.run("ROLLBACK")

    def understand(self, statement: str, parameters: Sequence[str]) -> None:
        """See the protocol. PREPARE parses, analyses and rewrites (PostgreSQL manual, "PREPARE"); rights are not looked at."""
        self._control.run("BEGIN READ ONLY")
        try:
            if self.settings.role:
                self._control.run(f"SET LOCAL ROLE {quoted(self.settings.role)}")
            self._control.run(
                f"PREPARE backout_understand AS {statement}", doing="read the statement", state="untouched"
            )
            self._control.run("DEALLOCATE backout_understand")
        except DatabaseFailed as error:
            if not parameters or error.sqlstate in _SURE:
                raise
        finally:
            self._control.run("ROLLBACK")

    def stream(
        self, text: str, parameters: Sequence[Any], begin: Callable[[Sequence[str]], None],
        take: Callable[[Sequence[str | None]], None],
    ) -> None:  # fmt: skip
        """See `engines.protocol.Tracked`: a read-only transaction under the environment's role."""
        self._control.run("BEGIN READ ONLY")
        try:
            if self.settings.role:
                self._control.run(f"SET LOCAL ROLE {quoted(self.settings.role)}")
            stream(self._control, text, parameters, begin, take)
        finally:
            self._control.run("ROLLBACK")

    def changes(
        self, captured: CapturedTable, columns: Sequence[str],
        take: Callable[[Sequence[str | None], Sequence[str | None] | None, Sequence[str | None] | None], None],
    ) -> None:  # fmt: skip
        """See `engines.protocol.Tracked`: of what is committed."""
        self._control.run("BEGIN READ ONLY")
        try:
            changes(self._control, self._control, self.settings.rescue_schema, captured, columns, take)
        finally:
            self._control.run("ROLLBACK")

    def contents(self, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
        """See the protocol."""
        return read_contents(self._control, self.settings.rescue_schema, exactly)

    def close(self) -> None:
        """Ends the sessions; what was open is rolled back by the server."""
        for session in (*self._others, self._control):
            session.close()
