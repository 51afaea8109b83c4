"""The supervised transaction: `main` changes under READ COMMITTED, `aux` sees what was, the server counts.

The great danger here is a statement that commits by itself (`statements.py`). `autocommit` is off, so that after a
transaction that has ended against our will nothing else is committed; and after each statement the server's own flag is
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymysql

from backout.engines.mariadb import catalogue, images, lease, records, undo
from backout.engines.mariadb.capture import Pair
from backout.engines.mariadb.completeness import Counter
from backout.engines.mariadb.errors import code_of, said, translated
from backout.engines.mariadb.rescue import Rescue, explained
from backout.engines.mariadb.session import Answer, Parameters, Session
from backout.engines.mariadb.statements import Statements
from backout.engines.script import Script
from backout.engines.values import (
    Capture,
    CapturedTable,
    Lock,
    Resolution,
    RowChange,
    RunState,
    Settings,
    TableName,
    UndoOutcome,
    UndoPlan,
    UpdateHint,
)
from backout.errors import BackoutError, DatabaseFailed, OutcomeUnknown, Refused

if TYPE_CHECKING:
    from backout.engines.mariadb.journal import MariaJournal

_DEADLOCK = "40001"

#: Answers to COMMIT after which the transaction is surely rolled back: a lock that was not got, a deadlock (Galera's word
#: for a conflict), and a server that has become read-only (handler.cc, `ha_commit_trans`; measured with 10.11.19).
_SURELY_ROLLED_BACK = (1205, 1213, 1290)


@dataclass(frozen=True)
class Sessions:
    """`main` and `aux` are this transaction's own, `control` is the database's."""

    main: Session
    aux: Session
    control: Session


class MariaTransaction:
    """See `protocol.Transaction`."""

    def __init__(self, settings: Settings, journal: MariaJournal, sessions: Sessions) -> None:
        self._settings, self._journal = settings, journal
        self._main, self._aux, self._control = sessions.main, sessions.aux, sessions.control
        self._pair = Pair(self._main, self._aux, self._control, settings.rescue_schema)
        self._counter = Counter(sessions.control)
        self._statements = Statements(self._pair, self._counter)
        self._rescue = Rescue(self._pair, self._statements)
        self._broken: BackoutError | None = None
        self._counted = 0  # rows that the change and an undo wrote, as far as that was asked
        self._ended = False  # the change's part is over: no statement of its own may come
        self._reverted: undo.Reverted | None = None
        self._run: int | None = None

    def begin(self, known: Sequence[tuple[str | None, str]]) -> None:
        """Look at the tables that the change names, then open the transaction. Raises Refused, nothing is written."""
        main = self._main
        wait = max(1, math.ceil(self._settings.lock_timeout_s))
        for session in (main, self._aux):
            session.run(
                "SET SESSION tx_isolation = 'READ-COMMITTED', "
                f"innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}"
            )
        if main.one("SELECT @@log_bin, @@binlog_format") == (1, "STATEMENT"):
            raise Refused(
                "binlog", "the server logs statements only, and InnoDB then does not run under READ COMMITTED",
                hint="set binlog_format to MIXED or ROW on the server",
            )  # fmt: skip
        self._require_followed(known)
        self._rescue.begin()
        main.of_the_change()
        if self._settings.statement_timeout_s is not None:
            main.run(f"SET SESSION max_statement_time = {float(self._settings.statement_timeout_s)}")
        main.run("SET SESSION autocommit = 0")
        main.run("START TRANSACTION")

    def _require_followed(self, known: Sequence[tuple[str | None, str]]) -> None:
        database = self._control.address.database
        names = [TableName(schema or database, name) for schema, name in known if schema != "temp"]
        for relation in catalogue.relations(self._control, names):
            if relation.kind == "BASE TABLE" and relation.engine != "InnoDB":
                continue  # it may only be read: the statements tell
            if relation.kind == "SYSTEM VERSIONED":
                raise Refused(
                    "capture", f"table {relation.name} is system-versioned: its history cannot be put back",
                    hint="change it outside of backout",
                )  # fmt: skip

    # -- the change's part ---------------------------------------------------------------------------------------------

    @contextmanager
    def _supervised(self) -> Iterator[None]:
        """Nothing runs after a failure; a transaction that the server has ended is noticed at once."""
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except BackoutError as error:
            self._broken = error
            raise
        if not self._main.in_transaction:
            self._broken = DatabaseFailed(
                "a statement has ended the transaction: what the change wrote before it is committed",
                state="partly committed: look at the tables that the change names",
                hint="the statement was not known to commit; please report it. What comes after it was not run",
            )
            raise self._broken

    def execute(self, statement: str, parameters: Parameters = ()) -> Answer:
        """Run one statement of the change. Raises DatabaseFailed, Busy, Interrupted, or Refused for what it may not do."""
        if self._ended:
            raise BackoutError("a statement came after the capture", state="rolled back")
        with self._supervised():
            return self._statements.run(statement, parameters)

    def check(self, query: str, parameters: Parameters = ()) -> Answer:
        """Run an assertion's query in a savepoint that is rolled back."""
        with self._supervised():
            self._statements.reach.add_routines_of(query)
            self._main.run("SAVEPOINT backout_check")
            try:
                return self._main.run(query, parameters, doing="ask the query")
            finally:
                if self._main.in_transaction and not self._main.lost:
                    self._main.run("ROLLBACK TO SAVEPOINT backout_check")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a script that is taken back when it raises; what failed inside of it is forgotten then."""
        with self._supervised():
            self._main.run("SAVEPOINT backout_script")
        try:
            yield
        except Exception as error:
            ended = isinstance(error, DatabaseFailed) and error.sqlstate == _DEADLOCK
            if ended or self._main.lost or not self._main.in_transaction:
                raise  # a deadlock has rolled back everything (manual, "InnoDB Lock Modes")
            self._broken = None
            with self._supervised():
                self._main.run("ROLLBACK TO SAVEPOINT backout_script")
            raise
        with self._supervised():
            self._main.run("RELEASE SAVEPOINT backout_script")

    def script(self, guard: Callable[[str], None]) -> Script:
        """The `db` that a Python change is given."""
        return Script("MariaDB", self, guard)

    # -- capture -------------------------------------------------------------------------------------------------------

    def capture(self, run: int, hints: Sequence[UpdateHint], *, keep: bool) -> Capture:  # noqa: ARG002  the protocol's
        """Put all images into rescue tables; may be called again after `revert`, for what is left then."""
        with self._supervised():
            self._ours()
            self._hold(run)
            if self._reverted is None:
                self._counted = self._counter.rows_modified(self._main) - self._statements.own_rows
            tables = self._rescue.gather(run, self._counted, self._reverted)
            tables = tuple(table for table in tables if not self._is_left_to_triggers(table.table.name))
            locks = tuple(Lock(str(one.table.name), "the rows it wrote") for one in tables)
            return Capture(
                tables, counted_in_sum=self._counted, locks=locks, tripwires=self._tripwires(tables),
                rescue_bytes=self._rescue.size_of(tables),
            )  # fmt: skip

    def _ours(self) -> None:
        self._ended = True
        self._main.run("SET SESSION max_statement_time = 0")
        self._main.ours()

    def _hold(self, run: int) -> None:
        """Show until the end of both sessions that the run may still commit: `settle` leaves it alone."""
        if self._run is None:
            self._run = run
            for session, part in ((self._main, "main"), (self._aux, "aux")):
                if not lease.take(session, lease.run_name(run, part)):
                    raise BackoutError(f"run {run} is held by another session already", state="rolled back")

    def _is_left_to_triggers(self, name: TableName) -> bool:
        """During an undo: an append-only table, to which triggers of the undo may add."""
        if self._reverted is None or self._reverted.includes(name):
            return False
        return name.name in self._settings.append_only or str(name) in self._settings.append_only

    def _tripwires(self, tables: Sequence[CapturedTable]) -> tuple[str, ...]:
        found = explained(tables)
        if found <= self._counted:
            return ()
        return (f"the server counted {self._counted} rows written, and {found} were captured",)

    def sample(self, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a captured table before and after."""
        with self._supervised():
            return images.sample_rows(self._main, self._settings.rescue_schema, captured, limit)

    # -- undo ----------------------------------------------------------------------------------------------------------

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """Put rows back as `plan` says; with conflicts that the resolution does not allow, nothing is written."""
        with self._supervised():
            self._ours()
            names = [(one.table.name.schema, one.table.name.name) for one in plan.tables]
            self._statements.reach.add(names, ())
            self._reverted = undo.Reverted(plan)
            ahead = None
            if self._journal.begun is not None and not self._rescue.captured:  # of a ghost's change `aux` sees nothing
                self._hold(self._journal.begun)
                ahead = self._rescue.ahead(self._journal.begun)
            ground = undo.Ground(self._pair, self._counter, self._settings, ahead)
            outcome, written = undo.revert(ground, plan, resolution, self._reverted)
            self._counted += written
            return outcome

    def differing(self, captured: CapturedTable) -> int:
        """A capture is of net changes since the start: whatever is captured after `revert` differs."""
        return max(captured.before_rows, captured.after_rows)

    def record(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Write the run's end, in this transaction."""
        with self._supervised():
            self._ours()
            self._hold(run)
            records.write_end(self._main, run, state, tables, report)
            if self._reverted is not None:
                self._reverted.write(self._main, self._control, self._settings.rescue_schema, run)

    # -- the end -------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """See the protocol. A lost connection leaves the outcome open, and any answer that is not known to mean a rollback."""
        if self._broken is not None:
            raise self._broken
        try:
            self._main.connection.cursor().execute("COMMIT")
        except (pymysql.Error, OSError) as error:
            if isinstance(error, pymysql.Error) and code_of(error) in _SURELY_ROLLED_BACK:
                self.rollback()
                raise translated(error, "commit") from None
            reason = said(error) if isinstance(error, pymysql.Error) else str(error)
            raise OutcomeUnknown(
                f"the connection was lost while COMMIT was on its way: {reason}",
                state="unknown until the journal is asked",
                hint="run `backout log --on ENV`: it asks, and settles the run",
            ) from None
        self._end()

    def rollback(self) -> None:
        """End the transaction; nothing of it stays. Never raises."""
        with suppress(BackoutError):
            if not self._main.lost:
                self._main.run("ROLLBACK")
        self._end()

    def _end(self) -> None:
        """Let go of the run: after that the rescue's stages can be dropped."""
        for session in (self._main, self._aux):
            session.close()
        if self._run is not None:
            with suppress(BackoutError):
                self._journal.drop_stages_of(self._run)
            with suppress(BackoutError):
                self._journal.drop_unused(self._rescue.unused)

    def left_behind(self) -> Sequence[str]:
        """See the protocol: a run puts nothing into the application's databases."""
        return ()
