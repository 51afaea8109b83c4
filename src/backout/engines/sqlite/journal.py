"""The journal of a SQLite database: four verbs of life (create, begin, end, settle) and the keeping of rescues.

It is in the same file, so that a run's end commits with the change or not at all. Every method commits what it writes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import apsw

from backout.engines.sqlite import lease, records
from backout.engines.sqlite.errors import UNTOUCHED, translated
from backout.engines.sqlite.handle import Handle
from backout.engines.sqlite.images import sample_rows
from backout.engines.sqlite.lease import Holder
from backout.engines.sqlite.statements import main_table
from backout.engines.values import CapturedTable, JournalState, RowChange, RunRecord, RunStart, RunState
from backout.errors import UsageError

VERSION = 1


class SqliteJournal:
    """See `protocol.Journal`."""

    def __init__(self, handle: Handle, holder: Holder) -> None:
        self._handle = handle
        self._holder = holder

    @property
    def _connection(self) -> apsw.Connection:
        return self._handle.connection

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with translated(self._handle.name, state=UNTOUCHED, lock_timeout_s=self._handle.lock_timeout_s):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """A transaction of the journal's own."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE", can_cache=False)
            try:
                yield connection
                connection.execute("COMMIT", can_cache=False)
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK", can_cache=False)
                raise

    def _meta(self, name: str) -> str | None:
        value = self._connection.execute("SELECT value FROM main.backout_meta WHERE name = ?", (name,)).get
        return None if value is None else str(value)

    def _set_meta(self, name: str, value: str) -> None:
        self._connection.execute("REPLACE INTO main.backout_meta (name, value) VALUES (?, ?)", (name, value))

    def state(self) -> JournalState:
        """ABSENT, PRESENT or NEWER than this version of backout."""
        with self._reading() as connection:
            if not records.has_journal(connection):
                return JournalState.ABSENT
            newer = int(self._meta("version") or VERSION) > VERSION
            return JournalState.NEWER if newer else JournalState.PRESENT

    def missing_rights(self) -> Sequence[str]:
        """What an administrator must do before the journal can be written; empty: nothing."""
        path = self._handle.path
        if path is None:
            return ()
        folder = path.resolve().parent
        missing = [f"chmod u+w '{place}'" for place in (path, folder) if not os.access(place, os.W_OK)]
        with self._reading() as connection:
            if not missing and connection.readonly("main"):
                missing.append(f"open '{path}' for writing: its disk is mounted read-only")
        return tuple(missing)

    def create(self) -> None:
        """Make the tables and the stamp; a journal that is there already stays as it is."""
        if self.state() is not JournalState.ABSENT:
            return
        script = (files("backout.engines.sqlite") / "journal.sql").read_text(encoding="utf-8")
        with self._writing() as connection:
            connection.execute(script)
            self._set_meta("version", str(VERSION))
            self._stamp_anew()

    def _stamp_anew(self) -> None:
        self._set_meta("environment", self._handle.settings.environment)
        self._set_meta("identity", str(uuid.uuid4()))

    def stamp(self) -> tuple[str, str]:
        """(environment, identity); a copied file keeps both, hence `restamp` after a copy."""
        self._require()
        with self._reading():
            return self._meta("environment") or "", self._meta("identity") or ""

    def restamp(self) -> None:
        """Give this file the environment of the settings and a new identity."""
        self._require()
        with self._writing():
            self._stamp_anew()

    def _require(self) -> None:
        state = self.state()
        if state is JournalState.ABSENT:
            raise UsageError(
                f'database "{self._handle.name}" has no journal',
                hint=f"backout init --on {self._handle.settings.environment}",
            )
        if state is JournalState.NEWER:
            raise UsageError(
                f'the journal of database "{self._handle.name}" was made by a newer backout', hint="upgrade backout"
            )

    def take_lease(self, holder: Holder) -> Holder | None:
        """Write the lease; returns who holds it instead, or None. Without a journal SQLite's own lock has to do."""
        if self.state() is JournalState.ABSENT:
            return None
        with self._writing():
            text = self._meta("lease")
            if text is not None:
                other = lease.read_holder(text)
                if other.token != holder.token and lease.lives(other):
                    return other
            self._set_meta("lease", holder.text())
        return None

    def give_lease_back(self, holder: Holder) -> None:
        """Remove the lease if it is this holder's."""
        if self.state() is JournalState.ABSENT:
            return
        with self._writing() as connection:
            text = self._meta("lease")
            if text is not None and lease.read_holder(text).token == holder.token:
                connection.execute("DELETE FROM main.backout_meta WHERE name = 'lease'")

    def begin_run(self, start: RunStart) -> int:
        """Number the run; rows are never deleted, so the numbers go up."""
        self._require()
        with self._writing() as connection:
            connection.execute(
                'INSERT INTO main.backout_run ("change", digest, title, mode, environment, operator, undo_of,'
                f" keep_days, state, holder, started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, {records.NOW})",
                (
                    *(start.change, start.digest, start.title, start.mode.value, start.environment, start.operator),
                    *(start.undo_of, start.keep_days, self._holder.text()),
                ),
            )
            return connection.last_insert_rowid()

    def end_run(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Record the end of a run that has no transaction any more."""
        with self._writing() as connection:
            records.write_end(connection, run, state, tables, report)

    def runs(self, limit: int, change: str | None = None) -> Sequence[RunRecord]:
        """The newest first; of that change alone, where one is named."""
        self._require()
        with self._reading() as connection:
            named = "" if change is None else "WHERE change = ? "
            values = (limit,) if change is None else (change, limit)
            return records.read_runs(connection, f"{named}ORDER BY number DESC LIMIT ?", values)

    def run(self, number: int) -> RunRecord | None:
        """The run of that number, or None."""
        self._require()
        with self._reading() as connection:
            return next(iter(records.read_runs(connection, "WHERE number = ?", (number,))), None)

    def settle(self) -> Sequence[RunRecord]:
        """Runs that say `running` although their process is gone were rolled back: their end commits with the change.

        Their rescue tables went with the transaction, so there is nothing to drop.
        """
        self._require()
        settled = []
        with self._writing() as connection:  # holding the write lock: no run's transaction is open anywhere
            rows = connection.execute("SELECT number, holder FROM main.backout_run WHERE state = 'running'").fetchall()
            for number, holder in rows:
                if not lease.lives(lease.read_holder(str(holder))):
                    records.write_end(connection, int(str(number)), RunState.INTERRUPTED, (), {})
                    settled += records.read_runs(connection, "WHERE number = ?", (number,))
        return settled

    def left_behind(self) -> Sequence[str]:
        """See the protocol: nothing is ever left in the application's schema here."""
        return ()

    def sample(self, record: RunRecord, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a finished run; none once its rescue was dropped."""
        if record.rescue_dropped_at is not None or record.state is not RunState.COMMITTED:
            return ()
        with self._reading() as connection:
            return sample_rows(connection, captured, limit)

    def expired(self) -> Sequence[RunRecord]:
        """Committed runs past their time that still have a rescue, and no conflict that is open."""
        self._require()
        with self._reading() as connection:
            return records.read_runs(
                connection,
                "WHERE state = 'committed' AND rescue_dropped_at IS NULL AND open_conflicts = 0"
                f" AND expires_at <= {records.NOW} ORDER BY number",
            )

    def retain(self, run: int, until: datetime) -> None:
        """Keep the rescue of a run until then."""
        self._require()
        text = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        with self._writing() as connection:
            connection.execute("UPDATE main.backout_run SET expires_at = ? WHERE number = ?", (text, run))

    def certify(self, run: int, certificate: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._require()
        with self._writing() as connection:
            ((report,),) = connection.execute("SELECT report FROM main.backout_run WHERE number = ?", (run,)).fetchall()
            text = json.dumps({**json.loads(str(report)), "certificate": certificate}, default=str, ensure_ascii=False)
            connection.execute("UPDATE main.backout_run SET report = ? WHERE number = ?", (text, run))

    def drop_rescue(self, run: int) -> None:
        """Drop everything that was kept of a run, and record when."""
        self._require()
        with self._writing() as connection:
            names = connection.execute(
                "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name GLOB ?", (f"rescue_run_{run}_*",)
            ).fetchall()
            for (name,) in names:
                connection.execute(f"DROP TABLE {main_table(str(name))}")
            connection.execute(
                f"UPDATE main.backout_run SET rescue_dropped_at = {records.NOW} WHERE number = ?", (run,)
            )
