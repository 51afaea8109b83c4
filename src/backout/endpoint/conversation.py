"""One client: its messages go to the run's session, with its transactions as savepoints of the run's one transaction.

A client's BEGIN, or its first statement outside of a transaction, makes the guard (a savepoint) new; ROLLBACK, or an
error outside of a transaction, goes back to it; COMMIT leaves it behind. One savepoint is enough for all of it, since a
client has one transaction at a time, and only the client that holds the session has any. What a server ends with a
transaction is ended by hand: settings that are local to it, portals and cursors, tables that are to be dropped.

Not for: who may connect (`server.py`). Invariant: no text that begins, ends or prepares a transaction reaches the
server, and no statement that `statements.py` refuses.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

from backout.endpoint import frames
from backout.endpoint.frames import Malformed, Stream, message, strings, text
from backout.endpoint.names import NOTHING, Names, Prepared
from backout.endpoint.pieces import NO_TRANSACTION, NOT_SUPPORTED, SYNTAX, Control, Piece, Refusal
from backout.endpoint.settings import Settings
from backout.endpoint.statements import Reader
from backout.endpoint.transcript import Noted, Transcript
from backout.endpoint.upstream import Expected, Upstream

_BACK_PRESSURE = 1 << 20  # bytes that wait for one side before the other is read on
_CHUNK = 1 << 16
_COPY_DATA, _GOODBYE = ord("d"), ord("X")
#: Types of messages: data of a COPY and its end; those of a few bytes; what is answered by ReadyForQuery.
_COPYING, _WITHOUT_DATA = frozenset(b"dcf"), frozenset(b"CDEHScf")
_FLUSH_OR_SYNC, _QUERIES, _ANSWERED = frozenset(b"HS"), frozenset(b"QF"), frozenset(b"QSF")
#: Answers that nothing waits for.
_BOUND, _DESCRIBED = Expected("bind"), Expected("describe")
_SMALL = 10_000  # what a server takes of messages that carry no data (PQ_SMALL_MESSAGE_LIMIT, libpq.h)


class ClientGone(Exception):
    """The client closed its connection, or said goodbye."""


@dataclass(frozen=True)
class Shared:
    """What all conversations of a run have in common."""

    upstream: Upstream
    settings: Settings
    transcript: Transcript
    isolation: str  # the run's
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
        lease: Callable[[], None],
        release: Callable[[], None],
        wanted: Mapping[str, str] | None = None,
    ) -> None:
        self._number, self._client, self._stream = number, client, stream
        self._upstream, self._settings, self._transcript = shared.upstream, shared.settings, shared.transcript
        self._lease, self._release, self._using = lease, release, shared.using
        self._wanted = dict(wanted or {})
        self._reader = Reader(shared.isolation)
        if "pg_temp" in self._wanted.get("search_path", ""):
            self._reader.search_path_is_set()
        self._outgoing = bytearray()  # for the client
        self._names = Names(number, shared.upstream)
        self._portals: dict[bytes, tuple[Prepared, bytes]] = {}  # with what was bound
        self._opened: set[bytes] = set()  # portals and cursors that end with the client's transaction
        self._local: set[str] = set()  # settings that end with it
        self._dropped: set[str] = set()  # temporary tables that do
        self._units: deque[tuple[Piece, ...]] = deque()  # what is left of a query with several statements
        self.holds_session = False
        self._in_transaction = False  # as the server has answered so far
        self._will_be = False  # when all that was sent has been done
        self._failed = False
        self._read_only = False
        self._guarded = False  # since the last Sync
        self._unsynced = False  # messages of the extended protocol without their Sync yet
        self._awaiting = False  # the answer to a Sync or a query: an error could have to be taken back first
        self._will_copy = False  # a COPY was executed, and it is not known yet whether the server wants its data
        self._ended = False  # by hand, what a server ends with a statement outside of a transaction
        self._leaving = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Talk until the client leaves. Raises ClientGone, ServerGone or Malformed."""
        self._client.settimeout(0)
        self._read()
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
        readable, _, _ = select.select(reading, writing, [])
        if self._client in readable:
            self._receive()
            self._read()
        if self.holds_session:
            upstream.flush()
        if upstream.socket in readable and self.holds_session:
            upstream.receive()
            upstream.answers(self._outgoing, self._ready, self._has_session)
            self._again()
        if self._outgoing:
            self._send()

    def _read(self) -> None:
        """Do what the client has sent, as far as it is its turn."""
        while not (self._awaiting or self._will_copy) or self._is_copying():
            if self._is_copying():
                self._data()
            found = self._stream.take()
            if found is None:
                return
            self._message(*found)

    def _has_session(self) -> bool:
        return self.holds_session

    def _is_copying(self) -> bool:
        """The server waits for data of this client, and not of another's COPY."""
        return self.holds_session and self._upstream.copying_in

    def _receive(self) -> None:
        try:
            is_there = self._stream.read(self._client)
        except BlockingIOError:
            return
        except OSError:
            raise ClientGone from None
        if not is_there:
            raise ClientGone

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
        if len(payload) > _SMALL and code in _WITHOUT_DATA:
            raise Malformed(f"a message of type {chr(code)!r} with {len(payload)} bytes")
        handler = self._HANDLERS.get(code)
        if handler is None:
            self._other(code, payload)
            return
        if self._upstream.copying_in and self.holds_session:
            if code in _FLUSH_OR_SYNC:  # they mean nothing there, and are not answered (manual 55.2.6)
                return
            raise Malformed(f"a message of type {chr(code)!r} in the middle of a COPY")
        if code in _QUERIES and self._unsynced:
            # What they have done to the settings is only known after their Sync, and decides how a query is read.
            raise Malformed("a query before the Sync of what came before it")
        if not self.holds_session:
            self._take()
        if code in _ANSWERED:
            self._awaiting = True
        handler(self, payload)

    def _other(self, code: int, payload: bytes) -> None:
        if code == _GOODBYE:
            raise ClientGone
        if code not in _COPYING:
            raise Malformed(f"a message of type {chr(code)!r}")
        if self.holds_session:  # after the COPY has failed its data may still be on the way
            self._upstream.send(message(bytes((code,)), payload))
            if code != _COPY_DATA:
                self._upstream.copying_in = self._will_copy = False

    def _take(self) -> None:
        self._lease()
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

    def _query(self, payload: bytes) -> None:
        (query,), _ = strings(payload, 1)
        self._begins()
        pieces = self._reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is not None:
            self._refuse(refused)
            self._upstream.sync()
            return
        if not any(piece.control in _TRANSACTION for piece in pieces):
            self._plain_query(query, pieces)
            return
        self._units.extend(_units(pieces))
        self._next_unit()

    def _begins(self) -> None:
        if not (self._will_be or self._guarded):
            self._reader.begin()

    def _plain_query(self, query: bytes, pieces: tuple[Piece, ...]) -> None:
        outside = [piece for piece in pieces if piece.control is Control.SAVEPOINT]
        if outside and not self._will_be and len(pieces) == 1:
            self._refuse(Piece(outside[0].text, refusal=_OUTSIDE))
            self._upstream.sync()
            return
        if len(pieces) == 1 and pieces[0].deallocates == "":
            self._guard(only_reads=False)
            self._deallocate_all(self._noted(pieces))
            self._upstream.sync()
            return
        if any(piece.said is not None for piece in pieces):
            query = _joined(pieces)
        self._send_query(self._names.deallocated(query, pieces), pieces)

    def _send_query(self, query: bytes, pieces: tuple[Piece, ...]) -> None:
        self._guard(only_reads=all(piece.only_reads for piece in pieces))
        if self._remember(pieces):
            self._upstream.sync(ours=True)  # a query after an error of ours would never be answered
        expected = Expected("query", skipped=self._unanswered, noted=self._noted(pieces))
        self._upstream.send(message(b"Q", query + b"\0"), expected)

    def _remember(self, pieces: Sequence[Piece]) -> bool:
        """Before the statements: what has to be known of them at the end. Returns whether something was sent."""
        sent = False
        for piece in pieces:
            if piece.tables:
                self._transcript.tables.update(piece.tables)
            if piece.defers:
                self._upstream.checks_constraints = True
            if piece.portal:
                self._opened.add(piece.portal.encode())
            if piece.prepares:
                self._names.texts.add(piece.prepares)
            if piece.drops:
                self._dropped.add(piece.drops)
            if piece.rolls_back:
                self._reader.back()
            if piece.resets_all and not self._failed:
                self._settings.reset(self._number)
                sent = True
            if piece.settings and not self._failed:
                self._settings.before(self._number, piece.settings, self._local)
                sent = True
        return sent

    def _noted(self, pieces: Sequence[Piece], bound: bytes = b"", types: bytes = b"") -> Noted:
        texts = (pieces[0].original,) if len(pieces) == 1 else tuple(piece.original for piece in pieces)
        return Noted(self._transcript, self._number, texts, bound, types)

    def _next_unit(self) -> None:
        unit = self._units.popleft()
        if unit[0].control in _TRANSACTION:
            self._control(unit[0])
            self._upstream.sync()
        else:
            self._send_query(_joined(unit), unit)

    def _parse(self, payload: bytes) -> None:
        (name, query), rest = strings(payload, 2)
        self._unsynced = True
        self._begins()
        pieces = self._reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is None and len(pieces) > 1:
            problem = Refusal(SYNTAX, "cannot insert multiple commands into a prepared statement")
            refused = Piece(query.decode(), refusal=problem)
        if refused is not None:
            self._refuse(refused)
            return
        self._guard(only_reads=True)
        piece = pieces[0] if pieces else Piece("", only_reads=True)
        if piece.said is not None:
            query = piece.text.encode()
        self._names.parse(name, self._names.deallocated(query, pieces), Prepared(piece, rest), self._noted((piece,)))

    def _bind(self, payload: bytes) -> None:
        (portal, name), rest = strings(payload, 2)
        self._unsynced = True
        self._guard(only_reads=True)
        prepared = self._names.get(name)
        if not prepared.piece.only_reads:
            self._remember((prepared.piece,))
        self._portals[portal] = (prepared, rest)
        if portal:
            self._opened.add(portal)
        self._upstream.send(message(b"B", portal + b"\0" + self._names.named(name) + b"\0" + rest), _BOUND)

    def _describe(self, payload: bytes) -> None:
        self._unsynced = True
        self._guard(only_reads=True)
        self._upstream.send(message(b"D", self._names.prefixed(payload)), _DESCRIBED)

    def _close(self, payload: bytes) -> None:
        self._unsynced = True
        self._guard(only_reads=True)
        if payload[:1] != b"S":
            self._portals.pop(payload[1:-1], None)
            self._upstream.send(message(b"C", payload), Expected("close"))
            return
        self._names.close(payload[1:-1])

    def _execute(self, payload: bytes) -> None:
        (portal,), _ = strings(payload, 1)
        self._unsynced = True
        prepared, bound = self._portals.get(portal, (NOTHING, b""))
        piece = prepared.piece
        if piece.control in _TRANSACTION:
            self._control(piece)
            return
        if piece.control is Control.SAVEPOINT and not self._will_be:
            self._refuse(Piece(piece.text, refusal=_OUTSIDE))
            return
        self._guard(only_reads=piece.only_reads)
        noted = self._noted((piece,), bound, prepared.types)
        if piece.deallocates == "":
            self._deallocate_all(noted)
            return
        if not piece.copies_in:
            self._upstream.send(message(b"E", payload), Expected("execute", noted=noted))
            return
        # Whatever comes now is data, or must wait until it is known that the server does not want any.
        self._will_copy = True
        ended = self._copied
        self._upstream.send(
            message(b"E", payload), Expected("execute", done=ended, failed=ended, skipped=ended, noted=noted)
        )

    def _sync(self, _payload: bytes) -> None:
        self._unsynced = False
        self._upstream.sync()

    def _flush(self, _payload: bytes) -> None:
        self._upstream.send(message(b"H"))

    def _function_call(self, _payload: bytes) -> None:
        hint = "call the function in a SELECT"
        self._refuse(Piece("", refusal=Refusal(NOT_SUPPORTED, "fast-path function calls are not passed on", hint)))
        self._upstream.sync()

    _HANDLERS: ClassVar = {
        ord("Q"): _query, ord("P"): _parse, ord("B"): _bind, ord("D"): _describe, ord("C"): _close, ord("E"): _execute,
        ord("S"): _sync, ord("H"): _flush, ord("F"): _function_call,
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
        noted = self._noted((piece,))
        if self._failed and piece.control is not Control.BEGIN:
            self._roll_back(piece, noted)
        elif piece.control is Control.BEGIN:
            self._begin(piece, noted)
        elif piece.control is Control.COMMIT:
            self._commit(piece, noted)
        else:
            self._roll_back(piece, noted)

    def _begin(self, piece: Piece, noted: Noted) -> None:
        self._guard(only_reads=True)  # what was done since the last Sync becomes part of it, as on a server
        # A transaction that only reads is ended by going back, which makes the next one writable again.
        if not self._will_be and piece.read_only and self._upstream.guard_is_clean:
            self._upstream.control("read_only")
            self._read_only = True
        if not self._will_be:
            self._upstream.guard_is_clean = False
        self._upstream.control("nothing", tag="BEGIN", done=lambda: self._now(inside=True), noted=noted)
        self._will_be = True

    def _commit(self, piece: Piece, noted: Noted) -> None:
        self._guard()
        if self._upstream.checks_constraints:
            self._upstream.control("check", failed=lambda: self._now(inside=False), noted=noted)
            self._upstream.control("defer")
        self._end_by_hand()
        how = "back" if self._read_only else "nothing"
        self._upstream.control(how, tag="COMMIT", done=lambda: self._now(inside=piece.chain), noted=noted)
        self._after(piece)

    def _roll_back(self, piece: Piece, noted: Noted) -> None:
        self._guard()
        self._upstream.control("back", tag="ROLLBACK", done=lambda: self._now(inside=piece.chain), noted=noted)
        self._reader.back()
        self._forget()
        self._after(piece)

    def _after(self, piece: Piece) -> None:
        self._will_be = self._guarded = self._read_only = False
        self._portals.clear()
        if piece.chain:
            self._guard()
            self._will_be = True

    def _end_by_hand(self) -> bool:
        """What a server ends with a transaction that is committed. Returns whether there was anything."""
        if not (self._local or self._opened or self._dropped):
            return False
        for name in sorted(self._opened):
            self._upstream.close(b"P" + name + b"\0")
        self._settings.end(self._local)
        for table in sorted(self._dropped):
            quoted = table.replace('"', '""')
            self._upstream.once(f'DROP TABLE IF EXISTS pg_temp."{quoted}"')
            self._reader.forget(table)
        self._forget()
        return True

    def _forget(self) -> None:
        """A rollback takes all of them back; the server knows."""
        self._local.clear()
        self._opened.clear()
        self._dropped.clear()

    def _now(self, *, inside: bool) -> None:
        self._in_transaction = inside

    def _refuse(self, piece: Piece) -> None:
        """Fail on the server too, so that it and the client have the same idea of the transaction."""
        assert piece.refusal is not None
        self._noted((piece,)).refuse(piece.refusal.sqlstate)
        self._guard()
        said = frames.error(piece.refusal.sqlstate, piece.refusal.message, piece.refusal.hint)
        self._upstream.control("fail", error=said)
        self._names.unsure()

    # -- what the server says ------------------------------------------------------------------------------------------

    def _ready(self, status: bytes) -> None:
        """The server has done all up to a Sync, or up to the end of a query."""
        failed = status == b"E"
        self._names.settle()
        if failed and not self._in_transaction:
            self._units.clear()
            self._ended = False
            self._reader.back()
            self._forget()
            self._upstream.control("back")
            self._upstream.send(frames.SYNC, Expected("sync", ours=True, done=self._idle))
            self._upstream.guard_is_clean = True
            return
        if self._units and not failed:
            self._next_unit()
            return
        self._units.clear()
        if not failed and self._owes_end():
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

    def _owes_end(self) -> bool:
        """At the end of a statement outside of a transaction: do what a server does there."""
        if self._in_transaction or self._ended:
            self._ended = False
            return False
        checks = self._upstream.checks_constraints and not self._upstream.guard_is_clean
        if checks:
            self._upstream.control("check")
            self._upstream.control("defer")
        if not (self._end_by_hand() or checks):
            return False
        self._ended = True
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
        if not self._leaving:
            self._read()

    def _deallocate_all(self, noted: Noted) -> None:
        """What this client has prepared; nobody else's."""
        self._names.close_all()
        self._upstream.control("nothing", tag="DEALLOCATE ALL", noted=noted)

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
            self._reader.back()
        self._settings.leave(self._number)
        self._names.close_all()
        upstream.sync(ours=True)
        upstream.rest()
        self._using.discard(self._number)
        if not self._using:  # what a server ends with a session
            for statement in ("DISCARD TEMP", "SELECT pg_catalog.pg_advisory_unlock_all()"):
                upstream.attempt_once(statement)
        self.holds_session = False
        self._release()


_TRANSACTION = (Control.BEGIN, Control.COMMIT, Control.ROLLBACK)
_OUTSIDE = Refusal(NO_TRANSACTION, "savepoints can only be used in transaction blocks")


def _joined(pieces: Sequence[Piece]) -> bytes:
    """One query of several statements. A statement may end with a comment up to the end of its line."""
    return "\n;\n".join(piece.text for piece in pieces).encode()


def _units(pieces: tuple[Piece, ...]) -> Iterator[tuple[Piece, ...]]:
    """Statements as they can be sent together: what controls the transaction stands alone."""
    together: list[Piece] = []
    for piece in pieces:
        if piece.control in _TRANSACTION:
            if together:
                yield tuple(together)
                together = []
            yield (piece,)
        else:
            together.append(piece)
    if together:
        yield tuple(together)
