"""The short way of a prepared statement that only reads: passed on as it came, and so is its answer.

A program asks thousands of these, one by one, and each of our steps makes it wait: here is one thread that reads, sends,
reads and sends, and what has to be remembered is done while the server works or the client has its answer.

Not for: other statements, and answers that do not come whole (`extended.py`, `upstream.py`): they take the long way, which
can go on from any point of this one. Invariant: what the server owes stands in `Upstream.owed` before it can answer; nothing
is done that the long way would not do.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from time import perf_counter

from backout.endpoint.extended import BOUND, DESCRIBED
from backout.endpoint.forms import answered, describes, head_of, renamed, taken_apart
from backout.endpoint.frames import Stream
from backout.endpoint.names import NOTHING, Names, Prepared
from backout.endpoint.transactions import Transactions
from backout.endpoint.transcript import Noted
from backout.endpoint.upstream import SYNCED, Expected, Upstream

_IDLE = ord("I")
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Known:
    """What a Bind that begins with the same bytes was found to be."""

    name: bytes  # of the statement
    prepared: Prepared
    head: bytes  # as the server gets it
    length: int  # of the head as the client sends it
    bind_end: int


class FastPath:
    """Of one client, while nothing else is on its way to or from it."""

    def __init__(
        self, client: socket.socket, stream: Stream, upstream: Upstream, transactions: Transactions, names: Names
    ) -> None:
        self._client, self._stream, self._upstream = client, stream, upstream
        self._transactions, self._names = transactions, names
        self._both = select.poll()
        for one in (client, upstream.socket):
            self._both.register(one, select.POLLIN)
        self._server = upstream.socket.fileno()
        self._known: dict[bytes, Known] = {}
        self._describes, self._tag = False, b""
        self._noted: Noted | None = None
        self._executed = Expected("execute")  # one is enough, since one is on its way

    def asked(self, count: int) -> Known | None:
        """The statement that the client's buffer asks for, if it can go this way as far as that alone tells."""
        head = head_of(self._stream.buffer, count)
        if head is None:
            return None
        known = self._known.get(head)
        if known is None or self._names.get(known.name) is not known.prepared:
            known = self._learned(head)
            if known is None:
                return None
        found = describes(self._stream.buffer, count, known.bind_end)
        if found is None:
            return None
        self._describes = found
        return known

    def _learned(self, head: bytes) -> Known | None:
        name, bind_end = taken_apart(head)
        prepared = self._names.get(name)
        if prepared is NOTHING or not prepared.piece.only_reads or prepared.piece.asks or bind_end <= len(head):
            return None
        if len(self._known) >= _KEPT:  # they differ in the lengths of what is bound
            self._known.clear()
        known = Known(name, prepared, renamed(head, self._names.named(name)), len(head), bind_end)
        self._known[head] = known
        return known

    @property
    def is_open(self) -> bool:
        """With the session in hand: nothing has to be put before the statement."""
        transactions, upstream = self._transactions, self._upstream
        return (transactions.will_be or upstream.guard_is_clean) and not transactions.failed and upstream.is_at_rest

    def ask(self, known: Known, count: int) -> None:
        """Pass it on. Then all is as after the long way, and whoever is there may read the answer."""
        view, transactions, owed = self._stream.view, self._transactions, self._upstream.owed
        began = perf_counter()
        transactions.guard_is_there()
        owed.append(BOUND)
        self._upstream.send_now(known.head + view[known.length : count])
        # The server works meanwhile.
        bound = bytes(view[known.length + 1 : known.bind_end])
        self._noted = transactions.noted((known.prepared.piece,), bound, known.prepared.types, began)
        self._executed.noted = self._noted
        owed.extend((DESCRIBED, self._executed, SYNCED) if self._describes else (self._executed, SYNCED))
        if transactions.will_be:  # outside of a transaction the portal ends with this
            transactions.portals[b""] = (known.prepared, bound)

    def wait(self) -> int:
        """For the server or the client. How long the answer is that stands in the server's buffer, if it is whole.

        0: it is not. What is here of it is in the server's stream, for the long way.
        """
        upstream = self._upstream
        if upstream.outgoing:
            return 0
        ready = self._both.poll()
        if ready[0][0] != self._server and ready[-1][0] != self._server:
            return 0
        count = upstream.received()
        tag = answered(upstream.stream.buffer, count, describes=self._describes)
        if tag is None:
            upstream.stream.keep(count)
            return 0
        self._tag = tag
        return count

    def pass_on(self, count: int) -> int:
        """Give the client its answer; how much of it was taken. Raises OSError."""
        stream = self._upstream.stream
        if not self._transactions.inside:
            stream.buffer[count - 1] = _IDLE
        self._upstream.owed.clear()
        try:
            return self._client.send(stream.view[:count], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def note(self) -> bool:
        """Remember what was done, when the client has its answer. Returns whether it is in a transaction of its own."""
        assert self._noted is not None
        self._noted.complete(self._tag.decode(errors="replace"))
        transactions = self._transactions
        if not transactions.inside:  # nothing was opened, set or made, and nothing has failed
            transactions.guarded = False
        return transactions.inside
