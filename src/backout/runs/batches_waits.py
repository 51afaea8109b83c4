"""Between two batches: do what people and signals say, and wait as long as something is under pressure.

Not for: what is read (`engines`), or what is too much (`batches_pace.py`).
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic, sleep

from backout.engines.batches import (
    Pressure,
    Wanted,
)
from backout.errors import (
    Interrupted,
)
from backout.gates.window import is_open
from backout.runs.batches_going import Going, progress_of
from backout.runs.batches_pace import READ_EVERY_S, WAIT_S, too_much


class Cancelled(Interrupted):
    """Told to stop for good."""

    code = "cancelled"


def give_way(going: Going) -> None:
    """Between two batches: do what people and signals say, and wait as long as something is under pressure."""
    waiting_since: float | None = None
    while True:
        _heed(going)
        if waiting_since is None and monotonic() - going.read_at < READ_EVERY_S:
            return
        found = too_much([*_quiet(going), *going.batches.pressures(going.limits)]) if going.keeps else None
        going.read_at = monotonic()
        if found is None:
            if waiting_since is not None:
                note_wait(going, None, seconds=monotonic() - waiting_since)
            return
        if waiting_since is None:
            waiting_since = monotonic()
        if going.waits_for != found.name:
            note_wait(going, found)
            going.run.progress(str(replace(progress_of(going), waits_for=str(found))))
        sleep(WAIT_S)


def _quiet(going: Going) -> list[Pressure]:
    """Whether it is inside of the quiet hours, by the database's clock."""
    if not going.run.quiet_hours:
        return []
    now = going.database.clock()
    return [Pressure(f'quiet hours "{one.text}"', float(is_open(one, now)), 0, "") for one in going.run.quiet_hours]


def _heed(going: Going) -> None:
    if going.told.signal is not None:
        raise _told_to_stop(going, f"stopped by {going.told.signal}")
    wanted = going.database.batch_journal.wanted(going.number) if going.keeps else Wanted.GO_ON
    if wanted is Wanted.PAUSE:
        raise _told_to_stop(going, "paused")
    if wanted is Wanted.CANCEL:
        raise Cancelled("cancelled", state=going.state, hint=f"take back what was done: backout undo {going.name}")


def _told_to_stop(going: Going, why: str) -> Interrupted:
    hint = f"backout resume {going.name}" if going.keeps and going.done else "run it again when you are ready"
    return Interrupted(why, state=going.state, hint=hint)


def note_wait(going: Going, found: Pressure | None, *, seconds: float = 0.0) -> None:
    """Begin to wait for something, or (None) have waited; both are written into the journal."""
    if going.waits_for is not None:
        going.pauses[going.waits_for] = going.pauses.get(going.waits_for, 0.0) + seconds
    going.waits_for = found.name if found is not None else None
    if going.keeps:
        going.database.batch_journal.note_pause(going.number, found)
