"""A run in batches under way: what its parts share, and how signals reach it.

Invariant: nothing here asks a database.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from types import FrameType
from typing import Any

from backout.change.model import DataClass, Step
from backout.engines.batches import (
    Batched,
    Batches,
    BatchingDatabase,
    Key,
    Keyset,
    Limits,
)
from backout.engines.values import CapturedTable, Counts, Mode, SequenceMove, Table, TableName
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
    affected: int = 0  # rows in the command tags of all batches
    tables: list[CapturedTable] = field(
        default_factory=list
    )  # what all batches wrote, by table and by how it was captured
    began: float = field(default_factory=monotonic)
    looked_at_before: int = 0  # when it began or was resumed
    read_at: float = 0.0
    notes: list[str] = field(default_factory=list)
    pauses: dict[str, float] = field(default_factory=dict)  # reason -> seconds
    sequences: dict[str, SequenceMove] = field(default_factory=dict)
    longest_s: float = 0.0
    differing: dict[TableName, int] = field(
        default_factory=dict
    )  # of the second run of a rehearsal: rows that it changes
    armed: list[Table] = field(default_factory=list)  # beside its own table; since it began or was resumed
    obstacles: set[str] = field(default_factory=set)  # to an exact undo; of a ghost, since a run is refused
    retries: int = 0
    waits_for: str | None = None
    tracking: Tracking | None = None
    resumed: bool = False
    transcript: Mapping[str, Any] | None = None  # of a program

    @property
    def keeps(self) -> bool:
        """A ghost run keeps nothing."""
        return self.run.mode is not Mode.GHOST

    @property
    def is_sampled(self) -> bool:
        """Whether a ghost run that is to try so many batches has done so. The second run of a rehearsal tries all."""
        most = self.limits.ghost_batches
        return most is not None and not self.keeps and not self.run.repeated and self.done >= most

    @property
    def is_private(self) -> bool:
        """Whether no value of a row may be shown."""
        return self.run.change.metadata.data is DataClass.PHI

    @property
    def written(self) -> int:
        """All writes that the database counted, in all batches."""
        return sum(one.counted.total for one in self.tables if one.counted)

    def note_written(self, tables: Sequence[CapturedTable]) -> None:
        """Add what a batch has written."""
        for one in tables:
            same = [at for at, other in enumerate(self.tables) if _key(other) == _key(one)]
            if same:
                self.tables[same[0]] = _together(self.tables[same[0]], one)
            elif one.counted and one.counted.total:
                self.tables.append(one)

    def differ(self, rows: Mapping[TableName, int]) -> None:
        """Add the rows in which a batch's images differ."""
        for name, count in rows.items():
            if count:
                self.differing[name] = self.differing.get(name, 0) + count

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
    going.last, going.done, going.affected = batched.last, batched.batches, batched.affected
    going.tables = list(batched.tables) if batched.batches else []
    going.looked_at = going.looked_at_before = batched.looked_at
    return going


def progress_of(going: Going) -> Progress:
    """How far it is."""
    return Progress(
        going.done, going.looked_at, going.keyset.estimated_rows, going.written, monotonic() - going.began,
        going.looked_at - going.looked_at_before,
    )  # fmt: skip


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return Counts(one.inserted + other.inserted, one.updated + other.updated, one.deleted + other.deleted)


def _key(one: CapturedTable) -> tuple[TableName, bool]:
    return one.table.name, one.logged


def _together(one: CapturedTable, other: CapturedTable) -> CapturedTable:
    """What two batches wrote to one table."""
    return replace(
        one, counted=added(one.counted or Counts(), other.counted or Counts()),
        before_rows=one.before_rows + other.before_rows, after_rows=one.after_rows + other.after_rows,
    )  # fmt: skip


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
