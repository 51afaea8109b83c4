"""A PostgreSQL server on loopback for the clients of one run: one user, one password, one database, one session behind.

Not for: what a client's messages mean (`conversation.py`), nor for the end of the run. Invariant: `close` returns when no
client has the session any more, and whatever a client has not committed is taken back.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from backout.endpoint import frames, scram
from backout.endpoint.conversation import ClientGone, Conversation
from backout.endpoint.frames import Malformed, Stream, message, text
from backout.endpoint.upstream import ServerGone, Upstream

_Found = TypeVar("_Found")

HOST = "127.0.0.1"
_PROTOCOL_3, _CANCEL, _SSL, _GSS = 196608, 80877102, 80877103, 80877104
_LOG_IN_S = 10.0
_CLIENT_MESSAGE = 1 << 30


@dataclass
class Record:
    """What the endpoint has seen so far."""

    clients: int = 0
    statements: int = 0
    problems: list[str] = field(default_factory=list)  # any of them fails the run


class Endpoint:
    """Listens from its making to `close`."""

    def __init__(
        self,
        lent: socket.socket,
        *,
        user: str,
        database: str,
        parameters: Mapping[str, str],
        deferred: tuple[str, ...],
        cancel: Callable[[], None],
        wait_s: float = 30.0,
        most_clients: int = 20,
    ) -> None:
        self.user, self.database, self.password = user, database, secrets.token_urlsafe(24)
        self.record = Record()
        self._parameters, self._cancel, self._wait_s, self._most = parameters, cancel, wait_s, most_clients
        self._upstream = Upstream(lent, deferred)
        self._session = threading.Lock()
        self._holder: tuple[int, int] | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._closing = False
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where clients connect, with the password of this run."""
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{self.database}?sslmode=disable"

    def close(self) -> None:
        """End every connection, and bring the session to rest."""
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._guard:
            open_ones, threads = list(self._sockets), list(self._threads)
        for one in open_ones:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    # -- clients -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
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
            key = self._log_in(client, stream)
            if key is not None:
                self._talk(client, stream, key)
        except (OSError, Malformed, scram.Refused, ClientGone) as error:
            if isinstance(error, Malformed):
                with suppress(OSError):
                    client.sendall(frames.error("08P01", f"unable to read {error}", severity="FATAL"))
        finally:
            with self._guard:
                self._sockets.discard(client)
            client.close()

    def _talk(self, client: socket.socket, stream: Stream, key: tuple[int, int]) -> None:
        conversation = Conversation(
            key[0], client, stream, self._upstream, lambda: self._lease(client, key), self._release, self._note
        )
        try:
            conversation.run()
        except ServerGone as gone:
            self._fail(f"the session was lost: {gone}")
            with suppress(OSError):
                client.sendall(frames.error("57P01", f"the supervised session was lost: {gone}", severity="FATAL"))
            return
        except (ClientGone, Malformed, OSError):
            pass
        try:
            if conversation.holds_session:
                self._cancel()
            conversation.leave()
        except ServerGone as gone:
            self._fail(f"the session was lost: {gone}")

    def _fail(self, problem: str) -> None:
        with self._guard:
            self.record.problems.append(problem)
        if self._session.locked():
            self._release()

    def _lease(self, client: socket.socket, key: tuple[int, int]) -> None:
        if not self._session.acquire(timeout=self._wait_s):
            hint = "all clients of a run share one session: use one connection at a time (a pool of size 1)"
            with suppress(OSError):
                client.sendall(frames.error("55P03", "another connection has the session", hint, severity="FATAL"))
            raise ClientGone
        self._holder = key

    def _release(self) -> None:
        self._holder = None
        self._session.release()

    def _note(self) -> None:
        self.record.statements += 1

    # -- logging in ----------------------------------------------------------------------------------------------------

    def _log_in(self, client: socket.socket, stream: Stream) -> tuple[int, int] | None:
        """The key of the new client; None for a connection that only asks for a cancel."""
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
        problem = self._problem(wanted)
        if problem is not None:
            client.sendall(frames.error(*problem, severity="FATAL"))
            return None
        self._authenticate(client, stream)
        return self._welcome(client, code)

    def _problem(self, wanted: Mapping[bytes, bytes]) -> tuple[str, str] | None:
        user, database = (wanted.get(name, b"").decode(errors="replace") for name in (b"user", b"database"))
        if user != self.user:
            return "28000", f'user "{user}" is not the one of this run: use the URL in DATABASE_URL'
        if database and database != self.database:
            return "3D000", f'database "{database}" is not the one of this run'
        if wanted.get(b"replication", b"false").lower() not in (b"", b"false", b"off", b"no", b"0"):
            return "0A000", "replication connections are not part of a run"
        with self._guard:
            if len(self._sockets) > self._most:
                return "53300", f"more than {self._most} connections"
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

    def _welcome(self, client: socket.socket, code: int) -> tuple[int, int]:
        with self._guard:
            self.record.clients += 1
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
            self._cancel()

    def _next(self, client: socket.socket, stream: Stream, take: Callable[[], _Found | None]) -> _Found:
        while True:
            found = take()
            if found is not None:
                return found
            data = client.recv(1 << 14)
            if not data:
                raise ClientGone
            stream.add(data)
