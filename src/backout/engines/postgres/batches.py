"""Runs in batches on PostgreSQL: the table's survey, the run's rescue, and one batch after the other in two sessions.

Each batch is found by the key's index: `ORDER BY key LIMIT n` behind the last bound, never by arithmetic, never by OFFSET.
Not for: what happens in a batch (`batch.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backout.engines.batches import Batched, Key, Keyset, Limits, Pressure
from backout.engines.postgres import batch_journal, catalogue
from backout.engines.postgres.batch import SQL, Kept, PostgresBatch, within
from backout.engines.postgres.batch_capture import Images
from backout.engines.postgres.batch_past import HORIZON_S, Past
from backout.engines.postgres.batch_pressures import Gauge
from backout.engines.postgres.batch_questions import Questions
from backout.engines.postgres.batch_statistics import stale_statistics
from backout.engines.postgres.images import batch_column
from backout.engines.postgres.journal import LOCK_CLASS, PostgresJournal
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import (
    Settings,
    Table,
    TableName,
)
from backout.errors import Busy, Refused

#: Where the values that are kept out of line take more than this, a batch may have more of them than fits into the memory of
#: the server: its images then go through a pipe. Rows without them take a page at the most, a batch of 20,000 some MB.
IN_SERVER_BYTES = 64 * 2**20


class PostgresBatches:
    """See `engines.batches.Batches`."""

    def __init__(self, settings: Settings, journal: PostgresJournal) -> None:
        self._settings, self._journal = settings, journal
        self._main, self._past = Session(settings.url, "run"), Past(settings)
        self._kept: Kept | None = None
        self._questions: Questions | None = None
        self._gauge = Gauge(journal.control)

    # -- before the first batch ----------------------------------------------------------------------------------------

    def survey(
        self, schema: str | None, name: str, by: Sequence[str], columns: Sequence[str], *, update_only: bool
    ) -> Keyset:
        """See the protocol. Names mean what they mean to the environment's role."""
        main = self._main
        main.run("BEGIN READ ONLY")
        try:
            if self._settings.role:
                main.run(f"SET LOCAL ROLE {quoted(self._settings.role)}", doing="set the role")
            oid = catalogue.oid_by_name(main, schema, name)
            main.run("SET LOCAL ROLE NONE")
            found = catalogue.table_by_oid(main, oid) if oid else None
            if found is None or oid is None:
                raise _unfit(name, "there is no such table", "check the name and the schema (search_path)")
            estimated = self._require_fit(found, by)
            narrow = update_only and main.value(query("narrowing"), [oid]) and not set(columns) & set(found.key)
            main.run("SET LOCAL enable_seqscan = off")
            order = comma(f"t.{quoted(one)} DESC" for one in by)
            cells = comma(f"t.{quoted(one)}::text" for one in by)
            last = main.run(f"SELECT {cells} FROM ONLY {qualified(found.name)} t ORDER BY {order} LIMIT 1").rows
        finally:
            if not main.lost:
                main.run("ROLLBACK")
        all_columns = tuple(column.name for column in found.restorable)
        touched = tuple(one for one in all_columns if one in columns) if narrow else all_columns
        return Keyset(found, tuple(by), tuple(last[0]) if last else None, estimated, touched)

    def _require_fit(self, table: Table, by: Sequence[str]) -> int:
        main, name = self._main, str(table.name)
        kind, has_children, estimated = main.one(query("batch_table", SQL), [table.identifier])
        if kind != "r" or has_children:
            raise _unfit(
                name, "it is not a plain table of its own: it has partitions, or tables that inherit from it",
                "name one partition, a change for each",
            )  # fmt: skip
        if not table.key:
            raise _unfit(name, "no key identifies its rows", "give it a primary key")
        for column, there, not_null, built_in in main.run(
            query("batch_columns", SQL), [table.identifier, list(by)]
        ).rows:
            if not there:
                raise _unfit(name, f'it has no column "{column}"', "name the columns of an index")
            if not not_null:
                raise _unfit(
                    name, f'column "{column}" may be NULL, and such rows are in no batch', "use its primary key"
                )
            if not built_in:
                raise _unfit(name, f'column "{column}" has a type of an extension or of your own', "use another key")
        if not main.value(query("batch_index", SQL), [table.identifier, list(by)]):
            columns = comma(map(quoted, by))
            raise _unfit(
                name, f"no index has its rows in the order of {columns}",
                f"CREATE INDEX CONCURRENTLY ON {qualified(table.name)} ({columns}), or name the columns of the primary key",
            )  # fmt: skip
        return int(estimated)

    def ghost(self, keyset: Keyset) -> None:
        """See the protocol. Its images are in temporary tables, which end with the session."""
        kept = Kept(None, 0, TableName("pg_temp", "backout_ghost_before"), TableName("pg_temp", "backout_ghost_after"))
        images = Images(keyset.table, keyset.after_columns, "true", 0, kept.before, kept.after)
        self._main.run(images.make(), doing="make the rescue tables", state="untouched")
        self._kept = kept

    def keep(self, run: int, keyset: Keyset, parameters: str) -> Batched:
        """See the protocol."""
        control = self._journal.control
        batch_journal.ensure(control)
        control.run("BEGIN")
        try:
            batched = batch_journal.register(control, run, keyset, parameters)
            kept = self._places(batched)
            images = Images(keyset.table, keyset.after_columns, "true", 0, kept.before, kept.after)
            control.run(images.make(), doing="make the rescue tables")
        except BaseException:
            control.run("ROLLBACK")
            raise
        control.run("COMMIT")
        self._kept = self._places(batched)
        return batched

    def prepare_undo(self, original: Batched) -> None:
        """See the protocol. Without it each batch would read the images of all; while the run goes on it would cost."""
        control, places = self._journal.control, self._places(original)
        column = quoted(batch_column(original.keyset.table))
        for place in (places.before, places.after):
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
        self._kept = self._places(batched)
        return batched

    def _places(self, batched: Batched) -> Kept:
        schema = self._settings.rescue_schema
        return Kept(
            batched.run,
            batched.fence,
            TableName(schema, batched.before_rescue),
            TableName(schema, batched.after_rescue),
        )

    # -- one after the other -------------------------------------------------------------------------------------------

    def begin(self, keyset: Keyset, number: int, after: Key | None, size: int) -> PostgresBatch | None:
        """See the protocol."""
        if keyset.upper is None:
            return None
        self._past.hold()
        found = self._past.next_bound(keyset, within(keyset, "t", after, keyset.upper), size)
        return None if found is None else self._opened(keyset, number).between(after, *found)

    def begin_between(self, keyset: Keyset, number: int, after: Key | None, upto: Key) -> PostgresBatch:
        """See the protocol."""
        return self._opened(keyset, number).between(after, upto, 0)

    def _opened(self, keyset: Keyset, number: int) -> PostgresBatch:
        assert self._kept is not None, "neither `ghost` nor `keep` nor `take_over` was called"
        self._past.hold()
        if self._questions is None:
            self._questions = Questions(self._main, keyset.table.identifier)
            toasted = self._main.value(query("toasted_bytes", SQL), [keyset.table.identifier])
            self._kept = replace(self._kept, in_server=toasted <= IN_SERVER_BYTES)
        batch = PostgresBatch(
            self._settings, self._journal, self._main, self._past, self._questions, keyset, self._kept, number
        )
        try:
            batch.begin()
        except BaseException:
            batch.rollback()
            raise
        return batch

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


def _unfit(table: str, reason: str, hint: str) -> Refused:
    return Refused("batches", f'table "{table}" is not fit for batches: {reason}', hint=hint)
