"""The two-snapshot diff: which row versions this transaction replaced and made, read just before COMMIT.

Until COMMIT the server keeps both versions of every row that was touched: a second session (`aux`) sees all as it was,
the run's session (`main`) sees only the new. Pre-images are the rows that aux sees and main does not; post-images are
the rows of main whose xmin is one of its own transaction ids. Complete for cascades, triggers, rules, functions and
COPY, whoever issued them; no trigger, no DDL on the user's tables, no rewriting.

The *quick* form reads both sides at the same time by the transaction ids that we know, and is taken only when the counts
prove it: see `_quick`. Otherwise the *general* form runs, in four steps (see `_general`).

Not for: judging the counts (`recovery/proof.py`), or tripwires (`tripwires.py`).
Invariant: when `capture_table` returns, both images are complete, or it raised and the run is rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backout.engines.postgres.images import (
    XID_SPAN,
    columns_named,
    ours,
    spare_name,
    stored_list,
)
from backout.engines.postgres.moved import key_may_change, place_column
from backout.engines.postgres.names import qualified, quoted
from backout.engines.postgres.session import Session, at_once, pipe
from backout.engines.values import CapturedTable, Counts, Table, TableName

GENERAL = "two snapshots"
QUICK = "two snapshots, quick form"


@dataclass(frozen=True)
class Marks:
    """Where the transaction began: its full transaction id and the next multixact of that moment."""

    xid: int
    multixact: int
    next_xid: int = 0  # full, at the capture: all of ours come before it
    savepoints: tuple[int, ...] = ()  # ids (mod 2³²) of our own savepoints under which we know that we wrote


@dataclass(frozen=True)
class Place:
    """Where the images of one table go: `before` is written by aux, `after` by main."""

    before: TableName
    after: TableName


def capture_table(
    main: Session,
    aux: Session,
    table: Table,
    counted: Counts,
    narrow: tuple[str, ...] | None,
    marks: Marks,
    place: Place,
) -> CapturedTable | None:
    """Capture one table; None where no row of it was touched.

    `narrow` names the only columns that can have changed, where that is proven; None: any.
    """
    names = [column.name for column in table.restorable]
    after_columns = tuple(name for name in names if narrow is None or name in narrow)
    captured = CapturedTable(table, counted, 0, 0, after_columns, QUICK, str(place.before.name), str(place.after.name))
    rows = _quick(main, aux, captured, counted, marks, place)
    if rows is None:
        captured = replace(captured, captured_by=GENERAL)
        rows = _general(main, aux, captured, marks, place)
    before_rows, after_rows = rows
    if not before_rows:
        aux.run(f"DROP TABLE {qualified(place.before)}")
    if not after_rows:
        main.run(f"DROP TABLE {qualified(place.after)}")
    if not before_rows and not after_rows and not counted.total:
        return None
    return replace(
        captured,
        before_rows=before_rows,
        after_rows=after_rows,
        before_rescue=captured.before_rescue if before_rows else None,
        after_rescue=captured.after_rescue if after_rows else None,
    )


def _quick(
    main: Session, aux: Session, captured: CapturedTable, counted: Counts, marks: Marks, place: Place
) -> tuple[int, int] | None:
    """Both sides at once, by the ids that we know; None where the counts do not prove that it is all.

    Why the counts suffice. (a) Post-images: a visible row with an id of ours as xmin was inserted or updated by us; each
    counted insert or update leaves at most one. So `after = inserted + updated` means that every write left its row:
    no row was touched twice, none was inserted and deleted again, and none was written under an id that we do not know. Hence
    exactly `updated + deleted` rows that existed before were replaced. (b) Pre-images: a row that aux sees with our id
    as xmax was replaced, or only locked. Main still sees the only locked ones; it looks for them in the same scan,
    and where there is one the answer is None. With none, all rows found were replaced, and `before = updated + deleted`
    means that they are all. (A row that others had locked as well carries a multixact and is missed: the count tells.)
    """
    ids = " OR ".join(f"{{0}} = '{one}'::xid" for one in (marks.xid % XID_SPAN, *marks.savepoints))
    made, gone = ids.format("t.xmin"), ids.format("t.xmax")
    table = captured.table
    source = f"ONLY {qualified(table.name)} AS t"
    mine = quoted(spare_name("backout_made_by_run", table))
    kept = columns_named(table, (*table.key, *captured.after_columns)) if table.key else table.restorable
    write_before = f"CREATE TABLE {qualified(place.before)} AS SELECT {_replaced(captured)} FROM {source} WHERE {gone}"
    write_after = (
        f"CREATE TABLE {qualified(place.after)} AS SELECT {stored_list(kept, 't')}, ({made}) AS {mine} "
        f"FROM {source} WHERE {made} OR {gone}"
    )

    def read_after() -> tuple[int, bool]:
        rows = main.run(write_after, doing=_doing(table)).affected
        exact = rows == counted.made
        only_locked = f"SELECT EXISTS (SELECT FROM {qualified(place.after)} WHERE NOT {mine})"
        return rows, exact and not (rows and main.value(only_locked))

    answer, (after, exact) = at_once(lambda: aux.run(write_before, doing=_doing(table)), read_after)
    if exact and answer.affected == counted.replaced:
        return answer.affected, after
    aux.run(f"DROP TABLE {qualified(place.before)}")
    main.run(f"DROP TABLE {qualified(place.after)}")
    return None


def _general(main: Session, aux: Session, captured: CapturedTable, marks: Marks, place: Place) -> tuple[int, int]:
    """Exact under savepoints, multixacts, rows touched twice and concurrent writers, in four readings.

    1. aux: candidates, the rows whose xmax may be ours. 2. main: drop those that it still sees (only locked, or another's
    change). 3. aux, with a new snapshot: the images of what is left; what a third party committed in between has dropped
    out. 4. main: post-images. Under REPEATABLE READ both read by one snapshot, and nothing can come in between.
    """
    table, doing = captured.table, _doing(captured.table)
    source = f"ONLY {qualified(table.name)} AS t"
    raw = marks.xid % XID_SPAN
    aux.run("DROP TABLE IF EXISTS pg_temp.backout_candidate, pg_temp.backout_not_ours")
    aux.run(
        f"CREATE TEMP TABLE backout_candidate AS SELECT t.ctid AS place, t.xmin AS made_by FROM {source} "
        f"WHERE t.xmax <> '0'::xid AND (pg_catalog.age(t.xmax) BETWEEN 0 AND pg_catalog.age('{raw}'::xid) OR "
        f"pg_catalog.mxid_age(t.xmax) BETWEEN 0 AND pg_catalog.mxid_age('{marks.multixact % XID_SPAN}'::xid))",
        doing=doing,
    )
    aux.run("CREATE TEMP TABLE backout_not_ours (place tid)")
    main.run("DROP TABLE IF EXISTS pg_temp.backout_candidate")
    main.run("CREATE TEMP TABLE backout_candidate (place tid, made_by xid) ON COMMIT DROP")
    pipe(aux, "COPY pg_temp.backout_candidate TO STDOUT", main, "COPY pg_temp.backout_candidate FROM STDIN")
    not_ours = f"SELECT c.place FROM pg_temp.backout_candidate c JOIN {source} ON t.ctid = c.place"
    pipe(main, f"COPY ({not_ours}) TO STDOUT", aux, "COPY pg_temp.backout_not_ours FROM STDIN")
    before = aux.run(
        f"CREATE TABLE {qualified(place.before)} AS SELECT {_replaced(captured)} "
        f"FROM pg_temp.backout_candidate c JOIN {source} ON t.ctid = c.place AND t.xmin = c.made_by "
        "WHERE NOT EXISTS (SELECT FROM pg_temp.backout_not_ours n WHERE n.place = c.place)",
        doing=doing,
    ).affected
    kept = columns_named(table, (*table.key, *captured.after_columns)) if table.key else table.restorable
    after = main.run(
        f"CREATE TABLE {qualified(place.after)} AS SELECT {stored_list(kept, 't')} FROM {source} "
        f"WHERE {ours('t', marks.xid, marks.next_xid)}",
        doing=doing,
    ).affected
    return before, after


def _replaced(captured: CapturedTable) -> str:
    """What is kept of a row version that was replaced; where it was as well, if its key may have changed."""
    at = f", t.ctid AS {quoted(place_column(captured.table))}" if key_may_change(captured) else ""
    return stored_list(captured.table.restorable, "t") + at


def _doing(table: Table) -> str:
    return f'read the images of table "{table.name}"'
