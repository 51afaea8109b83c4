"""The journal: tables in schema `backout` of the target database, the truth about its runs.

A run's number is given out, durably, before its transaction begins; its end is written in that transaction, so that
"committed" in the journal and the change itself are one atom. A run that says `running` and that no session holds any
more has therefore not committed. Its sessions hold it by a shared advisory lock: the journal's from its beginning to its
end, the other two until their transactions have ended (`hold`), which can be after the death of our process.

Invariant: only sessions of the login role write here, never the environment's role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from importlib.resources import files
from typing import Any

from backout.engines.postgres import batch_journal, pairing
from backout.engines.postgres.armed import disarm, leftovers
from backout.engines.postgres.lines import drop_lines, read_lines
from backout.engines.postgres.names import literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.samples import sample_rows
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo import save_left
from backout.engines.postgres.undo_work import Reverted
from backout.engines.values import (
    CapturedTable,
    Column,
    Counts,
    JournalState,
    Mode,
    RowChange,
    RunRecord,
    RunStart,
    RunState,
    Settings,
    Table,
    TableName,
)

VERSION = 1

#: First key of our advisory locks (manual 9.28.10): "bkou" in ASCII. The second is 0 for the lease, else a run's number.
LOCK_CLASS = 0x626B6F75
LEASE = 0


class PostgresJournal:
    """See `engines.protocol.Journal`. `control` is a session in autocommit that lives as long as the database object."""

    def __init__(self, control: Session, settings: Settings) -> None:
        self._control, self._settings = control, settings

    @property
    def control(self) -> Session:
        """The session that sees what is committed at this moment."""
        return self._control

    def state(self) -> JournalState:
        """Absent, present, or made by a newer backout."""
        if self._control.value("SELECT pg_catalog.to_regclass('backout.journal')") is None:
            return JournalState.ABSENT
        version = self._control.value("SELECT max(version) FROM backout.journal")
        return JournalState.NEWER if version is not None and version > VERSION else JournalState.PRESENT

    def missing_rights(self) -> Sequence[str]:
        """What an administrator must run before `create`; empty where nothing is missing."""
        missing = []
        login, database = self._control.one("SELECT session_user::text, current_database()")
        may_create = self._control.value(
            "SELECT pg_catalog.has_database_privilege(session_user, current_database(), 'CREATE')"
        )
        for schema in ("backout", self._settings.rescue_schema):
            owned = (
                self._control.value(
                    "SELECT pg_catalog.pg_has_role(session_user, n.nspowner, 'USAGE') "
                    "FROM pg_catalog.pg_namespace n WHERE n.nspname = $1",
                    [schema],
                )
                if self._schema_exists(schema)
                else may_create
            )
            if not owned:
                missing.append(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)} AUTHORIZATION {quoted(login)};")
        if not self._control.value(
            "SELECT pg_catalog.has_database_privilege(session_user, current_database(), 'TEMPORARY')"
        ):
            missing.append(f"GRANT TEMPORARY ON DATABASE {quoted(database)} TO {quoted(login)};")
        return missing

    def _schema_exists(self, schema: str) -> bool:
        return bool(
            self._control.value("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)", [schema])
        )

    def create(self) -> None:
        """Make the schemas, the tables and the stamp, in one transaction."""
        text = files(__package__).joinpath("journal_v1.sql").read_text(encoding="utf-8")
        text = text.format(rescue=quoted(self._settings.rescue_schema))
        for schema in ("backout", self._settings.rescue_schema):
            if self._schema_exists(schema):  # CREATE SCHEMA IF NOT EXISTS asks for the right even where it exists
                text = text.replace(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};", "")
                text = text.replace(f"CREATE SCHEMA IF NOT EXISTS {schema};", "")
        self._control.run(f"BEGIN; {text}; {self._stamp_text()}; COMMIT", doing="create the journal", state="untouched")

    def _stamp_text(self) -> str:
        identity = self._control.one(query("facts"))[6]
        return (
            f"DELETE FROM backout.journal; INSERT INTO backout.journal (version, environment, identity) "
            f"VALUES ({VERSION}, {literal(self._settings.environment)}, {literal(identity)})"
        )

    def stamp(self) -> tuple[str, str]:
        """(environment, identity) as written when the journal was made."""
        environment, identity = self._control.one("SELECT environment, identity FROM backout.journal")
        return environment, identity

    def restamp(self) -> None:
        """Write the stamp anew: this database is now the environment of the settings."""
        self._control.run(f"BEGIN; {self._stamp_text()}; COMMIT", doing="write the stamp", state="untouched")

    def begin_run(self, start: RunStart) -> int:
        """Number the run, and hold a lock that shows that somebody is on it."""
        control = self._control
        control.run("BEGIN")  # nobody sees the run before the lock is held
        try:
            number: int = control.value(
                "INSERT INTO backout.run (change, digest, title, mode, environment, operator, undo_of, state, keep_days, "
                "rescue_schema) VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', $8, $9) RETURNING number",
                [
                    start.change,
                    start.digest,
                    start.title,
                    start.mode.value,
                    start.environment,
                    start.operator,
                    start.undo_of,
                    start.keep_days,
                    self._settings.rescue_schema,
                ],
            )
            control.run(f"SELECT pg_catalog.pg_advisory_lock_shared({LOCK_CLASS}, {number})")
        except BaseException:
            control.run("ROLLBACK")
            raise
        control.run("COMMIT")
        return number

    def lock_holder(self, ours: Sequence[int], table: str | None = None) -> str | None:
        """Who stands in the way of a lock, in words; on `table` (a quoted name) where it is known."""
        for pid, application, role, state, seconds, granted, mode in self._control.run(
            query("lock_holders"), [[*ours, self._control.pid], table]
        ).rows:
            how = "held" if granted else "queued for"
            return f"{how} by backend {pid} ({application}, role {role}, {state}, {mode}, for {seconds} s)"
        return None

    def write_undone(self, session: Session, reverted: Reverted, undo_run: int) -> None:
        """Record in the original run what an undo of it has restored; the caller owns the transaction."""
        open_conflicts = 0
        left = save_left(session, reverted, undo_run)
        run = reverted.plan.run
        session.run("UPDATE backout.run_table SET undone = true, left_rescue = NULL WHERE run = $1", [run])
        for place, undo in enumerate(reverted.plan.tables, 1):
            name, count = left[place]
            open_conflicts += count
            session.run(
                "UPDATE backout.run_table SET undone = $3, left_rescue = $4 WHERE run = $1 AND table_oid = $2::text::oid",
                [run, undo.captured.table.identifier, not count, name],
            )
        session.run("UPDATE backout.run SET open_conflicts = $2 WHERE number = $1", [run, open_conflicts])
        # An undo of an undo brings the first run's effects back: that one can be undone again.
        session.run(
            "UPDATE backout.run_table t SET undone = false, left_rescue = NULL FROM backout.run r "
            "WHERE r.number = $1 AND r.undo_of = t.run",
            [run],
        )

    def end_run(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Record the end of a run that its own transaction did not record."""
        self._end(run, state, tables, report)
        self._control.run(f"SELECT pg_catalog.pg_advisory_unlock_shared({LOCK_CLASS}, {run})")

    def _end(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """In one transaction, since nobody looks for the rescue tables of a run that has ended."""
        self._control.run("BEGIN")
        try:
            write_end(self._control, run, state, tables, report)
            if state is not RunState.COMMITTED:
                self._drop_tables(run)
                if batch_journal.as_left(self._control, run) is None:
                    batch_journal.drop(self._control, run)
        except BaseException:
            self._control.run("ROLLBACK")
            raise
        self._control.run("COMMIT")

    def runs(self, limit: int, change: str | None = None) -> Sequence[RunRecord]:
        """The newest first; of that change alone, where one is named."""
        named = "WHERE change = $2" if change is not None else ""
        values = [limit] if change is None else [limit, change]
        rows = self._control.run(f"{_SELECT_RUN} {named} ORDER BY number DESC LIMIT $1", values).rows
        tables: dict[int, list[CapturedTable]] = {row[0]: [] for row in rows}
        for number, *table in self._control.run(
            f"SELECT run, {_TABLE_COLUMNS} FROM backout.run_table WHERE run = ANY ($1) ORDER BY run, place",
            [list(tables)],
        ).rows:
            tables[number].append(_captured(tuple(table)))
        return batch_journal.with_batches(self._control, [_record(row, tuple(tables[row[0]])) for row in rows])

    def run(self, number: int) -> RunRecord | None:
        """One run with its tables."""
        rows = self._control.run(f"{_SELECT_RUN} WHERE number = $1", [number]).rows
        if not rows:
            return None
        tables = self._control.run(f"{_SELECT_TABLE} WHERE run = $1 ORDER BY place", [number]).rows
        (record,) = batch_journal.with_batches(
            self._control, [_record(rows[0], tuple(_captured(row) for row in tables))]
        )
        return record

    def settle(self) -> Sequence[RunRecord]:
        """Decide the runs that say `running` and are not; see the module's docstring."""
        settled = []
        for (number,) in self._control.run(_SELECT_RUNNING + " ORDER BY number").rows:
            if not self._control.value(f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {number})"):
                continue
            try:
                # Asked again: it may have committed, and its sessions ended, since the list was read.
                if self._control.run(f"{_SELECT_RUNNING} AND number = $1", [number]).rows:
                    left = batch_journal.as_left(self._control, number)
                    state, report = left or (
                        RunState.INTERRUPTED, {"outcome": "interrupted", "state": "rolled back"}
                    )  # fmt: skip
                    self._end(number, state, (), report)
                    record = self.run(number)
                    assert record is not None
                    settled.append(record)
            finally:
                self._control.run(f"SELECT pg_catalog.pg_advisory_unlock({LOCK_CLASS}, {number})")
        disarm(self._control, [one for one in leftovers(self._control) if one.over], attempts=3)
        return settled

    def left_behind(self) -> Sequence[str]:
        """See the protocol: triggers of runs that have ended."""
        return [one.shown for one in leftovers(self._control) if one.over]

    def sample(self, record: RunRecord, captured: CapturedTable, limit: int) -> Sequence[RowChange]:  # noqa: ARG002  the protocol's
        """Rows of a finished run, from its rescue tables."""
        return sample_rows(self._control, self._control, self._settings.rescue_schema, captured, limit)

    def expired(self) -> Sequence[RunRecord]:
        """Runs whose rescue has had its time, by the database's clock, and that no open conflict holds."""
        rows = self._control.run(
            f"{_SELECT_RUN} WHERE state IN ('committed', 'partial') AND rescue_dropped_at IS NULL AND open_conflicts = 0 "
            "AND expires_at <= pg_catalog.clock_timestamp() ORDER BY number"
        ).rows
        found = [self.run(row[0]) for row in rows]
        return [record for record in found if record is not None]

    def retain(self, run: int, until: datetime) -> None:
        """Keep the rescue until then."""
        self._control.run("UPDATE backout.run SET expires_at = $2 WHERE number = $1", [run, until])

    def certify(self, run: int, certificate: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._control.run(
            "UPDATE backout.run SET report = report || pg_catalog.jsonb_build_object('certificate', $2::text::jsonb) "
            "WHERE number = $1",
            [run, json.dumps(certificate)],
        )

    def drop_rescue(self, run: int) -> None:
        """Drop the run's rescue tables and say so in the journal, in one transaction."""
        self._control.run("BEGIN")
        try:
            self._drop_tables(run)
            drop_lines(self._control, self._settings.rescue_schema, run)
            batch_journal.drop(self._control, run)
            self._control.run(
                "UPDATE backout.run SET rescue_dropped_at = pg_catalog.clock_timestamp() WHERE number = $1", [run]
            )
        except BaseException:
            self._control.run("ROLLBACK")
            raise
        self._control.run("COMMIT")

    def transcript(self, run: int) -> Sequence[tuple[int, str, str]]:
        """See `engines.protocol.Transcribes`."""
        return read_lines(self._control, self._settings.rescue_schema, run)

    def tell(self, run: int, told: str) -> None:
        """See `engines.protocol.Pairs`; so the next four."""
        pairing.tell(self._control, self._settings.rescue_schema, run, told)

    def told(self, run: int) -> str | None:
        """See `tell`."""
        return pairing.told(self._control, self._settings.rescue_schema, run)

    def watched(self, run: int, person: str) -> None:
        """See `tell`."""
        pairing.watched(self._control, self._settings.rescue_schema, run, person)

    def watchers(self, run: int) -> Mapping[str, float]:
        """See `tell`."""
        return pairing.watchers(self._control, self._settings.rescue_schema, run)

    def untell(self, run: int) -> None:
        """See `tell`."""
        pairing.untell(self._control, self._settings.rescue_schema, run)

    def _drop_tables(self, run: int) -> None:
        for schema, name in self._control.run(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "JOIN backout.run r ON r.rescue_schema = n.nspname AND r.number = $1 "
            "WHERE c.relkind = 'r' AND c.relname ~ ('^run_' || $1::text || '_[0-9]+_(before|after|moved|left)')",
            [run],
        ).rows:
            self._control.run(f"DROP TABLE {qualified(TableName(schema, name))}", doing="drop a rescue table")


def hold(session: Session, run: int) -> None:
    """Show until the end of the session's transaction that the run may still commit: `settle` leaves it alone."""
    session.run(HOLD.format(run))


HOLD = f"SELECT pg_catalog.pg_advisory_xact_lock_shared({LOCK_CLASS}, {{}})"


def rescue_name(run: int, place: int, side: str) -> str:
    """A rescue table's name; made of numbers, so that no two can collide however long the user's names are."""
    return f"run_{run}_{place}_{side}"


def write_end(
    session: Session, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]
) -> None:
    """Write a run's end; the caller owns the transaction."""
    session.run(
        "UPDATE backout.run SET state = $2, finished_at = pg_catalog.clock_timestamp(), report = $3::text::jsonb, "
        "expires_at = CASE WHEN $2 = 'committed' THEN pg_catalog.clock_timestamp() + keep_days * interval '1 day' END, "
        "xid = CASE WHEN $2 = 'committed' THEN pg_catalog.pg_current_xact_id() END "
        "WHERE number = $1",
        [run, state.value, json.dumps(report)],
    )
    for place, captured in enumerate(tables, 1):
        counted = captured.counted or Counts()
        session.run(
            "INSERT INTO backout.run_table (run, place, table_schema, table_name, table_oid, columns, key, triggers, "
            "inserted, updated, deleted, before_rows, after_rows, after_columns, captured_by, before_rescue, "
            "after_rescue) VALUES ($1, $2, $3, $4, $5::text::oid, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13, $14, "
            "$15, $16, $17)",
            [
                run,
                place,
                captured.table.name.schema,
                captured.table.name.name,
                captured.table.identifier,
                json.dumps([asdict(column) for column in captured.table.columns]),
                list(captured.table.key),
                list(captured.table.triggers),
                counted.inserted,
                counted.updated,
                counted.deleted,
                captured.before_rows,
                captured.after_rows,
                list(captured.after_columns),
                captured.captured_by,
                captured.before_rescue,
                captured.after_rescue,
            ],
        )


_SELECT_RUNNING = "SELECT number FROM backout.run WHERE state = 'running'"

_SELECT_RUN = (
    "SELECT number, change, digest, title, mode, environment, operator, undo_of, state, keep_days, started_at, "
    "finished_at, expires_at, rescue_dropped_at, open_conflicts, report FROM backout.run"
)

_TABLE_COLUMNS = (
    "table_schema, table_name, table_oid::text, columns, key, triggers, inserted, updated, deleted, "
    "before_rows, after_rows, after_columns, captured_by, before_rescue, after_rescue, left_rescue, undone"
)
_SELECT_TABLE = f"SELECT {_TABLE_COLUMNS} FROM backout.run_table"


def _record(row: tuple[Any, ...], tables: tuple[CapturedTable, ...]) -> RunRecord:
    (number, change, digest, title, mode, environment, operator, undo_of, state, keep_days, started_at,
     finished_at, expires_at, dropped_at, open_conflicts, report) = row  # fmt: skip
    start = RunStart(change, digest, title, Mode(mode), environment, operator, undo_of, keep_days)
    record = RunRecord(number, start, RunState(state), started_at, finished_at, expires_at, tables, report)
    return replace(record, rescue_dropped_at=dropped_at, open_conflicts=open_conflicts)


def _captured(row: tuple[Any, ...]) -> CapturedTable:
    (schema, name, oid, columns, key, triggers, inserted, updated, deleted,
     before_rows, after_rows, after_columns, captured_by, before, after, left, undone) = row  # fmt: skip
    table = Table(
        TableName(schema, name), oid, tuple(Column(**column) for column in columns), tuple(key), tuple(triggers)
    )
    return CapturedTable(
        table, Counts(inserted, updated, deleted), before_rows, after_rows, tuple(after_columns), captured_by,
        before, after, left, undone,
    )  # fmt: skip
