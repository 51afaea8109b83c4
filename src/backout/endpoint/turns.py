"""Where the clients of a change in batches ask for their next bounds, and the run's own thread answers.

The thread of the client that asks waits meanwhile, and has the session, at rest; so nobody else speaks on it. The run's thread
settles the batch before and begins the next, as for a loop in Python (`runs/batches_turns.py`).

Not for: how the question is recognised (`statements.py`). Invariant: what was asked is answered, also where the run ends.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, Queue
from time import monotonic, sleep
from typing import Protocol

from backout.endpoint.pieces import ACTIVE_TRANSACTION, GUARD, NOT_NOW, RESERVED, Refusal
from backout.endpoint.settings import Settings
from backout.endpoint.upstream import Upstream
from backout.engines.batches import Key, LendsBatches
from backout.engines.protocol import Loan
from backout.errors import BackoutError, RolledBack

#: The next batch is at hand; else why not.
Ask = Callable[[], Refusal | None]
INSIDE = Refusal(ACTIVE_TRANSACTION, "backout.next_batch() inside of a transaction", "COMMIT or ROLLBACK before it")
ALONE = Refusal(ACTIVE_TRANSACTION, "backout.next_batch() together with other statements", "send it by itself")
OWN_NAME = Refusal(RESERVED, "names of portals that begin with backout_ are backout's own", "choose another name")
_LOOK_S, _MOMENT_S = 0.1, 2.0


class Bounded(Protocol):
    """See `runs.batches_turns.Bounds`."""

    @property
    def number(self) -> int: ...
    @property
    def after(self) -> Key | None: ...
    @property
    def upto(self) -> Key: ...
    @property
    def where(self) -> str: ...
    @property
    def again(self) -> bool: ...


class Taken(Protocol):
    """See `runs.batches_turns.Turns`."""

    @property
    def is_open(self) -> bool: ...
    def next(self) -> Bounded | None: ...


@dataclass
class _Asked:
    refusal: Refusal | None = None
    answered: threading.Event = field(default_factory=threading.Event)

    def answer(self, refusal: Refusal | None) -> None:
        self.refusal = refusal
        self.answered.set()


class Turnstile:
    """The turns of one program. `problem` is asked ahead of each: what it says is wrong ends the run. `moved`: behind each."""

    def __init__(self, lends: LendsBatches, turns: Taken, loan: Loan) -> None:
        self.statement = lends.statement
        self.failed_at: float | None = None
        self.problem: Callable[[], str | None] = lambda: None
        self.moved: Callable[[], None] = lambda: None
        self._lends, self._turns, self._loan = lends, turns, loan
        self._upstream: Upstream | None = None
        self._settings: Settings | None = None
        self._asked: Queue[_Asked] = Queue()
        self._lock = threading.Lock()
        self._closed = False
        self._client: int | None = None

    def serves(self, upstream: Upstream, settings: Settings) -> None:
        """The session on which the clients speak, and whose settings it has."""
        self._upstream, self._settings = upstream, settings

    # -- the clients' threads ------------------------------------------------------------------------------------------

    def ask(self, client: int) -> Refusal | None:
        """Wait for the next batch. Refused where another connection takes the turns."""
        until = monotonic() + _MOMENT_S
        while self._client not in (None, client):  # one that has just said goodbye may not be gone yet
            if monotonic() > until:
                hint = "ask on one connection; others may write to its batch"
                return Refusal("55006", "another connection takes the batches of this run", hint)
            sleep(0.01)
        self._client = client
        asked = _Asked()
        with self._lock:
            if self._closed:
                return Refusal(NOT_NOW, "the run ends")
            self._asked.put(asked)
        asked.answered.wait()
        return asked.refusal

    def left(self, client: int) -> None:
        """It has gone, and others may ask."""
        if self._client == client:
            self._client = None

    # -- the run's thread ----------------------------------------------------------------------------------------------

    def attend(self, child: subprocess.Popen[bytes]) -> None:
        """Answer whoever asks, or wait for a moment."""
        try:
            asked = self._asked.get(timeout=_LOOK_S)
        except Empty:
            child.poll()
            return
        refusal: Refusal | None = Refusal(NOT_NOW, "the run ends")
        try:
            refusal = self._turn()
        finally:
            self.moved()
            asked.answer(refusal)

    def close(self) -> None:
        """No turn is given from now on."""
        with self._lock:
            self._closed = True
        while not self._asked.empty():
            self._asked.get_nowait().answer(Refusal(NOT_NOW, "the run ends"))

    def _turn(self) -> Refusal | None:
        assert self._upstream is not None
        assert self._settings is not None
        problem = self.problem()
        if problem is not None:
            raise RolledBack(problem, hint="look what it was; then go on with the run")
        lends, bounds, failed = self._lends, None, None
        with self._loan.at_home():
            if self._upstream.guard_is_set:
                lends.release(GUARD)
            carried = lends.take_settings(*self._settings.carried())
            lends.end_reading()
            self._upstream.begun_anew()
            try:
                bounds = self._turns.next()
            except BackoutError as error:
                failed, self.failed_at = error, monotonic()
            if not self._turns.is_open:
                lends.begin_reading()
            lends.put_settings(carried)
            if bounds is not None:
                lends.tell(bounds.number, bounds.after, bounds.upto, bounds.where, again=bounds.again)
        return Refusal(NOT_NOW, f"the run ends here: {failed.message}", failed.hint) if failed is not None else None
