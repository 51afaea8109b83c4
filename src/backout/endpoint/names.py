"""Names of a client's prepared statements, which all clients of the session have in common.

What is prepared by messages is called `c3_name` on the server, for client 3's `name`. What the client may execute is
known before the server has answered; where it answers with an error, what it has confirmed counts.

Not for: what a statement is (`pieces.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from backout.endpoint.frames import message
from backout.endpoint.pieces import Piece
from backout.endpoint.transcript import Noted
from backout.endpoint.upstream import Expected, Upstream


@dataclass(frozen=True)
class Prepared:
    """A statement that was prepared by Parse, and the rest of that message: the types of its parameters."""

    piece: Piece
    types: bytes = b""


NOTHING = Prepared(Piece(""))


class Names:
    """What one client has prepared."""

    def __init__(self, client: int, upstream: Upstream) -> None:
        self.texts: set[str] = set()  # by SQL's PREPARE
        self._client, self._upstream = client, upstream
        self._prepared: dict[bytes, Prepared] = {}  # when all that was sent has been done
        self._certain: dict[bytes, Prepared] = {}  # what the server has answered
        self._is_uncertain = False

    def get(self, name: bytes) -> Prepared:
        """What Bind of this name is about."""
        return self._prepared.get(name, NOTHING)

    def named(self, name: bytes) -> bytes:
        """As the server knows it."""
        return b"c%d_%s" % (self._client, name) if name else b""

    def prefixed(self, payload: bytes) -> bytes:
        """The payload of Describe or Close, with the name as the server knows it."""
        return payload if payload[:1] != b"S" else b"S" + self.named(payload[1:-1]) + b"\0"

    def parse(self, name: bytes, query: bytes, prepared: Prepared, noted: Noted) -> None:
        """Queue the Parse."""
        self._prepared[name] = prepared

        def done() -> None:
            self._certain[name] = prepared

        expected = Expected("parse", done=done, failed=self.unsure, skipped=self.unsure, noted=noted)
        self._upstream.send(message(b"P", self.named(name) + b"\0" + query + b"\0" + prepared.types), expected)

    def close(self, name: bytes) -> None:
        """Queue the Close."""
        self._prepared.pop(name, None)

        def done() -> None:
            self._certain.pop(name, None)

        self._upstream.send(
            message(b"C", b"S" + self.named(name) + b"\0"), Expected("close", done=done, skipped=self.unsure)
        )

    def unsure(self) -> None:
        """Some of what was sent was not done."""
        self._is_uncertain = True

    def settle(self) -> None:
        """All that was sent has been answered."""
        if self._is_uncertain:
            self._prepared, self._is_uncertain = dict(self._certain), False

    def deallocated(self, query: bytes, pieces: tuple[Piece, ...]) -> bytes:
        """DEALLOCATE names what the client has prepared by messages as it knows it."""
        name = (pieces[0].deallocates or "").encode() if len(pieces) == 1 else b""
        if not name or name not in self._prepared:
            return query
        del self._prepared[name]
        self._certain.pop(name, None)
        return b'DEALLOCATE "%s"' % self.named(name).replace(b'"', b'""')

    def close_all(self) -> None:
        """Queue what closes all of them."""
        for name in filter(None, {*self._prepared, *self._certain}):
            self._upstream.close(b"S" + self.named(name) + b"\0")
        for text in sorted(self.texts):
            self._upstream.close(b"S" + text.encode() + b"\0")
        self._prepared.clear()
        self._certain.clear()
        self.texts.clear()
