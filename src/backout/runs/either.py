"""A change and an undo as they are to be run: in one transaction, or in batches.

Not for: how (`changes.py`, `undos.py`, `batches.py`, `batches_undo.py`). Invariant: a change with `@batch` never runs in
one transaction, and a run in batches is never undone in one.
"""

from __future__ import annotations

from backout.change.batched import batched_step
from backout.engines.protocol import Database
from backout.errors import Refused, UsageError
from backout.runs.changes import ChangeRun, run_change
from backout.runs.report import RunReport
from backout.runs.supervise import Reopen
from backout.runs.undos import UndoRun, run_undo


def run_as_written(database: Database, reopen: Reopen, run: ChangeRun, *, resume: int | None = None) -> RunReport:
    """The change in one transaction, or in batches where it says `@batch`; `resume` is the run to go on with."""
    if batched_step(run.change) is None:
        return run_change(database, reopen, run)
    unfit = "a subset" if run.subset else "`ghost --undo`" if run.prove_way_back else None
    if unfit is not None:
        raise Refused(
            "batches", f'change "{run.change.identifier}" runs in batches, and {unfit} needs one transaction',
            hint="take out @batch to try it, or write a narrower WHERE",
        )  # fmt: skip
    from backout.runs.batches import run_batched

    return run_batched(database, reopen, run, resume=resume)


def undo_as_run(database: Database, reopen: Reopen, run: UndoRun, batch: int | None = None) -> RunReport:
    """The undo of a run, in one transaction or in batches as the run was; `batch`: of that one alone."""
    if run.record.batches:
        from backout.runs.batches_undo import undo_batches

        return undo_batches(database, reopen, run, batch)
    if batch is not None:
        raise UsageError(f'run "{run.record.identifier}" was no run in batches', hint="leave out --batch")
    return run_undo(database, reopen, run)
