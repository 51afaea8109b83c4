"""What the undo of a batch has left, table by table: kept for a later undo, and written down in the batch's journal row.

Invariant: it is written in the undo's own transaction.
"""

from __future__ import annotations

from backout.engines.postgres.batch_journal import Left, write_undone
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_columns import CONFLICT_TABLE
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_work import Reverted


def record_undone(main: Session, reverted: Reverted, undo_run: int, batch: int) -> None:
    """Record what an undo has put back of this batch of the run, and keep the keys of what it has left."""
    original, left = reverted.plan.run, dict[int, Left]()
    for undo, table in zip(reverted.plan.tables, reverted.tables, strict=True):
        count = main.value(f"SELECT count(*) FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced")
        name = None
        if count and isinstance(table, KeyedTable):  # a table without a key is left as a whole
            name = f"batched_{original}_{batch}_{undo.captured.place}_left_{undo_run}"
            main.run(table.save_left(name))
        left[undo.captured.place] = Left(count, name)
    write_undone(main, original, batch, undo_run, left)
