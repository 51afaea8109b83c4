"""One batch in its transaction: its bounds, the statement on its rows, their images, its row of the journal.

As in `transaction.py`: `main` changes rows under the environment's role, and beside it the past (`batch_past.py`), always
the login role, still sees them as they were. It is asked only where main's own cursor has not seen all (`batch_capture.py`).

What it writes beside them is in the logs of armed tables (`armed_batches.py`); so is all that it writes to its own table,
where the rows within its bounds did not explain what the server counted.

Invariant: each write that the server counts is explained by an image within the bounds or by a log; anything else is a
finding, or more than is armed, and rolls the batch back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from backout.engines.batches import BatchRecord, Key, Keyset, MoreIsWritten
from backout.engines.postgres import batch_journal, tripwires
from backout.engines.postgres.armed_batches import Logs, written_of
from backout.engines.postgres.batch_capture import Images, capture_batch, differing
from backout.engines.postgres.batch_past import Past
from backout.engines.postgres.batch_questions import EXACTLY, OWN_PATH, Questions
from backout.engines.postgres.batch_undone import record_undone
from backout.engines.postgres.capture import Marks
from backout.engines.postgres.errors import primary_message, translated
from backout.engines.postgres.images import XID_SPAN
from backout.engines.postgres.journal import HOLD, PostgresJournal
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo import revert
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

#: For an undo's statements, which join a batch's images to tables by their keys. The planner takes each look into an index
#: for a page from anywhere, and so reads the whole table for each batch (seen with 20,000 and 200,000 rows on 15.18 and 18.4);
#: but the rows of a batch are neighbours, and their pages are read once (manual 20.7.2).
BY_KEY = "SET LOCAL enable_seqscan = off; SET LOCAL random_page_cost = 0.1"


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
        keyset: Keyset, kept: Kept, number: int, logs: Logs,
    ) -> None:  # fmt: skip
        self._settings, self._journal, self._main, self._past = settings, journal, main, past
        self._questions, self._keyset, self._kept, self._number = questions, keyset, kept, number
        self._logs = logs
        self._reverted: Reverted | None = None
        self._acts_on_itself = False, False  # a foreign key of the table to itself: on a delete, on an update
        self._affected: int | None = None  # of a statement; an undo's writes are not counted by a command tag
        self._opened = False  # to whoever writes the batch instead of a statement
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
        self._beginning = self._questions.begin(begin, self._logs.question)
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
        if self._reverted is not None and not self._keyset.writes:
            return  # it was only read, and nothing of it is put back
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
        self._begin_writing()
        try:
            self._affected = self._main.run(statement, parameters, doing="run the statement").affected
        except Busy as busy:
            raise self._busy(busy) from None
        self._require_open()
        return self._affected

    def open(self) -> None:
        """See the protocol."""
        self._begin_writing()
        self._opened = True

    def _begin_writing(self) -> None:
        role, first = self._settings.role, []
        if self._kept.in_server and self._keyed:  # else the past is asked
            scans = self._questions.scans
            first = ["SET LOCAL enable_seqscan = off", self._images.cursor(), f"SET LOCAL enable_seqscan = {scans}"]
            self._cursor = True
        if role:
            first.append(f"SET LOCAL ROLE {quoted(role)}")
        if first:
            self._main.run("; ".join(first), doing=f'set the role "{role}"' if role else "look at the rows as they are")

    def _require_open(self) -> None:
        if not self._main.in_transaction:
            raise DatabaseFailed(
                "the statement ended the batch's transaction", state="unknown: look at the data",
                hint="a change may not contain COMMIT or ROLLBACK, nor call what does",
            )  # fmt: skip

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """See the protocol."""
        self._main.run(f"{EXACTLY}; {OWN_PATH}; {BY_KEY}")
        try:
            outcome, self._reverted = revert(self._main, plan, resolution, rescue_schema=self._settings.rescue_schema)
        except Busy as busy:
            raise self._busy(busy) from None
        self._marks = replace(self._marks, savepoints=self._reverted.savepoints)
        on_delete, on_update = self._main.one(query("acts_on_itself", SQL), [self._keyset.table.identifier])
        self._acts_on_itself = on_delete, on_update
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

    @property
    def _keyed(self) -> bool:
        """Whether its own table is captured by the keys within the bounds."""
        return self._keyset.writes and self._keyset.table.identifier not in self._logs.tables

    def capture(self) -> Capture:
        """See the protocol."""
        self._require_open()
        switched = frozenset(self._reverted.locked) if self._reverted else frozenset()
        behind = self._questions.behind(
            self._beginning, switched, self._next_xid, self._past.vanished, self._logs.question
        )
        self._require_same(behind.table, narrow_still=behind.narrow)
        observed = behind.observed
        written = written_of(observed.counts)
        found = list(
            tripwires.findings(
                observed, rescue_schema=self._settings.rescue_schema, expected_tables=switched,
                replication_role=self._beginning.replication_role,
            )
        )  # fmt: skip
        found += self._source_grew(written)
        found += self._logs.findings(behind.entries, written)
        locks = tuple(Lock(str(one.table), one.mode) for one in observed.locks if one.kind in {"r", "p"})
        captured: list[CapturedTable] = []
        if not found:
            self._require_armed(observed)
            self._require_own_rows()
            if self._keyed:
                captured.append(self._capture_own(written.get(self._keyset.table.identifier, Counts()), found))
            for oid, one in self._logs.tables.items():
                entries = behind.entries.get(one.armed.log_oid, Counts())
                if oid in written or entries.total:
                    captured.append(self._logs.capture(one, written.get(oid, Counts()), entries, self._number))
        return Capture(tuple(captured), sequences=observed.sequences, locks=locks, tripwires=tuple(found))

    def _capture_own(self, counted: Counts, found: list[str]) -> CapturedTable:
        """The rows within the bounds. Raises MoreIsWritten where they are not all that was written to the table."""
        table = self._keyset.table
        self._require_by_statement(counted)
        before = after = 0
        if counted.total:
            before, after = capture_batch(
                self._main, self._past, self._images, counted, self._marks, self._next_xid, cursor=self._cursor
            )
        if (before, after) != (counted.replaced, counted.made):
            if self._reverted is None:
                raise MoreIsWritten([table.identifier])
            on_delete, on_update = self._acts_on_itself  # what is tried in vain is counted, too: no delete, no such act
            if (on_delete and counted.deleted) or (on_update and counted.updated):
                found.append(f'a foreign key of "{table.name}" to itself may have written rows of other batches')
        return CapturedTable(
            table, counted, before, after, self._keyset.after_columns, CAPTURED_BY,
            str(self._kept.before.name) if before else None, str(self._kept.after.name) if after else None,
            batch=self._number,
        )  # fmt: skip

    def _require_armed(self, observed: tripwires.Observed) -> None:
        """Each table that may have been written is armed; its own may be, or is looked at by its keys."""
        own = {"backout", self._settings.rescue_schema, "pg_catalog", "information_schema", "pg_toast"}
        oids = {oid: name for oid, (name, kind, _) in observed.counts.items() if kind == "r"}
        oids |= {one.oid: one.table for one in observed.locks if one.kind == "r" and one.mode in tripwires.WRITING}
        known = {*self._logs.tables, *([self._keyset.table.identifier] if self._keyed else [])}
        more = {oid for oid, name in oids.items() if oid not in known and name.schema not in own}
        if more:
            raise MoreIsWritten(more)

    def _require_own_rows(self) -> None:
        """Whoever writes a batch by statements of their own keeps to its rows: each is gone through once."""
        own = self._logs.tables.get(self._keyset.table.identifier)
        if not self._opened or own is None:
            return
        log, inside = qualified(own.armed.log), self.within("l", self.after, self.upto)
        if self._main.value(f"SELECT EXISTS (SELECT FROM {log} AS l WHERE NOT ({inside}))"):
            raise Refused(
                "batches", f'rows of "{self._keyset.table.name}" were written that are not of the batch at hand',
                state="rolled back", hint="limit each statement of the loop to the batch: WHERE … AND {batch.where}",
            )  # fmt: skip

    def _require_by_statement(self, counted: Counts) -> None:
        """Where only the columns that the statement sets are kept, nothing else may have written to the table."""
        narrow = len(self._keyset.after_columns) < len(self._keyset.table.restorable)
        if narrow and self._affected is not None and counted != Counts(updated=self._affected):
            raise MoreIsWritten([self._keyset.table.identifier])

    def _source_grew(self, written: Mapping[str, Counts]) -> list[str]:
        """Rows that a batch adds to the table that it only reads would be read by the batches behind it."""
        source = self._keyset.table
        if self._keyset.writes or not written.get(source.identifier, Counts()).inserted:
            return []
        return [
            f'rows were inserted into "{source.name}", from which the statement reads, and later batches would read them'
        ]

    def described(self, capture: Capture, *, seconds: float, undoes: int | None = None) -> BatchRecord:
        """See the protocol."""
        own = next((one.counted for one in capture.tables if not one.logged), None)
        others = tuple(one for one in capture.tables if one.logged and (one.counted or Counts()).total)
        return BatchRecord(
            self._number, self.after, self.upto, self.looked_at, own or Counts(), seconds, self._affected or 0, others,
            undoes=undoes,
        )  # fmt: skip

    def differing(self) -> Mapping[TableName, int]:
        """See the protocol. By whole rows as text, as multisets."""
        pairs = [(one.table, one.before, one.after) for one in self._logs.tables.values()]
        if self._keyed:
            pairs.append((self._keyset.table, self._kept.before, self._kept.after))
        return {table.name: differing(self._main, table, before, after, self._number) for table, before, after in pairs}

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
        if self._reverted is not None and record.undoes is not None:
            record_undone(self._main, self._reverted, self._kept.run, record.undoes)

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
