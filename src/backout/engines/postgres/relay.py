"""libpq in clear on a private socket, and behind it TLS to the server: so that a session's bytes can be lent.

libpq keeps the keys of a connection that it has encrypted itself. Here it talks to a socket in a folder that only our
account can enter, and of that account only to our own process; what it says goes on through TLS of ours (`tls.py`).
While the session is lent the relay stands still, and the borrower talks on the TLS connection itself.

Not for: sessions that are not lent; they keep libpq's own TLS. Invariant: nothing leaves this process in clear.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg import pq
from psycopg.conninfo import make_conninfo

from backout.engines.postgres import tls
from backout.engines.postgres.socket_folder import SocketFolder
from backout.engines.postgres.tls import Server
from backout.errors import Refused

_PORT = "5432"  # a part of the socket's name and nothing else (manual 19.3.1, unix_socket_directories)
_CHUNK = 1 << 16  # more than a TLS record has (16 KiB), so that OpenSSL keeps nothing that `select` does not see
_BACK_PRESSURE = 1 << 20  # bytes that wait for one side before the other is read on
_LONGEST_GREETING = 10_000
_LOOK_S = 0.1
_LAST_WORDS_S = 1.0  # for what one side has said before it went
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: What libpq is told as it was told before; the rest is about the way there, which is ours.
_KEPT = (
    "user", "password", "dbname", "options", "client_encoding", "connect_timeout", "require_auth",
    "min_protocol_version", "max_protocol_version", "scram_client_key", "scram_server_key", "oauth_issuer",
    "oauth_client_id", "oauth_client_secret", "oauth_scope",
)  # fmt: skip
#: Said and not left out: libpq would look into the environment.
_IN_CLEAR = {
    "port": _PORT, "hostaddr": "", "sslmode": "disable", "sslnegotiation": "postgres", "sslrootcert": "",
    "sslcertmode": "disable", "channel_binding": "disable", "gssencmode": "disable", "requirepeer": "",
    "target_session_attrs": "any", "load_balance_hosts": "disable",
}  # fmt: skip


class Relay:
    """Takes libpq's connections, each with a TLS connection of its own: the session's, then those that only cancel."""

    def __init__(self, server: Server) -> None:
        """Connect. Raises Refused, with nothing written, where no TLS is to be had."""
        self._server = server
        first = tls.connect(server)
        self._folder = SocketFolder(f".s.PGSQL.{_PORT}")
        self._listening = _listening_in(self._folder)
        self._wires: list[_Wire] = []
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, args=(first,), daemon=True)
        self._acceptor.start()

    @property
    def conninfo(self) -> str:
        """What libpq connects with, its password included."""
        known = {one.keyword.decode() for one in pq.Conninfo.get_defaults()}
        kept = {name: value for name, value in self._server.settings.items() if name in _KEPT}
        given = {**kept, **_IN_CLEAR, "host": str(self._folder.path)}
        return make_conninfo(**{name: value for name, value in given.items() if name in known})

    @contextmanager
    def lent(self) -> Iterator[ssl.SSLSocket]:
        """The session's TLS connection, for somebody else to read and write while this lasts; it does not block."""
        wire = self._wires[0]
        wire.stop()
        try:
            yield wire.secured
        finally:
            wire.go_on()

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Within `lent`: for a moment libpq has it again."""
        wire = self._wires[0]
        wire.go_on()
        try:
            yield
        finally:
            wire.stop()

    def close(self) -> None:
        """End all connections."""
        self._closing = True
        with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            # `accept` returns for nothing else on every system.
            knock.connect(str(self._folder.socket))
        self._acceptor.join()
        self._listening.close()
        for wire in self._wires:
            wire.close()
        self._folder.close()

    def _accept(self, first: ssl.SSLSocket) -> None:
        waiting: ssl.SSLSocket | None = first
        while True:
            try:
                clear, _ = self._listening.accept()
            except OSError:
                break
            if self._closing or not _is_ours(clear):
                clear.close()
                if self._closing:
                    break
                continue
            try:
                secured, waiting = waiting or tls.connect(self._server), None
            except Refused:
                clear.close()  # one that cancels: libpq says that it could not
                continue
            self._wires.append(_Wire(clear, secured))
        if waiting is not None:
            waiting.close()


def _listening_in(folder: SocketFolder) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(folder.socket))
        listening.listen()
    except OSError as error:
        listening.close()
        folder.close()
        why = (error.strerror or str(error)).lower()
        hint = "set TMPDIR to a folder with a short path, where this account can make a socket"
        raise Refused("endpoint", f'unable to make the socket "{folder.socket}": {why}', hint=hint) from None
    return listening


def _is_ours(clear: socket.socket) -> bool:
    """Whether this process is at the other end: a program that we have started has the same account.

    Sources: Linux socket(7) and unix(7), SO_PEERCRED; macOS sys/un.h, LOCAL_PEERPID.
    """
    if sys.platform == "darwin":
        (pid,) = struct.unpack("i", clear.getsockopt(0, 2, 4))
    else:
        pid, _, _ = struct.unpack("3i", clear.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(pid == os.getpid())


class _Wire:
    """Two sockets and a thread that passes on what each of them says."""

    def __init__(self, clear: socket.socket, secured: ssl.SSLSocket) -> None:
        self.secured = secured
        self._clear = clear
        for one in (clear, secured):
            one.settimeout(0)
        self._to_server, self._to_client = bytearray(), bytearray()
        self._greeting = _Greeting()
        self._wake, self._woken = socket.socketpair()
        self._stopping = False
        self._stopped, self._going = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing is on its way, and nothing is read any more until `go_on`."""
        self._stopped.clear()
        self._going.clear()
        self._stopping = True
        self._wake.sendall(b"!")
        while self._thread.is_alive() and not self._stopped.wait(_LOOK_S):
            pass

    def go_on(self) -> None:
        """Pass on again."""
        self._going.set()

    def close(self) -> None:
        """End it: libpq has closed its side, and has said goodbye to the server, or never will."""
        self.go_on()
        self._thread.join(_LAST_WORDS_S)
        for one in (self._clear, self.secured, self._wake):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._clear, self.secured, self._wake, self._woken):
            one.close()

    def _run(self) -> None:
        with suppress(OSError):  # one of the two has gone: so does the other
            while self._pass_on():
                pass
            for one, rest in ((self.secured, self._to_server), (self._clear, self._to_client)):
                one.settimeout(_LAST_WORDS_S)
                one.sendall(rest)
        for one in (self._clear, self.secured):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._stopped.set()

    def _pass_on(self) -> bool:
        """One round; False: one side has said all that it had to say, and the other one has heard it."""
        if self._stopping and not (self._to_server or self._to_client):
            self._stand_still()
        reading: list[socket.socket] = [self._woken]
        if len(self._to_server) < _BACK_PRESSURE:
            reading.append(self._clear)
        if len(self._to_client) < _BACK_PRESSURE:
            reading.append(self.secured)
        writing = [one for one, data in ((self.secured, self._to_server), (self._clear, self._to_client)) if data]
        readable, _, _ = select.select(reading, writing, [])
        if self._woken in readable and not self._woken.recv(16):
            return False
        is_open = True
        if self._clear in readable:
            is_open = self._read(self._clear, self._to_server)
        if self.secured in readable:
            is_open = self._read(self.secured, self._to_client) and is_open
        _send(self.secured, self._to_server)
        _send(self._clear, self._to_client)
        return is_open

    def _stand_still(self) -> None:
        self._stopping = False
        self._stopped.set()
        self._going.wait()

    def _read(self, source: socket.socket, into: bytearray) -> bool:
        try:
            data = source.recv(_CHUNK)
        except _NOT_NOW:
            return True
        into += self._greeting.heard(data) if source is self.secured else data
        return bool(data)


