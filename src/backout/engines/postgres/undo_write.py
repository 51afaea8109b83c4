"""The writes of an undo: deletes, then updates, then inserts; as one statement where foreign keys are checked at its end.

Not for: deciding which rows (`undo_keyed.py` and `undo_keyless.py` compare, `undo_conflicts.py` names those that are left).
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.engines.postgres.catalogue import foreign_keys
from backout.engines.postgres.undo_aside import aside, spares_of
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.postgres.undo_statements import Rewriting, Statement, chained
from backout.engines.postgres.undo_work import Way, Work, is_left
from backout.errors import DatabaseFailed

#: Two rows with one value of a unique index, or in one place of an exclusion constraint (manual, appendix A).
CIRCLES = {"23505", "23P01"}


def rewritable(work: Work) -> frozenset[int]:
    """Tables on whose rows no foreign key acts when they are deleted to be inserted anew."""
    by_oid = {table.undo.table.identifier: table for table in work.tables if isinstance(table, KeyedTable)}
    acted = {fk.parent_oid for fk in foreign_keys(work.main, list(by_oid)) if fk.acts}
    return frozenset(t.place for oid, t in by_oid.items() if work.way is Way.REPLICA or oid not in acted)


def renumbered(work: Work) -> frozenset[int]:
    """Tables in which the run changed a column that is GENERATED ALWAYS AS IDENTITY."""
    return frozenset(
        table.place for table in work.tables
        if isinstance(table, KeyedTable) and (text := table.has_renumbered()) and work.main.value(text)
    )  # fmt: skip


def may_be_a_circle(work: Work, error: DatabaseFailed) -> bool:
    """Whether rewriting may help, and has not been tried yet; from here on it is."""
    if error.sqlstate not in CIRCLES or work.rewriting >= work.rewritable:
        return False
    work.rewriting = work.rewritable
    return True


def may_help_aside(work: Work, error: DatabaseFailed) -> bool:
    """Whether putting unique values aside may help, and has not been tried yet; from here on it is."""
    if error.sqlstate not in CIRCLES or work.putting_aside:
        return False
    work.putting_aside = spares_of(work)
    return bool(work.putting_aside)


def write(
    work: Work, *, merging: bool, wanted: Sequence[tuple[int, int, int]] | None = None
) -> list[tuple[int, int, int]]:
    """Run the writes; (deleted, updated, inserted) per table. Deletes first, then updates, then inserts.

    Where `wanted` says that an operation has no rows, it is left out.
    """
    circles = [table for table in work.tables if isinstance(table, KeyedTable) and table.place in work.putting_aside]
    with aside(work, circles):
        return _write(work, merging=merging, wanted=wanted)


def _write(work: Work, *, merging: bool, wanted: Sequence[tuple[int, int, int]] | None) -> list[tuple[int, int, int]]:
    steps: list[tuple[int, int, Statement]] = []  # (index of the table, operation 0..2, text)
    for operation in range(3):
        for index, table in enumerate(work.tables):
            if merging and isinstance(table, KeylessTable) and is_left(work, table):
                continue
            if wanted is not None and not wanted[index][operation]:
                continue
            texts = statements_for(work, table, operation, merging=merging)
            steps += [(index, operation, text) for text in texts]
    written = [[0, 0, 0] for _ in work.tables]
    together = work.way is not Way.REPLICA and len(steps) > 1
    if together:
        counts = work.main.one(chained([text for _, _, text in steps]))
    else:
        texts_alone = [text.alone if isinstance(text, Rewriting) else text for _, _, text in steps]
        counts = tuple(work.main.run(text, doing="put the rows back").affected for text in texts_alone)
    for (index, operation, _), count in zip(steps, counts, strict=True):
        written[index][operation] += count
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


def statements_for(
    work: Work, table: KeyedTable | KeylessTable, operation: int, *, merging: bool
) -> Sequence[Statement]:
    """The statements of one operation (0 delete, 1 update, 2 insert) on one table; none where there is nothing to do."""
    found: list[Statement | None]
    if isinstance(table, KeylessTable):
        texts = [table.delete() if table.undo.captured.after_rescue else None, None, table.insert()]
        return [text for text in texts[operation : operation + 1] if text]
    if operation == 0:
        found = [table.delete(merging=merging)]
    elif operation == 1:
        rewriting = table.place in work.rewriting
        update = table.rewrite(merging=merging) if rewriting else table.update(merging=merging)
        found = [update, table.replace_reused() if merging else None]
    else:
        found = [table.insert(merging=merging)]
    return [text for text in found if text]
