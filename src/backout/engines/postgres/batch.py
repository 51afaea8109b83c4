"""One batch in its transaction: its bounds, the statement on its rows, their images, its row of the journal.

As in `transaction.py`: `main` changes rows under the environment's role, and beside it the past (`batch_past.py`), always
the login role, still sees them as they were. It is asked only where main's own cursor has not seen all (`batch_capture.py`).

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
from backout.engines.postgres.batch_past import Past
from backout.engines.postgres.batch_questions import EXACTLY, OWN_PATH, Questions
from backout.engines.postgres.capture import Marks
from backout.engines.postgres.errors import primary_message, translated
from backout.engines.postgres.images import XID_SPAN, batch_column
from backout.engines.postgres.journal import HOLD, PostgresJournal
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
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
    Table,
    TableName,
    UndoOutcome,
    UndoPlan,
)
from backout.errors import BackoutError, Busy, DatabaseFailed, OutcomeUnknown, Refused

SQL = "batches.sql"
CAPTURED_BY = "two snapshots, in batches"


@dataclass(frozen=True)
class Kept:
    """Where a batch's images and journal row go; `run` is None in a ghost, of which nothing stays."""

    run: int | None
    fence: int
    before: TableName
    after: TableName
    in_server: bool = False  # a batch's pre-images fit into the server's memory; see `batch_capture.py`


class PostgresBatch:
    """See `engines.batches.Batch`."""

    def __init__(
        self, settings: Settings, journal: PostgresJournal, main: Session, past: Past, questions: Questions,
        keyset: Keyset, kept: Kept, number: int,
    ) -> None:  # fmt: skip
        self._settings, self._journal, self._main, self._past = settings, journal, main, past
        self._questions, self._keyset, self._kept, self._number = questions, keyset, kept, number
        self._reverted: Reverted | None = None
        self._acts_on_itself = False  # a foreign key of the table to itself that cascades
        self._affected: int | None = None  # of a statement; an undo's writes are not counted by a command tag
        self._cursor = False  # main itself can still read the rows as they were
        self.after: Key | None = None
        self.upto: Key = ()
        self.looked_at = 0

    def begin(self) -> None:
        """Open the transaction; raises Busy or Refused with nothing written."""
        settings = self._settings
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        begin += f"; SET LOCAL lock_timeout = '{int(settings.lock_timeout_s * 1000)}ms'; SET LOCAL row_security = off"
        if settings.statement_timeout_s is not None:
            begin += f"; SET LOCAL statement_timeout = '{int(settings.statement_timeout_s * 1000)}ms'"
        begin += "; SET LOCAL idle_in_transaction_session_timeout = 0"
        if self._kept.run is not None:
            begin += f"; {HOLD.format(self._kept.run)}"
        self._beginning = self._questions.begin(begin)
        self._marks = Marks(self._beginning.xid, self._beginning.multixact)
        if not self._beginning.track_counts or self._beginning.replication_role != "origin":
            raise Refused(
                "proof", "`track_counts` is off, or `session_replication_role` is not origin: nothing could be proven",
                hint="unset both for the login role and the database",
            )  # fmt: skip

    def _require_same(self, now: Table | None, *, narrow_still: bool) -> None:
        """The table is what it was at the start, and so is what can have changed which column.

        Asked behind the statement, whose lock keeps everybody from adding a trigger (manual 13.3.1).
        """
        then = self._keyset.table
        narrow = len(self._keyset.after_columns) < len(then.restorable)
        if now == then and (not narrow or narrow_still):
            return
        raise Refused(
            "batches", f'table "{then.name}" was altered since the run began', state="rolled back",
            hint="undo what was done so far, or run the change anew",
        )  # fmt: skip

    # -- the bounds ----------------------------------------------------------------------------------------------------

    def between(self, after: Key | None, upto: Key, looked_at: int) -> PostgresBatch:
        """Set the bounds."""
        self.after, self.upto, self.looked_at = after, upto, looked_at
        return self

    def within(self, reference: str, after: Key | None, upto: Key) -> str:
        """SQL: the rows of `reference` with `after < key <= upto`."""
        return within(self._keyset, reference, after, upto)

    # -- the change's part ---------------------------------------------------------------------------------------------

    def execute(self, statement: str, parameters: Sequence[Any]) -> int:
        """See the protocol."""
        main, role = self._main, self._settings.role
        first = []
        if self._kept.in_server:  # else the past is asked
            scans = self._questions.scans
            first = ["SET LOCAL enable_seqscan = off", self._images.cursor(), f"SET LOCAL enable_seqscan = {scans}"]
            self._cursor = True
        if role:
            first.append(f"SET LOCAL ROLE {quoted(role)}")
        if first:
            main.run("; ".join(first), doing=f'set the role "{role}"' if role else "look at the rows as they are")
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
        self._main.run(f"{EXACTLY}; {OWN_PATH}")
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
        holder = self._journal.lock_holder([self._main.pid, self._past.pid])
        return Busy(f"{busy.message}: {holder}" if holder else busy.message, state="rolled back", hint=busy.hint)

    # -- capture -------------------------------------------------------------------------------------------------------

    @property
    def _images(self) -> Images:
        return Images(
            self._keyset.table, self._keyset.after_columns, self.within("t", self.after, self.upto), self._number,
            self._kept.before, self._kept.after,
        )  # fmt: skip

    def _next_xid(self) -> int:
        """Full, and behind all of ours; by a session that has none of its own: `age` stands still in a transaction."""
        low = self._journal.control.value("SELECT pg_catalog.age('3'::xid)") + 3
        return self._marks.xid + int(low - self._marks.xid) % XID_SPAN

    def capture(self) -> Capture:
        """See the protocol."""
        main, table = self._main, self._keyset.table
        switched = frozenset(self._reverted.locked) if self._reverted else frozenset()
        behind = self._questions.behind(self._beginning, switched, self._next_xid, self._past.vanished)
        self._require_same(behind.table, narrow_still=behind.narrow)
        observed = behind.observed
        found = list(
            tripwires.findings(
                observed, rescue_schema=self._settings.rescue_schema, expected_tables=switched,
                replication_role=self._beginning.replication_role,
            )
        )  # fmt: skip
        counted = observed.counts[table.identifier][2] if table.identifier in observed.counts else Counts()
        self._require_only_here(observed)
        found += self._unexpected(counted)
        before = after = 0
        if not found:
            if counted.total:
                before, after = capture_batch(
                    main, self._past, self._images, counted, self._marks, self._next_xid, cursor=self._cursor
                )
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
        sessions = [self._main.pid, self._past.pid]
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
        if said != "COMMIT":  # a transaction that has failed answers COMMIT with ROLLBACK (manual: COMMIT, "Notes")
            raise DatabaseFailed("the server rolled the batch back at COMMIT", hint="resume the run")

    def rollback(self) -> None:
        """See the protocol."""
        try:
            if not self._main.lost and self._main.in_transaction:
                self._main.run("ROLLBACK")
        except BackoutError:
            self._main.close()


def within(keyset: Keyset, reference: str, after: Key | None, upto: Key) -> str:
    """SQL: the rows of `reference` with `after < key <= upto`."""
    types = {column.name: column.type for column in keyset.table.columns}
    row = comma(f"{reference}.{quoted(one)}" for one in keyset.by)

    def values(key: Key) -> str:
        return comma(f"{literal(value)}::{types[one]}" for one, value in zip(keyset.by, key, strict=True))

    below = f"({row}) <= ({values(upto)})"
    return below if after is None else f"({row}) > ({values(after)}) AND {below}"
