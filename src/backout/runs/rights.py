"""Rights that a change and its undo need, asked for before anything is written, as far as they can be known then.

Invariant: a real run that passes has, for what it has captured, every right that its undo is certain to need.
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.change.model import Change, StepKind
from backout.engines.protocol import Database, Foresees
from backout.engines.values import CapturedTable, Foreseen, Mode, TableName, Write
from backout.errors import Refused
from backout.recovery.plan import UndoPolicy
from backout.sql.model import TEMPORARY_SCHEMAS

_HINT = "give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`"


def require_rights(database: Database, change: Change, mode: Mode, policy: UndoPolicy) -> None:
    """Refuse what the rights of now will not let pass; a ghost run only what would fail in it as well."""
    if not isinstance(database, Foresees):
        return
    writes = _named(change)
    grants = database.foresee(writes).grants if writes else ()
    if grants:
        raise Refused("rights", "rights are missing without which this change cannot run", hint=_to_run(grants))
    undone = [one for one in writes if not policy.is_append_only(TableName(one.schema or "", one.table))]
    if mode is Mode.REAL and undone:
        _require_way_back(database.foresee(undone), "untouched")


def obstacle(database: Database, captured: Sequence[CapturedTable], policy: UndoPolicy) -> str | None:
    """What stands in the way of an exact undo of what was captured, in words; None: nothing."""
    found = [one for one in captured if not policy.is_append_only(one.table.name)]
    if isinstance(database, Foresees):
        seen = database.foresee([write for one in found for write in _of_captured(one)])
        if seen.undo_grants:
            return f"rights are missing: {' '.join(seen.undo_grants)}"
    return database.undo_obstacle([one.table for one in found]) if found else None


def require_no_obstacle(what: str | None, state: str) -> None:
    """Refuse a real run whose undo would not be exact."""
    if what is not None:
        raise Refused("undo rights", f"the undo of this run would not be exact: {what}", state=state, hint=_HINT)


def _require_way_back(seen: Foreseen, state: str) -> None:
    if seen.undo_grants:
        hint = _to_run(seen.undo_grants)
        raise Refused(
            "undo rights", "rights are missing without which this run could not be undone", state=state, hint=hint
        )
    require_no_obstacle(seen.undo_obstacle, state)


def _to_run(grants: Sequence[str]) -> str:
    return "let an administrator run:\n  " + "\n  ".join(grants)


def _named(change: Change) -> list[Write]:
    """What the text names; what functions, triggers and cascades write is known when it has happened."""
    targets = [target for step in change.steps if step.kind is StepKind.APPLY for target in step.statement.targets]
    found = [
        Write(target.schema, target.table, "insert" if target.operation == "copy" else target.operation)
        for target in targets
        if target.schema not in TEMPORARY_SCHEMAS
    ]
    return list(dict.fromkeys(found))


def _of_captured(one: CapturedTable) -> list[Write]:
    counted, name = one.counted, one.table.name
    if counted is None:
        return []
    counts = {"insert": counted.inserted, "update": counted.updated, "delete": counted.deleted}
    return [Write(name.schema, name.name, operation) for operation, count in counts.items() if count]
