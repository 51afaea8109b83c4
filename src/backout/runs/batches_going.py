"""A run in batches under way: what its parts share, and how signals reach it.

Invariant: nothing here asks a database.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType
from typing import Any

from backout.change.model import Step
from backout.engines.batches import (
    Batched,
    Batches,
    BatchingDatabase,
    Key,
    Keyset,
    Limits,
)
from backout.engines.values import Counts, Mode, SequenceMove
from backout.runs.batches_pace import Pace, Progress
from backout.runs.changes import ChangeRun
from backout.runs.tracking import Tracking


@dataclass
class Told:
    """A signal asked the run to end after the batch at hand; a second one ends the batch, too."""

    signal: str | None = None


@dataclass
class Going:
    """One run in batches, under way."""

    run: ChangeRun
    step: Step
    database: BatchingDatabase
    batches: Batches
    number: int
    keyset: Keyset
    limits: Limits
    told: Told
    pace: Pace
    last: Key | None = None
    done: int = 0
    looked_at: int = 0
    counts: Counts = field(default_factory=Counts)
    began: float = field(default_factory=monotonic)
    looked_at_before: int = 0  # when it began or was resumed
    read_at: float = 0.0
    notes: list[str] = field(default_factory=list)
    pauses: dict[str, float] = field(default_factory=dict)  # reason -> seconds
    sequences: dict[str, SequenceMove] = field(default_factory=dict)
    longest_s: float = 0.0
    differing: int = 0  # of the second run of a rehearsal: rows that it changes
    retries: int = 0
    waits_for: str | None = None
    tracking: Tracking | None = None
    resumed: bool = False

    @property
    def keeps(self) -> bool:
        """A ghost run keeps nothing."""
        return self.run.mode is not Mode.GHOST

    @property
    def state(self) -> str:
        """What is true of the database, between two batches."""
        return f"committed up to batch {self.done}" if self.done and self.keeps else "untouched"

    @property
    def name(self) -> str:
        """The run's id, for hints."""
        return f"{self.run.start.environment}-{self.number}"


def go_on_behind(going: Going, batched: Batched) -> Going:
    """Behind the last committed batch."""
    going.resumed = True
    going.last, going.done, going.counts = batched.last, batched.batches, batched.counts
    going.looked_at = going.looked_at_before = batched.looked_at
    return going


def progress_of(going: Going) -> Progress:
    """How far it is."""
    return Progress(
        going.done, going.looked_at, going.keyset.estimated_rows, going.counts.total, monotonic() - going.began,
        going.looked_at - going.looked_at_before,
    )  # fmt: skip


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return Counts(one.inserted + other.inserted, one.updated + other.updated, one.deleted + other.deleted)


@contextmanager
def stoppable() -> Iterator[Told]:
    """The first Ctrl-C or SIGTERM ends the run after the batch at hand; the next one ends the batch."""
    told = Told()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if told.signal is not None:
            raise KeyboardInterrupt
        told.signal = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    before: dict[int, Callable[..., Any] | int | None] = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, note)
    try:
        yield told
    finally:
        for heard, handler in before.items():
            signal.signal(heard, handler)
