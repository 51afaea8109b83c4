"""Messages of PostgreSQL's wire protocol 3: cut out of a stream, and built.

Not for: what a message means. Invariant: nothing is kept of a stream but one incomplete message, and a message that says
to be longer than `LONGEST` is an error before its bytes are read.
Source: manual chapter 55, "Frontend/Backend Protocol".
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

#: The server itself takes messages up to 1 GiB (PQ_LARGE_MESSAGE_LIMIT, libpq.h); so does a client's COPY row.
LONGEST = 0x3FFFFFFF
_ROOM = 256 * 1024
_LENGTH = struct.Struct("!I")
_SHORT = struct.Struct("!H")


class Malformed(Exception):
    """The bytes are not the protocol's."""


class Stream:
    """Bytes as they come, cut into messages (type, payload)."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._bytes = bytearray()
        self._longest = longest
        self.buffer = bytearray(_ROOM)
        self.view = memoryview(self.buffer)

    def add(self, received: bytes) -> None:
        """Take what was read from the socket."""
        self._bytes += received

    def receive(self, source: socket.socket, flags: int = 0) -> int:
        """Read into `buffer`, and say how much; 0: the other side has gone. Raises BlockingIOError and other OSErrors.

        It is not part of the stream until `keep`. Into one buffer: `recv` makes a new one of its full size each time, which
        costs 13 µs for 256 kB [measured].
        """
        return source.recv_into(self.buffer, 0, flags)

    def keep(self, count: int) -> None:
        """What was received follows what is here."""
        self._bytes += self.view[:count]

    @property
    def waiting(self) -> int:
        """How many bytes are here and not yet taken."""
        return len(self._bytes)

    def startup(self) -> bytes | None:
        """The first message of a connection, which has no type; None: it is not all here. At most 10,000 bytes."""
        if len(self._bytes) < 4:
            return None
        (length,) = _LENGTH.unpack_from(self._bytes)
        if not 8 <= length <= 10_000:  # MAX_STARTUP_PACKET_LENGTH, pqcomm.h
            raise Malformed(f"a start message of {length} bytes")
        return self._take(length, skip=4) if len(self._bytes) >= length else None

    def take(self) -> tuple[int, bytes] | None:
        """The next message (type, payload), if it is all here."""
        data = self._bytes
        if len(data) < 5:
            return None
        (length,) = _LENGTH.unpack_from(data, 1)
        if not 4 <= length <= self._longest:
            raise Malformed(f"a message of {length} bytes")
        if len(data) <= length:
            return None
        found = data[0], bytes(data[5 : length + 1])
        del data[: length + 1]
        return found

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Every complete message."""
        while (found := self.take()) is not None:
            yield found

    @property
    def first(self) -> int:
        """The type of the next message; -1: nothing is here."""
        return self._bytes[0] if self._bytes else -1

    def pass_on(self, kinds: frozenset[int], ends: Callable[[int], bool]) -> bytes:
        """Whole messages of these types, with their heads, as long as `ends` of each type says that they may be."""
        data, at, end = self._bytes, 0, len(self._bytes)
        unpack = _LENGTH.unpack_from
        while at + 5 <= end and data[at] in kinds:
            length = unpack(data, at + 1)[0] + 1
            if at + length > end or not ends(data[at]):
                break
            at += length
        return self._take(at) if at else b""

    def rows(self, kind: int) -> bytes:
        """The longest run of whole messages of this type, with their heads, for passing on as they are."""
        data, at, end = self._bytes, 0, len(self._bytes)
        unpack = _LENGTH.unpack_from
        while at + 5 <= end and data[at] == kind:
            length = unpack(data, at + 1)[0] + 1
            if at + length > end:
                break
            at += length
        return self._take(at) if at else b""

    def _take(self, count: int, skip: int = 0) -> bytes:
        taken = bytes(self._bytes[skip:count])
        del self._bytes[:count]
        return taken


def message(kind: bytes, payload: bytes = b"") -> bytes:
    """One message."""
    return kind + _LENGTH.pack(len(payload) + 4) + payload


def text(value: str) -> bytes:
    """A zero-terminated string."""
    return value.encode() + b"\0"


def error(code: str, said: str, hint: str | None = None, severity: str = "ERROR") -> bytes:
    """An ErrorResponse."""
    fields = [("S", severity), ("V", severity), ("C", code), ("M", said), ("H", hint or "")]
    body = b"".join(name.encode() + text(value.replace("\0", "")) for name, value in fields if value)
    return message(b"E", body + b"\0")


def complete(tag: str) -> bytes:
    """A CommandComplete."""
    return message(b"C", text(tag))


def ready(status: bytes) -> bytes:
    """A ReadyForQuery: `I`dle, in a `T`ransaction, in a failed (`E`) one."""
    return message(b"Z", status)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A RowDescription and its DataRows, all of them text (oid 25, of any length, without a type modifier)."""
    described = b"".join(text(name) + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0) for name in columns)
    head = message(b"T", _SHORT.pack(len(columns)) + described)
    return head + b"".join(message(b"D", _SHORT.pack(len(row)) + b"".join(map(_value, row))) for row in rows)


def _value(value: str) -> bytes:
    data = value.replace("\0", "").encode(errors="replace")
    return _LENGTH.pack(len(data)) + data


def strings(payload: bytes, count: int) -> tuple[list[bytes], bytes]:
    """The first zero-terminated strings of a payload, and the rest."""
    found = []
    for _ in range(count):
        end = payload.find(b"\0")
        if end < 0:
            raise Malformed("a string without its end")
        found.append(payload[:end])
        payload = payload[end + 1 :]
    return found, payload


def bind(statement: str, *parameters: str) -> bytes:
    """Bind and Execute of a prepared statement with parameters as text, on the unnamed portal."""
    values = b"".join(_LENGTH.pack(len(one)) + one for one in (value.encode() for value in parameters))
    counted = _SHORT.pack(0) + _SHORT.pack(len(parameters)) + values + _SHORT.pack(0)
    return message(b"B", b"\0" + text(statement) + counted) + message(b"E", b"\0" + _LENGTH.pack(0))


def parse(name: str, query: str) -> bytes:
    """Parse of a statement without parameter types."""
    return message(b"P", text(name) + text(query) + _SHORT.pack(0))


SYNC = message(b"S")
