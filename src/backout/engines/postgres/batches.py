"""Runs in batches on PostgreSQL: the table's survey, the run's rescue, and one batch after the other in two sessions.

Each batch is found by the key's index: `ORDER BY key LIMIT n` behind the last bound, never by arithmetic, never by OFFSET.
Not for: what happens in a batch (`batch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from backout.engines.batches import Batched, Key, Keyset, Limits, Pressure
from backout.engines.postgres import batch_journal
from backout.engines.postgres.armed_batches import Logs
from backout.engines.postgres.batch import SQL, Kept, PostgresBatch, within
from backout.engines.postgres.batch_capture import Images
from backout.engines.postgres.batch_loan import BatchLoan
from backout.engines.postgres.batch_past import HORIZON_S, Past
from backout.engines.postgres.batch_pressures import Gauge
from backout.engines.postgres.batch_questions import Questions
from backout.engines.postgres.batch_statistics import stale_statistics
from backout.engines.postgres.batch_survey import Sought, as_role, foreseen, require_by_rows, survey
from backout.engines.postgres.images import batch_column
from backout.engines.postgres.journal import LOCK_CLASS, PostgresJournal
from backout.engines.postgres.loan import session_to_lend
from backout.engines.postgres.names import qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.script import ScriptConnection
from backout.engines.postgres.session import Session
from backout.engines.values import (
    Settings,
    Table,
    TableName,
    Write,
)
from backout.errors import Busy

#: Where the values that are kept out of line take more than this, a batch may have more of them than fits into the memory of
#: the server: its images then go through a pipe. Rows without them take a page at the most, a batch of 20,000 some MB.
IN_SERVER_BYTES = 64 * 2**20


class PostgresBatches:
    """See `engines.batches.Batches`."""

    def __init__(self, settings: Settings, journal: PostgresJournal, *, to_lend: bool = False) -> None:
        self._settings, self._journal = settings, journal
        self._main = session_to_lend(journal.control, settings.url, "run") if to_lend else Session(settings.url, "run")
        self._past = Past(settings)
        self._kept: Kept | None = None
        self._questions: Questions | None = None
        self._gauge = Gauge(journal.control)
        self._logs = Logs(settings, journal, self._main)

    # -- before the first batch ----------------------------------------------------------------------------------------

    def survey(
        self, schema: str | None, name: str, by: Sequence[str], columns: Sequence[str], *, update_only: bool,
        writes: bool = True,
    ) -> Keyset:  # fmt: skip
        """See the protocol."""
        sought = Sought(schema, name, tuple(by), tuple(columns), update_only, writes)
        return survey(self._main, self._settings.role, sought)

    def foreseen(self, keyset: Keyset, write: Write, columns: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return foreseen(self._main, self._settings.role, keyset, write, columns)

    def require_by_rows(self, statement: str, parameters: Sequence[Any]) -> None:
        """See the protocol."""
        require_by_rows(self._main, self._settings.role, statement, parameters)

    def ghost(self, run: int, keyset: Keyset) -> None:
        """See the protocol. Its images are in temporary tables, which end with the session."""
        kept = Kept(None, 0, TableName("pg_temp", "backout_ghost_before"), TableName("pg_temp", "backout_ghost_after"))
        if keyset.writes:
            images = Images(keyset.table, keyset.after_columns, "true", 0, kept.before, kept.after)
            self._main.run(images.make(), doing="make the rescue tables", state="untouched")
        self._kept = kept
        self._logs.belong_to(run, 0, keeps=False)

    def keep(self, run: int, keyset: Keyset, parameters: str) -> Batched:
        """See the protocol."""
        control = self._journal.control
        batch_journal.ensure(control)
        control.run("BEGIN")
        try:
            batched = batch_journal.register(control, run, keyset, parameters)
            kept = self._places(batched)
            if keyset.writes:
                images = Images(keyset.table, keyset.after_columns, "true", 0, kept.before, kept.after)
                control.run(images.make(), doing="make the rescue tables")
        except BaseException:
            control.run("ROLLBACK")
            raise
        control.run("COMMIT")
        self._keep(batched)
        return batched

    def _keep(self, batched: Batched) -> None:
        self._kept = self._places(batched)
        self._logs.belong_to(batched.run, batched.fence, keeps=True)

    def prepare_undo(self, original: Batched) -> None:
        """See the protocol. Without it each batch would read the images of all; while the run goes on it would cost."""
        schema = self._settings.rescue_schema
        for captured in (original.captured, *original.others):
            column = quoted(batch_column(captured.table))
            for name in (captured.before_rescue, captured.after_rescue):
                if name is not None:
                    self._index(TableName(schema, name), column)

    def _index(self, place: TableName, column: str) -> None:
        control = self._journal.control
        if control.value("SELECT pg_catalog.to_regclass($1) IS NOT NULL", [qualified(place)]):
            index = quoted(f"{place.name}_batch")
            control.run(
                f"CREATE INDEX IF NOT EXISTS {index} ON {qualified(place)} ({column}); ANALYZE {qualified(place)}",
                doing="prepare the rescue tables for the undo", state="untouched",
            )  # fmt: skip

    def take_over(self, run: int) -> Batched:
        """See the protocol."""
        control = self._journal.control
        if not control.value(f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {run})"):
            raise Busy(f"somebody is on run {run} at this moment", hint="wait until it has ended; see `backout log`")
        try:
            control.run(f"SELECT pg_catalog.pg_advisory_lock_shared({LOCK_CLASS}, {run})")
        finally:
            control.run(f"SELECT pg_catalog.pg_advisory_unlock({LOCK_CLASS}, {run})")
        batched = batch_journal.take_over(control, run)
        control.run("UPDATE backout.run SET state = 'running', finished_at = NULL WHERE number = $1", [run])
        self._keep(batched)
        return batched

    def _places(self, batched: Batched) -> Kept:
        schema = self._settings.rescue_schema
        return Kept(
            batched.run,
            batched.fence,
            TableName(schema, batched.before_rescue),
            TableName(schema, batched.after_rescue),
        )

    def arm(self, tables: Collection[str]) -> Sequence[Table]:
        """See the protocol."""
        return self._logs.arm(tables)

    def disarm(self) -> Sequence[str]:
        """See the protocol."""
        return self._logs.disarm()

    # -- one after the other -------------------------------------------------------------------------------------------

    def begin(self, keyset: Keyset, number: int, after: Key | None, size: int) -> PostgresBatch | None:
        """See the protocol."""
        if keyset.upper is None:
            return None
        self._past.hold()
        found = self._past.next_bound(keyset, within(keyset, "t", after, keyset.upper), size)
        return None if found is None else self._opened(keyset, number).between(after, *found)

    def begin_between(
        self, keyset: Keyset, number: int, after: Key | None, upto: Key, looked_at: int
    ) -> PostgresBatch:  # fmt: skip
        """See the protocol."""
        return self._opened(keyset, number).between(after, upto, looked_at)

    def _opened(self, keyset: Keyset, number: int) -> PostgresBatch:
        assert self._kept is not None, "neither `ghost` nor `keep` nor `take_over` was called"
        self._past.hold()
        self._logs.empty()
        self._prepare(keyset)
        assert self._questions is not None
        batch = PostgresBatch(
            self._settings,
            self._journal,
            self._main,
            self._past,
            self._questions,
            keyset,
            self._kept,
            number,
            self._logs,
        )
        try:
            batch.begin()
        except BaseException:
            batch.rollback()
            raise
        return batch

    def _prepare(self, keyset: Keyset) -> None:
        """Once: what is asked in each batch. It leaves nothing that anybody else has prepared."""
        assert self._kept is not None
        if self._questions is None:
            self._questions = Questions(self._main, keyset.table.identifier)
            if keyset.writes:
                toasted = self._main.value(query("toasted_bytes", SQL), [keyset.table.identifier])
                self._kept = replace(self._kept, in_server=toasted <= IN_SERVER_BYTES)

    def lending(self, keyset: Keyset) -> BatchLoan:
        """See the protocol."""
        self._prepare(keyset)
        return BatchLoan(self._settings, self._journal, self._main, self._past, keyset)

    def script(self, guard: Callable[[str], None]) -> ScriptConnection:
        """See the protocol."""
        return ScriptConnection(self._main, guard, lambda busy: busy)

    def reading(self) -> AbstractContextManager[None]:
        """See the protocol."""
        return as_role(self._main, self._settings.role)

    def pressures(self, limits: Limits) -> Sequence[Pressure]:
        """See the protocol. Asked by the journal's session, which is in no transaction."""
        self._past.let_go(held_for_s=HORIZON_S)
        run = self._kept.run if self._kept else None
        found = self._gauge.read(limits, [self._main.pid, self._past.pid, self._journal.control.pid], run)
        if any(one.too_much for one in found):
            self._past.let_go()  # whoever waits holds nothing back
        return found

    def statistics(self, keyset: Keyset, *, analyze: bool) -> str | None:
        """See the protocol."""
        return stale_statistics(self._main, keyset.table, analyze=analyze)

    def close(self) -> None:
        """See the protocol."""
        self._main.close()
        self._past.close()
        self._logs.disarm()
