"""Tables that a run in batches writes beside its own: armed for all of its batches, and captured batch by batch.

Who fires the trigger: the one session that has the run's batches. Its WHEN compares the backend's id with that session's,
and asks for the session's own temporary table, which is the log: a later session that happens to get the same id has none
of that name. A change can neither take the session's id nor give it away. The log empties itself at each COMMIT
(manual: CREATE TABLE, "ON COMMIT DELETE ROWS"), so that what a batch reads there are its own writes.

Function and trigger are made and taken away as those of one transaction are (`armed.py`), under a name with the run's number
and its fencing number: what a killed process leaves fires for nobody, and is over as soon as nobody is on the run.

Invariant: a batch writes to a table that is not in `tables` only to be rolled back; the images of those that are come from a
log that has every version that the server has counted, or the caller is told how many are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from backout.engines.postgres import batch_journal_armed, catalogue
from backout.engines.postgres.armed import Armed, arming, disarm, leftovers, log_of, patiently
from backout.engines.postgres.armed_capture import ARMED, counted_of, doing, net_difference, tampered
from backout.engines.postgres.images import batch_column, created, spare_name, stored, stored_list
from backout.engines.postgres.journal import PostgresJournal
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.postgres.tripwires import Rows
from backout.engines.values import CapturedTable, Counts, Settings, Table, TableName
from backout.errors import BackoutError, Busy, Refused


@dataclass(frozen=True)
class Logged:
    """An armed table of the run, and where its images go."""

    armed: Armed
    place: int  # among the run's armed tables, from 1
    before: TableName
    after: TableName

    @property
    def table(self) -> Table:
        """As it was when it was armed."""
        return self.armed.table


class Logs:
    """What is armed for one run in batches. `main` has its batches; the journal's session is in autocommit."""

    def __init__(self, settings: Settings, journal: PostgresJournal, main: Session) -> None:
        self._settings, self._journal, self._control, self._main = settings, journal, journal.control, main
        self._prepared = False
        self._run, self._fence, self._keeps = 0, 0, False
        self._left: tuple[str, ...] = ()
        self.tables: dict[str, Logged] = {}  # by oid

    def belong_to(self, run: int, fence: int, *, keeps: bool) -> None:
        """Say whose they are, before the first is armed; `keeps`: False for a ghost, whose images end with the session."""
        self._run, self._fence, self._keeps = run, fence, keeps

    # -- arming --------------------------------------------------------------------------------------------------------

    def arm(self, oids: Collection[str]) -> list[Table]:
        """Arm them and those that the journal has; see `engines.batches.Batches.arm`."""
        known = batch_journal_armed.armed_tables(self._control, self._run) if self._keeps else []
        for then in known:
            if then.table.identifier not in self.tables:
                self._arm(self._as_it_was(then.table), then)
        new = []
        for oid in sorted(set(oids) - self.tables.keys()):
            table = catalogue.table_by_oid(self._control, oid)
            if table is None:
                continue
            self._require_fit(table)
            self._arm(table, None)
            new.append(table)
        return new

    def _as_it_was(self, then: Table) -> Table:
        now = catalogue.table_by_oid(self._control, then.identifier)
        if now is None or replace(now, triggers=()) != replace(then, triggers=()):
            raise Refused(
                "batches", f'table "{then.name}" was altered since the run began', state="untouched",
                hint="undo what was done so far, or run the change anew",
            )  # fmt: skip
        self._require_fit(now)
        return now

    def _require_fit(self, table: Table) -> None:
        reached = f'the statement writes to "{table.name}" as well, by a trigger, a cascade, a rule or a function'
        login, owner, ours = self._control.one(query("may_arm", _SQL), [table.identifier])
        if not ours:
            raise Refused(
                "batches", f'{reached}, and "{login}" may not put a trigger on it, which would tell what is written there',
                hint=f"let an administrator run: GRANT {quoted(owner)} TO {quoted(login)}; or run it without @batch",
            )  # fmt: skip
        if not table.restorable:
            raise Refused(
                "batches", f"{reached}, and that table has no column that can be written: none of its rows can be put back",
                hint="give it a column",
            )  # fmt: skip

    def _arm(self, table: Table, known: CapturedTable | None) -> None:
        main, backend = self._main, self._main.value("SELECT pg_catalog.pg_backend_pid()")
        log = TableName("pg_temp", f"armed_run_{self._run}_{self._fence}_{table.identifier}")
        side, action = spare_name("backout_side", table), f'arm table "{table.name}" with a trigger'
        main.run(f"{created(log)} AS {log_of(table, side)}", doing=action, state="untouched")
        log_oid = main.value("SELECT $1::regclass::oid::text", [qualified(log)])
        guard = (
            f"pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {backend} "
            f"AND pg_catalog.to_regclass({literal(qualified(log))}) IS NOT NULL"
        )
        trigger = f"backout_armed_run_{self._run}_{self._fence}"
        try:
            patiently(self._control, arming(table, log, side, trigger, guard), action, table.name)
        except Busy as busy:
            holder = self._journal.lock_holder([main.pid], qualified(table.name))
            raise Busy(f"{busy.message}: {holder}" if holder else busy.message, state="untouched", hint=_BUSY) from None
        armed = Armed(table, log, log_oid, side)
        place, before, after = self._places(table, known)
        self.tables[table.identifier] = Logged(armed, place, before, after)

    def _places(self, table: Table, known: CapturedTable | None) -> tuple[int, TableName, TableName]:
        """Where its images go; what is new to the run is registered, and its rescue tables are made."""
        schema = self._settings.rescue_schema
        place = known.place if known else max((one.place for one in self.tables.values()), default=0) + 1
        if not self._keeps:
            before, after = (TableName("pg_temp", f"backout_ghost_{place}_{side}") for side in ("before", "after"))
            self._main.run(_images(table, before, after), doing="make the rescue tables", state="untouched")
            return place, before, after
        names = batch_journal_armed.rescue_names(self._run, place)
        before, after = (TableName(schema, name) for name in names)
        if known is None:
            control = self._control
            control.run("BEGIN")
            try:
                batch_journal_armed.register_armed(control, self._run, place, table)
                control.run(_images(table, before, after), doing="make the rescue tables")
            except BaseException:
                control.run("ROLLBACK")
                raise
            control.run("COMMIT")
        return place, before, after

    def empty(self) -> None:
        """Of a ghost, which never commits: let go of what was rolled back, since the logs are read from end to end.

        A COMMIT empties such tables wherever the transaction has opened a temporary one (tablecmds.c,
        `PreCommit_on_commit_actions`), without a trace in the catalogue.
        """
        if self.tables and not self._keeps:
            self._main.run("; ".join(f"SELECT FROM {qualified(one.armed.log)} LIMIT 0" for one in self.tables.values()))

    def disarm(self) -> tuple[str, ...]:
        """Take all of it away, that of dead processes of this run included; what stays, in words. Never raises."""
        if not self._run or self._left:
            return self._left
        mine = f"armed_run_{self._run}_"
        with suppress(BackoutError):  # the session is gone, and its tables go with it
            self._drop_logs()
        try:
            disarm(self._control, leftovers(self._control, mine))
            self._left = tuple(one.shown for one in leftovers(self._control, mine))
        except BackoutError:  # the server is gone: what is there is found by whoever comes next
            names = (str(one.table.name) for one in self.tables.values())
            self._left = tuple(f'table "{name}" may still have a trigger of this run' for name in names)
        return self._left

    def _drop_logs(self) -> None:
        main = self._main
        if self.tables and not main.lost and not main.in_transaction:
            main.run(f"DROP TABLE IF EXISTS {comma(qualified(one.armed.log) for one in self.tables.values())}")

    # -- what a batch wrote --------------------------------------------------------------------------------------------

    @property
    def question(self) -> str | None:
        """SQL: (oid of a log, rows inserted, updated, deleted) by this transaction and earlier ones of the session."""
        if not self.tables:
            return None
        oids = comma(literal(one.armed.log_oid) for one in self.tables.values())
        counts = comma(f"pg_catalog.pg_stat_get_xact_tuples_{what}(o)" for what in ("inserted", "updated", "deleted"))
        return f"SELECT o::text, {counts} FROM pg_catalog.unnest(ARRAY[{oids}]::oid[]) o"

    def findings(self, entries: Mapping[str, Counts], written: Mapping[str, Counts]) -> list[str]:
        """Why the logs cannot be believed, in words. `entries`: by the log's oid; `written`: by the table's."""
        found: list[str] = []
        for oid, one in self.tables.items():
            counted = written.get(oid, Counts())
            found.extend(tampered(one.armed, counted, entries.get(one.armed.log_oid, Counts())))
            if counted.total:
                now = self._as_it_is(oid)
                if now is None or replace(now, triggers=()) != replace(one.table, triggers=()):
                    found.append(f'table "{one.table.name}" was altered since it was armed')
        return found

    def _as_it_is(self, oid: str) -> Table | None:
        """The batch's lock keeps it so. Prepared, since planning takes several times as long as answering."""
        if not self._prepared:
            self._main.run(f"PREPARE backout_armed_table (text) AS {query('table')}")
            self._prepared = True
        return catalogue.table_of(self._main.run(f"EXECUTE backout_armed_table ({literal(oid)})").rows)

    def capture(self, one: Logged, counted: Counts, entries: Counts, batch: int) -> CapturedTable:
        """Append the images of one table to its rescue tables."""
        table, main = one.table, self._main
        one_sided = not counted.updated and not (counted.inserted and counted.deleted)
        images = []
        sources = net_difference(main, one.armed, one_sided=one_sided)
        for source, target in zip(sources, (one.before, one.after), strict=True):
            cells = comma(stored(column, "l") for column in table.restorable)
            text = f"INSERT INTO {qualified(target)} SELECT {batch}::integer, {cells} FROM {source}"
            images.append(main.run(text, doing=doing(table)).affected)
        before, after = images
        return CapturedTable(
            table, counted, before, after, tuple(column.name for column in table.restorable), ARMED,
            one.before.name if before else None, one.after.name if after else None, batch=batch,
            unlogged=counted.replaced + counted.made - entries.inserted, logged=True, place=one.place,
        )  # fmt: skip


_SQL = "batches.sql"
_BUSY = "wait until that session has ended: a trigger is put on a table in a moment in which nobody writes to it"


def _images(table: Table, before: TableName, after: TableName) -> str:
    """The statements that make both rescue tables of an armed table; whole rows in both."""
    batch, source = quoted(batch_column(table)), f"FROM ONLY {qualified(table.name)} AS t WITH NO DATA"
    columns = stored_list(table.restorable, "t")
    return "; ".join(
        f"{created(place)} AS SELECT NULL::integer AS {batch}, {columns} {source}" for place in (before, after)
    )


def entries_of(before: Rows, after: Rows) -> dict[str, Counts]:
    """What was written to each log between two answers to `Logs.question`."""
    then = {oid: counts for oid, *counts in before}
    return {
        oid: Counts(*(now - was for now, was in zip(counts, then.get(oid, (0, 0, 0)), strict=True)))
        for oid, *counts in after
    }


def written_of(counts: Mapping[str, tuple[TableName, str, Counts]]) -> dict[str, Counts]:
    """What the server counted, by the table's oid."""
    return {oid: counted_of(counts, oid) for oid in counts}
