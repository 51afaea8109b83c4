"""The undo of one big plain update, by one statement that compares and writes in one go.

Only of what the quick form has captured, or an undo like this one: one table, its rows updated, their keys as they were,
no trigger. If as many rows match as the run wrote, and the server counts as many undo records, all is back; else what was
written is taken back, and the undo goes the careful way. Columns of foreign keys go the careful way, too.

First it is tried with the comparison of every column: where all rows are, byte by byte and under their locks, as the run
left them, they are known without being read again: the undo's pre-images are the run's rows with what the run set, its
post-images what the run found. So `aux` copies them from rescue table to rescue table while the statement is at work.
Where somebody wrote to other columns since, that fails, and the statement that compares only what the run set is next;
its images are read from the table afterwards (`quick.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.engines.mariadb import images
from backout.engines.mariadb.catalogue import foreign_keys, self_setting_columns
from backout.engines.mariadb.names import comma, qualified, quoted
from backout.engines.mariadb.quick import CAPTURED_BY
from backout.engines.mariadb.undo_rows import Pair as Columns
from backout.engines.mariadb.undo_rows import Work, work_of
from backout.engines.values import CapturedTable, TableName, UndoPlan
from backout.errors import DatabaseFailed

if TYPE_CHECKING:
    from backout.engines.mariadb.capture import Pair
    from backout.engines.mariadb.completeness import Counter

COMPARED = "compared by the undo, quick form"

#: The server keeps the new values of all rows in a temporary table until it writes them; where that goes to disk, the
#: statement takes twice as long (measured with 10.11.19 on 250,000 rows: 3.5 s instead of 1.8 s; the default is 16 MiB).
_ROOM = (
    "SET SESSION tmp_memory_table_size = GREATEST(@@tmp_memory_table_size, 134217728), "
    "max_heap_table_size = GREATEST(@@max_heap_table_size, 134217728)"
)


@dataclass(frozen=True)
class Ahead:
    """Where the images of an undo go while it is at work."""

    run: int
    place: int

    def name(self, part: str) -> str:
        """The rescue table for its pre- or post-images."""
        return images.rescue_name(self.run, self.place, part)


@dataclass(frozen=True)
class Restored:
    """`rows` were put back; `captured` where their images are known already."""

    rows: int
    captured: CapturedTable | None


def restore(pair: Pair, counter: Counter, plan: UndoPlan, ahead: Ahead | None) -> Restored | None:
    """Put everything back at once; None with nothing written, but perhaps with rescue tables of no use."""
    work = _suited(plan, pair)
    if work is None:
        return None
    pair.main.run(_ROOM)
    if ahead is not None:
        captured = _restore_known(pair, counter, work, ahead)
        if captured is not None:
            return Restored(captured.after_rows, captured)
    same = [f"{one.exact('T')} <=> {one.exact('A')}" for one in _back(work) if not one.bookkeeping]
    matched = _write(pair, counter, work, " AND ".join(same) or "TRUE")
    return None if matched is None else Restored(matched, None)


def _suited(plan: UndoPlan, pair: Pair) -> Work | None:
    if len(plan.tables) != 1:
        return None
    entry = plan.tables[0]
    captured = entry.captured
    quick = captured.captured_by in (CAPTURED_BY, COMPARED)
    plain = quick and captured.after_rescue and captured.left_rescue is None
    if not plain or entry.table.triggers or entry.table.columns != captured.table.columns:
        return None
    changed = set(captured.after_columns)
    for key in foreign_keys(pair.control, [entry.table.name]):
        if (key.child == entry.table.name and changed & set(key.columns)) or (
            key.parent == entry.table.name and changed & set(key.referenced)
        ):
            return None
    return work_of(entry, 0, pair.rescue)


def _back(work: Work) -> list[Columns]:
    """The columns that the run set."""
    return [one for one in work.compared if work.is_kept_after(one)]


def _restore_known(pair: Pair, counter: Counter, work: Work, ahead: Ahead) -> CapturedTable | None:
    """All rows are as the run left them, in every column; their images are copied meanwhile."""
    table, captured = work.plan.table, work.captured
    changed = {one.old.name for one in _back(work)}
    kept = images.columns_named(table, (*table.key, *captured.after_columns))
    images.create_rescue(pair.control, pair.rescue, table, ahead.name("before"), table.restorable)
    images.create_rescue(pair.control, pair.rescue, table, ahead.name("after"), kept)
    same = " AND ".join(
        f"{one.exact('T')} <=> {one.exact('A' if one.old.name in changed else 'B')}" for one in work.pairs
    )

    def copied() -> tuple[int, int]:
        old, new = (work.rescue_table(name) for name in (captured.before_rescue, captured.after_rescue))
        values = comma(f"{'A' if one.name in changed else 'B'}.{quoted(one.name)}" for one in table.restorable)
        before, after = (qualified(TableName(pair.rescue, ahead.name(part))) for part in ("before", "after"))
        made = pair.aux.write(
            f"INSERT INTO {after} ({images.column_list(kept)}) SELECT {images.column_list(kept, 'B')} FROM {old} B"
        )
        found = pair.aux.write(
            f"INSERT INTO {before} ({images.column_list(table.restorable)}) SELECT {values} FROM {new} A JOIN {old} B "
            f"ON {images.key_match(table.key, 'B', 'A')}"
        )
        return found, made

    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(copied)
        matched = _write(pair, counter, work, same)
        counts = other.result()
    if matched is None or counts != (matched, matched):
        for part in ("before", "after"):
            pair.aux.run(f"DELETE FROM {qualified(TableName(pair.rescue, ahead.name(part)))}")
        if matched is not None:
            pair.main.run("ROLLBACK TO SAVEPOINT backout_at_once")
        return None
    return CapturedTable(
        table, None, matched, matched, captured.after_columns, COMPARED,
        ahead.name("before"), ahead.name("after"), both_rows=matched,
    )  # fmt: skip


def _write(pair: Pair, counter: Counter, work: Work, same: str) -> int | None:
    """Put back what is the `same`; the number of rows, or None, with nothing written, where those are not all."""
    session = pair.main
    session.run("SAVEPOINT backout_at_once")
    before = counter.rows_modified(session)
    try:
        matched = session.write(_statement(pair, work, same), doing=f"put rows of {work.plan.table.name} back")
    except DatabaseFailed as error:
        if error.sqlstate == "40001":
            raise
        matched = -1  # a constraint: the careful way tells which row
    if matched == work.captured.after_rows and counter.rows_modified(session) - before == matched:
        return matched
    session.run("ROLLBACK TO SAVEPOINT backout_at_once")
    return None


def _statement(pair: Pair, work: Work, same: str) -> str:
    """A column that ON UPDATE CURRENT_TIMESTAMP would set is set to itself.

    No other one: the server collects every column that is set in a temporary table, unless the table itself comes first
    in the join; then it would wait for other people's locks on rows that are not put back.
    """
    name = work.plan.table.name
    stamped = self_setting_columns(pair.control, name)
    restored = {one.new.name for one in _back(work)}
    sets = [
        f"T.{quoted(one.new.name)} = "
        + (
            f"IF({one.exact('T')} <=> {one.exact('A')}, {one.before()}, {one.now()})"
            if one.bookkeeping
            else one.before()
        )
        for one in _back(work)
    ]
    sets += [
        f"T.{quoted(column.name)} = T.{quoted(column.name)}"
        for column in work.plan.table.restorable
        if column.name in stamped and column.name not in restored and column.name not in work.plan.table.key
    ]
    on = {
        alias: " AND ".join(f"{alias}.{quoted(one.old.name)} = A.{quoted(one.new.name)}" for one in work.key)
        for alias in ("T", "B")
    }
    return (
        f"UPDATE {work.rescue_table(work.captured.after_rescue)} A JOIN {qualified(name)} T ON {on['T']} "
        f"JOIN {work.rescue_table(work.captured.before_rescue)} B ON {on['B']} SET {comma(sets)} WHERE {same}"
    )
