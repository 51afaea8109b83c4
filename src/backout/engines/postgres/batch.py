"""One batch in its transaction: its bounds, the statement on its rows, their images, its row of the journal.

As in `transaction.py`: `main` changes rows under the environment's role, and beside it `aux`, always the login role,
still sees the past. Both transactions begin and end with the batch. Before main writes, aux holds ACCESS SHARE on the
table, so that nobody's ALTER TABLE can queue between them.

Invariant: a batch writes rows of its table within its bounds and nothing else; whatever else the server counts is a
finding, and rolls it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from backout.engines.batches import BatchRecord, Key, Keyset
from backout.engines.postgres import batch_journal, catalogue, tripwires
from backout.engines.postgres.batch_capture import Images, capture_batch
from backout.engines.postgres.capture import Marks
from backout.engines.postgres.errors import primary_message, translated
from backout.engines.postgres.images import XID_SPAN, batch_column
from backout.engines.postgres.journal import PostgresJournal, hold
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import EXACT_TEXT, Session
from backout.engines.postgres.undo import revert
from backout.engines.postgres.undo_columns import CONFLICT_TABLE
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_work import Reverted
from backout.engines.values import (
    Capture,
    CapturedTable,
    Counts,
    Lock,
    Resolution,
    Settings,
    TableName,
    UndoOutcome,
    UndoPlan,
)
from backout.errors import BackoutError, Busy, DatabaseFailed, OutcomeUnknown, Refused

SQL = "batches.sql"
CAPTURED_BY = "two snapshots, in batches"

_EXACTLY = "; ".join(
    f"SET LOCAL {name} = '{value}'" for name, value in {**EXACT_TEXT, "row_security": "off", "TimeZone": "UTC"}.items()
)


@dataclass(frozen=True)
class Kept:
    """Where a batch's images and journal row go; `run` is None in a ghost, of which nothing stays."""

    run: int | None
    fence: int
    before: TableName
    after: TableName


