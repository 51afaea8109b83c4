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
    earlier = standing(change, records)
    if earlier is None:
        return
    name = earlier.identifier
    first = f"{'go on with it' if is_unfinished(earlier) else 'take it back first'}: {way_on(earlier)}"
    raise Refused(
        "repetition", f'change "{change.identifier}" has run here already: {name}, {earlier.started_at:%Y-%m-%d %H:%M %Z}',
        hint=f'{first}; or say why it is to run again: --again "…"; a task for many times says `repeat = true`',
    )  # fmt: skip


def require_none_stands(change: Change, records: Iterable[RunRecord]) -> None:
    """Raise Refused where a rehearsal would leave the change applied on top of a run of it."""
    earlier = standing(change, records)
    if earlier is not None:
        raise Refused(
            "repetition", f'change "{change.identifier}" has run here already: {earlier.identifier}',
            hint=f"take it back first: {way_on(earlier)}; or rehearse it without --reapply",
        )  # fmt: skip


def standing(change: Change, records: Iterable[RunRecord]) -> RunRecord | None:
    """The run that stands in the way of another one of this change: the first of these that does."""
    if change.metadata.repeat:
        return None
    return next((one for one in records if _stands(one, change.identifier)), None)


def is_unfinished(run: RunRecord) -> bool:
    """Whether a run that stands can be gone on with: a run in batches that was cancelled is kept for a time, and cannot."""
    return run.state is not RunState.COMMITTED and run.expires_at is None


def way_on(run: RunRecord) -> str:
    """What to type about a run that stands in the way."""
    return f"backout {'resume' if is_unfinished(run) else 'undo'} {run.identifier}"


def _stands(record: RunRecord, change: str) -> bool:
    """Whether rows that this run of the change has written are as it left them."""
    return (
        record.start.change == change
        and record.start.mode is Mode.REAL
        and record.state in _LEFT
        and not record.report.get("subset")
        and any(not one.undone for one in record.tables)
    )
