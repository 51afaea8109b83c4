"""The undo of one big plain update, by one statement that compares and writes in one go.

Only of what the quick form has captured: one table, its rows updated, their keys as they were, no trigger. If as many rows
match as the run wrote, nobody has touched them since, and all is back; else what was written is taken back, and the undo
goes the careful way. Columns of foreign keys go the careful way, too.
"""

from __future__ import annotations

from backout.engines.mariadb.catalogue import foreign_keys, self_setting_columns
from backout.engines.mariadb.completeness import Counter
from backout.engines.mariadb.names import comma, qualified, quoted
from backout.engines.mariadb.quick import CAPTURED_BY
from backout.engines.mariadb.session import Session
from backout.engines.mariadb.undo_rows import Work, work_of
from backout.engines.values import UndoPlan
from backout.errors import DatabaseFailed


def restore(session: Session, control: Session, plan: UndoPlan, rescue: str, counter: Counter) -> int | None:
    """Put everything back at once; returns the number of rows, or None with nothing written."""
    work = _suited(plan, rescue, control)
    if work is None:
        return None
    session.run("SAVEPOINT backout_at_once")
    before = counter.rows_modified(session)
    try:
        matched = session.write(_statement(work, control), doing=f"put rows of {work.plan.table.name} back")
    except DatabaseFailed as error:
        if error.sqlstate == "40001":
            raise
        matched = -1  # a constraint: the careful way tells which row
    if matched == work.captured.after_rows and counter.rows_modified(session) - before == matched:
        session.run("RELEASE SAVEPOINT backout_at_once")
        return matched
    session.run("ROLLBACK TO SAVEPOINT backout_at_once")
    return None


def _suited(plan: UndoPlan, rescue: str, control: Session) -> Work | None:
    if len(plan.tables) != 1:
        return None
    entry = plan.tables[0]
    captured = entry.captured
    plain = captured.captured_by == CAPTURED_BY and captured.after_rescue and captured.left_rescue is None
    if not plain or entry.table.triggers or entry.table.columns != captured.table.columns:
        return None
    changed = set(captured.after_columns)
    for key in foreign_keys(control, [entry.table.name]):
        if (key.child == entry.table.name and changed & set(key.columns)) or (
            key.parent == entry.table.name and changed & set(key.referenced)
        ):
            return None
    return work_of(entry, 0, rescue)


def _statement(work: Work, control: Session) -> str:
    """A column that ON UPDATE CURRENT_TIMESTAMP would set is set to itself.

    No other one: the server collects every column that is set in a temporary table, unless the table itself comes first
    in the join; then it would wait for other people's locks on rows that are not put back.
    """
    name = work.plan.table.name
    stamped = self_setting_columns(control, name)
    back = [pair for pair in work.compared if work.is_kept_after(pair)]
    restored = {pair.new.name for pair in back}
    sets = [
        f"T.{quoted(pair.new.name)} = "
        + (
            f"IF({pair.exact('T')} <=> {pair.exact('A')}, {pair.before()}, {pair.now()})"
            if pair.bookkeeping
            else pair.before()
        )
        for pair in back
    ]
    sets += [
        f"T.{quoted(column.name)} = T.{quoted(column.name)}"
        for column in work.plan.table.restorable
        if column.name in stamped and column.name not in restored and column.name not in work.plan.table.key
    ]
    same = [f"{pair.exact('T')} <=> {pair.exact('A')}" for pair in back if not pair.bookkeeping]
    on = {
        alias: " AND ".join(f"{alias}.{quoted(pair.old.name)} = {left}.{quoted(pair.new.name)}" for pair in work.key)
        for alias, left in (("T", "A"), ("B", "A"))
    }
    return (
        f"UPDATE {work.rescue_table(work.captured.after_rescue)} A JOIN {qualified(name)} T ON {on['T']} "
        f"JOIN {work.rescue_table(work.captured.before_rescue)} B ON {on['B']} SET {comma(sets)} "
        f"WHERE {' AND '.join(same) or 'TRUE'}"
    )
