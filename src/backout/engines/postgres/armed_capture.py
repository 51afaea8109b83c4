"""The images of an armed table: the net difference of its log, and whether the log has all that the server counted.

Pre-images are the row versions that were replaced and never made (`old EXCEPT ALL new`), post-images those that were
made and never replaced. Whole rows as text, as multisets: cascades and nested triggers fire out of order, so that the
first or the last version in the log of a row need not be the first or the last in truth; a version that the run made and
replaced again is in the log on both sides, and cancels out whatever the order.

Invariant: when `capture_armed` returns, both images explain every entry of the log, or it raised and the run is rolled
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backout.engines.postgres import catalogue
from backout.engines.postgres.armed import SQL, Armed
from backout.engines.postgres.capture import Place
from backout.engines.postgres.images import columns_named, spare_name, stored_list
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import CapturedTable, Counts, Table, TableName

ARMED = "armed triggers"

_TWICE = "pg_temp.backout_twice"


def capture_armed(
    main: Session, armed: Armed, counted: Counts, entries: int, narrow: tuple[str, ...] | None, place: Place
) -> CapturedTable | None:
    """Capture one armed table into tables of its own; None where no row of it was written.

    `entries` is how many the server counted in the log: each write of the table makes one for each version that it
    replaces or makes, so that what is missing are writes whose statement failed before its triggers fired.
    """
    table = armed.table
    versions = counted.replaced + counted.made
    if not versions and not entries:
        return None
    names = [column.name for column in table.restorable]
    after_columns = tuple(name for name in names if narrow is None or name in narrow)
    kept = columns_named(table, (*table.key, *after_columns)) if table.key else table.restorable
    images = []
    sources = net_difference(main, armed)
    for source, columns, target in zip(sources, (table.restorable, kept), (place.before, place.after), strict=True):
        text = f"CREATE TABLE {qualified(target)} AS SELECT {stored_list(columns, 'l')} FROM {source}"
        images.append(main.run(text, doing=doing(table)).affected)
        if images[-1]:
            # An undo finds the few rows of a big table by their keys only where the planner knows that they are few.
            main.run(f"ANALYZE {qualified(target)}")
        else:
            main.run(f"DROP TABLE {qualified(target)}")
    before, after = images
    return CapturedTable(
        table, counted, before, after, after_columns, ARMED,
        str(place.before.name) if before else None, str(place.after.name) if after else None,
        unlogged=versions - entries, logged=True,
    )  # fmt: skip


def doing(table: Table) -> str:
    """What goes on, for an error's text."""
    return f'read the log of table "{table.name}"'


def net_difference(main: Session, armed: Armed, *, one_sided: bool = False) -> tuple[str, str]:
    """The pre-images and the post-images, as SQL behind FROM: rows `l` with the table's columns. Writes a temporary table.

    `one_sided`: it is known that no version was both made and replaced, so that none can cancel out.
    """
    table = armed.table
    whole = f"ROW({comma(f'l.{quoted(column.name)}' for column in table.restorable)})::text"
    log, side = qualified(armed.log), f"l.{quoted(armed.side)}"
    plain = (f"{log} AS l WHERE {side} = 'o'", f"{log} AS l WHERE {side} = 'n'")
    if one_sided:
        return plain
    main.run(f"DROP TABLE IF EXISTS {_TWICE}")
    twice = main.run(
        f"CREATE TEMP TABLE {_TWICE.removeprefix('pg_temp.')} ON COMMIT DROP AS SELECT {whole} AS whole, "
        f"count(*) FILTER (WHERE {side} = 'o') AS old, count(*) FILTER (WHERE {side} = 'n') AS new "
        f"FROM {log} AS l GROUP BY 1 HAVING count(*) > 1",
        doing=doing(table),
    ).affected
    if not twice:
        return plain
    return _net(table, log, side, whole, "o"), _net(table, log, side, whole, "n")


def _net(table: Table, log: str, side: str, whole: str, letter: str) -> str:
    """The log's versions of one side, without those that cancel out: as many copies as the other side has."""
    twice, copy, surplus = (quoted(spare_name(f"backout_{word}", table)) for word in ("whole", "copy", "surplus"))
    this, other = ("old", "new") if letter == "o" else ("new", "old")
    return (
        f"(SELECT l.*, d.whole AS {twice}, d.{this} - d.{other} AS {surplus}, row_number() OVER (PARTITION BY d.whole) "
        f"AS {copy} FROM {log} AS l LEFT JOIN {_TWICE} d ON d.whole = {whole} WHERE {side} = '{letter}') AS l "
        f"WHERE l.{twice} IS NULL OR l.{copy} <= l.{surplus}"
    )


def disarmed(latest: Session, armed: Mapping[str, Armed]) -> tuple[str, ...]:
    """Which tables have lost their trigger, or have been altered, since they were armed; in words.

    `latest` is a session outside of the transaction, whose snapshot may be older than the triggers. What it sees is what
    held while the run wrote: both need a lock that a writer's excludes, and the run's own DDL is found by the tripwires.
    """
    if not armed:
        return ()
    functions = {one.function: oid for oid, one in armed.items()}
    fired = latest.run(query("still_armed", SQL), [list(functions)]).rows
    there = {oid for function, oid in fired if functions[function] == oid}
    found = []
    for oid, one in armed.items():
        now = catalogue.table_by_oid(latest, oid)
        if oid not in there:
            found.append(f'table "{one.table.name}" lost the trigger that was to log its rows')
        elif now is None or replace(now, triggers=()) != replace(one.table, triggers=()):
            found.append(f'table "{one.table.name}" was altered between the beginning of the run and its first write')
    return tuple(found)


def tampered(armed: Armed, written: Counts, entries: Counts) -> tuple[str, ...]:
    """In words, that its log has more than its trigger can have written; see `capture_armed` for the numbers."""
    if entries.updated or entries.deleted or entries.inserted > written.replaced + written.made:
        return (f'the log of table "{armed.table.name}" was written to by something else than its trigger',)
    return ()


def counted_of(counts: Mapping[str, tuple[TableName, str, Counts]], oid: str) -> Counts:
    """What the server counted for a table."""
    return counts[oid][2] if oid in counts else Counts()
