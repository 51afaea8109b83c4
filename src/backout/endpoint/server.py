"""A PostgreSQL server on loopback for the clients of one run: one user, one password, one database, one session behind.

Not for: what a client's messages mean (`conversation.py`), nor for the end of the run. Invariant: `close` returns when no
client has the session any more, and whatever a client has not committed is taken back.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from backout.endpoint import frames, scram
from backout.endpoint.conversation import ClientGone, Conversation, Shared
from backout.endpoint.frames import Malformed, Stream, message, text
from backout.endpoint.limits import Activity
from backout.endpoint.settings import Settings, at_log_in
from backout.endpoint.simple import Look
from backout.endpoint.transcript import Keep, Transcript
from backout.endpoint.turns import Turnstile
from backout.endpoint.upstream import Blinded, ServerGone, Upstream
from backout.engines.protocol import Loan

_Found = TypeVar("_Found")

HOST = "127.0.0.1"
_PROTOCOL_3, _CANCEL, _SSL, _GSS = 196608, 80877102, 80877103, 80877104
_LOG_IN_S = 10.0
_CLIENT_MESSAGE = 1 << 30


@dataclass
class Record:
    """What the endpoint has seen so far."""

    clients: int = 0
    problems: list[str] = field(default_factory=list)  # any of them fails the run


class Endpoint:
    """Listens from its making to `close`."""

    def __init__(
        self, loan: Loan, *, user: str, keep: Keep = lambda _lines: None, wait_s: float = 30.0, most_clients: int = 20,
        look: Look | None = None, turns: Turnstile | None = None,
    ) -> None:  # fmt: skip
        self.user, self.database, self.password = user, loan.database, secrets.token_urlsafe(24)
        self.record = Record()
        self.transcript = Transcript(keep)
        self._parameters, self._cancel, self._wait_s, self._most = loan.parameters, loan.cancel, wait_s, most_clients
        self._upstream = Upstream(loan.socket, loan.deferred, loan.parameters)
        settings = Settings(self._upstream)
        if turns is not None:
            turns.serves(self._upstream, settings)
        looks = _at_home(loan, look) if look is not None else None
        self._shared = Shared(self._upstream, settings, self.transcript, loan.isolation, looks, turns)
        self._was_busy, self._at_statement, self._since = False, 0, monotonic()
        self._session = threading.Lock()
        self._holder: tuple[int, int] | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._talking: dict[int, tuple[socket.socket, threading.Event]] = {}  # what is set when it has left
        self._guard = threading.Lock()
        self._closing = False
        self._listeners: list[tuple[socket.socket, threading.Thread]] = []
        listening = socket.create_server((HOST, 0))
        self.port: int = listening.getsockname()[1]
        self.listen(listening)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where clients connect, with the password of this run."""
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{self.database}?sslmode=disable"

    def serve_known(self, client: socket.socket) -> None:
        """Talk to a client of our own process, which needs no password."""
        with self._guard:
            self.record.clients += 1
            key = (self.record.clients, secrets.randbits(31))
            self._sockets.add(client)
        thread = threading.Thread(target=self._talk_known, args=(client, key), daemon=True)
        with self._guard:
            self._threads.append(thread)
        thread.start()

    def _talk_known(self, client: socket.socket, key: tuple[int, int]) -> None:
        try:
            self._talk(client, Stream(_CLIENT_MESSAGE), key, {})
        finally:
            with self._guard:
                self._sockets.discard(client)
            client.close()

    def listen(self, listening: socket.socket) -> None:
        """Take the connections of this socket as well."""
        acceptor = threading.Thread(target=self._accept, args=(listening,), daemon=True)
        self._listeners.append((listening, acceptor))
        acceptor.start()

    @property
    def activity(self) -> Activity:
        """Whether a client's statement is running, and since when; else since when nothing is."""
        busy = bool(self._upstream.owed)
        if busy != self._was_busy or self.transcript.statements != self._at_statement:
            self._was_busy, self._at_statement, self._since = busy, self.transcript.statements, monotonic()
        return Activity(busy, monotonic() - self._since)

    def note_activity(self) -> None:
        """A batch was settled, which no client's statement shows."""
        self._since = monotonic()

    def close(self) -> None:
        """End every connection, and bring the session to rest."""
        self._closing = True
        for listening, acceptor in self._listeners:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            acceptor.join()
        with self._guard:
            open_ones, threads = list(self._sockets), list(self._threads)
        for one in open_ones:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    # -- clients -------------------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        while not self._closing:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            with self._guard:
                self._sockets.add(client)
                self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(_LOG_IN_S)
            stream = Stream(_CLIENT_MESSAGE)
            found = self._log_in(client, stream)
            if found is not None:
                self._talk(client, stream, *found)
        except (OSError, Malformed, scram.Refused, ClientGone) as error:
            _say(client, error)
        finally:
            with self._guard:
                self._sockets.discard(client)
            client.close()

    def _talk(self, client: socket.socket, stream: Stream, key: tuple[int, int], wanted: Mapping[str, str]) -> None:
        left = threading.Event()
        with self._guard:
            self._talking[key[0]] = client, left
        conversation = Conversation(
            key[0], client, stream, self._shared, partial(self._lease, client, key), self._release, wanted
        )
        try:
            try:
                conversation.run()
            except (ClientGone, Malformed, OSError) as error:
                _say(client, error)
            conversation.leave(self._cancel)
        except Blinded as blinded:
            self._fail(f"what was done may not be what was judged: {blinded}")
            _say(client, blinded)
        except ServerGone as gone:
            self._fail(f"the session was lost: {gone}")
            _say(client, gone)
        except Exception as error:  # ours: a run in which the guard itself went wrong must not be committed
            self._fail(f"the endpoint failed: {type(error).__name__}")
            raise
        finally:
            if conversation.holds_session:
                self._release()
            with self._guard:
                del self._talking[key[0]]
            left.set()

    def _fail(self, problem: str) -> None:
        with self._guard:
            self.record.problems.append(problem)

    def _lease(self, client: socket.socket, key: tuple[int, int], *, patient: bool) -> None:
        if key[0] not in self._shared.using:
            self._let_others_leave(key[0])
        if not self._session.acquire(timeout=-1 if patient else self._wait_s):
            hint = "all clients of a run share one session: use one connection at a time (a pool of size 1)"
            with suppress(OSError):
                client.sendall(frames.error("55P03", "another connection has the session", hint, severity="FATAL"))
            raise ClientGone
        self._holder = key

    def _let_others_leave(self, newcomer: int) -> None:
        """Who has closed its connection leaves first: on a server its temporary tables are nobody else's.

        It may have done so long before the thread that listens to it gets to know.
        """
        with self._guard:
            others = [
                one for number, one in self._talking.items() if number != newcomer and number in self._shared.using
            ]
        for client, left in others:
            if _has_closed(client):
                left.wait(self._wait_s)

    def _release(self) -> None:
        self._holder = None
        self._session.release()

    # -- logging in ----------------------------------------------------------------------------------------------------

    def _log_in(self, client: socket.socket, stream: Stream) -> tuple[tuple[int, int], Mapping[str, str]] | None:
        """The key of the new client and the settings that it wants; None for one that is turned away, or only cancels."""
        while True:
            start = self._next(client, stream, stream.startup)
            (code,) = struct.unpack_from("!I", start)
            if code in (_SSL, _GSS):
                client.sendall(b"N")
                continue
            if code == _CANCEL:
                self._cancelled(start)
                return None
            if code >> 16 != 3:
                raise Malformed("another protocol than 3")
            break
        said = start[4:].split(b"\0")
        wanted = dict(zip(said[::2], said[1::2], strict=False))
        settings, against = at_log_in(wanted)
        problem = self._problem(wanted)
        if problem is None and against is not None:
            problem = "0A000", against, "leave it out of the connection's options"
        if problem is not None:
            sqlstate, reason, hint = problem
            client.sendall(frames.error(sqlstate, reason, hint, severity="FATAL"))
            return None
        self._authenticate(client, stream)
        name = wanted.get(b"application_name", b"").decode(errors="replace")
        return self._welcome(client, code, name), settings

    def _problem(self, wanted: Mapping[bytes, bytes]) -> tuple[str, str, str] | None:
        """SQLSTATE, message and hint of what is wrong with a client's first message."""
        user, database = (wanted.get(name, b"").decode(errors="replace") for name in (b"user", b"database"))
        if user != self.user:
            return "28000", f'user "{user}" is not the one of this run', "use the URL in DATABASE_URL, or PGUSER"
        if database and database != self.database:
            hint = "a run is about one database: make another change for the other"
            return "3D000", f'database "{database}" is not the one of this run', hint
        if wanted.get(b"replication", b"false").lower() not in (b"", b"false", b"off", b"no", b"0"):
            return "0A000", "replication connections are not part of a run", "connect without replication"
        with self._guard:
            if len(self._sockets) > self._most:
                return "53300", f"more than {self._most} connections", "use a smaller pool"
        return None

    def _authenticate(self, client: socket.socket, stream: Stream) -> None:
        exchange = scram.Exchange(self.password)
        client.sendall(message(b"R", struct.pack("!I", 10) + text(scram.MECHANISM) + b"\0"))
        try:
            mechanism, rest = frames.strings(self._password_message(client, stream), 1)
            if mechanism[0].decode() != scram.MECHANISM:
                raise scram.Refused("another mechanism")
            client.sendall(message(b"R", struct.pack("!I", 11) + exchange.first(rest[4:])))
            answer = exchange.final(self._password_message(client, stream))
        except scram.Refused:
            client.sendall(frames.error("28P01", f'wrong password for user "{self.user}"', severity="FATAL"))
            raise
        client.sendall(message(b"R", struct.pack("!I", 12) + answer))

    def _password_message(self, client: socket.socket, stream: Stream) -> bytes:
        kind, payload = self._next(client, stream, lambda: next(stream.messages(), None))
        if kind != ord("p"):
            raise Malformed("something else than a password")
        return payload

    def _welcome(self, client: socket.socket, code: int, name: str) -> tuple[int, int]:
        with self._guard:
            self.record.clients += 1
            self.transcript.names[self.record.clients] = name
            key = (self.record.clients, secrets.randbits(31))
        head = b"" if code == _PROTOCOL_3 else message(b"v", struct.pack("!II", 0, 0))  # 3.0 is what is spoken here
        told = b"".join(message(b"S", text(name) + text(value)) for name, value in self._parameters.items())
        client.sendall(
            head
            + message(b"R", struct.pack("!I", 0))
            + told
            + message(b"K", struct.pack("!II", *key))
            + frames.ready(b"I")
        )
        return key

    def _cancelled(self, start: bytes) -> None:
        if len(start) == 12 and struct.unpack_from("!II", start, 4) == self._holder:
            self._upstream.interrupt(self._cancel)

    def _next(self, client: socket.socket, stream: Stream, take: Callable[[], _Found | None]) -> _Found:
        while True:
            found = take()
            if found is not None:
                return found
            data = client.recv(1 << 14)
            if not data:
                raise ClientGone
            stream.add(data)


def _at_home(loan: Loan, look: Look) -> Look:
    def looks() -> Sequence[tuple[str, str, str, str]]:
        with loan.at_home():
            return look()

    return looks


def _has_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) in (b"", b"X")
    except BlockingIOError:
        return False
    except OSError:
        return True


def _say(client: socket.socket, error: Exception) -> None:
    """Tell a client why it is turned away, if it can still hear it."""
    if isinstance(error, Malformed):
        said = frames.error("08P01", f"unable to read {error}", severity="FATAL")
    elif isinstance(error, ServerGone):
        said = frames.error("57P01", f"the supervised session was lost: {error}", severity="FATAL")
    else:
        return
    with suppress(OSError):
        client.settimeout(1)
        client.sendall(said)
