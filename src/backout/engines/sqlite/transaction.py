"""The supervised transaction: BEGIN IMMEDIATE, a session that records, a guard that refuses what cannot be recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from backout.engines.script import Script
from backout.engines.sqlite import capture, images, records, undo
from backout.engines.sqlite.catalogue import loose_counts, unfollowed_tables
from backout.engines.sqlite.errors import ROLLED_BACK, UNTOUCHED, seconds, translated
from backout.engines.sqlite.guard import Guard
from backout.engines.sqlite.handle import Handle
from backout.engines.sqlite.intent import foresee
from backout.engines.sqlite.rescue_triggers import RescueTriggers
from backout.engines.sqlite.statements import Parameters, SqliteResult, run, single
from backout.engines.values import (
    Capture,
    CapturedTable,
    Lock,
    Resolution,
    RowChange,
    RunState,
    UndoOutcome,
    UndoPlan,
    UpdateHint,
)
from backout.errors import BackoutError, DatabaseFailed, Refused

_STEPS = 100_000  # virtual machine steps between two looks at the clock: a few milliseconds


class SqliteTransaction:
    """See `protocol.Transaction`."""

    def __init__(self, handle: Handle, known_tables: Sequence[tuple[str | None, str]]) -> None:
        self._handle = handle
        self._connection = handle.connection
        self._broken: BackoutError | None = None
        self._tables: tuple[CapturedTable, ...] = ()  # captured so far
        self._kept = False  # whether the changeset has been kept already
        self._captured = False
        self._discounted = 0  # rows that total_changes() counted and the change did not write
        with translated(handle.name, state=UNTOUCHED, lock_timeout_s=handle.lock_timeout_s):
            self._connection.execute("BEGIN IMMEDIATE", can_cache=False)
        try:
            with translated(handle.name, state=UNTOUCHED):
                self._start(known_tables)
        except BaseException:
            self._connection.execute("ROLLBACK", can_cache=False)
            raise

    def _start(self, known_tables: Sequence[tuple[str | None, str]]) -> None:
        unfollowed = unfollowed_tables(self._connection)
        for _, name in known_tables:
            reason = unfollowed.get(name.lower())
            if reason is not None:
                raise Refused("capture", f'table "{name}" {reason}', hint="give its rows a key, then change them")
        self._unfollowed = frozenset(unfollowed)
        self._loose = loose_counts(self._connection)
        self._schema_version = single(self._connection, "PRAGMA schema_version")
        self._counted_from = self._connection.total_changes()
        self._session = apsw.Session(self._connection, "main")
        self._session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, 1)
        self._guard = Guard(self._handle, unfollowed)
        self._triggers = RescueTriggers(self._connection, self._guard)
        self._connection.aside = self._triggers.rows
        self._triggers.attach(self._session)
        self._session.attach()
        self._guard.arm()

    @contextmanager
    def _supervised(self) -> Iterator[None]:
        """Translate errors, watch the clock, and let nothing run after a failure: a trigger's ROLLBACK ends it all."""
        if self._broken is not None or not self._connection.in_transaction:
            raise self._broken or DatabaseFailed("the transaction has ended")
        self._guard.reason = None
        limit = self._handle.settings.statement_timeout_s
        deadline = None if limit is None else time.monotonic() + limit
        self._connection.set_progress_handler(lambda: deadline is not None and time.monotonic() > deadline, _STEPS)
        try:
            with translated(self._handle.name, lock_timeout_s=self._handle.lock_timeout_s):
                yield
        except BackoutError as error:
            wrote = self._connection.total_changes() != self._counted_from
            self._broken = self._guard.refused(wrote=wrote) or error
            if limit is not None and deadline is not None and time.monotonic() > deadline:
                self._broken = DatabaseFailed(f"the statement took longer than {seconds(limit)}")
            raise self._broken from error
        finally:
            self._connection.set_progress_handler(None)

    def execute(self, statement: str, parameters: Parameters = ()) -> SqliteResult:
        """Run one statement. Raises DatabaseFailed, Busy, Interrupted, or Refused for what cannot be captured."""
        if self._captured:
            raise BackoutError("a statement came after the capture", state=ROLLED_BACK)
        with self._supervised():
            name = self._chosen(statement, parameters)
            if name is None:
                return run(self._connection, statement, parameters, cached=False)
            with self._triggers.recording(name):
                return run(self._connection, statement, parameters, cached=False)

    def _chosen(self, statement: str, parameters: Parameters) -> str | None:
        """The table whose triggers capture this statement, or None for the session; see `rescue_triggers`."""
        intent = foresee(self._connection, self._guard, statement, parameters)
        with self._ours():
            return self._triggers.choose(intent)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Statements of ours, which may change the schema and whose rows do not count."""
        if single(self._connection, "PRAGMA schema_version") != self._schema_version:
            self._triggers.tripwires.append("the schema changed during the run")
        before = self._connection.total_changes()
        self._guard.let_own(passing=True)
        try:
            yield
        finally:
            self._guard.let_own(passing=False)
        self._discounted += self._connection.total_changes() - before
        self._schema_version = single(self._connection, "PRAGMA schema_version")

    def check(self, query: str, parameters: Parameters = ()) -> SqliteResult:
        """Run an assertion's query in a savepoint that is rolled back."""
        with self._supervised():
            before = self._connection.total_changes()
            self._own("SAVEPOINT backout_check")
            try:
                with self._triggers.passing():
                    return run(self._connection, query, parameters)
            finally:
                if self._connection.in_transaction:
                    self._own("ROLLBACK TO backout_check")
                    self._own("RELEASE backout_check")
                    self._discounted += self._connection.total_changes() - before

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a script that is taken back when it raises; what failed inside of it is forgotten then."""
        with self._supervised():
            counted, discounted = self._connection.total_changes(), self._discounted
            followed, version = self._triggers.snapshot(), self._schema_version
            self._own("SAVEPOINT backout_script")
        try:
            yield
        except Exception:
            if not self._connection.in_transaction:
                raise  # a trigger's ROLLBACK has ended it all
            self._broken = None
            with self._supervised():
                self._own("ROLLBACK TO backout_script")
                self._own("RELEASE backout_script")
                self._schema_version = version
                unwanted = self._triggers.taken_back(followed)
                with self._ours():
                    self._triggers.drop(unwanted)
                self._discounted = discounted + self._connection.total_changes() - counted
            raise
        with self._supervised():
            self._own("RELEASE backout_script")

    def _own(self, statement: str) -> None:
        self._guard.let_own(passing=True)
        try:
            self._connection.execute(statement, can_cache=False)
        finally:
            self._guard.let_own(passing=False)

    def script(self, guard: Callable[[str], None]) -> Script:
        """The `db` that a Python change is given."""
        return Script("SQLite", self, guard)

    def capture(self, run: int, hints: Sequence[UpdateHint], *, keep: bool) -> Capture:  # noqa: ARG002  the protocol's
        """Put all images into rescue tables; may be called again after `revert`, for what is left then.

        Raises DatabaseFailed where a deferred foreign key is not satisfied.
        """
        with self._supervised():
            again, self._kept = self._kept, True
            self._captured = True
            self._guard.disarm()
            # fts3/4/5 keep what they will write until the next savepoint: now (measured with fts5, 3.54)
            self._own("SAVEPOINT backout_flush")
            self._own("RELEASE backout_flush")
            self._require_parents()
            counted = self._connection.total_changes() - self._counted_from - self._discounted
            tripwires = self._tripwires()
            before = self._connection.total_changes()
            tables, seen = capture.store_images(
                self._connection, self._session, self._triggers, run,
                earlier=self._tables, loose=self._loose, keep=keep and not again,
            )  # fmt: skip
            self._tables += tables
            self._discounted += self._connection.total_changes() - before
            self._schema_version = single(self._connection, "PRAGMA schema_version")
            tripwires += seen
            lock = Lock(self._handle.name, "the write lock of the database")
            return Capture(tables, counted_in_sum=counted, locks=(lock,), tripwires=tuple(tripwires))

    def _require_parents(self) -> None:
        """COMMIT would fail for a deferred constraint: say so now, while it is a failure of the change."""
        unresolved, _ = self._connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)
        if not unresolved:
            return
        broken = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        tables = ", ".join(sorted({f'"{row[0]}"' for row in broken}))
        raise DatabaseFailed(
            f"the database refused: FOREIGN KEY constraint failed in table {tables}",
            sqlstate="SQLITE_CONSTRAINT_FOREIGNKEY",
        )

    def _tripwires(self) -> list[str]:
        """What no capture can explain."""
        found = []
        if single(self._connection, "PRAGMA schema_version") != self._schema_version:
            found.append("the schema changed during the run")
        for name, reason in unfollowed_tables(self._connection).items():
            if name not in self._unfollowed:
                found.append(f'table "{name}" {reason} since the run')
        return found

    def sample(self, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a captured table before and after."""
        with self._supervised():
            return images.sample_rows(self._connection, captured, limit)

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """Put rows back as `plan` says; with conflicts that the resolution does not allow, nothing is written."""
        with self._supervised():
            self._captured = True
            self._guard.disarm()
            first = not self._tables
            with self._ours():
                self._triggers.hand_over(tuple(self._triggers.logged))
            before = self._connection.total_changes()
            with self._triggers.undoing([one.table.name.name for one in plan.tables] if first else []):
                outcome, written = undo.revert(self._handle, plan, resolution)
            self._triggers.compare(written)
            self._discounted += self._connection.total_changes() - before - written
            self._schema_version = single(self._connection, "PRAGMA schema_version")
            return outcome

    def differing(self, captured: CapturedTable) -> int:
        """A session records net changes since the start: whatever is captured after `revert` differs."""
        return max(captured.before_rows, captured.after_rows)

    def record(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Write the run's end, in this transaction."""
        with self._supervised():
            self._captured = True
            self._guard.disarm()
            before = self._connection.total_changes()
            records.write_end(self._connection, run, state, tables, report)
            self._discounted += self._connection.total_changes() - before

    def commit(self) -> None:
        """Commit, or roll back and raise Busy (a reader did not let go in time) or DatabaseFailed."""
        try:
            with self._supervised():
                self._guard.disarm()
                self._connection.execute("COMMIT", can_cache=False)
        except BackoutError:
            self.rollback()
            raise
        self._connection.aside = int
        self._session.close()

    def rollback(self) -> None:
        """End the transaction; nothing of it stays. Never raises for what the database says."""
        self._connection.aside = int
        self._guard.disarm()
        self._session.close()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK", can_cache=False)
        except apsw.Error:
            # The file is gone or unreadable: whoever opens it next rolls back from the journal file
            # (https://sqlite.org/atomiccommit.html, 4), and closing the connection does so here.
            self._broken = self._broken or DatabaseFailed("the rollback was left to the next connection")

    def left_behind(self) -> Sequence[str]:
        """See the protocol: a run puts nothing into the application's schema here."""
        return ()
