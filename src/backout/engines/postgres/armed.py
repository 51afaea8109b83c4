"""Tables too big to scan: armed with a trigger for the length of one run, which logs each row version as it is replaced.

Arming is DDL, and inside of the run it would keep every writer out until COMMIT. So it happens beforehand, table by
table, each in a short transaction of its own, with a short lock timeout and a few attempts; and it is taken away the
same way. What it makes, per table: a function in schema `backout`, a log beside the rescue tables, a trigger.

Who fires it: only the transaction whose id stands in the trigger's WHEN. Ids are never used twice, nobody can take
another's, and for every other session the trigger is one comparison a row. (Of a run in batches, which has many
transactions, the one session that has them: `armed_batches.py`.) Row triggers, not statement triggers with
transition tables: those would make *every* session's statements spool their rows, would not tell in which partition a
row is, and are not possible for rows of inheritance children (docs/decisions/0014-armed-triggers.md has the figures).

Invariant: function, log and trigger of a table are made in one transaction and taken away in one, so that the catalogue
itself is the register of what is armed: nothing can be left behind that `leftovers` does not find.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backout.engines.postgres import catalogue
from backout.engines.postgres.batch_journal import LOCK_CLASS
from backout.engines.postgres.images import spare_name
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Settings, Table, TableName
from backout.errors import BackoutError, Busy, Refused

SQL = "armed.sql"

#: How long a writer may have to wait behind us for a table, per attempt, and how long we keep trying, in seconds.
_LOCK_WAIT_MS, _PAUSE_S, _ATTEMPTS = 200, (0.05, 0.25), 20

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Reached:
    """A table that holds rows and that a run can reach."""

    oid: str
    name: TableName
    bytes: int  # of its rows and of those of its family: partitions, or inheritance children, are written together
    ours: bool  # whether the login role may arm it
    owner: str


@dataclass(frozen=True)
class Armed:
    """One armed table, as it was when it was armed."""

    table: Table
    log: TableName
    log_oid: str
    side: str  # the log's column that says "o" for a row version that was replaced, "n" for one that was made

    @property
    def function(self) -> str:
        """Its function's name, and its log's."""
        return self.log.name


def reached(session: Session, names: Sequence[tuple[str | None, str]], settings: Settings) -> list[Reached]:
    """The tables that a write to `names`, or to those that the settings name, can reach as far as the catalogue knows."""
    texts = [quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}" for schema, name in names]
    texts += [_as_sql(name) for name in settings.arm]
    rows = session.run(query("reach", SQL), [texts, settings.rescue_schema], state="untouched").rows
    return [
        Reached(oid, TableName(schema, name), max(own, family), ours, owner)
        for oid, schema, name, own, family, ours, owner in rows
    ]


def _as_sql(name: str) -> str:
    """A name of the configuration, bare or with its schema, as SQL that means just that."""
    return ".".join(quoted(part) for part in name.split(".", 1))


def require_ours(big: Sequence[Reached], login: str) -> None:
    """Refuse, before anything is written, where a trigger could not be made or taken away again."""
    for one in big:
        if not one.ours:
            raise Refused(
                "scan limit",
                f'table "{one.name}" has {shown_size(one.bytes)} of rows, too big to scan here, and "{login}" may not '
                "put a trigger on it",
                hint=f"let an administrator run: GRANT {quoted(one.owner)} TO {quoted(login)}; or raise `scan_limit` "
                "of this environment, so that the table is scanned",
            )


def size_notes(session: Session, schema: str | None, name: str, settings: Settings) -> list[str]:
    """What `check` tells of a table that a run would arm, itself or one that it reaches."""
    big = [
        one
        for one in reached(session, [(schema, name)], replace(settings, arm=()))
        if one.bytes >= settings.scan_limit_bytes
    ]
    return [
        f"{'it' if one.name.name == name else f'{one.name}, which it reaches,'} is too big to scan here "
        f"({shown_size(one.bytes)} of rows): a run puts a trigger on it for as long as it takes"
        + ("" if one.ours else f", which the login role may not: GRANT {quoted(one.owner)} to it")
        for one in big
    ]


def shown_size(count: int) -> str:
    """Bytes in the largest unit in which they are at least 1, as `scan_limit` is written."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {_UNITS[unit]}" if size < 1000 else f"{size:.0f} {_UNITS[unit]}"


def arm(session: Session, run: Session, xid: int, big: Sequence[Reached], settings: Settings) -> dict[str, Armed]:
    """Arm the tables for the transaction `xid` of the session `run`; returns them by oid.

    Raises Busy where a table is not free for a moment, DatabaseFailed where the server says no: nothing is written then,
    and what was armed so far is for the caller to disarm.
    """
    backend = run.value("SELECT pg_catalog.pg_backend_pid()")  # the server's own word: a pooler's number is another
    armed = {}
    for one in big:
        table = catalogue.table_by_oid(session, one.oid)
        if table is None:
            continue
        name = f"armed_{xid}_{one.oid}"
        log, side = TableName(settings.rescue_schema, name), spare_name("backout_side", table)
        guard = (
            f"pg_catalog.pg_current_xact_id_if_assigned() OPERATOR(pg_catalog.=) '{xid}'::pg_catalog.xid8 "
            f"AND pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {backend}"
        )
        # What it holds is wanted until the run ends, and not after a crash of the server, which ends the run: unlogged.
        made = f"CREATE UNLOGGED TABLE {qualified(log)} AS {log_of(table, side)}; "
        made += arming(table, log, side, f"backout_armed_{xid}", guard)
        patiently(session, made, f'arm table "{table.name}" with a trigger', table.name)
        log_oid = session.value("SELECT $1::regclass::oid::text", [qualified(log)])
        armed[one.oid] = Armed(table, log, log_oid, side)
    return armed


