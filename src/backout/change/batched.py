"""What a change must be like to run in batches: one writing statement, which can be limited to the keys of a batch.

Not for: what the table must be like, which the engine knows. Invariant: a change with `@batch` that passes has exactly
one step to apply, and everything else in it is a check or a query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.change.model import Step, StepKind
from backout.errors import InvalidFile, Position
from backout.sql.model import Dialect, Kind, Statement, WriteTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backout.change.model import Batching, Change


def batched_step(change: Change) -> Step | None:
    """The step that runs in batches; None: the change is one transaction. A loop of a Python change counts as one."""
    found = next((step for step in change.steps if step.batching is not None), None)
    return _loop(change.batching) if change.batching is not None else found


def _loop(batching: Batching) -> Step:
    """What is known of a loop over `db.batches(…)`: the table that it goes through, and may write."""
    schema, _, name = batching.table.rpartition(".")
    target = WriteTarget("update", schema or None, name)
    statement = Statement(
        "db.batches(…)", (), batching.line, 1, (), Kind.WRITE, (target,), (), ((target.schema, name),),
        is_single_update=False, objection=None,
    )  # fmt: skip
    return Step(StepKind.APPLY, statement, batching=batching)


def check_batched(steps: Sequence[Step], dialect: Dialect, file: str) -> None:
    """Raise InvalidFile where a change with `@batch` is not one that can run in batches."""
    batched = next((step for step in steps if step.batching is not None), None)
    if batched is None or batched.batching is None:
        return
    for step in steps:
        place = Position(file, step.statement.line, step.statement.column)
        if step.kind is StepKind.APPLY and step is not batched:
            raise InvalidFile(
                "a change with @batch has one statement, and this is another", place,
                hint="make a change of its own of it: each batch is a transaction, and this would belong to none",
            )  # fmt: skip
        if step.kind is StepKind.ASSERT and step.statement.line < batched.statement.line:
            raise InvalidFile(
                f'the assertion "{step.title}" stands before the statement that runs in batches', place,
                hint="write it after the statement: assertions are asked once, after the last batch",
            )  # fmt: skip
    if dialect is Dialect.POSTGRES and batched.statement.objection is None:
        _check_restrictable(batched, file)


def _check_restrictable(step: Step, file: str) -> None:
    from backout.sql.restrict import NotRestrictable
    from backout.sql.restrict_insert import batchable

    assert step.batching is not None
    try:
        batchable(step.statement, step.batching.table, step.batching.by)
    except NotRestrictable as refused:
        place = Position(file, step.statement.line, step.statement.column)
        raise InvalidFile(f"this statement cannot run in batches: {refused.reason}", place, hint=refused.hint) from None
