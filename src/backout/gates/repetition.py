"""A change runs once on an environment, unless it is a task that says `repeat = true`, or somebody says why again.

Not for: resuming a run in batches, which is the same run. Invariant: a run of which nothing is left (undone, rolled back,
or no row was written) stands in nobody's way, and neither does one of a subset.
"""

from __future__ import annotations

from collections.abc import Iterable

from backout.change.model import Change
from backout.engines.values import Mode, RunRecord, RunState
from backout.errors import Refused

_LEFT = {RunState.COMMITTED, RunState.PARTIAL, RunState.INTERRUPTED}


def require_first(change: Change, records: Iterable[RunRecord], again: str | None) -> None:
    """Raise Refused where the change has run there and is not undone, and nobody says why it should run again."""
    if again is not None and not again.strip():
        raise Refused("repetition", "--again has no reason", hint='say why: --again "two clinics were added since"')
    if change.metadata.repeat or again is not None:
        return
    earlier = next((one for one in records if _stands(one, change.identifier)), None)
    if earlier is None:
        return
    name = earlier.identifier
    unfinished = earlier.state is not RunState.COMMITTED
    first = f"go on with it: backout resume {name}" if unfinished else f"take it back first: backout undo {name}"
    raise Refused(
        "repetition", f'change "{change.identifier}" has run here already: {name}, {earlier.started_at:%Y-%m-%d %H:%M %Z}',
        hint=f'{first}; or say why it is to run again: --again "…"; a task for many times says `repeat = true`',
    )  # fmt: skip


def _stands(record: RunRecord, change: str) -> bool:
    """Whether rows that this run of the change has written are as it left them."""
    return (
        record.start.change == change
        and record.start.mode is Mode.REAL
        and record.state in _LEFT
        and not record.report.get("subset")
        and any(not one.undone for one in record.tables)
    )
