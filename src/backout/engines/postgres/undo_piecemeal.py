"""Writing what can be written: all at once, or where a constraint refuses, ever smaller groups of rows.

What is refused to the end becomes a conflict. Invariant: a row is written whole or not at all.
"""

from __future__ import annotations

from backout.engines.postgres.undo_aside import aside, refuses_a_value
from backout.engines.postgres.undo_columns import CONFLICT_TABLE
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.postgres.undo_statements import Statement
from backout.engines.postgres.undo_work import Work, is_left
from backout.engines.postgres.undo_write import may_be_a_circle, may_help_aside, statements_for, write
from backout.engines.values import ConflictKind
from backout.errors import DatabaseFailed


def write_or_find(work: Work) -> list[tuple[int, int, int]]:
    """Write all at once; where a constraint refuses, row by row, and what it refuses becomes a conflict."""
    work.main.run("SAVEPOINT backout_write")
    try:
        written = write(work, merging=True)
    except DatabaseFailed as error:
        if not refuses_a_value(work, error):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_write")
        if may_be_a_circle(work, error) or may_help_aside(work, error):
            return write_or_find(work)
        written = piecemeal(work)
    work.main.run("RELEASE SAVEPOINT backout_write")
    return written


def piecemeal(work: Work) -> list[tuple[int, int, int]]:
    """Ever smaller groups of rows, in passes, until nothing more can be written.

    In passes, since one row may make room for another: undoing `position = position - 1` must go from the top.
    """
    pending = _to_write(work)
    written = [[0, 0, 0] for _ in work.tables]
    said: dict[str, DatabaseFailed] = {}
    before = -1
    while sum(map(len, pending.values())) != before or _close_circles(work, pending, written, said):
        before = sum(map(len, pending.values()))
        for index, operation in sorted(pending, key=lambda item: (item[1], item[0])):
            table, group, pending[index, operation] = work.tables[index], pending[index, operation], []
            if isinstance(table, KeylessTable):
                pending[index, operation] = group and _try_whole(work, table, written[index], said)
                continue
            texts = statements_for(work, table, operation, merging=True)
            for text in texts[:1]:
                count, pending[index, operation] = _try(work, table, operation, text, group, said)
                written[index][operation] += count
            for text in texts[1:]:  # over the rows of reused keys, which are forced and no part of the group
                assert isinstance(text, str)
                written[index][operation] += work.main.run(text, doing="put the rows back").affected
    _record_refused(work, pending, said)
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


def _close_circles(
    work: Work, pending: dict[tuple[int, int], list[str]], written: list[list[int]], said: dict[str, DatabaseFailed]
) -> bool:
    """Write rows of which each has the unique value of another one. Returns whether there were any."""
    closed = 0
    for (index, operation), rows in pending.items():
        table = work.tables[index]
        if operation == _UPDATE and isinstance(table, KeyedTable) and table.place in work.putting_aside:
            count, pending[index, operation] = _by_way_aside(work, table, rows, said)
            written[index][operation] += count
            closed += count
    return closed > 0


def _by_way_aside(
    work: Work, table: KeyedTable, rows: list[str], said: dict[str, DatabaseFailed]
) -> tuple[int, list[str]]:
    """Put the values of all of them aside, then write; once more without those that are refused, until none is."""
    tried, refused = rows, list[str]()
    while tried:
        work.main.run("SAVEPOINT backout_aside")
        try:
            with aside(work, [table], tried):
                count, failed = _try(
                    work, table, _UPDATE, statements_for(work, table, _UPDATE, merging=True)[0], tried, said
                )
        except DatabaseFailed as error:
            if not refuses_a_value(work, error):
                raise
            count, failed = 0, tried
        if not failed:
            work.main.run("RELEASE SAVEPOINT backout_aside")
            return count, refused
        work.main.run("ROLLBACK TO SAVEPOINT backout_aside; RELEASE SAVEPOINT backout_aside")
        tried = [row for row in tried if row not in set(failed)]
        refused += failed
    return 0, refused


