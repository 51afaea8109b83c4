"""The server's side of a client's conversation: the run's own session, lent as a socket, and what it still owes.

Everything that is sent has an `Expected` answer in a queue; answers come in that order. What we put in between a
client's messages (savepoints) is expected as well, and swallowed.

Invariant: between two clients the session is at rest: nothing is owed, and the transaction is open and not failed.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from backout.endpoint.frames import SYNC, Malformed, Stream, bind, message, parse, text

_ONE_ANSWER = {"parse": b"1", "bind": b"2", "close": b"3"}
_CHUNK = 1 << 16
_ROW, _COPY_DATA = ord("D"), ord("d")


@dataclass
class Expected:
    """What will answer one message. `kind`: parse, bind, close, describe, execute, sync or query."""

    kind: str
    ours: bool = False  # swallowed
    instead: bytes = b""  # sent to the client when it is done, in place of what was swallowed
    error: bytes | None = None  # sent in place of the error that is provoked
    done: Callable[[], None] | None = None
    failed: Callable[[], None] | None = None
    skipped: Callable[[], None] | None = None  # the server has not read it


class ServerGone(Exception):
    """The server closed the connection, or ended the transaction: the run is lost."""


@dataclass
class Controls:
    """The texts that we prepare on the session, under names that no client has."""

    guard: str = "SAVEPOINT _backout_guard"
    release: str = "RELEASE SAVEPOINT _backout_guard"
    back: str = "ROLLBACK TO SAVEPOINT _backout_guard"
    nothing: str = "SELECT 1"
    fail: str = "SELECT 1/0"  # folded when it is planned: Bind fails, with the protocol's own consequences


class Upstream:
    """The lent session. Used by one conversation at a time."""

    def __init__(self, lent: socket.socket, deferred: tuple[str, ...]) -> None:
        self.socket = lent
        self.owed: deque[Expected] = deque()
        self.outgoing = bytearray()
        self.stream = Stream()
        self.guard_is_set = False  # there is a savepoint to go back to
        self.guard_is_clean = False  # and nothing was done since
        self.copying_in = False  # the server waits for the client's data
        self._skipping = False  # after an error in the extended protocol it reads nothing before the next Sync
        self.checks_constraints = bool(deferred)
        texts = vars(Controls())
        if deferred:
            texts["check"] = "SET CONSTRAINTS ALL IMMEDIATE"
            texts["defer"] = f"SET CONSTRAINTS {', '.join(deferred)} DEFERRED"
        for name, query in texts.items():
            self.send(parse(f"_backout_{name}", query), Expected("parse", ours=True))
        self.send(SYNC, Expected("sync", ours=True))
        self.rest()

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *expected: Expected) -> None:
        """Queue bytes for the server, and what will answer them."""
        self.outgoing += data
        for one in expected:
            self._skipping = self._skipping and one.kind != "sync"
            if not self._skipping:
                self.owed.append(one)
            elif one.skipped:
                one.skipped()

    def control(
        self,
        name: str,
        *,
        instead: bytes = b"",
        error: bytes | None = None,
        done: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        """Queue one of the prepared controls."""
        self.send(
            bind(f"_backout_{name}"),
            Expected("bind", ours=True, error=error),
            Expected("execute", ours=True, instead=instead, error=error, done=done, failed=failed),
        )

    def sync(self, *, ours: bool = False) -> None:
        """Queue a Sync."""
        self.send(SYNC, Expected("sync", ours=ours))

    def guarded(self) -> None:
        """Queue what makes the guard new, so that whatever comes now can be taken back alone."""
        if self.guard_is_set and not self.guard_is_clean:
            self.control("release")
        if not (self.guard_is_set and self.guard_is_clean):
            self.control("guard")
        self.guard_is_set, self.guard_is_clean = True, True

    def flush(self) -> None:
        """Send what the socket takes now."""
        if self.outgoing:
            try:
                sent = self.socket.send(self.outgoing[: 16 * _CHUNK])
            except BlockingIOError:
                return
            except OSError as error:
                raise ServerGone(str(error)) from None
            del self.outgoing[:sent]

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Read what is there."""
        try:
            data = self.socket.recv(4 * _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise ServerGone(str(error)) from None
        if not data:
            raise ServerGone("the server closed the connection")
        self.stream.add(data)

    def answers(self, client: bytearray, ready: Callable[[bytes], None]) -> None:
        """Pass on to `client` what is its; `ready` is called with the status at each Sync or query that is the client's."""
        while True:
            if self.owed and not self.owed[0].ours:
                client += self.stream.rows(_ROW)
                client += self.stream.rows(_COPY_DATA)
            found = self._next()
            if found is None:
                return
            self._answer(found[0], found[1], client, ready)

    def _next(self) -> tuple[int, bytes] | None:
        try:
            return next(self.stream.messages(), None)
        except Malformed as error:
            raise ServerGone(f"the server sent {error}") from None

    def _answer(self, kind_code: int, payload: bytes, client: bytearray, ready: Callable[[bytes], None]) -> None:
        kind = bytes((kind_code,))
        if kind in b"NSA":  # not an answer: notices, parameters, notifications
            client += message(kind, payload) if kind in b"NS" else b""
        elif not self.owed:
            raise ServerGone(_said(payload) if kind == b"E" else f"the server said {kind!r} unasked")
        elif kind == b"E":
            self._error(self.owed[0], payload, client)
        elif kind == b"Z":
            self._at_rest(self.owed.popleft(), payload, ready)
        else:
            self._part(self.owed[0], kind, payload, client)

    def _error(self, expected: Expected, payload: bytes, client: bytearray) -> None:
        client += expected.error if expected.error is not None else message(b"E", payload)
        self.copying_in = False
        if expected.failed:
            expected.failed()
        # After an error in the extended protocol the server reads on from the next Sync, and leaves out whatever comes
        # before it, queries included (manual 55.2.3); a simple query has its own end.
        while expected.kind != "query" and self.owed and self.owed[0].kind != "sync":
            skipped = self.owed.popleft().skipped
            if skipped:
                skipped()
        self._skipping = not self.owed

    def _at_rest(self, expected: Expected, status: bytes, ready: Callable[[bytes], None]) -> None:
        if status == b"I":
            raise ServerGone("the supervised transaction has ended")
        if not expected.ours:
            ready(status)
        elif expected.done:
            expected.done()

    def _part(self, expected: Expected, kind: bytes, payload: bytes, client: bytearray) -> None:
        if not expected.ours:
            client += message(kind, payload)
        if kind in b"GC":  # the server waits for the client's data, or has all of them
            self.copying_in = kind == b"G"
        if _ends(kind, expected.kind):
            self.owed.popleft()
            client += expected.instead
            if expected.done:
                expected.done()

    # -- alone with the server -----------------------------------------------------------------------------------------

    def rest(self, ready: Callable[[bytes], None] = lambda _status: None) -> None:
        """Send all, and wait until nothing is owed; what is the client's is thrown away."""
        ignored = bytearray()
        while self.owed or self.outgoing:
            readable, writable, _ = select.select([self.socket], [self.socket] if self.outgoing else [], [])
            if writable:
                self.flush()
            if readable:
                self.receive()
                self.answers(ignored, ready)
                ignored.clear()

    def ask(self, query: str) -> None:
        """Run a statement of ours between two clients; its failure is ignored, and taken back by the guard."""
        self.send(message(b"Q", text(query)), Expected("query", ours=True))
        self.rest()

    def roll_back(self) -> None:
        """Take back what the client has not committed."""
        if self.guard_is_set:
            self.control("back")
            self.sync(ours=True)
            self.rest()
            self.guard_is_clean = True


def _ends(kind: bytes, expected: str) -> bool:
    if expected in _ONE_ANSWER:
        return kind == _ONE_ANSWER[expected]
    if expected == "describe":
        return kind in b"Tn"
    return expected == "execute" and kind in b"CIs"


def _said(payload: bytes) -> str:
    fields = {part[:1]: part[1:] for part in payload.split(b"\0") if part}
    return fields.get(b"M", b"?").decode(errors="replace")
