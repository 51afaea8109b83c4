"""The server's side of a client's conversation: the run's own session, lent as a socket, and what it still owes.

Everything that is sent has an `Expected` answer in a queue; answers come in that order. What we put in between a
client's messages (savepoints) is expected as well, and swallowed.

Invariant: between two clients the session is at rest: nothing is owed, and the transaction is open and not failed.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from time import monotonic, sleep

from backout.endpoint.controls import CONTROLS
from backout.endpoint.frames import SYNC, Malformed, Stream, bind, complete, message, parse
from backout.endpoint.transcript import Noted

_TYPES = [bytes((code,)) for code in range(256)]
#: By what a message's answer ends.
_ENDS = {
    name: frozenset(types)
    for name, types in {"parse": b"1", "bind": b"2", "close": b"3", "describe": b"Tn", "execute": b"CIs"}.items()
}
_PLAIN = frozenset(b"123Tn")
_COMPLETE, _COPY_OR_COMPLETE, _COPY_IN = frozenset(b"CI"), frozenset(b"GC"), ord("G")
_CHUNK = 1 << 16
_DATA_CODES = tuple(b"Dd")  # rows, of a query and of a COPY
#: What a socket that does not block says when it is not its turn; the lent one can speak TLS.
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Notices, parameters, notifications (manual 55.2.7); then the types by which the others are told apart.
_NO_ANSWER, _PARAMETER, _NOTIFICATION, _ERROR, _READY = tuple(b"NSA"), ord("S"), ord("A"), ord("E"), ord("Z")


@dataclass(slots=True)
class Expected:
    """What will answer one message. `kind`: parse, bind, close, describe, execute, sync or query."""

    kind: str
    ours: bool = False  # swallowed
    instead: bytes = b""  # sent to the client when it is done, in place of what was swallowed
    error: bytes | None = None  # sent in place of the error that is provoked
    done: Callable[[], None] | None = None
    failed: Callable[[], None] | None = None
    skipped: Callable[[], None] | None = None  # the server has not read it
    noted: Noted | None = None  # for the transcript


#: The time in which a server has done RELEASE and SAVEPOINT. One that is cancelled in between has no savepoint at all, and
#: all that the run has done is lost [1 in 35,000 rounds of nonsense, PostgreSQL 18.4, a busy
#: machine, before we waited].
_RENEWS_S = 0.1
SYNCED, _OUR_SYNC = Expected("sync"), Expected("sync", ours=True)


class ServerGone(Exception):
    """The server closed the connection, or ended the transaction: the run is lost."""


class Blinded(ServerGone):
    """Something changed what statements mean, unseen: nothing more may be passed on, and nothing be committed."""


#: What a server reports of itself (manual 55.2.7) and no statement may change.
_FIXED = ("client_encoding", "standard_conforming_strings", "session_authorization", "is_superuser")


class Upstream:
    """The lent session. Used by one conversation at a time."""

    def __init__(self, lent: socket.socket, deferred: tuple[str, ...], parameters: Mapping[str, str]) -> None:
        self.socket = lent
        self._fixed = {name: parameters.get(name) for name in _FIXED}
        self._failed: str | None = None  # what the server said against something of ours
        self.owed: deque[Expected] = deque()
        self.outgoing = bytearray()
        self.stream = Stream()
        self.guard_is_set = False  # there is a savepoint to go back to
        self.guard_is_clean = False  # and nothing was done since
        self.copying_in = False  # the server waits for the client's data
        self.copy: Noted | None = None  # and whose
        self._skipping = False  # after an error in the extended protocol it reads nothing before the next Sync
        self.checks_constraints = bool(deferred)
        self._sending = Lock()
        self._renewed_at = 0.0  # by the monotonic clock: when the guard was last made new
        named = ", ".join(deferred)
        texts = {**CONTROLS, "defer": f"SET CONSTRAINTS {named} DEFERRED" if deferred else CONTROLS["nothing"]}
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

    def send_now(self, data: bytes) -> None:
        """Send bytes at once, where nothing waits; what the socket does not take now waits. What is owed is the caller's."""
        try:
            with self._sending:
                sent = self.socket.send(data)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            raise ServerGone(str(error)) from None
        if sent < len(data):
            self.outgoing += data[sent:]

    @property
    def is_at_rest(self) -> bool:
        """Nothing is on its way, and the server reads what comes next."""
        return not (self.owed or self.outgoing or self._skipping)

    def control(
        self,
        name: str,
        *,
        tag: str = "",
        answer: bytes = b"",
        error: bytes | None = None,
        done: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
        noted: Noted | None = None,
    ) -> None:
        """Queue one of the prepared controls; with `tag` the client gets `answer`, and that its command is complete.

        With `error` the client gets that instead; `failed` is called also where the server has left it out.
        """

        def ended() -> None:
            if done:
                done()
            if noted and tag:
                noted.complete(tag)

        self.send(
            bind(f"_backout_{name}"),
            Expected(
                "bind", ours=True, error=error, failed=failed if error else None, skipped=failed if error else None,
                noted=None if error else noted,
            ),
            Expected(
                "execute", ours=True, instead=answer + complete(tag) if tag else b"", error=error,
                done=ended if noted else done, failed=failed,
                noted=None if error else noted,
            ),
        )  # fmt: skip

    def call(self, name: str, *parameters: str) -> None:
        """Queue one of the prepared controls that take parameters."""
        self.send(bind(f"_backout_{name}", *parameters), Expected("bind", ours=True), Expected("execute", ours=True))

    def once(self, query: str) -> None:
        """Queue a statement of ours."""
        self.send(parse("_backout_once", query), Expected("parse", ours=True))
        self.call("once")
        self.close(b"S_backout_once\0")

    def close(self, what: bytes) -> None:
        """Queue a Close: `S` and a statement's name, or `P` and a portal's; that it is not there is no error."""
        self.send(message(b"C", what), Expected("close", ours=True))

    def sync(self, *, ours: bool = False) -> None:
        """Queue a Sync."""
        self.send(SYNC, _OUR_SYNC if ours else SYNCED)

    def guarded(self) -> None:
        """Queue what makes the guard new, so that whatever comes now can be taken back alone."""
        if self.guard_is_set and not self.guard_is_clean:
            self._renewed_at = monotonic()
            self.control("release")
        if not (self.guard_is_set and self.guard_is_clean):
            self.control("guard")
        self.guard_is_set, self.guard_is_clean = True, True

    def flush(self) -> None:
        """Send what the socket takes now."""
        if self.outgoing:
            try:
                with self._sending:
                    sent = self.socket.send(self.outgoing[: 16 * _CHUNK])
            except _NOT_NOW:
                return
            except OSError as error:
                raise ServerGone(str(error)) from None
            del self.outgoing[:sent]

    def interrupt(self, cancel: Callable[[], None]) -> None:
        """Have the server end the client's statement that it is at, and nothing of ours. For any thread.

        Nothing is sent meanwhile: `cancel` returns when the server has heard it, so that it cannot hit what comes next.
        """
        with self._sending:
            sleep(max(0.0, self._renewed_at + _RENEWS_S - monotonic()))
            if self.owed:
                cancel()

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Read what is there."""
        self.stream.keep(self.received())

    def received(self) -> int:
        """Read what is there into the stream's buffer, and say how much that is."""
        try:
            count = self.stream.receive(self.socket)
        except _NOT_NOW:
            return 0
        except OSError as error:
            raise ServerGone(str(error)) from None
        if not count:
            raise ServerGone("the server closed the connection")
        return count

    def answers(self, client: bytearray, ready: Callable[[bytes], None], mine: Callable[[], bool]) -> None:
        """Pass on to `client` what is its; `ready` is called with the status at each Sync or query that is the client's.

        Ends when nothing is here, or when the session is not `mine` any more: then another thread reads what comes.
        """
        stream = self.stream
        while mine():
            try:  # not around what is done then: a client's own message can be malformed as well
                if stream.first in _DATA_CODES and self._is_the_clients():
                    client += stream.rows(stream.first)
                if stream.first in _PLAIN:
                    client += stream.pass_on(_PLAIN, self._is_plain)
                found = stream.take()
            except Malformed as error:
                raise ServerGone(f"the server sent {error}") from None
            if found is None:
                return
            self._answer(*found, client, ready)

    def _is_the_clients(self) -> bool:
        return bool(self.owed) and not self.owed[0].ours

    def _is_plain(self, code: int) -> bool:
        """Whether this answer is the client's, and nothing is done when it has come."""
        if not self.owed:
            return False
        expected = self.owed[0]
        if expected.ours or expected.done or expected.noted or code not in _ENDS.get(expected.kind, ()):
            return False
        self.owed.popleft()
        return True

    def _answer(self, code: int, payload: bytes, client: bytearray, ready: Callable[[bytes], None]) -> None:
        if code in _NO_ANSWER:
            if code == _PARAMETER:
                self._require_fixed(payload)
            if code != _NOTIFICATION:
                client += message(_TYPES[code], payload)
        elif not self.owed:
            raise ServerGone(_said(payload) if code == _ERROR else f"the server said {bytes((code,))!r} unasked")
        elif code == _ERROR:
            self._error(self.owed[0], payload, client)
        elif code == _READY:
            self._at_rest(self.owed.popleft(), payload, ready)
        else:
            self._part(self.owed[0], code, payload, client)

    def _require_fixed(self, payload: bytes) -> None:
        name, value, *_ = (one.decode(errors="replace") for one in payload.split(b"\0"))
        if name in self._fixed and value != self._fixed[name]:
            raise Blinded(f'"{name}" was changed to "{value}" by a function, unseen: it decides what statements mean')

    def _error(self, expected: Expected, payload: bytes, client: bytearray) -> None:
        client += expected.error if expected.error is not None else message(b"E", payload)
        self.copying_in = False
        if expected.ours:
            self._failed = _said(payload)
        noted = expected.noted or self._executed_behind(expected)
        if noted:
            noted.fail(_field(payload, b"C"))
        if expected.failed:
            expected.failed()
        # After an error in the extended protocol the server reads on from the next Sync, and leaves out whatever comes
        # before it, queries included (manual 55.2.3); a simple query has its own end.
        while expected.kind != "query" and self.owed and self.owed[0].kind != "sync":
            skipped = self.owed.popleft().skipped
            if skipped:
                skipped()
        self._skipping = not self.owed

    def _executed_behind(self, expected: Expected) -> Noted | None:
        """What would have been executed, had its Bind not failed: values that are no values of their types."""
        if expected.kind != "bind" or expected.ours:
            return None
        behind = next((one for one in islice(self.owed, 1, 3) if one.kind != "describe"), None)
        return behind.noted if behind is not None and behind.kind == "execute" and not behind.ours else None

    def _at_rest(self, expected: Expected, status: bytes, ready: Callable[[bytes], None]) -> None:
        if status == b"I":
            raise ServerGone("the supervised transaction has ended")
        if not expected.ours:
            ready(status)
        elif expected.done:
            expected.done()

    def _part(self, expected: Expected, code: int, payload: bytes, client: bytearray) -> None:
        if not expected.ours:
            client += message(_TYPES[code], payload)
            if expected.noted and code in _COMPLETE:
                expected.noted.complete(payload[:-1].decode(errors="replace"))
        if code in _COPY_OR_COMPLETE:  # the server waits for the client's data, or has all of them
            self.copying_in = code == _COPY_IN
            self.copy = expected.noted if self.copying_in else None
        if code in _ENDS.get(expected.kind, ()):
            self.owed.popleft()
            client += expected.instead
            if expected.done:
                expected.done()

    # -- alone with the server -----------------------------------------------------------------------------------------

    def rest(
        self, ready: Callable[[bytes], None] = lambda _status: None, patience_s: float | None = None,
        client: bytearray | None = None,
    ) -> bool:  # fmt: skip
        """Send all, and wait until nothing is owed; False: not within this time.

        What is the client's goes to `client`, or is thrown away.
        """
        answered = client if client is not None else bytearray()
        until = None if patience_s is None else monotonic() + patience_s
        while self.owed or self.outgoing:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return False
            readable, writable, _ = select.select([self.socket], [self.socket] if self.outgoing else [], [], left)
            if writable:
                self.flush()
            if readable:
                self.receive()
                self.answers(answered, ready, lambda: True)
                if client is None:
                    answered.clear()
        return True

    def begun_anew(self) -> None:
        """The session is in another transaction than before: it has no savepoint yet."""
        self.guard_is_set = self.guard_is_clean = False

    def attempt(self, calls: Sequence[tuple[str, str, str]]) -> str | None:
        """Do something of ours between two transactions of clients; what the server said against it, or None."""
        if not calls:
            return None
        self.guarded()
        self._failed = None
        for name, *parameters in calls:
            self.call(name, *parameters)
        self.sync(ours=True)
        self.rest()
        self.guard_is_clean = False  # a later rollback must not take these back
        return self._taken_back()

    def attempt_once(self, query: str) -> None:
        """Do one statement of ours between two transactions of clients; where it fails, nothing is done."""
        self.guarded()
        self._failed = None
        self.once(query)
        self.sync(ours=True)
        self.rest()
        self.guard_is_clean = False
        self._taken_back()

    def _taken_back(self) -> str | None:
        problem = self._failed
        if problem is not None:
            self.roll_back()
        return problem

    def roll_back(self) -> None:
        """Take back what the client has not committed. Raises ServerGone where that is not possible."""
        if not self.guard_is_set:
            return
        for _ in range(3):  # a cancel of the client's that comes late may hit this instead
            self._failed = None
            self.control("back")
            self.sync(ours=True)
            self.rest()
            if self._failed is None:
                self.guard_is_clean = True
                return
        raise ServerGone(f"it could not be rolled back: {self._failed}")


def _said(payload: bytes) -> str:
    return _field(payload, b"M")


def _field(payload: bytes, name: bytes) -> str:
    """A field of an ErrorResponse (manual 55.8)."""
    fields = {part[:1]: part[1:] for part in payload.split(b"\0") if part}
    return fields.get(name, b"?").decode(errors="replace")
