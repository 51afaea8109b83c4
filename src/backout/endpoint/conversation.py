"""One client: its messages go to the run's session, with its transactions as savepoints of the run's one transaction.

A client's BEGIN, or its first statement outside of a transaction, makes the guard (a savepoint) new; ROLLBACK, or an
error outside of a transaction, goes back to it; COMMIT leaves it behind. One savepoint is enough for all of it, since a
client has one transaction at a time, and only the client that holds the session has any.

Not for: who may connect (`server.py`). Invariant: no message that begins, ends or prepares a transaction reaches the
server, and no statement that `statements.py` refuses.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar

from backout.endpoint import frames
from backout.endpoint.frames import Malformed, Stream, complete, message, strings, text
from backout.endpoint.statements import NO_TRANSACTION, NOT_SUPPORTED, Control, Piece, Reader, Refusal
from backout.endpoint.upstream import Expected, Upstream

_BACK_PRESSURE = 1 << 20  # bytes that wait for one side before the other is read on
_CHUNK = 1 << 16
_SMALL = 10_000  # what a server takes of messages that carry no data (PQ_SMALL_MESSAGE_LIMIT, libpq.h)


class ClientGone(Exception):
    """The client closed its connection, or said goodbye."""


class Conversation:
    """The messages of one client from log-in to goodbye. `lease` and `release` take and give back the session."""

    def __init__(
        self,
        number: int,
        client: socket.socket,
        stream: Stream,
        upstream: Upstream,
        lease: Callable[[], None],
        release: Callable[[], None],
        note: Callable[[], None],
    ) -> None:
        self._number, self._client, self._stream, self._upstream = number, client, stream, upstream
        self._lease, self._release, self._note = lease, release, note
        self._reader = Reader()
        self._outgoing = bytearray()  # for the client
        self._prepared: dict[bytes, Piece] = {}
        self._portals: dict[bytes, Piece] = {}
        self._units: deque[tuple[Piece, ...]] = deque()  # what is left of a query with several statements
        self.holds_session = False
        self._in_transaction = False  # as the server has answered so far
        self._will_be = False  # when all that was sent has been done
        self._failed = False
        self._guarded = False  # since the last Sync
        self._awaiting = False  # the answer to a Sync or a query: an error could have to be taken back first
        self._will_copy = False  # a COPY was executed, and it is not known yet whether the server wants its data
        self._checked = False  # the constraints, at the end of a statement outside of a transaction
        self._leaving = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Talk until the client leaves. Raises ClientGone, ServerGone or Malformed."""
        self._client.settimeout(0)
        for kind, payload in self._arrived():
            self._message(kind, payload)
        while True:
            self._exchange()

    def _exchange(self) -> None:
        upstream = self._upstream
        reading, writing = [], []
        if len(upstream.outgoing) < _BACK_PRESSURE and self._stream.waiting < _BACK_PRESSURE:
            reading.append(self._client)
        if self.holds_session and len(self._outgoing) < _BACK_PRESSURE:
            reading.append(upstream.socket)
        if self._outgoing:
            writing.append(self._client)
        if self.holds_session and upstream.outgoing:
            writing.append(upstream.socket)
        readable, writable, _ = select.select(reading, writing, [])
        if self._client in readable:
            self._receive()
            for kind, payload in self._arrived():
                self._message(kind, payload)
        if self.holds_session:
            upstream.flush()
        if upstream.socket in readable and self.holds_session:
            upstream.receive()
            upstream.answers(self._outgoing, self._ready)
            self._again()
        if self._outgoing:
            self._send()
        del writable

    def _arrived(self) -> Iterator[tuple[int, bytes]]:
        while not (self._awaiting or self._will_copy) or self._upstream.copying_in:
            found = next(self._stream.messages(), None)
            if found is None:
                return
            yield found

    def _receive(self) -> None:
        try:
            data = self._client.recv(4 * _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            raise ClientGone from None
        if not data:
            raise ClientGone
        self._stream.add(data)

    def _send(self) -> None:
        try:
            sent = self._client.send(self._outgoing[: 16 * _CHUNK])
        except BlockingIOError:
            return
        except OSError:
            raise ClientGone from None
        del self._outgoing[:sent]

    # -- what the client says ------------------------------------------------------------------------------------------

    def _message(self, code: int, payload: bytes) -> None:
        kind = bytes((code,))
        if kind == b"X":
            raise ClientGone
        if len(payload) > _SMALL and kind in b"CDEHScf":
            raise Malformed(f"a message of type {kind!r} with {len(payload)} bytes")
        if kind in b"dcf":
            self._copy(kind, payload)
            return
        if self._upstream.copying_in and kind in b"HS":  # they mean nothing there, and are not answered (manual 55.2.6)
            return
        if self._upstream.copying_in:
            raise Malformed(f"a message of type {kind!r} in the middle of a COPY")
        handler = self._HANDLERS.get(kind)
        if handler is None:
            raise Malformed(f"a message of type {kind!r}")
        if not self.holds_session:
            self._lease()
            self.holds_session = True
        self._awaiting = kind in b"QSF" or self._awaiting
        handler(self, payload)

    def _copy(self, kind: bytes, payload: bytes) -> None:
        if self.holds_session:  # after the COPY has failed its data may still be on the way
            self._upstream.send(message(kind, payload))
            if kind != b"d":
                self._upstream.copying_in = self._will_copy = False

    def _query(self, payload: bytes) -> None:
        (query,), _ = strings(payload, 1)
        pieces = self._reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is not None:
            self._refuse(refused)
            self._upstream.sync()
            return
        if not any(piece.control in (Control.BEGIN, Control.COMMIT, Control.ROLLBACK) for piece in pieces):
            self._plain_query(query, pieces)
            return
        self._units.extend(_units(pieces))
        self._next_unit()

    def _plain_query(self, query: bytes, pieces: tuple[Piece, ...]) -> None:
        outside = [piece for piece in pieces if piece.control is Control.SAVEPOINT]
        if outside and not self._will_be and len(pieces) == 1:
            self._refuse(Piece(outside[0].text, refusal=_OUTSIDE))
            self._upstream.sync()
            return
        self._guard(only_reads=all(piece.only_reads for piece in pieces))
        self._note()
        if len(pieces) == 1 and pieces[0].deallocates == "":
            self._deallocate_all()
            self._upstream.sync()
            return
        query = self._deallocated(query, pieces)
        self._upstream.send(message(b"Q", query + b"\0"), Expected("query", skipped=self._unanswered))

    def _next_unit(self) -> None:
        unit = self._units.popleft()
        if unit[0].control in (Control.BEGIN, Control.COMMIT, Control.ROLLBACK):
            self._control(unit[0])
            self._upstream.sync()
        else:
            self._guard()
            self._note()
            joined = "; ".join(piece.text for piece in unit).encode()
            self._upstream.send(message(b"Q", joined + b"\0"), Expected("query", skipped=self._unanswered))

    def _parse(self, payload: bytes) -> None:
        (name, query), rest = strings(payload, 2)
        pieces = self._reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is not None:
            self._refuse(refused)
            return
        self._guard(only_reads=True)
        piece = pieces[0] if pieces else Piece("", only_reads=True)
        self._prepared[name] = piece
        query = self._deallocated(query, pieces)
        self._upstream.send(message(b"P", self._named(name) + b"\0" + query + b"\0" + rest), Expected("parse"))

    def _bind(self, payload: bytes) -> None:
        (portal, name), rest = strings(payload, 2)
        self._guard(only_reads=True)
        self._portals[portal] = self._prepared.get(name, Piece(""))
        self._upstream.send(message(b"B", portal + b"\0" + self._named(name) + b"\0" + rest), Expected("bind"))

    def _describe(self, payload: bytes) -> None:
        self._guard(only_reads=True)
        self._upstream.send(message(b"D", self._prefixed(payload)), Expected("describe"))

    def _close(self, payload: bytes) -> None:
        self._guard(only_reads=True)
        self._upstream.send(message(b"C", self._prefixed(payload)), Expected("close"))
        if payload[:1] == b"S":
            self._prepared.pop(payload[1:-1], None)

    def _execute(self, payload: bytes) -> None:
        (portal,), _ = strings(payload, 1)
        piece = self._portals.get(portal, Piece(""))
        if piece.control in (Control.BEGIN, Control.COMMIT, Control.ROLLBACK):
            self._control(piece)
            return
        if piece.control is Control.SAVEPOINT and not self._will_be:
            self._refuse(Piece(piece.text, refusal=_OUTSIDE))
            return
        self._guard(only_reads=piece.only_reads)
        self._note()
        if piece.deallocates == "":
            self._deallocate_all()
            return
        if not piece.copies_in:
            self._upstream.send(message(b"E", payload), Expected("execute"))
            return
        # Whatever comes now is data, or must wait until it is known that the server does not want any.
        self._will_copy = True
        ended = self._copied
        self._upstream.send(message(b"E", payload), Expected("execute", done=ended, failed=ended, skipped=ended))

    def _sync(self, _payload: bytes) -> None:
        self._upstream.sync()

    def _flush(self, _payload: bytes) -> None:
        self._upstream.send(message(b"H"))

    def _function_call(self, _payload: bytes) -> None:
        self._refuse(Piece("", refusal=Refusal(NOT_SUPPORTED, "fast-path function calls are not passed on")))
        self._upstream.sync()

    _HANDLERS: ClassVar = {
        b"Q": _query, b"P": _parse, b"B": _bind, b"D": _describe, b"C": _close, b"E": _execute, b"S": _sync,
        b"H": _flush, b"F": _function_call,
    }  # fmt: skip

    # -- transactions --------------------------------------------------------------------------------------------------

    def _guard(self, *, only_reads: bool = False) -> None:
        """Outside of a transaction: make what comes until the Sync a transaction of its own.

        What only reads needs the guard for the case that it fails, and leaves it as good as new for the next.
        """
        if self._will_be:
            return
        if not self._guarded:
            self._upstream.guarded()
            self._guarded = True
        if not only_reads:
            self._upstream.guard_is_clean = False

    def _control(self, piece: Piece) -> None:
        self._note()
        if self._failed and piece.control is not Control.BEGIN:
            self._roll_back(piece, "ROLLBACK")
        elif piece.control is Control.BEGIN:
            self._guard()  # what was done since the last Sync becomes part of the transaction, as on a server
            self._upstream.control("nothing", instead=complete("BEGIN"), done=lambda: self._now(inside=True))
            self._will_be = True
        elif piece.control is Control.COMMIT:
            self._commit(piece)
        else:
            self._roll_back(piece, "ROLLBACK")

    def _commit(self, piece: Piece) -> None:
        self._guard()
        if self._upstream.checks_constraints:
            self._upstream.control("check", failed=lambda: self._now(inside=False))
            self._upstream.control("defer")
        self._upstream.control("nothing", instead=complete("COMMIT"), done=lambda: self._now(inside=piece.chain))
        self._after(piece)

    def _roll_back(self, piece: Piece, tag: str) -> None:
        self._guard()
        self._upstream.control("back", instead=complete(tag), done=lambda: self._now(inside=piece.chain))
        self._after(piece)

    def _after(self, piece: Piece) -> None:
        self._will_be = self._guarded = False
        if piece.chain:
            self._guard()
            self._will_be = True

    def _now(self, *, inside: bool) -> None:
        self._in_transaction = inside

    def _refuse(self, piece: Piece) -> None:
        """Fail on the server too, so that it and the client have the same idea of the transaction."""
        assert piece.refusal is not None
        self._note()
        self._guard()
        said = frames.error(piece.refusal.sqlstate, piece.refusal.message, piece.refusal.hint)
        self._upstream.control("fail", error=said)

    # -- what the server says ------------------------------------------------------------------------------------------

    def _ready(self, status: bytes) -> None:
        """The server has done all up to a Sync, or up to the end of a query."""
        failed = status == b"E"
        if failed and not self._in_transaction:
            self._units.clear()
            self._checked = False
            self._upstream.control("back")
            self._upstream.send(frames.SYNC, Expected("sync", ours=True, done=self._idle))
            self._upstream.guard_is_clean = True
            return
        if self._units and not failed:
            self._next_unit()
            return
        self._units.clear()
        if not failed and self._owes_check():
            return
        self._failed, self._will_be = failed, self._in_transaction
        if self._in_transaction:
            self._awaiting = False
            self._outgoing += frames.ready(status)
            self._again()
        else:
            self._idle()

    def _unanswered(self) -> None:
        """The client's next message can be read: no end of a query is to come first."""
        self._awaiting = False

    def _copied(self) -> None:
        """A COPY has ended, or never began."""
        self._will_copy = False

    def _owes_check(self) -> bool:
        """At the end of a statement outside of a transaction: look at the constraints that a server checks there."""
        if self._in_transaction or self._upstream.guard_is_clean or not self._upstream.checks_constraints:
            return False
        if self._checked:
            self._checked = False
            return False
        self._checked = True
        self._upstream.control("check")
        self._upstream.control("defer")
        self._upstream.sync()
        return True

    def _idle(self) -> None:
        self._failed = self._will_be = self._guarded = self._in_transaction = self._awaiting = False
        self._will_copy = False
        self._outgoing += frames.ready(b"I")
        self._portals.clear()
        if not self._leaving:
            self.holds_session = False
            self._release()
        self._again()

    def _again(self) -> None:
        """Go on with what the client has sent meanwhile."""
        if self._leaving:
            return
        for kind, payload in self._arrived():
            self._message(kind, payload)

    # -- names ---------------------------------------------------------------------------------------------------------

    def _named(self, name: bytes) -> bytes:
        return b"c%d_%s" % (self._number, name) if name else b""

    def _prefixed(self, payload: bytes) -> bytes:
        return payload if payload[:1] != b"S" else b"S" + self._named(payload[1:-1]) + b"\0"

    def _deallocated(self, query: bytes, pieces: tuple[Piece, ...]) -> bytes:
        """DEALLOCATE names what the client has prepared by messages as it knows it."""
        name = (pieces[0].deallocates or "").encode() if len(pieces) == 1 else b""
        if not name or name not in self._prepared:
            return query
        del self._prepared[name]
        return b'DEALLOCATE "%s"' % self._named(name).replace(b'"', b'""')

    def _deallocate_all(self) -> None:
        """What this client has prepared by messages; nobody else's."""
        for name in filter(None, self._prepared):
            self._upstream.send(message(b"C", b"S" + self._named(name) + b"\0"), Expected("close", ours=True))
        self._prepared.clear()
        self._upstream.control("nothing", instead=complete("DEALLOCATE ALL"))

    # -- the end -------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Bring the session to rest after the client has gone, at whatever point. Raises ServerGone."""
        upstream, self._leaving = self._upstream, True
        if not self.holds_session:
            self._lease()
            self.holds_session = True
        upstream.send(message(b"f", text("the client has gone")))  # ends a COPY, and means nothing else (manual 55.2.6)
        upstream.sync(ours=True)
        upstream.rest(self._ready)
        if self._in_transaction or self._guarded:
            upstream.roll_back()
        for name in filter(None, self._prepared):
            upstream.send(message(b"C", b"S" + self._named(name) + b"\0"), Expected("close", ours=True))
        upstream.sync(ours=True)
        upstream.rest()
        self.holds_session = False
        self._release()


_OUTSIDE = Refusal(NO_TRANSACTION, "savepoints can only be used in transaction blocks")


def _units(pieces: tuple[Piece, ...]) -> Iterator[tuple[Piece, ...]]:
    """Statements as they can be sent together: what controls the transaction stands alone."""
    together: list[Piece] = []
    for piece in pieces:
        if piece.control in (Control.BEGIN, Control.COMMIT, Control.ROLLBACK):
            if together:
                yield tuple(together)
                together = []
            yield (piece,)
        else:
            together.append(piece)
    if together:
        yield tuple(together)
