"""One written batch: captured, proven, and committed, or in a ghost run rolled back; and what is worth another attempt.

Not for: what is written (`batches.py`, `batches_turns.py`). Invariant: what `settled` raises leaves the batch open, for its
owner to roll back.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic, sleep

from backout.engines.batches import Batch, BatchRecord, Pressure
from backout.errors import BackoutError, Busy
from backout.runs.batches_going import Going, progress_of
from backout.runs.batches_waits import note_wait
from backout.runs.supervise import commit_batch, require_exact

#: A deadlock, and a serialization failure (manual, appendix A): nothing is wrong, and another attempt may do.
_AGAIN = {"40P01", "40001"}


def is_worth_another(error: BackoutError) -> bool:
    """Whether another attempt at the same batch may do."""
    return isinstance(error, Busy) or getattr(error, "sqlstate", None) in _AGAIN


def settled(going: Going, batch: Batch, started: float, locked: float) -> BatchRecord:
    """Capture and prove it, then commit it. `started`, `locked`: by `monotonic`, when it began and when it could lock rows.

    Raises MoreIsWritten, ProofFailed, and what the server says.
    """
    capture = batch.capture()
    for move in capture.sequences:
        first = going.sequences.get(move.name, move)
        going.sequences[move.name] = replace(move, before=first.before)
    in_the_way = Pressure("sessions waiting for a batch", batch.waiting(), going.limits.waiting_sessions, "")
    found = batch.described(capture, seconds=monotonic() - started)
    if going.keeps:
        commit_batch(batch, capture, found)
    else:
        require_exact(capture)
        differing = batch.differing() if going.run.repeated else {}
        batch.rollback()
        going.differ(differing)
    going.note_written(capture.tables)
    held = monotonic() - locked
    going.longest_s = max(going.longest_s, held)
    going.pace = going.pace.after(held, going.limits.row_locks_s, in_the_way=in_the_way.too_much)
    if in_the_way.too_much:
        note_wait(going, in_the_way)
        sleep(min(held, 1.0))  # as long as we held them up
        note_wait(going, None, seconds=min(held, 1.0))
    return found


def note_settled(going: Going, record: BatchRecord) -> None:
    """The run is so far now."""
    going.last, going.done = record.upto, record.number
    going.looked_at += record.looked_at
    going.affected += record.affected
    going.run.progress(str(progress_of(going)))
