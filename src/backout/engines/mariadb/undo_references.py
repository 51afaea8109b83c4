"""After the rows are back, with foreign keys off: which of them point to nothing, which are missed by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backout.engines.mariadb.catalogue import ForeignKey, foreign_keys
from backout.engines.mariadb.names import qualified, quoted
from backout.engines.mariadb.session import Session
from backout.engines.mariadb.undo_apply import Offender
from backout.engines.mariadb.undo_rows import Work


def dangling(session: Session, control: Session, works: Sequence[Work]) -> Iterator[Offender]:
    """Rows that must not be put back because of a foreign key."""
    by_name = {work.plan.table.name: work for work in works}
    for key in foreign_keys(control, list(by_name)):
        child, parent = by_name.get(key.child), by_name.get(key.parent)
        if child is not None and (query := _without_parent(child, key)) is not None:
            for (row,) in session.rows(query):
                yield Offender(child, int(row), "PARENT_GONE", f"no such row in table {key.parent}")
        if child is not None and parent is not None and (query := _of_a_stranger(child, parent, key)) is not None:
            for (row,) in session.rows(query):
                yield Offender(child, int(row), "PARENT_GONE", f"its row in table {key.parent} is another one now")
        if parent is not None and (query := _with_children(parent, key)) is not None:
            for (row,) in session.rows(query):
                yield Offender(parent, int(row), "REFERENCED", f"rows of table {key.child} refer to it")


def _missing(key: ForeignKey, values: Sequence[str]) -> str:
    """SQL: no parent has these values."""
    equal = " AND ".join(f"P.{quoted(name)} = {value}" for name, value in zip(key.referenced, values, strict=True))
    return f"NOT EXISTS (SELECT 1 FROM {qualified(key.parent)} P WHERE {equal})"


def _without_parent(work: Work, key: ForeignKey) -> str | None:
    """SQL for rows of the child table that we wrote, whose reference we put back, and whose parent is not there."""
    by_new = {pair.new.name: pair for pair in work.pairs}
    if work.captured.before_rescue is None or not set(key.columns) <= set(by_new):
        return None
    pairs = [by_new[name] for name in key.columns]
    values = [pair.before() for pair in pairs]
    filled = " AND ".join(f"{value} IS NOT NULL" for value in values)
    if not work.key:
        image = f"JOIN {work.rescue_table(work.captured.before_rescue)} B ON B.`backout_row` = U.image"
        return f"SELECT U.`row` FROM {work.table} U {image} WHERE U.action = 'insert' AND {filled} AND {_missing(key, values)}"
    put_back = " AND ".join(f"{pair.exact('T')} <=> {pair.exact('B')}" for pair in pairs)
    touched = " OR ".join(work.touched(pair) for pair in pairs)
    return (
        f"SELECT U.`row` FROM {work.source(now='JOIN')} WHERE (U.action IN ('insert', 'replace') OR "
        f"(U.action = 'update' AND ({touched}) AND {put_back})) AND {filled} AND {_missing(key, values)}"
    )


def _of_a_stranger(child: Work, parent: Work, key: ForeignKey) -> str | None:
    """SQL for rows that would come back to a row that others have made, under the key of their own parent."""
    by_new = {pair.new.name: pair for pair in child.pairs}
    numbers = {pair.new.name: number for number, pair in enumerate(parent.key)}
    if not set(key.referenced) <= set(numbers) or not set(key.columns) <= set(by_new):
        return None
    if not child.key or child.captured.before_rescue is None:
        return None
    same = " AND ".join(
        f"W.k{numbers[target]} = {by_new[column].before()}"
        for column, target in zip(key.columns, key.referenced, strict=True)
    )
    touched = " OR ".join(child.touched(by_new[column]) for column in key.columns)
    return (
        f"SELECT U.`row` FROM {child.source()} WHERE (U.action IN ('insert', 'replace') OR (U.action = 'update' AND "
        f"({touched}))) AND EXISTS (SELECT 1 FROM {parent.table} W WHERE W.kind = 'KEY_REUSED' AND {same})"
    )


def _with_children(work: Work, key: ForeignKey) -> str | None:
    """SQL for rows that we removed or whose referenced values we put back, and that others still refer to."""
    by_new = {pair.new.name: pair for pair in work.pairs}
    if not set(key.referenced) <= set(by_new):
        return None
    if work.captured.after_rescue is None:
        return None  # rows that the run deleted: nothing refers to them
    pairs = [by_new[name] for name in key.referenced]
    join = " AND ".join(
        f"C.{quoted(column)} = {pair.after() if work.is_kept_after(pair) else pair.before()}"
        for column, pair in zip(key.columns, pairs, strict=True)
    )
    missing = _missing(key, [f"C.{quoted(column)}" for column in key.columns])
    if not work.key:
        image = f"JOIN {work.rescue_table(work.captured.after_rescue)} A ON A.`backout_row` = U.image"
        source, actions = f"{work.table} U {image}", "U.action = 'delete'"
    else:
        source, actions = work.source(), "U.action IN ('delete', 'update', 'replace')"
    return (
        f"SELECT DISTINCT U.`row` FROM {source} JOIN {qualified(key.child)} C ON {join} WHERE {actions} AND {missing}"
    )
