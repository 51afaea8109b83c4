"""The supervised transaction on PostgreSQL: the run's session, and beside it the one that still sees the past.

`main` runs the change under the environment's role; `aux` is always the login role. Both belong to the transaction
and end with it. Before the first write aux takes ACCESS SHARE on the tables that the change names: an ALTER TABLE of a
third session, queued behind the run's lock, could otherwise block aux for ever, unseen by the server's deadlock
detector, since the run waits for aux outside of the server. Tables that only a cascade or a trigger reaches are read
under `lock_timeout`, whose expiry rolls the run back.

Invariant: aux commits the pre-images before main can commit, so that no change is ever committed without its rescue;
those of armed tables are written by main itself, and commit with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from threading import Lock as ThreadLock
from typing import Any

import psycopg

from backout.engines.postgres import catalogue, tripwires
from backout.engines.postgres.armed_capture import ARMED, capture_armed, counted_of
from backout.engines.postgres.arming import Arming
from backout.engines.postgres.capture import Marks, Place, capture_table
from backout.engines.postgres.errors import primary_message, translated
from backout.engines.postgres.fingerprint import fingerprint
from backout.engines.postgres.images import XID_SPAN
from backout.engines.postgres.journal import PostgresJournal, hold, rescue_name, write_end
from backout.engines.postgres.lines import keep_lines
from backout.engines.postgres.loan import Loan, lend, newcomers
from backout.engines.postgres.moved import note_moves
from backout.engines.postgres.names import comma, literal, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.samples import sample_rows
from backout.engines.postgres.script import ScriptConnection
from backout.engines.postgres.session import EXACT_TEXT, Answer, Session
from backout.engines.postgres.tracking import changes, stream
from backout.engines.postgres.undo import revert
from backout.engines.postgres.undo_work import Reverted
from backout.engines.postgres.waits import watching
from backout.engines.values import (
    Capture,
    CapturedTable,
    Counts,
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
from backout.errors import BackoutError, Busy, DatabaseFailed, OutcomeUnknown, ProofFailed, Refused

_NOBODY_HINT = "run it again: whoever held the lock has let it go since; or raise `lock_timeout` for this environment"
_BUSY_HINT = "wait for that session, end it, or raise `lock_timeout` for this environment"


class PostgresTransaction:
    """See `engines.protocol.Transaction`."""

    def __init__(
        self, settings: Settings, journal: PostgresJournal, main: Session, aux: Session, *, snapshot: bool
    ) -> None:
        self._settings, self._journal, self._main, self._aux = settings, journal, main, aux
        self._snapshot = snapshot
        self._shared_snapshot: str | None = None  # under REPEATABLE READ
        self._captures = 0
        self._captured: tuple[CapturedTable, ...] = ()
        self._reverted: Reverted | None = None
        self._switched: frozenset[str] = frozenset()  # oids of the tables whose triggers the undo switches
        self._arming = Arming(journal.control, settings)
        self._lookers: list[int] = []  # backends of our own that come and go
        self._seen = ThreadLock()  # so that nobody asks for newcomers before it is known that one is ours

    def begin(self, known: Sequence[tuple[str | None, str]]) -> None:
        """Open both sessions' transactions; raises Busy or Refused with nothing written."""
        main = self._main
        for session in (main, self._aux):
            _end_with_us(session)
        isolation = "REPEATABLE READ" if self._snapshot else "READ COMMITTED"
        main.run(f"BEGIN ISOLATION LEVEL {isolation} READ WRITE", doing="begin the transaction", state="untouched")
        self._limit(main)
        xid, multixact, track_counts, self._replication_role = main.one(query("begin_facts"))
        self.xid: int = xid
        self._marks = Marks(xid, multixact)
        _refuse_blind(track_counts=track_counts, replication_role=self._replication_role)
        if self._snapshot:
            self._shared_snapshot = main.value("SELECT pg_catalog.pg_export_snapshot()")
        self._begin_aux()
        self._lock_known(known)
        self._arm(known)
        self._counts = tripwires.read_counts(main)
        self._sequences = tripwires.read_sequences(main)
        self._log_start = main.value("SELECT pg_catalog.pg_current_wal_insert_lsn()")
        self._become_role()

    def _begin_aux(self) -> None:
        """READ COMMITTED; or with the very snapshot of main, which main's own writes are not part of.

        Under REPEATABLE READ that alone tells our writes from those that others have committed since: the functions on
        snapshots know of no subtransactions (manual 9.28.10, "pg_snapshot"), and others write in savepoints as well.
        """
        aux = self._aux
        level = "READ COMMITTED" if self._shared_snapshot is None else "REPEATABLE READ"
        aux.run(f"BEGIN ISOLATION LEVEL {level} READ WRITE", state="untouched")
        if self._shared_snapshot is not None:
            aux.run(f"SET TRANSACTION SNAPSHOT {literal(self._shared_snapshot)}", state="untouched")
        self._limit(aux)
        aux.run(_EXACTLY)  # what is kept as text must not depend on which session wrote it

    def _lock_known(self, known: Sequence[tuple[str | None, str]]) -> None:
        for schema, name in known:
            text = quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"
            for (table,) in self._aux.run(query("lockable"), [text]).rows:
                try:
                    self._aux.run(
                        f"LOCK TABLE {table} IN ACCESS SHARE MODE", doing=f"lock table {table}", state="untouched"
                    )
                except Busy:
                    raise self._busy(f"unable to lock table {table}", state="untouched", table=table) from None

    def _arm(self, known: Sequence[tuple[str | None, str]]) -> None:
        try:
            self._arming.begin(self._main, self.xid, known)
        except Busy as busy:
            raise self._busy(busy.message, state="untouched") from None

    def left_behind(self) -> Sequence[str]:
        """See the protocol."""
        return self._arming.left_behind()

    def _limit(self, session: Session) -> None:
        settings = self._settings
        session.run(f"SET LOCAL lock_timeout = '{int(settings.lock_timeout_s * 1000)}ms'")
        if settings.statement_timeout_s is not None:
            session.run(f"SET LOCAL statement_timeout = '{int(settings.statement_timeout_s * 1000)}ms'")
        session.run("SET LOCAL row_security = off; SET LOCAL idle_in_transaction_session_timeout = 0")

    def _become_role(self) -> None:
        if self._settings.role:
            role = self._settings.role
            self._main.run(f"SET LOCAL ROLE {quoted(role)}", doing=f'set the role "{role}"')

    # -- the change's part ---------------------------------------------------------------------------------------------

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Answer:
        """See the protocol."""
        with watching(self._aux, self._main, self._settings.lock_timeout_s / 3) as waits:
            try:
                answer = self._main.run(statement, _positional(parameters), doing="run the statement")
            except Busy as busy:
                raise (_hidden(*waits[-1]) if waits else self._busy(busy.message, state=busy.state)) from None
        if not self._main.in_transaction:
            raise DatabaseFailed(
                "the statement ended the supervised transaction",
                state="unknown: look at the data",
                hint="a change may not contain COMMIT or ROLLBACK, nor call what does",
            )
        return answer

    def check(self, query_text: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Answer:
        """See the protocol. In a savepoint that is always rolled back."""
        self._main.run("SAVEPOINT backout_check")
        answer = self._main.run(query_text, _positional(parameters), doing="ask the assertion's query")
        self._main.run("ROLLBACK TO SAVEPOINT backout_check; RELEASE SAVEPOINT backout_check")
        return answer

    def stream(
        self, query_text: str, parameters: Sequence[Any], begin: Callable[[Sequence[str]], None],
        take: Callable[[Sequence[str | None]], None],
    ) -> None:  # fmt: skip
        """See `engines.protocol.Tracked`. In a savepoint that is always rolled back."""
        self._main.run("SAVEPOINT backout_check")
        stream(self._main, query_text, parameters, begin, take)
        self._main.run("ROLLBACK TO SAVEPOINT backout_check; RELEASE SAVEPOINT backout_check")

    def changes(
        self, captured: CapturedTable, columns: Sequence[str],
        take: Callable[[Sequence[str | None], Sequence[str | None] | None, Sequence[str | None] | None], None],
    ) -> None:  # fmt: skip
        """See `engines.protocol.Tracked`; behind `capture`."""
        before = self._reader_of_before(captured)
        changes(before, self._main, self._settings.rescue_schema, captured, columns, take)

    def script(self, guard: Callable[[str], None]) -> ScriptConnection:
        """See the protocol."""
        return ScriptConnection(self._main, guard, lambda busy: self._busy(busy.message, state=busy.state))

    def lend(self) -> AbstractContextManager[Loan]:
        """The run's session for a client of another language; see `loan.py`."""
        return lend(self._main)

    def newcomers(self, since_s: float) -> Sequence[str]:
        """Sessions of this machine that have appeared in the last seconds; asked of the journal's session."""
        control = self._journal.control
        with self._seen:
            return newcomers(control, [self._main.pid, self._aux.pid, control.pid, *self._lookers], since_s)

    def transcribe(self, run: int, lines: Sequence[tuple[int, str, str]]) -> None:
        """See the protocol. By the journal's session, which commits each time."""
        keep_lines(self._journal.control, self._settings.rescue_schema, run, lines)

    def _busy(self, message: str, *, state: str, table: str | None = None) -> Busy:
        """A lock timeout, with who is in the way as far as can be seen; asked of aux or of the journal's session."""
        holder = self._journal.lock_holder([self._main.pid, self._aux.pid], table)
        if holder is None:
            return Busy(message, state=state, hint=_NOBODY_HINT)
        return Busy(f"{message}: {holder}", state=state, hint=_BUSY_HINT)

    # -- capture -------------------------------------------------------------------------------------------------------

    def capture(self, run: int, hints: Sequence[UpdateHint], *, keep: bool) -> Capture:
        """See the protocol."""
        main = self._main
        hold(main, run)
        narrowed = self._narrowed(hints)  # names mean what they mean under the change's own search_path
        main.run("SET CONSTRAINTS ALL IMMEDIATE", doing="check the deferred constraints")
        main.run("SET LOCAL ROLE NONE")
        main.run("SET LOCAL search_path = pg_catalog, pg_temp")
        main.run(_EXACTLY)
        self._limit(main)
        again = self._captures > 0
        self._captures += 1
        self._marks = replace(self._marks, next_xid=self._next_xid())
        observed = tripwires.observe(
            main, self._aux, self.xid, self._marks.next_xid, self._counts, self._sequences, self._switched
        )
        found = self._arming.findings(observed.counts)
        if not again:
            found += tripwires.findings(
                observed,
                rescue_schema=self._settings.rescue_schema,
                expected_tables=self._switched,
                replication_role=self._replication_role,
                logs=self._arming.logs,
            )
        if found:
            return Capture((), tripwires=found, sequences=observed.sequences)
        if again:
            self._begin_aux()
        hold(self._aux, run)
        if sum(counted.total for _, _, counted in observed.counts.values()) > _MANY_ROWS:
            for session in (main, self._aux):
                session.run("SET LOCAL max_parallel_workers_per_gather = 0")
        if again or not _hints_explain(hints, observed):
            narrowed = {}
        captured = self._capture_tables(run, observed, narrowed)
        if keep:
            self._aux.run("COMMIT", doing="make the rescue durable")
            for one in captured:
                note_moves(main, self._aux, self._settings.rescue_schema, one, sees_rescue=not self._snapshot)
        rescue_bytes = self._rescue_bytes(captured)
        self._captured = captured
        return Capture(
            captured,
            sequences=observed.sequences,
            locks=tuple(
                Lock(str(lock.table), lock.mode, tripwires.WHO_WAITS.get(lock.mode, ""))
                for lock in observed.locks
                if lock.kind in {"r", "p"}
            ),
            rescue_bytes=rescue_bytes,
            armed=self._arming.names,
            log_bytes=int(
                main.value(
                    "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), $1::text::pg_lsn)",
                    [self._log_start],
                )
            ),
        )

    def _next_xid(self) -> int:
        """The next transaction id, full: aux has none of its own yet, so that its `age` counts from there."""
        low: int = self._aux.value("SELECT pg_catalog.age('3'::xid)") + 3
        return self.xid + (low - self.xid) % XID_SPAN

    def _capture_tables(
        self, run: int, observed: tripwires.Observed, narrowed: Mapping[str, tuple[int, tuple[str, ...]]]
    ) -> tuple[CapturedTable, ...]:
        own = {"backout", self._settings.rescue_schema, "pg_catalog", "information_schema", "pg_toast"}
        oids = {lock.oid: lock.table for lock in observed.locks if lock.kind == "r" and lock.mode in tripwires.WRITING}
        oids |= {oid: name for oid, (name, kind, _) in observed.counts.items() if kind == "r"}
        captured = []
        first = (self._captures - 1) * 100_000  # a second capture of the same run has numbers of its own
        wanted = sorted((name, oid) for oid, name in oids.items() if name.schema not in own)
        for name, oid in wanted:
            self._arming.require_foreseen(self._main, name, oid)
        for place, (_, oid) in enumerate(wanted, first + 1):
            armed = self._arming.tables.get(oid)
            table = armed.table if armed else catalogue.table_by_oid(self._main, oid)
            if table is None:
                continue
            _require_columns(table)
            counted = counted_of(observed.counts, oid)
            schema = self._settings.rescue_schema
            where = Place(
                TableName(schema, rescue_name(run, place, "before")),
                TableName(schema, rescue_name(run, place, "after")),
            )
            narrow = _narrow(table, counted, narrowed.get(oid))
            try:
                if armed:
                    entries = counted_of(observed.counts, armed.log_oid).inserted
                    one = capture_armed(self._main, armed, counted, entries, narrow, where)
                else:
                    one = capture_table(self._main, self._aux, table, counted, narrow, self._marks, where)
            except Busy as busy:
                raise self._busy(busy.message, state="rolled back") from None
            if one is not None:
                captured.append(one)
        return tuple(captured)

    def _narrowed(self, hints: Sequence[UpdateHint]) -> dict[str, tuple[int, tuple[str, ...]]]:
        """oid -> (rows in the command tags, columns in the SET lists) of tables that only plain UPDATEs named."""
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        for hint in hints:
            oid = catalogue.oid_by_name(self._main, hint.schema, hint.table)
            if oid is None or not self._main.value(query("narrowing"), [oid]):
                continue
            rows, columns = found.get(oid, (0, ()))
            found[oid] = (rows + hint.rows, tuple(dict.fromkeys((*columns, *hint.columns))))
        return found

    def _rescue_bytes(self, captured: Sequence[CapturedTable]) -> int:
        """What the rescue takes; each session is asked for the tables that it has made."""
        schema, total = self._settings.rescue_schema, 0
        for session, names in (
            (self._aux, [one.before_rescue for one in captured if self._reader_of_before(one) is self._aux]),
            (self._main, [one.before_rescue for one in captured if self._reader_of_before(one) is self._main]),
            (self._main, [one.after_rescue for one in captured]),
        ):
            if any(names):
                total += session.value(query("rescue_bytes"), [names, schema])
        return total

    def sample(self, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """See the protocol."""
        before = self._reader_of_before(captured)
        return sample_rows(before, self._main, self._settings.rescue_schema, captured, limit)

    def look(self, run: int, limit: int) -> Sequence[tuple[CapturedTable, Sequence[RowChange]]]:
        """See `engines.protocol.Paired`. In a savepoint that is always rolled back, with a session for the past of its own.

        Not aux: `age` counts from where a transaction first asked for it (xid.c, `GetStableLatestTransactionId`), so that it
        would not see what is written after the look [18.4].
        """
        main, aux, marks, captures = self._main, self._aux, self._marks, self._captures
        with self._seen:
            looker = Session(self._settings.url, "look")
            self._lookers.append(looker.pid)
        main.run("SAVEPOINT _backout_look", doing="look at the rows so far")
        try:
            self._aux = looker
            self._begin_aux()
            main.run("SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog, pg_temp")
            main.run(_EXACTLY)
            self._limit(main)
            self._captures, self._marks = captures + 1, replace(marks, next_xid=self._next_xid())
            observed = tripwires.observe(
                main, self._aux, self.xid, self._marks.next_xid, self._counts, self._sequences, self._switched
            )
            found = self._capture_tables(run, observed, {})
            return [(one, self.sample(one, limit)) for one in found]
        finally:
            self._aux, self._captures, self._marks = aux, captures, marks
            looker.close()
            main.run("ROLLBACK TO SAVEPOINT _backout_look; RELEASE SAVEPOINT _backout_look")

    @property
    def pairs(self) -> PostgresJournal:
        """See `engines.protocol.Paired`."""
        return self._journal

    def fingerprint(self, captured: CapturedTable) -> str:
        """See `engines.protocol.Paired`."""
        return fingerprint(self._reader_of_before(captured), self._main, self._settings.rescue_schema, captured)

    def _reader_of_before(self, captured: CapturedTable) -> Session:
        """Who has made the pre-images, and alone sees them as long as the run is open."""
        return self._main if captured.captured_by == ARMED else self._aux

    # -- undo ----------------------------------------------------------------------------------------------------------

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """See the protocol. Written as the login role, which alone may read the rescue."""
        self._main.run("SET LOCAL ROLE NONE")
        if not self._captures:
            self._main.run(_EXACTLY)
            self._main.run("SET LOCAL search_path = pg_catalog, pg_temp")
        schema = self._settings.rescue_schema
        try:
            outcome, self._reverted = revert(self._main, plan, resolution, rescue_schema=schema)
        except Busy as busy:
            raise self._busy(busy.message, state="rolled back") from None
        self._switched = frozenset(self._reverted.locked)
        self._marks = replace(self._marks, savepoints=self._reverted.savepoints)
        return outcome

    def differing(self, captured: CapturedTable) -> int:
        """See the protocol. By whole rows as text, as multisets; aux has committed its side."""
        schema = self._settings.rescue_schema
        columns = captured.table.restorable
        sides = []
        for name in (captured.before_rescue, captured.after_rescue):
            cells = comma(f"i.{quoted(column.name)}" for column in columns)
            source = f"FROM {quoted(schema)}.{quoted(name)} i" if name else "WHERE false"
            sides.append(f"SELECT ROW({cells})::text {source}" if name else "SELECT NULL::text WHERE false")
        before, after = sides
        return int(
            self._main.value(
                f"SELECT count(*) FROM (({before} EXCEPT ALL {after}) UNION ALL ({after} EXCEPT ALL {before})) d"
            )
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def record(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._main.run("SET LOCAL ROLE NONE")
        write_end(self._main, run, state, tables, report)
        if self._reverted is not None:
            self._journal.write_undone(self._main, self._reverted, run)

    def commit(self) -> None:
        """See the protocol. Only a lost connection leaves the outcome open: an error answer means rolled back."""
        try:
            said = self._main.connection.execute(b"COMMIT").statusmessage
        except psycopg.Error as error:
            if not self._main.lost and error.sqlstate is not None and not error.sqlstate.startswith("57P"):
                raise translated(error, "commit") from None
            raise OutcomeUnknown(
                f"the connection was lost while COMMIT was on its way: {primary_message(error)}",
                state="unknown until the journal is asked",
                hint="run `backout log --on ENV`: it asks, and settles the run",
            ) from None
        self._arming.end()
        if said != "COMMIT":  # a transaction that has failed answers COMMIT with ROLLBACK (manual: COMMIT, "Notes")
            raise DatabaseFailed("the server rolled the transaction back at COMMIT", hint="run it again")

    def rollback(self) -> None:
        """See the protocol."""
        for session in (self._main, self._aux):
            try:
                if not session.lost and session.in_transaction:
                    session.run("ROLLBACK")
            except BackoutError:
                session.close()  # a session that cannot roll back ends, and the server rolls it back
        self._arming.end()


#: Set again, since the change may have set them otherwise.
_EXACT = {**EXACT_TEXT, "row_security": "off", "TimeZone": "UTC"}
#: From here on parallel workers only pass every row on to the session that writes it, and both sides read at once: an
#: undo of 500,000 rows took 6.8 s with them and 5.8 s without (18.4, 2 cores). Few rows in a big table want them.
_MANY_ROWS = 50_000

_EXACTLY = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _EXACT.items())


def _end_with_us(session: Session) -> None:
    """Let the server notice during a long statement that we are gone, and end it (manual 20.3.1).

    Where its platform cannot tell, it does so at the end of the statement only.
    """
    with suppress(DatabaseFailed):
        session.run("SET client_connection_check_interval = '1s'")


def _require_columns(table: Table) -> None:
    if not table.restorable:
        raise Refused(
            "capture",
            f'table "{table.name}" has no column that can be written: its rows are all alike, and none can be put back',
            state="rolled back",
            hint="give it a column",
        )


def _hidden(table: TableName, mode: str) -> ProofFailed:
    """As the tripwires say it of a table on which nothing waits."""
    return ProofFailed(
        f'the completeness proof failed: "{table}" was to be held with {mode}: DDL, TRUNCATE or LOCK TABLE ran in a '
        "function",
        hint="what the change does cannot be taken back for certain: write it with plain INSERT, UPDATE and DELETE",
    )


def _refuse_blind(*, track_counts: bool, replication_role: str) -> None:
    if not track_counts:
        raise Refused(
            "proof",
            "`track_counts` is off for this session: nothing that is written could be proven complete",
            hint="set `track_counts = on` (it is the default) for this server, database and role",
        )
    if replication_role != "origin":
        raise Refused(
            "proof",
            f"`session_replication_role` is {replication_role!r}: triggers and foreign keys would not fire",
            hint="unset it for the login role and the database",
        )


def _hints_explain(hints: Sequence[UpdateHint], observed: tripwires.Observed) -> bool:
    """Do the hints mean the tables that they are taken for?

    A bare name is looked up at the end of the change, and search_path or a temporary table may have given it another
    meaning at its statement. Where all updates that the server counted are those of the hints, none went elsewhere.
    """
    if all(hint.schema is not None for hint in hints):
        return True
    counted = sum(c.updated for name, _, c in observed.counts.values() if name.schema != "pg_catalog")
    return counted == sum(hint.rows for hint in hints)


def _narrow(table: Table, counted: Counts, hinted: tuple[int, tuple[str, ...]] | None) -> tuple[str, ...] | None:
    """The only columns that can have changed; None where that is not proven.

    Proof: every counted write of the table is a row in the command tag of a plain UPDATE with a known SET list, and
    nothing (see the query `narrowing`) can have changed another column of such a row.
    """
    if hinted is None or not table.key:
        return None
    rows, columns = hinted
    only_these = counted == Counts(updated=rows) and not set(columns) & set(table.key)
    return columns if only_these else None


def _positional(parameters: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
    if isinstance(parameters, Mapping):
        raise TypeError("PostgreSQL statements take parameters by position")
    return parameters