class PostgresBatch:
    """See `engines.batches.Batch`."""

    def __init__(
        self, settings: Settings, journal: PostgresJournal, main: Session, aux: Session, keyset: Keyset, kept: Kept,
        number: int,
    ) -> None:  # fmt: skip
        self._settings, self._journal, self._main, self._aux = settings, journal, main, aux
        self._keyset, self._kept, self._number = keyset, kept, number
        self._reverted: Reverted | None = None
        self._acts_on_itself = False  # a foreign key of the table to itself that cascades
        self._affected: int | None = None  # of a statement; an undo's writes are not counted by a command tag
        self.after: Key | None = None
        self.upto: Key = ()
        self.looked_at = 0

    def begin(self) -> None:
        """Open both sessions' transactions; raises Busy or Refused with nothing written."""
        main, aux, settings = self._main, self._aux, self._settings
        limits = f"SET LOCAL lock_timeout = '{int(settings.lock_timeout_s * 1000)}ms'; SET LOCAL row_security = off"
        if settings.statement_timeout_s is not None:
            limits += f"; SET LOCAL statement_timeout = '{int(settings.statement_timeout_s * 1000)}ms'"
        limits += "; SET LOCAL idle_in_transaction_session_timeout = 0"
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {limits}"
        main.run(begin, doing="begin the batch", state="untouched")
        table = qualified(self._keyset.table.name)
        aux.run(
            f"{begin}; {_EXACTLY}; LOCK TABLE ONLY {table} IN ACCESS SHARE MODE", doing=f"lock table {table}",
            state="untouched",
        )  # fmt: skip
        xid, multixact, track_counts, self._replication_role = main.one(query("begin_facts"))
        self._xid: int = xid
        self._marks = Marks(xid, multixact)
        if not track_counts or self._replication_role != "origin":
            raise Refused(
                "proof", "`track_counts` is off, or `session_replication_role` is not origin: nothing could be proven",
                hint="unset both for the login role and the database",
            )  # fmt: skip
        if self._kept.run is not None:
            hold(main, self._kept.run)
        self._counts = tripwires.read_counts(main)
        self._sequences = tripwires.read_sequences(main)

    def _require_same(self) -> None:
        """The table is what it was at the start, and so is what can have changed which column.

        Asked behind the statement, whose lock keeps everybody from adding a trigger (manual 13.3.1).
        """
        then, now = self._keyset.table, catalogue.table_by_oid(self._main, self._keyset.table.identifier)
        narrow = len(self._keyset.after_columns) < len(then.restorable)
        if now == then and (not narrow or self._main.value(query("narrowing"), [then.identifier])):
            return
        raise Refused(
            "batches", f'table "{then.name}" was altered since the run began', state="rolled back",
            hint="undo what was done so far, or run the change anew",
        )  # fmt: skip

    # -- the bounds ----------------------------------------------------------------------------------------------------

    def next_bound(self, after: Key | None, upper: Key, size: int) -> tuple[Key, int] | None:
        """(the key of the row `size` rows behind `after`, how many keys there are up to it); None: no more rows."""
        by = self._keyset.by
        names, order = comma(f"t.{quoted(one)}" for one in by), comma(f"s.{quoted(one)} DESC" for one in by)
        cells = comma(f"s.{quoted(one)}::text" for one in by)
        rows = self._aux.run(
            f"SELECT count(*) OVER (), {cells} FROM (SELECT {names} FROM ONLY {qualified(self._keyset.table.name)} t "
            f"WHERE {self.within('t', after, upper)} ORDER BY {names} LIMIT {int(size)}) s ORDER BY {order} LIMIT 1",
            doing="find the next batch",
        ).rows
        return (tuple(rows[0][1:]), int(rows[0][0])) if rows else None

    def between(self, after: Key | None, upto: Key, looked_at: int) -> PostgresBatch:
        """Set the bounds."""
        self.after, self.upto, self.looked_at = after, upto, looked_at
        return self

    def within(self, reference: str, after: Key | None, upto: Key) -> str:
        """SQL: the rows of `reference` with `after < key <= upto`."""
        types = {column.name: column.type for column in self._keyset.table.columns}
        row = comma(f"{reference}.{quoted(one)}" for one in self._keyset.by)

        def values(key: Key) -> str:
            return comma(f"{literal(value)}::{types[one]}" for one, value in zip(self._keyset.by, key, strict=True))

        below = f"({row}) <= ({values(upto)})"
        return below if after is None else f"({row}) > ({values(after)}) AND {below}"

    # -- the change's part ---------------------------------------------------------------------------------------------

    def execute(self, statement: str, parameters: Sequence[Any]) -> int:
        """See the protocol."""
        main, role = self._main, self._settings.role
        if role:
            main.run(f"SET LOCAL ROLE {quoted(role)}", doing=f'set the role "{role}"')
        try:
            self._affected = main.run(statement, parameters, doing="run the statement").affected
        except Busy as busy:
            raise self._busy(busy) from None
        if not main.in_transaction:
            raise DatabaseFailed(
                "the statement ended the batch's transaction", state="unknown: look at the data",
                hint="a change may not contain COMMIT or ROLLBACK, nor call what does",
            )  # fmt: skip
        return self._affected

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """See the protocol."""
        self._main.run(_EXACTLY)
        self._main.run("SET LOCAL search_path = pg_catalog, pg_temp")
        try:
            outcome, self._reverted = revert(self._main, plan, resolution, rescue_schema=self._settings.rescue_schema)
        except Busy as busy:
            raise self._busy(busy) from None
        self._marks = replace(self._marks, savepoints=self._reverted.savepoints)
        oid = self._keyset.table.identifier
        keys = catalogue.foreign_keys(self._main, [oid])
        self._acts_on_itself = any(key.acts and oid == key.parent_oid == key.child_oid for key in keys)
        return outcome

    def _busy(self, busy: Busy) -> Busy:
        holder = self._journal.lock_holder([self._main.pid, self._aux.pid])
        return Busy(f"{busy.message}: {holder}" if holder else busy.message, state="rolled back", hint=busy.hint)

    # -- capture -------------------------------------------------------------------------------------------------------

    def capture(self) -> Capture:
        """See the protocol."""
        main, aux, table = self._main, self._aux, self._keyset.table
        main.run(
            "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog, pg_temp; "
            f"SET LOCAL enable_seqscan = off; {_EXACTLY}",
            doing="check the deferred constraints",
        )
        self._require_same()
        low = aux.value("SELECT pg_catalog.age('3'::xid)") + 3  # the next transaction id: aux has none of its own yet
        self._marks = replace(self._marks, next_xid=self._xid + (low - self._xid) % XID_SPAN)
        switched = frozenset(self._reverted.locked) if self._reverted else frozenset()
        observed = tripwires.observe(
            main, aux, self._xid, self._marks.next_xid, self._counts, self._sequences, switched
        )
        found = list(
            tripwires.findings(
                observed, rescue_schema=self._settings.rescue_schema, expected_tables=switched,
                replication_role=self._replication_role,
            )
        )  # fmt: skip
        counted = observed.counts[table.identifier][2] if table.identifier in observed.counts else Counts()
        self._require_only_here(observed)
        found += self._unexpected(counted)
        before = after = 0
        if not found:
            images = Images(
                table, self._keyset.after_columns, self.within("t", self.after, self.upto), self._number,
                self._kept.before, self._kept.after,
            )  # fmt: skip
            if self._kept.run is None:
                main.run(images.make())
            if counted.total:
                before, after = capture_batch(main, aux, images, counted, self._marks)
            made, gone = counted.inserted + counted.updated, counted.updated + counted.deleted
            if self._acts_on_itself and (before, after) != (gone, made):
                found.append(f'a foreign key of "{table.name}" to itself may have written rows of other batches')
        captured = CapturedTable(
            table, counted, before, after, self._keyset.after_columns, CAPTURED_BY,
            str(self._kept.before.name) if before else None, str(self._kept.after.name) if after else None,
            batch=self._number,
        )  # fmt: skip
        locks = tuple(Lock(str(one.table), one.mode) for one in observed.locks if one.kind in {"r", "p"})
        return Capture((captured,), sequences=observed.sequences, locks=locks, tripwires=tuple(found))

    def _require_only_here(self, observed: tripwires.Observed) -> None:
        own = {"backout", self._settings.rescue_schema, "pg_catalog", "information_schema", "pg_toast"}
        oids = {oid: name for oid, (name, kind, _) in observed.counts.items() if kind in {"r", "p"}}
        oids |= {one.oid: one.table for one in observed.locks if one.kind == "r" and one.mode in tripwires.WRITING}
        for oid, name in sorted(oids.items(), key=lambda item: item[1]):
            if oid != self._keyset.table.identifier and name.schema not in own:
                raise Refused(
                    "batches",
                    f'the statement writes to "{name}" as well, by a trigger, a cascade, a rule or a function: '
                    "of a batch only the rows of its own table are captured",
                    state="rolled back", hint="run it without @batch, where every table that it writes is captured",
                )  # fmt: skip

    def _unexpected(self, counted: Counts) -> list[str]:
        """Writes of the table that its statement did not report, where only its columns are kept."""
        narrow = len(self._keyset.after_columns) < len(self._keyset.table.restorable)
        if narrow and self._affected is not None and counted != Counts(updated=self._affected):
            return [f'a trigger or a function wrote other rows of "{self._keyset.table.name}" than the statement']
        return []

    def differing(self) -> int:
        """See the protocol. By whole rows as text, as multisets."""
        columns = self._keyset.table.restorable
        sides = []
        for place, alias in ((self._kept.before, "b"), (self._kept.after, "a")):
            cells = comma(f"{alias}.{quoted(column.name)}" for column in columns)
            number = f"{alias}.{quoted(batch_column(self._keyset.table))} = {self._number}"
            sides.append(f"SELECT ROW({cells})::text FROM {qualified(place)} {alias} WHERE {number}")
        before, after = sides
        both = f"({before} EXCEPT ALL {after}) UNION ALL ({after} EXCEPT ALL {before})"
        return int(self._main.value(f"SELECT count(*) FROM ({both}) d"))

    def waiting(self) -> int:
        """See the protocol."""
        sessions = [self._main.pid, self._aux.pid]
        return int(self._journal.control.value(query("waiting_for_us", SQL), [sessions]))

    # -- the end -------------------------------------------------------------------------------------------------------

    def record(self, record: BatchRecord) -> None:
        """See the protocol."""
        if self._kept.run is None:
            return
        batch_journal.write_batch(self._main, self._kept.run, self._kept.fence, record)
        if self._reverted is not None:
            self._record_undone(self._reverted, self._kept.run)

    def _record_undone(self, reverted: Reverted, undo_run: int) -> None:
        (undo,) = reverted.plan.tables
        (table,) = reverted.tables
        original, batch = reverted.plan.run, undo.captured.batch
        assert batch is not None
        assert isinstance(table, KeyedTable)
        count = self._main.value(
            f"SELECT count(*) FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced"
        )
        name = f"batched_{original}_{batch}_left_{undo_run}" if count else None
        if name is not None:
            self._main.run(table.save_left(name))
        batch_journal.write_undone(self._main, original, batch, undo_run, name, count)

    def commit(self) -> None:
        """See the protocol."""
        try:
            said = self._main.connection.execute(b"COMMIT").statusmessage
        except psycopg.Error as error:
            if not self._main.lost and error.sqlstate is not None and not error.sqlstate.startswith("57P"):
                raise translated(error, "commit the batch") from None
            raise OutcomeUnknown(
                f"the connection was lost while COMMIT was on its way: {primary_message(error)}",
                state="unknown until the journal is asked",
                hint="backout resume asks the journal, and goes on behind the last batch that is committed",
            ) from None
        self._end(self._aux)
        if said != "COMMIT":  # a transaction that has failed answers COMMIT with ROLLBACK (manual: COMMIT, "Notes")
            raise DatabaseFailed("the server rolled the batch back at COMMIT", hint="resume the run")

    def rollback(self) -> None:
        """See the protocol."""
        self._end(self._main)
        self._end(self._aux)

    def _end(self, session: Session) -> None:
        try:
            if not session.lost and session.in_transaction:
                session.run("ROLLBACK")
        except BackoutError:
            session.close()