def log_of(table: Table, side: str) -> str:
    """The query that a log is made by: the side, and the table's columns; no rows."""
    columns = comma(f"t.{quoted(column.name)}" for column in table.restorable)
    source = f"FROM ONLY {qualified(table.name)} AS t WITH NO DATA"
    return f'SELECT NULL::pg_catalog."char" AS {quoted(side)}, {columns} {source}'


def arming(table: Table, log: TableName, side: str, trigger: str, guard: str) -> str:
    """The function and the trigger of one table, as statements; the function is named as the log is.

    `guard`: SQL, true for the run's own writes alone.
    """
    columns = [column.name for column in table.restorable]
    function, target = f"backout.{quoted(log.name)}()", qualified(table.name)
    return (
        f"CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS {literal(_body(log, columns, side))}; "
        f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC; "
        f"CREATE TRIGGER {quoted(trigger)} AFTER INSERT OR UPDATE OR DELETE ON {target} FOR EACH ROW "
        f"WHEN ({guard}) EXECUTE FUNCTION {function}; "
        # Also in the replica role, in which an undo may work (manual: ALTER TABLE, "ENABLE ALWAYS TRIGGER").
        f"ALTER TABLE ONLY {target} ENABLE ALWAYS TRIGGER {quoted(trigger)}"
    )


def _body(log: TableName, columns: Sequence[str], side: str) -> str:
    """What the trigger does: one row of the log for each row version that is replaced (OLD) or made (NEW)."""

    def logged(*versions: str) -> str:
        rows = comma(
            f"({comma([chr(39) + version[0].lower() + chr(39), *(f'{version}.{quoted(name)}' for name in columns)])})"
            for version in versions
        )
        return f"INSERT INTO {qualified(log)} ({comma(map(quoted, [side, *columns]))}) VALUES {rows};"

    return (
        f"BEGIN IF TG_OP = 'UPDATE' THEN {logged('OLD', 'NEW')} ELSIF TG_OP = 'INSERT' THEN {logged('NEW')} "
        f"ELSE {logged('OLD')} END IF; RETURN NULL; END"
    )


@dataclass(frozen=True)
class Leftover:
    """What is still there of one armed table; `table` and `log` are None where they are gone already."""

    function: str
    table: TableName | None
    trigger: str | None
    log: TableName | None
    over: bool  # whether the transaction, or the run in batches, that it was made for has ended

    @property
    def shown(self) -> str:
        """In words, for `log` and `doctor`."""
        where = f'table "{self.table}" still has the trigger "{self.trigger}"' if self.table else f'"{self.function}"'
        return f"{where} of a run that has ended"


def leftovers(session: Session, made_for: str = "armed_") -> list[Leftover]:
    """What is armed, or of it what was armed under names that begin so; the journal's session sees what is committed."""
    return [
        Leftover(
            function,
            TableName(schema, table) if table is not None else None,
            trigger,
            TableName(log_schema, log) if log is not None else None,
            over,
        )
        for function, schema, table, trigger, log_schema, log, over in session.run(
            query("armed_objects", SQL), [made_for, LOCK_CLASS]
        ).rows
    ]


def disarm(session: Session, found: Sequence[Leftover], *, attempts: int = _ATTEMPTS) -> None:
    """Take them away, as far as the tables are free for a moment. Never raises: what stays is found by `leftovers`."""
    for one in found:
        steps = [f"DROP FUNCTION IF EXISTS backout.{quoted(one.function)}()"]
        if one.table is not None and one.trigger is not None:
            steps.insert(0, f"DROP TRIGGER IF EXISTS {quoted(one.trigger)} ON {qualified(one.table)}")
        if one.log is not None:
            steps.append(f"DROP TABLE IF EXISTS {qualified(one.log)}")
        try:
            patiently(session, "; ".join(steps), "disarm", one.table, attempts=attempts)
        except BackoutError:
            attempts = 1  # whoever is in the way of one may be in the way of all: the run's end does not wait for that
        except KeyboardInterrupt:
            return


def patiently(
    session: Session, statements: str, doing: str, table: TableName | None, *, attempts: int = _ATTEMPTS
) -> None:
    """Run them in a transaction of their own as soon as nobody is in the way; Busy where somebody always is.

    Each attempt waits a little only, since other writers of the table queue behind it; the pauses differ by chance, so
    that two who try at once do not meet again. Autovacuum gives way, but only to who has waited for `deadlock_timeout`
    (manual 25.1.6): where a vacuum is at the table, a few attempts wait that long.
    """
    long_waits = 2
    wait = f"{_LOCK_WAIT_MS}ms"
    for attempt in range(1, attempts + 1):
        try:
            session.run(
                f"BEGIN; SET LOCAL lock_timeout = '{wait}'; {statements}; COMMIT", doing=doing, state="untouched"
            )
        except BackoutError as error:
            if not session.lost and session.in_transaction:
                session.run("ROLLBACK")
            if not isinstance(error, Busy) or attempt == attempts:
                raise
            wait = f"{_LOCK_WAIT_MS}ms"
            if long_waits and table is not None:
                vacuumed, patience = session.one(query("vacuum_at", SQL), [qualified(table)])
                if vacuumed:
                    wait, long_waits = patience, long_waits - 1
            time.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 -- not a secret
        else:
            return
