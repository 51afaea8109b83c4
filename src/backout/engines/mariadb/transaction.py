"""The supervised transaction: `main` changes under READ COMMITTED, `aux` sees what was, the server counts.

The great danger here is a statement that commits by itself. What could is refused before it runs (`sql/`, `closure.py`);
`autocommit` is off, so that after a transaction that has ended against our will nothing else is committed; and after
each statement the server's own flag is looked at. Source: manual, "SQL statements That Cause an Implicit Commit".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymysql

from backout.engines.mariadb import catalogue, completeness, images, lease, records, undo
from backout.engines.mariadb.capture import Pair, Target, capture_table
from backout.engines.mariadb.closure import Reach
from backout.engines.mariadb.completeness import Counter
from backout.engines.mariadb.errors import code_of, said, translated
from backout.engines.mariadb.quick import PlainWrite, Rows, capture_rows, fits, plain_write, rows_of, rows_restored
from backout.engines.mariadb.session import Answer, Parameters, Session, bound
from backout.engines.script import Script
from backout.engines.values import (
    Capture,
    CapturedTable,
    Lock,
    Resolution,
    RowChange,
    RunState,
    Settings,
    Table,
    TableName,
    UndoOutcome,
    UndoPlan,
    UpdateHint,
)
from backout.errors import BackoutError, Busy, DatabaseFailed, OutcomeUnknown, Refused
from backout.sql.mariadb import tokens_of
from backout.sql.mariadb_facts import Scope, judge
from backout.sql.mariadb_names import Name, all_names, functions_of, name_at
from backout.sql.model import Kind
from backout.sql.source import Source
from backout.sql.tokens import Token

if TYPE_CHECKING:
    from backout.engines.mariadb.journal import MariaJournal

_DEADLOCK = "40001"
_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE\s+SAVEPOINT|ROLLBACK(\s+WORK)?\s+TO)\b", re.IGNORECASE)
_RESCUE_PARTS = re.compile(r"#[pP]#.*")  # a partition, in InnoDB's own name of a table


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
        self._counter = Counter(sessions.control)
        own = frozenset({"backout", settings.rescue_schema})
        self._reach = Reach(sessions.control, sessions.control.address.database, own)
        self._scope = Scope()
        self._broken: BackoutError | None = None
        self._captured: tuple[CapturedTable, ...] = ()
        self._counted = 0  # rows that the change and an undo wrote, as far as that was asked
        self._own_rows = 0  # rows that the server counts and that are no table's: of temporary tables
        self._ended = False  # the change's part is over: no statement of its own may come
        self._reverted: undo.Reverted | None = None
        self._run: int | None = None
        self._plain: list[PlainWrite | None] = []  # one for each statement that may have written
        self._unused: list[str] = []  # rescue tables that turned out to be of no use
        self._moved: dict[str, tuple[int, int]] = {}

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
        self._moved = completeness.table_counters(self._control)
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
            if _SAVEPOINT.match(statement):
                self._plain.append(None)
                return self._main.run(statement)
            tokens = tokens_of(statement)
            facts = judge(Source(statement, "statement"), tokens, self._scope)
            if facts.objection is not None:
                raise Refused("statement", facts.objection.reason, state="rolled back", hint=facts.objection.hint)
            targets = [(one.schema, one.table) for one in facts.targets if one.schema != "temp"]
            names = all_names(tokens)
            self._reach.add(targets, names)
            self._require_known(tokens)
            temporary = facts.kind is Kind.TEMPORARY or (facts.targets and not targets)
            before = self._counter.rows_modified(self._main) if temporary else 0
            if facts.kind is not Kind.READ or facts.functions:
                text = bound(statement, parameters) if parameters else statement
                self._plain.append(plain_write(text, self._control.address.database) if facts.targets else None)
            answer = self._run_one(statement, parameters, call=tokens[0].is_word("CALL"))
            if temporary:
                self._own_rows += self._counter.rows_modified(self._main) - before
            return answer

    def _require_known(self, tokens: Sequence[Token]) -> None:
        """A routine that the catalogue does not show as one (of a package, say) could write anything."""
        called: list[Name] = []
        name = name_at(tokens, 1) if tokens[0].is_word("CALL") else None
        called += [name] if name is not None else []
        called += [
            (first, second) for first, dot, second in (one.partition(".") for one in functions_of(tokens)) if dot
        ]
        unknown = self._reach.unknown_routines(called)
        if unknown:
            raise Refused(
                "capture", f'"{unknown[0]}" is no procedure or function that this account can look into',
                hint="grant EXECUTE on it, and SELECT ON mysql.proc, to this account; or write plain statements",
            )  # fmt: skip

    def _run_one(self, statement: str, parameters: Parameters, *, call: bool) -> Answer:
        """A procedure can commit and begin anew, and the flag is as before: a savepoint does not survive that."""
        if call:
            self._main.run("SAVEPOINT backout_call")
        try:
            answer = self._main.run(statement, parameters, doing="run the statement")
        except Busy as error:
            raise self._explained(error) from None
        if call:
            try:
                self._main.run("RELEASE SAVEPOINT backout_call")
            except DatabaseFailed:
                raise DatabaseFailed(
                    "the procedure has ended the transaction: what the change wrote before is committed",
                    state="partly committed: look at the tables that the change names",
                    hint="take COMMIT out of the procedure",
                ) from None
        return answer

    def _explained(self, error: Busy) -> Busy:
        """Who holds the lock, where the server tells (information_schema.INNODB_LOCK_WAITS is empty by now)."""
        rows: Sequence[tuple[Any, ...]] = ()
        with suppress(BackoutError):
            rows = self._control.rows(
                "SELECT t.trx_mysql_thread_id, COALESCE(p.USER, '?'), COALESCE(p.COMMAND, '?'), "
                "TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) FROM information_schema.INNODB_TRX t "
                "LEFT JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id "
                f"WHERE t.trx_mysql_thread_id NOT IN ({self._main.number}, {self._aux.number}, {self._control.number}, 0) "
                "ORDER BY t.trx_started LIMIT 1"
            )
        for number, user, command, age in rows:
            error.message += f" (the oldest other transaction: session {number} of {user}, {command.lower()}, {age} s)"
            error.args = (error.message,)
        return error

    def check(self, query: str, parameters: Parameters = ()) -> Answer:
        """Run an assertion's query in a savepoint that is rolled back."""
        with self._supervised():
            self._reach.add_routines_of(query)
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
                self._counted = self._counter.rows_modified(self._main) - self._own_rows
            tables = self._quick(run)
            if not tables:
                tables = self._compare(run, self._reach.tables, start=self._next_place())
            if _explained(tables) != self._counted:
                tables += self._compare(run, self._unnamed(), start=self._next_place(tables))
            self._captured += tables
            tables = tuple(table for table in tables if not self._is_left_to_triggers(table.table.name))
            locks = tuple(Lock(str(one.table.name), "the rows it wrote") for one in tables)
            return Capture(
                tables, counted_in_sum=self._counted, locks=locks, tripwires=self._tripwires(tables),
                rescue_bytes=self._rescue_bytes(tables),
            )  # fmt: skip

    def _quick(self, run: int) -> tuple[CapturedTable, ...]:
        """The quick form where one plain statement was all that can have written; else nothing."""
        found = self._plain_rows() if self._reverted is None else self._restored_rows()
        if found is None or self._captured:
            return ()
        table, rows = found
        pair = Pair(self._main, self._aux, self._control, self._settings.rescue_schema)
        self._places = self._next_place()
        captured = capture_rows(pair, run, self._places, rows, table, self._counted)
        if captured is None:
            self._unused += [images.rescue_name(run, self._places, part) for part in ("before", "after")]
            return ()
        return (captured,)

    def _plain_rows(self) -> tuple[Table, Rows] | None:
        write = self._plain[0] if len(self._plain) == 1 else None
        if write is None or set(self._reach.tables) != {write.table}:
            return None
        table = catalogue.describe(self._control, write.table)
        if table is None or not fits(write, table, self._counted):
            return None
        own = catalogue.self_setting_columns(self._control, write.table) if write.columns else ()
        return table, rows_of(write, own)

    def _restored_rows(self) -> tuple[Table, Rows] | None:
        """Of an undo that put everything back in one statement; other tables can have been reached by triggers only."""
        if self._reverted is None or self._reverted.at_once is None:
            return None
        undone = self._reverted.at_once
        own = catalogue.self_setting_columns(self._control, undone.table.name)
        return undone.table, rows_restored(self._settings.rescue_schema, undone.captured, own)

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

    def _next_place(self, more: Sequence[CapturedTable] = ()) -> int:
        names = [n for one in (*self._captured, *more) for n in (one.before_rescue, one.after_rescue) if n]
        used = max((int(name.split("_")[2]) for name in names), default=0)
        return max(used, self._places) + 1

    _places = 0  # the last number that was given to a table of this run

    def _compare(
        self, run: int, relations: Mapping[TableName, catalogue.Relation], start: int
    ) -> tuple[CapturedTable, ...]:
        pair = Pair(self._main, self._aux, self._control, self._settings.rescue_schema)
        found = []
        for place, name in enumerate(sorted(relations), start):
            self._places = place
            table = catalogue.describe(self._control, name)
            if table is None:
                raise DatabaseFailed(f"table {name} is not there any more", hint="run it again")
            captured = capture_table(pair, run, Target(table, relations[name].rows or 0, place))
            if captured is not None:
                found.append(captured)
        return tuple(found)

    def _unnamed(self) -> dict[TableName, catalogue.Relation]:
        """Tables that nothing named, and that somebody, perhaps we, has written since the beginning."""
        now = completeness.table_counters(self._control)
        moved = {_RESCUE_PARTS.sub("", name) for name in completeness.moved_tables(self._moved, now)}
        wanted = [
            name
            for name in catalogue.user_tables(self._control)
            if name.schema not in ("backout", self._settings.rescue_schema)
            and name not in self._reach.tables
            and (completeness.encoded(name) in moved or not (name.schema + name.name).isascii())
        ]
        return {
            relation.name: relation
            for relation in catalogue.relations(self._control, wanted)
            if relation.kind == "BASE TABLE" and relation.engine == "InnoDB"
        }

    def _is_left_to_triggers(self, name: TableName) -> bool:
        """During an undo: an append-only table, to which triggers of the undo may add."""
        if self._reverted is None or self._reverted.includes(name):
            return False
        return name.name in self._settings.append_only or str(name) in self._settings.append_only

    def _tripwires(self, tables: Sequence[CapturedTable]) -> tuple[str, ...]:
        explained = _explained(tables)
        if explained <= self._counted:
            return ()
        return (f"the server counted {self._counted} rows written, and {explained} were captured",)

    def _rescue_bytes(self, tables: Sequence[CapturedTable]) -> int:
        """An estimate from the server's own average length of a row (statistics of fresh tables are not there yet)."""
        average = dict(
            self._control.rows(
                "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), AVG_ROW_LENGTH FROM information_schema.TABLES WHERE "
                + (" OR ".join(_is_table(one.table.name) for one in tables) or "FALSE")
            )
        )
        return sum(
            int(average.get(f"{one.table.name.schema}.{one.table.name.name}") or 0) * (one.before_rows + one.after_rows)
            for one in tables
        )

    def sample(self, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a captured table before and after."""
        with self._supervised():
            return images.sample_rows(self._main, self._settings.rescue_schema, captured, limit)

    # -- undo ----------------------------------------------------------------------------------------------------------

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """Put rows back as `plan` says; with conflicts that the resolution does not allow, nothing is written."""
        with self._supervised():
            self._ours()
            self._reach.add(
                [(undo_table.table.name.schema, undo_table.table.name.name) for undo_table in plan.tables], ()
            )
            self._reverted = undo.Reverted(plan)
            ground = undo.Ground(self._main, self._control, self._counter, self._settings)
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
        """See the protocol. Only a lost connection leaves the outcome open: an error answer means rolled back."""
        if self._broken is not None:
            raise self._broken
        try:
            self._main.connection.cursor().execute("COMMIT")
        except (pymysql.Error, OSError) as error:
            lost = not isinstance(error, pymysql.Error) or code_of(error) in (
                0,
                2006,
                2013,
                2014,
                2055,
                1053,
                1927,
                None,
            )
            if not lost and isinstance(error, pymysql.Error):
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
                self._journal.drop_unused(self._unused)

    def left_behind(self) -> Sequence[str]:
        """See the protocol: a run puts nothing into the application's databases."""
        return ()


def _explained(tables: Collection[CapturedTable]) -> int:
    """The least number of writes that the images need: one for each row that is gone, made or altered, on balance.

    Without a key nothing tells an altered row from one that is gone and another that is new.
    """
    return sum(
        one.before_rows + one.after_rows - one.both_rows if one.table.key else max(one.before_rows, one.after_rows)
        for one in tables
    )


def _is_table(name: TableName) -> str:
    return f"(TABLE_SCHEMA = {records.values(name.schema)} AND TABLE_NAME = {records.values(name.name)})"
