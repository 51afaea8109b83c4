"""A MariaDB database as a target: three sessions of one account, and the facts that gates judge.

`control` keeps the journal and the lease, in autocommit; `main` and `aux` belong to the transaction. They must reach the
same server directly: lease and proof live in the session. What is a schema elsewhere is a database here; the journal
serves all databases of a server, each as a target of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backout.engines.mariadb import catalogue, lease
from backout.engines.mariadb.closure import Reach
from backout.engines.mariadb.contents import read_contents
from backout.engines.mariadb.journal import MariaJournal, identity
from backout.engines.mariadb.names import literal
from backout.engines.mariadb.rights import has_right
from backout.engines.mariadb.session import Answer, Session, bound
from backout.engines.mariadb.statements import require_followed
from backout.engines.mariadb.transaction import MariaTransaction, Sessions
from backout.engines.mariadb.undo_triggers import undo_obstacle
from backout.engines.values import (
    Capabilities,
    Contents,
    Missing,
    ServerFacts,
    Settings,
    Table,
    TableFacts,
    TableName,
)
from backout.errors import Busy, Refused, UsageError

_OLDEST = (10, 6)  # SKIP LOCKED, and the journal's DDL is atomic from there on; tested on 10.11
_NO_ROLES = "SET ROLE adds rights on MariaDB and takes none away: a change could not be kept from the journal by it"


class MariaDatabase:
    """See `protocol.Database`."""

    engine = "mariadb"
    capabilities = Capabilities(
        counts_per_table=Missing("InnoDB counts the rows that a transaction writes in sum only (`trx_rows_modified`)"),
        isolation_levels=Missing(
            "a change runs under READ COMMITTED: under REPEATABLE READ rows that others have changed could not be told "
            "from rows that the run has changed"
        ),
        has_roles=Missing(_NO_ROLES),
        has_row_security=Missing("there is no row-level security, hence nothing that would hide rows"),
        has_sequences=Missing("sequences and AUTO_INCREMENT counters that a run advances are not reported"),
        sqlalchemy=Missing("statements that SQLAlchemy's drivers make up could not all be read beforehand"),
        writing_ctes=Missing("a CTE can only read"),
        tracking=Missing("tracking files are not built for MariaDB: the rows of `@pre` and `@post` are counted"),
        batches=Missing("runs in batches are not built for MariaDB: a change is one transaction"),
        merge=Missing("there is no MERGE; `INSERT … ON DUPLICATE KEY UPDATE` is captured"),
        pairs_keyless_rows=Missing("without a key nothing tells which row before is which one after"),
        pairs_moved_rows=Missing(
            "nothing tells which row became which where a key was changed: one row in conflict leaves all of them"
        ),
        identity_always=Missing(
            "there is no GENERATED ALWAYS AS IDENTITY; AUTO_INCREMENT keys are put back as they were"
        ),
        keeps_triggers_out=Missing(
            "triggers cannot be switched off: a run is refused where one would spoil the undo (docs/explanation/mariadb.md)"
        ),
        references_to_partitions=Missing("InnoDB has no foreign keys on partitioned tables"),
        inheritance=Missing("there is no inheritance between tables"),
        partial_indexes=Missing("there are no partial indexes"),
        expression_indexes=Missing("there are no indexes on expressions; a generated column can have one"),
        set_default_actions=Missing("InnoDB has no SET DEFAULT actions"),
        deferrable_foreign_keys=Missing("foreign keys are checked row by row"),
        deferrable_unique=Missing("unique constraints are checked row by row"),
        finds_renamed_columns=Missing(
            "nothing in the catalogue outlives a rename: columns and tables are found by name"
        ),
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.role:
            raise Refused(
                "role",
                f'`role = "{settings.role}"` is not possible here: {_NO_ROLES}',
                hint="take `role` out, and give the account of the url no more rights than a change needs",
            )
        self._control = Session(settings.url)
        self._others: list[Session] = []
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self.journal = MariaJournal(self._control, settings)

    def _prepare(self) -> None:
        version = str(self._control.value("SELECT VERSION()"))
        if "mariadb" not in version.lower():
            message = f"the server is MySQL {version}: only MariaDB was tested, and differences could lose rows"
            raise UsageError(message, hint="see docs/explanation/mariadb.md")
        numbers = tuple(int(part) for part in version.partition("-")[0].split(".")[:2])
        if numbers < _OLDEST:
            raise UsageError(
                f"the server is MariaDB {version}, and backout needs 10.6 or newer", hint="upgrade the server"
            )
        wait = max(1, math.ceil(self.settings.lock_timeout_s))
        self._control.run(f"SET SESSION lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {wait}")

    def facts(self) -> ServerFacts:
        """See the protocol."""
        version, user, read_only, engine_read_only = self._control.one(
            "SELECT VERSION(), CURRENT_USER(), @@GLOBAL.read_only, @@GLOBAL.innodb_read_only"
        )
        return ServerFacts(
            product="MariaDB",
            version=str(version).split("-")[0],
            database=self._control.address.database,
            login_role=str(user),
            role=None,
            is_primary=not int(read_only) and not int(engine_read_only),
            is_superuser=has_right(self._control, "SUPER"),
            identity=identity(self._control),
            free_bytes=self._free_bytes(),
            host=self._control.address.options.get("host"),
        )

    def _free_bytes(self) -> int | None:
        """Free bytes on the disk of the data, where it is on this machine."""
        host = self._control.address.options.get("host")
        if host not in (None, "localhost", "127.0.0.1", "::1"):
            return None
        try:
            disk = os.statvfs(str(self._control.value("SELECT @@datadir")))
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    def lease(self, change: str, operator: str) -> None:  # noqa: ARG002  the protocol's
        """See the protocol. A user lock of the control session: it ends with the process, however that ends."""
        target = self._control.address.database
        if lease.take(self._control, lease.lease_name(target)):
            return
        raise Busy(
            f"another run holds this database{lease.holder(self._control, target)}",
            state="untouched",
            hint="wait until it has ended; see `backout log`",
        )

    def table(self, name: TableName, identifier: str | None = None) -> Table | None:  # noqa: ARG002  the protocol's
        """The table as it is now, by name: nothing else outlives a rename, nor an ALTER TABLE."""
        return catalogue.describe(self._control, name)

    def undo_obstacle(self, tables: Sequence[Table]) -> str | None:
        """See the protocol: triggers cannot be switched off here."""
        return undo_obstacle(self._control, [table.name for table in tables], self.settings)

    def table_facts(self, schema: str | None, name: str) -> TableFacts | None:
        """See the protocol."""
        full = TableName(schema or self._control.address.database, name)
        for relation in catalogue.relations(self._control, [full]):
            table = catalogue.describe(self._control, full)
            if table is None:
                return None
            notes = []
            if relation.kind == "VIEW":
                notes.append("a view: what is written through it is captured in its tables")
            elif relation.engine != "InnoDB":
                notes.append(
                    f'stored by engine "{relation.engine}", which cannot roll back: a change that writes it is refused'
                )
            elif not table.key:
                notes.append("no key identifies its rows: they are put back as whole rows")
            return TableFacts(
                table,
                relation.rows,
                None if relation.bytes is None else int(relation.bytes),
                tuple(str(child) for child in sorted(catalogue.cascade_closure(self._control, [full]))),
                self.undo_obstacle([table]),
                tuple(notes),
            )
        return None

    def clock(self) -> datetime:
        """See the protocol. Not NOW(), which stands still in a statement only, but has the session's time zone."""
        now: datetime = self._control.value("SELECT UTC_TIMESTAMP(6)")
        return now.replace(tzinfo=UTC)

    def contents(self, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
        """See the protocol."""
        return read_contents(self._control, exactly)

    def transaction(
        self,
        known_tables: Sequence[tuple[str | None, str]],
        *,
        snapshot: bool = False,
        to_lend: bool = False,  # noqa: ARG002  the protocol's
    ) -> MariaTransaction:
        """See the protocol."""
        if snapshot:
            raise Refused("isolation", 'isolation "repeatable read" is not possible on MariaDB',
                          hint='take `isolation` out, or write "read committed"')  # fmt: skip
        main, aux = Session(self.settings.url), Session(self.settings.url)
        self._others += [main, aux]
        transaction = MariaTransaction(self.settings, self.journal, Sessions(main, aux, self._control))
        try:
            transaction.begin(known_tables)
        except BaseException:
            transaction.rollback()
            raise
        return transaction

    def query(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """See the protocol: a read-only transaction."""
        Reach(self._control, self._control.address.database).add_routines_of(statement)
        self._control.run("START TRANSACTION READ ONLY")
        try:
            self._control.of_the_change()
            return self._control.run(statement, parameters, doing="ask the query")
        finally:
            self._control.run("ROLLBACK")
            self._control.ours()

    def understand(self, statement: str, parameters: Sequence[str]) -> None:
        """See the protocol. PREPARE resolves names and runs nothing (MariaDB manual, "PREPARE Statement").

        Also an error: a table that the statement could write, itself or by a trigger or a cascade, and that no run may.
        """
        text = bound(statement, dict.fromkeys(parameters)) if parameters else statement
        self._control.of_the_change()
        try:
            self._control.run(
                f"PREPARE backout_understand FROM {literal(text)}", doing="read the statement", state="untouched"
            )
            self._control.run("DEALLOCATE PREPARE backout_understand")
        finally:
            self._control.ours()
        require_followed(self._control, self.settings.rescue_schema, text)

    def close(self) -> None:
        """Ends the sessions; what was open is rolled back by the server."""
        for session in (*self._others, self._control):
            session.close()
