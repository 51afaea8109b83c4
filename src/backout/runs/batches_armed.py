"""What a change in batches writes beside the table that it goes through: foreseen, armed, and followed from batch to batch.

Not for: how a table is armed (`engines`). Invariant: nothing is armed whose rows an undo could not put back exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backout.change.model import Step
from backout.engines.batches import BatchingDatabase
from backout.engines.values import Mode, Table, Write
from backout.errors import Refused
from backout.runs.batches_going import Going
from backout.runs.changes import ChangeRun
from backout.sql.model import WriteTarget
from backout.sql.restrict_insert import batchable


def writes_of(step: Step) -> WriteTarget:
    """The statement's own write; an INSERT … ON CONFLICT DO UPDATE counts as the INSERT that it is."""
    return step.statement.targets[0]


def place_of(step: Step) -> tuple[str | None, str]:
    """(schema, name) of the table that the batches go through, as the statement says it."""
    assert step.batching is not None
    target = writes_of(step)
    if target.operation != "insert":
        return target.schema, target.table
    source = batchable(step.statement, step.batching.table, step.batching.by).source
    assert source is not None
    return source


def require_way_back(database: BatchingDatabase, run: ChangeRun, tables: Sequence[Table]) -> str | None:
    """Refused where an undo of these tables would not be exact; of a ghost what a run would be refused for."""
    restored = [one for one in tables if not run.policy.is_append_only(one.name)]
    obstacle = database.undo_obstacle(restored) if restored else None
    if obstacle and run.mode is Mode.REAL:
        raise Refused(
            "undo rights", f"the undo of this run would not be exact: {obstacle}",
            hint="give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`",
        )  # fmt: skip
    return obstacle


def foresee(going: Going) -> None:
    """Arm what the statement reaches by foreign keys, and what a run that is resumed has found already."""
    write = writes_of(going.step)
    meant = Write(write.schema, write.table, write.operation)
    follow(going, going.batches.foreseen(going.keyset, meant, write.columns), again=True)


def follow(going: Going, tables: Collection[str], *, again: bool = False) -> None:
    """Arm tables, between two batches. `again`: it is no mistake where there is nothing new."""
    new = going.batches.arm(tables)
    if not new and not again:
        raise Refused(
            "batches", "the statement writes to a table that is gone by the time that it can be armed", state=going.state,
            hint="run it without @batch",
        )  # fmt: skip
    going.armed += new
    _require_tracked_once(going)
    obstacle = require_way_back(going.database, going.run, new)
    if obstacle:
        going.obstacles.add(obstacle)


def _require_tracked_once(going: Going) -> None:
    """Tracking queries are compared with the rows that all batches changed, each of them once."""
    tracked = going.tracking is not None and going.tracking.active
    own = going.keyset.table.identifier
    if tracked and going.keyset.writes and any(one.identifier == own for one in going.armed):
        raise Refused(
            "batches", f'the statement writes rows of "{going.keyset.table.name}" that are not of the batch at hand, by a '
            "trigger, a cascade or a function: tracking queries cannot be compared with that",
            state=going.state, hint="take out @pre and @post, or run it without @batch",
        )  # fmt: skip
    if tracked and len(going.step.statement.targets) > 1:
        raise Refused(
            "batches", "ON CONFLICT DO UPDATE may write a row in several batches: tracking queries cannot be compared with it",
            state=going.state, hint="take out @pre and @post, or run it without @batch",
        )  # fmt: skip
