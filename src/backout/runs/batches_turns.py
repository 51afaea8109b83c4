"""Batches whose statements are somebody else's: a Python change's loop, or any client that asks for its next bounds.

Each turn settles the batch before (captured, proven, committed; in a ghost run rolled back) and begins the next. Whoever
takes turns knows nothing of that: it gets bounds, and writes rows within them. A batch that cannot be settled as it was
written (it wrote a table that was not armed, or met a deadlock) is rolled back, and its turn is given once more.

Not for: what reads or guards the statements. Invariant: nothing is written between two batches; once a turn has failed
no other is given, whatever the client makes of the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, sleep

from backout.engines.batches import Batch, Key, MoreIsWritten
from backout.errors import Busy, DatabaseFailed
from backout.runs.batches_armed import follow
from backout.runs.batches_going import Going
from backout.runs.batches_pace import ATTEMPTS, before_attempt
from backout.runs.batches_settle import is_worth_another, note_settled, settled
from backout.runs.batches_waits import give_way


@dataclass(frozen=True)
class Bounds:
    """One turn: the rows of the table with `after < key <= upto`. Keys as the database prints them."""

    number: int
    after: Key | None  # None: from the first row
    upto: Key
    where: str  # SQL, with the table's own name
    again: bool = False  # the turn was given before, and what was written in it is rolled back

    def __str__(self) -> str:
        return self.where


class Turns:
    """The batches of one run, taken one after the other."""

    def __init__(self, going: Going) -> None:
        self._going = going
        self._reference = '"' + going.keyset.table.name.name.replace('"', '""') + '"'
        self._batch: Batch | None = None
        self._began, self._locked, self._attempt = 0.0, 0.0, 1
        self.failed: BaseException | None = None
        self.over = False

    @property
    def is_open(self) -> bool:
        """Whether a batch can be written to at this moment."""
        return self._batch is not None and self.failed is None

    def next(self) -> Bounds | None:
        """Settle the batch at hand, and begin the next; None: all are through.

        Raises what ends the run: told to stop, not proven, a lock that somebody does not let go of; then each time.
        """
        if self.failed is not None:
            raise self.failed
        try:
            return self._next()
        except BaseException as error:
            self.abandon()
            self.failed = error
            raise

    def _next(self) -> Bounds | None:
        if self.over:
            return None
        if self._batch is not None:
            again = self._settle(self._batch)
            if again is not None:
                return again
        if self._going.is_sampled:
            self.over = True
            return None
        give_way(self._going)
        going, self._began = self._going, monotonic()
        return self._opened(going.batches.begin(going.keyset, going.done + 1, going.last, going.pace.size), again=False)

    def _opened(self, batch: Batch | None, *, again: bool) -> Bounds | None:
        self._batch = batch
        if batch is None:
            self.over = True
            return None
        batch.open()
        self._locked = monotonic()
        where = batch.within(self._reference, batch.after, batch.upto)
        return Bounds(self._going.done + 1, batch.after, batch.upto, where, again)

    def _settle(self, batch: Batch) -> Bounds | None:
        """None: it is settled; else its turn once more."""
        going = self._going
        try:
            record = settled(going, batch, self._began, self._locked)
        except MoreIsWritten as more:
            self.abandon()
            follow(going, more.tables)
        except (Busy, DatabaseFailed) as error:
            self.abandon()
            if self._attempt == ATTEMPTS or not is_worth_another(error):
                raise
            self._attempt += 1
            going.retries += 1
            sleep(before_attempt(self._attempt))
        else:
            self._batch, self._attempt = None, 1
            note_settled(going, record)
            return None
        self._began = monotonic()
        number, size = going.done + 1, batch.looked_at
        return self._opened(
            going.batches.begin_between(going.keyset, number, batch.after, batch.upto, size), again=True
        )

    def abandon(self) -> None:
        """Roll the batch at hand back. Never raises."""
        if self._batch is not None:
            self._batch.rollback()
            self._batch = None