def _to_write(work: Work) -> dict[tuple[int, int], list[str]]:
    """(table, operation) -> the rows outside of the conflicts."""
    pending: dict[tuple[int, int], list[str]] = {}
    for index, table in enumerate(work.tables):
        if isinstance(table, KeylessTable):
            if not is_left(work, table):
                pending[index, 2] = [_WHOLE]
            continue
        for operation in range(3):
            rows = work.main.run(table.identities(operation)).rows
            pending[index, operation] = [identity for (identity,) in rows]
    return pending


def _record_refused(work: Work, pending: dict[tuple[int, int], list[str]], said: dict[str, DatabaseFailed]) -> None:
    """What could not be written to the end is in conflict with a constraint."""
    for (index, operation), group in pending.items():
        table = work.tables[index]
        if isinstance(table, KeylessTable):
            if group:
                work.main.run(*table.refuse(said[_WHOLE].message))
            continue
        for identity in group:
            work.main.run(
                f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) "
                "VALUES ($1, $2, $3, ARRAY[]::text[], $4)",
                [table.place, identity, _kind(table, operation, said[identity]).value, said[identity].message],
            )


def _kind(table: KeyedTable, operation: int, error: DatabaseFailed) -> ConflictKind:
    """What kind of conflict a refusal is: foreign keys have kinds of their own.

    A violation names the table that refers (ri_triggers.c, ri_ReportViolation), and has the code 23503, or 23001 for
    RESTRICT since PostgreSQL 18 (manual, appendix A). Of an update, that table tells which side it broke.
    """
    if error.sqlstate not in {"23503", "23001"}:
        return ConflictKind.CONSTRAINT
    if operation == _DELETE or (operation == _UPDATE and error.table != table.undo.table.name.name):
        return ConflictKind.REFERENCED
    return ConflictKind.PARENT_GONE


_DELETE, _UPDATE = 0, 1  # operations, as in `statements_for`

#: Stands for all rows of a table without a key, which is put back as a whole or not at all.
_WHOLE = ""


def _try_whole(work: Work, table: KeylessTable, written: list[int], said: dict[str, DatabaseFailed]) -> list[str]:
    """Write a table without a key. Returns what is refused: all of it, or nothing."""
    work.main.run("SAVEPOINT backout_rows")
    counts = []
    try:
        for operation in (0, 2):
            for text in statements_for(work, table, operation, merging=True):
                assert isinstance(text, str)
                counts.append((operation, work.main.run(text, doing="put the rows back").affected))
        work.main.run("RELEASE SAVEPOINT backout_rows")
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_rows; RELEASE SAVEPOINT backout_rows")
        said[_WHOLE] = error
        return [_WHOLE]
    for operation, count in counts:
        written[operation] += count
    return []


def _try(
    work: Work, table: KeyedTable, operation: int, text: Statement, group: list[str], said: dict[str, DatabaseFailed]
) -> tuple[int, list[str]]:
    """Write the rows of the group; where a constraint refuses, its halves. Returns (written, refused rows)."""
    if not group:
        return 0, []
    work.main.run("SAVEPOINT backout_rows")
    try:
        only = f" AND {table.identity('q' if operation == 0 else 'p')} = ANY ($1)"
        limited = text + only if isinstance(text, str) else text.limited(only).alone
        count = work.main.run(limited, [group], doing="put the rows back").affected
        work.main.run("RELEASE SAVEPOINT backout_rows")
        return count, []
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_rows; RELEASE SAVEPOINT backout_rows")
        if len(group) == 1:
            said[group[0]] = error
            return 0, group
    half = len(group) // 2
    first, failed_first = _try(work, table, operation, text, group[:half], said)
    second, failed_second = _try(work, table, operation, text, group[half:], said)
    return first + second, failed_first + failed_second
