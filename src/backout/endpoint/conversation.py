"""One client: its messages go to the run's session, and the session's answers to it, for as long as it is its turn.

Not for: who may connect (`server.py`), what a message does (`simple.py`, `extended.py`), what becomes of its transactions
(`transactions.py`). Invariant: no text that begins, ends or prepares a transaction reaches the server, and no statement
that `statements.py` refuses.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from backout.endpoint import frames
from backout.endpoint.extended import Extended
from backout.endpoint.fast_path import FastPath
from backout.endpoint.frames import Malformed, Stream, message, text
from backout.endpoint.names import Names
from backout.endpoint.pieces import Refusal
from backout.endpoint.settings import Settings
from backout.endpoint.simple import Look, Queries
from backout.endpoint.transactions import Transactions
from backout.endpoint.transcript import Transcript
from backout.endpoint.turns import INSIDE, Turnstile
from backout.endpoint.upstream import Expected, Upstream

_BACK_PRESSURE = 1 << 20  # bytes that wait for one side before the other is read on
_CHUNK = 1 << 16
_COPY_DATA, _SYNC, _GOODBYE = ord("d"), ord("S"), ord("X")
#: Types of messages: data of a COPY and its end; those of a few bytes; what is answered by ReadyForQuery.
_COPYING, _WITHOUT_DATA = frozenset(b"dcf"), frozenset(b"CDEHScf")
_FLUSH_OR_SYNC, _QUERIES, _ANSWERED = frozenset(b"HS"), frozenset(b"QF"), frozenset(b"QSF")
_MOMENT_S = 0.1
_SMALL = 10_000  # what a server takes of messages that carry no data (PQ_SMALL_MESSAGE_LIMIT, libpq.h)


class ClientGone(Exception):
    """The client closed its connection, or said goodbye."""


class Lease(Protocol):
    """Gives the session to a client."""

    def __call__(self, *, patient: bool) -> None:
        """Wait for it. Raises ClientGone where another has it for too long, if not `patient`."""


@dataclass(frozen=True)
class Shared:
    """What all conversations of a run have in common."""

    upstream: Upstream
    settings: Settings
    transcript: Transcript
    isolation: str  # the run's
    look: Look | None = None  # of a session: what it has changed so far
    turns: Turnstile | None = None  # of a change in batches
    using: set[int] = field(default_factory=set)  # the clients that have had the session and have not left


class Conversation:
    """The messages of one client from log-in to goodbye. `lease` and `release` take and give back the session.

    `wanted` are the settings that the client asked for at log-in.
    """

    def __init__(
        self,
        number: int,
        client: socket.socket,
        stream: Stream,
        shared: Shared,
        lease: Lease,
        release: Callable[[], None],
        wanted: Mapping[str, str] | None = None,
    ) -> None:
        self._number, self._client, self._stream = number, client, stream
        self._upstream, self._settings = shared.upstream, shared.settings
        self._lease, self._release, self._using = lease, release, shared.using
        self._wanted = dict(wanted or {})
        self._outgoing = bytearray()  # for the client
        self._names = names = Names(number, shared.upstream)
        self._transactions = transactions = Transactions(
            number, shared.upstream, shared.settings, shared.transcript, names, shared.isolation,
            shared.turns.statement if shared.turns else None,
        )  # fmt: skip
        self._turns = shared.turns
        ask = self._ask if shared.turns is not None else None
        if "pg_temp" in self._wanted.get("search_path", ""):
            transactions.reader.search_path_is_set()
        self._queries = queries = Queries(shared.upstream, transactions, names, self._unanswered, shared.look, ask)
        self._extended = extended = Extended(shared.upstream, transactions, names, ask)
        self._handlers: Mapping[int, Callable[[bytes], None]] = {
            ord("Q"): queries.query, ord("P"): extended.parse, ord("B"): extended.bind, ord("D"): extended.describe,
            ord("C"): extended.close, ord("E"): extended.execute, ord("S"): extended.sync, ord("H"): extended.flush,
            ord("F"): extended.call,
        }  # fmt: skip
        self._fast = FastPath(client, stream, shared.upstream, transactions, names)
        self.holds_session = False
        self._awaiting = False  # the answer to a Sync or a query: an error could have to be taken back first
        self._leaving = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Talk until the client leaves. Raises ClientGone, ServerGone or Malformed."""
        self._client.settimeout(None)
        self._read()
        while True:
            if self.holds_session or self._outgoing:
                self._exchange()
            else:  # there is nobody else to listen to
                self._receive(0)

    def _exchange(self) -> None:
        upstream = self._upstream
        reading, writing = [], []
        if len(upstream.outgoing) < _BACK_PRESSURE and (self._reads_on or self._stream.waiting < _BACK_PRESSURE):
            reading.append(self._client)
        if self.holds_session and len(self._outgoing) < _BACK_PRESSURE:
            reading.append(upstream.socket)
        if self._outgoing:
            writing.append(self._client)
        if self.holds_session and upstream.outgoing:
            writing.append(upstream.socket)
        readable, _, _ = select.select(reading, writing, [])
        if self._client in readable:
            self._receive(socket.MSG_DONTWAIT)
        if self.holds_session:
            upstream.flush()
        if upstream.socket in readable and self.holds_session:
            upstream.receive()
            self._answers()
        if self._outgoing:
            self._send()

    def _answers(self) -> None:
        """Pass on what the server has said, and go on with what the client has sent meanwhile."""
        self._upstream.answers(self._outgoing, self._ready, self._has_session)
        self._again()

    def _read(self) -> None:
        """Do what the client has sent, as far as it is its turn."""
        while self._reads_on:
            if self._is_copying():
                self._data()
            found = self._stream.take()
            if found is None:
                return
            self._message(*found)

    @property
    def _reads_on(self) -> bool:
        """It is the client's turn. Then what is here of it is less than one message, however long that is."""
        return not (self._awaiting or self._extended.will_copy) or self._is_copying()

    def _has_session(self) -> bool:
        return self.holds_session

    def _is_copying(self) -> bool:
        """The server waits for data of this client, and not of another's COPY."""
        return self.holds_session and self._upstream.copying_in

    def _receive(self, flags: int) -> None:
        """Read what the client says, and do it."""
        try:
            count = self._stream.receive(self._client, flags)
        except BlockingIOError:
            return
        except OSError:
            raise ClientGone from None
        if not count:
            raise ClientGone
        if not self._at_once(count):
            self._stream.keep(count)
            self._read()

    def _send(self) -> None:
        try:
            sent = self._client.send(self._outgoing[: 16 * _CHUNK], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            raise ClientGone from None
        del self._outgoing[:sent]

    # -- the short way -------------------------------------------------------------------------------------------------

    def _at_once(self, count: int) -> bool:
        """Whether what was received can be passed on as it is, and was. So is its answer, or the long way goes on."""
        if self._stream.waiting or self._outgoing or self._awaiting or self._extended.is_busy:
            return False
        fast, found = self._fast, self._fast.asked(count)
        if found is None:
            return False
        if not self.holds_session:
            self._take()
        if not fast.is_open:
            return False
        self._awaiting = True
        fast.ask(found, count)
        whole = fast.wait()
        if whole:
            self._answered(whole)
        else:
            self._answers()
        return True

    def _answered(self, count: int) -> None:
        """The answer stands in the server's buffer, whole: the client gets it, and then it is remembered."""
        try:
            sent = self._fast.pass_on(count)
        except OSError:
            self._fast.note()
            raise ClientGone from None
        if sent < count:
            self._outgoing += self._upstream.stream.view[sent:count]
        self._awaiting = False
        if not self._fast.note():
            self.holds_session = False
            self._release()

    # -- what the client says ------------------------------------------------------------------------------------------

    def _message(self, code: int, payload: bytes) -> None:
        if len(payload) > _SMALL and code in _WITHOUT_DATA:
            raise Malformed(f"a message of type {chr(code)!r} with {len(payload)} bytes")
        handler = self._handlers.get(code)
        if handler is None:
            self._other(code, payload)
            return
        if self._upstream.copying_in and self.holds_session:
            if code in _FLUSH_OR_SYNC:  # they mean nothing there, and are not answered (manual 55.2.6)
                return
            raise Malformed(f"a message of type {chr(code)!r} in the middle of a COPY")
        if code in _QUERIES and self._extended.unsynced:
            # What it has done to the settings is only known after its Sync, and decides how a query is read. What was only
            # prepared and described has done nothing: asyncpg goes on with a COPY without any Sync.
            raise Malformed("a query before the Sync of what came before it")
        if not self.holds_session:
            if code in _FLUSH_OR_SYNC:  # nothing came before it, and nothing is to come: the session is not needed
                self._outgoing += frames.ready(b"I") if code == _SYNC else b""
                return
            self._take()
        if code in _ANSWERED:
            self._awaiting = True
        handler(payload)

    def _other(self, code: int, payload: bytes) -> None:
        if code == _GOODBYE:
            raise ClientGone
        if code not in _COPYING:
            raise Malformed(f"a message of type {chr(code)!r}")
        if self.holds_session:  # after the COPY has failed its data may still be on the way
            self._upstream.send(message(bytes((code,)), payload))
            if code != _COPY_DATA:
                self._upstream.copying_in = self._extended.will_copy = False

    def _take(self) -> None:
        self._lease(patient=False)
        self.holds_session = True
        self._using.add(self._number)
        if self._wanted:
            problem = self._settings.start(self._number, self._wanted)
            if problem is not None:
                with suppress(OSError):
                    self._client.send(frames.error("22023", problem, severity="FATAL"))
                raise ClientGone
            self._wanted.clear()
        self._settings.lend(self._number)

    def _data(self) -> None:
        """Pass on all rows of a COPY that are here, as they are."""
        rows = self._stream.rows(_COPY_DATA)
        if rows:
            self._upstream.outgoing += rows
            if self._upstream.copy is not None:
                self._upstream.copy.copied(rows)

    # -- what the server says ------------------------------------------------------------------------------------------

    def _ready(self, status: bytes) -> None:
        """The server has done all up to a Sync, or up to the end of a query."""
        failed, transactions, units = status == b"E", self._transactions, self._queries.units
        self._names.settle()
        if failed and not transactions.inside:
            units.clear()
            transactions.take_back()
            self._upstream.send(frames.SYNC, Expected("sync", ours=True, done=self._idle))
            self._upstream.guard_is_clean = True
            return
        if units and not failed:
            self._queries.next_unit()
            return
        units.clear()
        if not failed and transactions.owes_end():
            return
        transactions.failed, transactions.will_be = failed, transactions.inside
        if transactions.inside:
            self._awaiting = False
            self._outgoing += frames.ready(status)
            self._again()
        else:
            self._idle()

    def _unanswered(self) -> None:
        """The client's next message can be read: no end of a query is to come first."""
        self._awaiting = False

    def _idle(self) -> None:
        self._transactions.idle()
        self._awaiting = self._extended.will_copy = False
        self._outgoing += frames.ready(b"I")
        if not self._leaving:
            self.holds_session = False
            self._release()
        self._again()

    def _again(self) -> None:
        """Go on with what the client has sent meanwhile."""
        if not self._leaving:
            self._read()

    # -- batches -------------------------------------------------------------------------------------------------------

    def _ask(self) -> Refusal | None:
        """The batch before is settled, and the next one begun; else why not. The session is at rest meanwhile."""
        assert self._turns is not None
        upstream, transactions = self._upstream, self._transactions
        if transactions.will_be or transactions.failed:
            return INSIDE
        alive: list[bool] = []
        upstream.control("nothing", done=lambda: alive.append(True))
        upstream.sync(ours=True)
        upstream.rest(client=self._outgoing)
        if not alive:
            raise Malformed("a call of next_batch behind what has failed")
        refusal = self._turns.ask(self._number)
        transactions.guarded = False
        return refusal

    # -- the end -------------------------------------------------------------------------------------------------------

    def leave(self, cancel: Callable[[], None]) -> None:
        """Bring the session to rest after the client has gone, at whatever point. Raises ServerGone.

        `cancel` is called where it is still at a statement after a moment. Where another client has the session this waits
        until that one is done, however long it takes: nobody is there who could be told to come back later.
        """
        upstream, self._leaving = self._upstream, True
        if self._turns is not None:
            self._turns.left(self._number)
        if not self.holds_session:
            if self._number not in self._using:
                return  # it has left nothing there
            self._lease(patient=True)
            self.holds_session = True
        upstream.send(message(b"f", text("the client has gone")))  # ends a COPY, and means nothing else (manual 55.2.6)
        upstream.sync(ours=True)
        if not upstream.rest(self._ready, _MOMENT_S):
            upstream.interrupt(cancel)
            upstream.rest(self._ready)
        if self._transactions.inside or self._transactions.guarded:
            self._transactions.note_undone()
            upstream.roll_back()
            self._transactions.reader.back()
        self._settings.leave(self._number)
        self._names.close_all()
        upstream.sync(ours=True)
        upstream.rest()
        self._using.discard(self._number)
        if not self._using:  # what a server ends with a session
            discard = ("DISCARD TEMP",) if self._turns is None else ()  # armed tables' logs are temporary, too
            for statement in (*discard, "SELECT pg_catalog.pg_advisory_unlock_all()"):
                upstream.attempt_once(statement)
        self.holds_session = False
        self._release()