def _send(target: socket.socket, data: bytearray) -> None:
    if data:
        with suppress(*_NOT_NOW):
            del data[: target.send(data)]


class _Greeting:
    """What the server says before it has let libpq in, without SCRAM-SHA-256-PLUS.

    libpq takes a server that offers it for one whose TLS was stripped on the way (fe-auth.c, `pg_SASL_init`), and it
    cannot be done here. Of the messages until then (manual 55.2.1, 55.3) only the first that asks for a proof can name it.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_over = False

    def heard(self, data: bytes) -> bytes:
        """What of it is passed on now."""
        if self._is_over:
            return data
        self._held += data
        passed = bytearray()
        while not self._is_over and len(self._held) >= 5:
            (length,) = struct.unpack_from("!I", self._held, 1)
            if length > _LONGEST_GREETING:
                self._is_over = True  # for libpq to judge
            elif len(self._held) <= length:
                break
            else:
                message = bytes(self._held[: length + 1])
                del self._held[: length + 1]
                self._is_over = message[:1] not in (b"v", b"N")  # another version of the protocol, a notice
                passed += _without_binding(message)
        if self._is_over:
            passed += self._held
            self._held.clear()
        return bytes(passed)


def _without_binding(message: bytes) -> bytes:
    if message[:1] != b"R" or message[5:9] != struct.pack("!I", 10):  # AuthenticationSASL
        return message
    mechanisms = [one for one in message[9:].split(b"\0") if one and not one.endswith(b"-PLUS")]
    offered = b"".join(one + b"\0" for one in mechanisms) + b"\0"
    return b"R" + struct.pack("!II", 8 + len(offered), 10) + offered
