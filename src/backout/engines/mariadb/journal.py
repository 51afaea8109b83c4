"""The journal: tables in database `backout`, the truth about runs on any database of this server.

A run's number is given out, durably, before its transaction begins; its end is written in that transaction, so that
"committed" in the journal and the change itself are one atom (all is InnoDB). A run that says `running` and that no
session holds any more (`lease.py`) has therefore not committed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from backout.engines.mariadb import lease, records
from backout.engines.mariadb.images import sample_rows
from backout.engines.mariadb.names import literal, qualified, quoted
from backout.engines.mariadb.progress import Progress
from backout.engines.mariadb.rights import missing_rights
from backout.engines.mariadb.session import Session
from backout.engines.values import (
    CapturedTable,
    JournalState,
    RowChange,
    RunRecord,
    RunStart,
    RunState,
    Settings,
    TableName,
)
from backout.errors import BackoutError

VERSION = 1


class MariaJournal:
    """See `protocol.Journal`. `control` is a session in autocommit that lives as long as the database object."""

    def __init__(self, control: Session, settings: Settings) -> None:
        self._control, self._settings = control, settings
        self._target = control.address.database
        self.progress = Progress(control)
        self.begun: int | None = None  # the run that this object has begun, the last one

    def state(self) -> JournalState:
        """Absent, present, or made by a newer backout."""
        there = self._control.value(
            "SELECT COUNT(*) FROM information_schema.TABLES "
            "WHERE TABLE_SCHEMA = 'backout' AND TABLE_NAME IN ('journal', 'run', 'run_table', 'progress', 'pulse')"
        )
        if there != 5:
            return JournalState.ABSENT
        if self._control.value("SELECT COALESCE(MAX(version), 0) FROM backout.journal") > VERSION:
            return JournalState.NEWER
        mine = self._control.value(f"SELECT COUNT(*) FROM backout.journal WHERE target = {literal(self._target)}")
        return JournalState.PRESENT if mine else JournalState.ABSENT

    def missing_rights(self) -> Sequence[str]:
        """What an administrator must run before `create`; empty where nothing is missing."""
        return missing_rights(self._control, self._target, self._settings.rescue_schema)

    def create(self) -> None:
        """Make databases, tables and the stamp. Each statement commits; all can be made again."""
        text = files(__package__).joinpath("journal_v1.sql").read_text(encoding="utf-8")
        text = re.sub(r"^--[^\n]*\n", "", text, flags=re.MULTILINE)
        for statement in text.format(rescue=quoted(self._settings.rescue_schema)).split(";"):
            if statement.strip().startswith("CREATE DATABASE") and self._has_database(statement):
                continue  # CREATE DATABASE IF NOT EXISTS asks for the right even where it exists
            self._control.run(statement, doing="create the journal", state="untouched")
        self.restamp()

    def _has_database(self, statement: str) -> bool:
        name = "backout" if " backout " in statement else self._settings.rescue_schema
        query = f"SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {literal(name)}"
        return bool(self._control.value(query))

    def stamp(self) -> tuple[str, str]:
        """(environment, identity) as written when the journal was made."""
        row = self._control.one(
            f"SELECT environment, identity FROM backout.journal WHERE target = {literal(self._target)}"
        )
        return str(row[0]), str(row[1])

    def restamp(self) -> None:
        """Write the stamp anew: this database is now the environment of the settings."""
        row = records.values(self._target, VERSION, self._settings.environment, identity(self._control))
        self._control.run(
            "REPLACE INTO backout.journal (target, version, environment, identity, stamped_at) "
            f"VALUES ({row}, {records.NOW})",
            doing="write the stamp",
            state="untouched",
        )

    def begin_run(self, start: RunStart) -> int:
        """Number the run, and hold a lock that shows that somebody is on it."""
        control = self._control
        control.run("START TRANSACTION")  # nobody sees the run before the lock is held
        try:
            row = records.values(
                *(self._target, start.change, start.digest, start.title, start.mode.value, start.environment),
                *(start.operator, start.undo_of, "running", start.keep_days, self._settings.rescue_schema, "{}"),
            )
            control.run(
                "INSERT INTO backout.run (target, `change`, digest, title, mode, environment, operator, undo_of, state, "
                f"keep_days, rescue_schema, report, started_at) VALUES ({row}, {records.NOW})"
            )
            number = int(control.value("SELECT LAST_INSERT_ID()"))
            if not lease.take(control, lease.run_name(number, "control")):
                raise BackoutError(f"run {number} is held by another session already")
        except BaseException:
            control.run("ROLLBACK")
            raise
        control.run("COMMIT")
        self.begun = number
        return number

    def end_run(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Record the end of a run that its own transaction did not record."""
        self._end(run, state, tables, report)
        lease.give_back(self._control, lease.run_name(run, "control"))

    def _end(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """The tables first, since DDL commits: a run that has ended must have none, one that has not may have fewer."""
        if state is not RunState.COMMITTED:
            self._drop_tables(run)
        self._control.run("START TRANSACTION")
        try:
            records.write_end(self._control, run, state, tables, report)
        except BaseException:
            self._control.run("ROLLBACK")
            raise
        self._control.run("COMMIT")

    def runs(self, limit: int, change: str | None = None) -> Sequence[RunRecord]:
        """The newest first; of that change alone, where one is named."""
        named = "" if change is None else f"AND `change` = {literal(change)} "
        where = f"WHERE target = {literal(self._target)} {named}ORDER BY number DESC LIMIT {int(limit)}"
        return records.read_runs(self._control, where)

    def run(self, number: int) -> RunRecord | None:
        """One run with its tables."""
        where = f"WHERE target = {literal(self._target)} AND number = {int(number)}"
        return next(iter(records.read_runs(self._control, where)), None)

    def settle(self) -> Sequence[RunRecord]:
        """Decide the runs that say `running` and are not; see the module's docstring. Drops what was left behind."""
        settled = []
        running = f"SELECT number FROM backout.run WHERE target = {literal(self._target)} AND state = 'running'"
        for (number,) in self._control.rows(f"{running} ORDER BY number"):
            name = lease.run_name(int(number), "control")
            if lease.is_held(self._control, int(number)) or not lease.take(self._control, name):
                continue
            try:
                # Asked again: it may have committed, and its sessions ended, since the list was read.
                held = [part for part in lease.PARTS[1:] if self._used(int(number), part)]
                if not held and self._control.rows(f"{running} AND number = {int(number)}"):
                    report = {"outcome": "interrupted", "state": "rolled back"}
                    self._end(int(number), RunState.INTERRUPTED, (), report)
                    record = self.run(int(number))
                    assert record is not None
                    settled.append(record)
            finally:
                lease.give_back(self._control, name)
        self._drop_stages()
        return settled

    def _used(self, run: int, part: str) -> bool:
        return self._control.value(f"SELECT IS_USED_LOCK({literal(lease.run_name(run, part))})") is not None

    def left_behind(self) -> Sequence[str]:
        """See the protocol: a run puts nothing into the application's databases."""
        return ()

    def sample(self, record: RunRecord, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a finished run, from its rescue tables."""
        if record.rescue_dropped_at is not None or record.state is not RunState.COMMITTED:
            return ()
        return sample_rows(self._control, self._settings.rescue_schema, captured, limit)

    def expired(self) -> Sequence[RunRecord]:
        """Runs whose rescue has had its time, by the database's clock, and that no open conflict holds."""
        return records.read_runs(
            self._control,
            f"WHERE target = {literal(self._target)} AND state = 'committed' AND rescue_dropped_at IS NULL "
            f"AND open_conflicts = 0 AND expires_at <= {records.NOW} ORDER BY number",
        )

    def retain(self, run: int, until: datetime) -> None:
        """Keep the rescue until then."""
        text = until.astimezone(UTC).replace(tzinfo=None)
        self._control.run(f"UPDATE backout.run SET expires_at = {literal(text)} WHERE number = {int(run)}")

    def certify(self, run: int, certificate: Mapping[str, Any]) -> None:
        """See the protocol. The lease of the rehearsal, or of the ghost's own process, keeps other writers of the row away."""
        record = self.run(run)
        assert record is not None, "a run that has ended is in the journal"
        text = json.dumps({**record.report, "certificate": certificate}, default=str, ensure_ascii=False)
        self._control.run(f"UPDATE backout.run SET report = {literal(text)} WHERE number = {int(run)}")

    def drop_rescue(self, run: int) -> None:
        """Say in the journal that the rescue is gone, then drop it: what a kill in between leaves, `settle` drops."""
        self._control.run(f"UPDATE backout.run SET rescue_dropped_at = {records.NOW} WHERE number = {int(run)}")
        self._drop_tables(run)

    def drop_stages_of(self, run: int) -> None:
        """Drop what only the comparison of a run needed."""
        with suppress(BackoutError):  # somebody looks at it: `settle` tries again
            self._drop_tables(run, part="stage")

    def drop_unused(self, names: Sequence[str]) -> None:
        """Drop rescue tables that hold nothing and that no record names."""
        for name in names:
            self._drop(name)

    def _drop_stages(self) -> None:
        """Of runs that have ended: stages, and the rescue of those that did not commit or whose time is over."""
        for name in self._rescue_tables(r"run_[0-9]+_[0-9]+_[a-z]+"):
            number, part = int(name.split("_")[1]), name.rpartition("_")[2]
            rows = self._control.rows(f"SELECT state, rescue_dropped_at FROM backout.run WHERE number = {number}")
            if not rows or rows[0][0] == "running" or lease.is_held(self._control, number):
                continue
            over = rows[0][0] != "committed" or rows[0][1] is not None
            if part == "stage" or over or not self._is_recorded(number, name):
                with suppress(BackoutError):
                    self._drop(name)

    def _is_recorded(self, run: int, name: str) -> bool:
        named = f"{literal(name)} IN (before_rescue, after_rescue, left_rescue)"
        return bool(self._control.value(f"SELECT COUNT(*) FROM backout.run_table WHERE run = {run} AND {named}"))

    def _drop_tables(self, run: int, part: str = "[a-z]+") -> None:
        for name in self._rescue_tables(f"run_{int(run)}_[0-9]+_{part}"):
            self._drop(name)

    def _rescue_tables(self, pattern: str) -> list[str]:
        rows = self._control.rows(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = "
            f"{literal(self._settings.rescue_schema)} AND TABLE_NAME REGEXP '^{pattern}$'"
        )
        return [str(row[0]) for row in rows]

    def _drop(self, name: str) -> None:
        table = qualified(TableName(self._settings.rescue_schema, name))
        self._control.run(f"DROP TABLE IF EXISTS {table}", doing="drop a rescue table")


def identity(control: Session) -> str:
    """Of this database on this server: the server's own number and the name (manual, "server_uid": since 10.11)."""
    rows = control.rows("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uid', 'server_uuid')")
    server = str(rows[0][1]) if rows else f"{control.value('SELECT @@hostname')}:{control.value('SELECT @@port')}"
    return f"{server}/{control.address.database}"
