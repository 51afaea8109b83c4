"""Messages of the extended protocol: statements that are prepared, bound and executed, up to a Sync.

Not for: queries (`simple.py`). Invariant: an Execute of what controls the transaction is never forwarded, and neither is
its Parse as it is (`statements.py`).
Source: manual 55.2.3 (what the messages mean, and that after an error all is left out up to the Sync).
"""

from __future__ import annotations

from backout.endpoint.frames import message, strings
from backout.endpoint.names import NOTHING, Names, Prepared
from backout.endpoint.pieces import NOT_SUPPORTED, SYNTAX, Control, Piece, Refusal
from backout.endpoint.transactions import OUTSIDE, TRANSACTION, Transactions
from backout.endpoint.turns import ALONE, OWN_NAME, Ask
from backout.endpoint.upstream import Expected, Upstream

#: Answers that nothing waits for.
BOUND, DESCRIBED = Expected("bind"), Expected("describe")


class Extended:
    """The messages of one client since its last Sync."""

    def __init__(self, upstream: Upstream, transactions: Transactions, names: Names, ask: Ask | None = None) -> None:
        self._ask = ask
        self._upstream, self._transactions, self._names = upstream, transactions, names
        self.unsynced = False  # something was bound or executed, and its Sync has not come yet
        self.will_copy = False  # a COPY was executed, and it is not known yet whether the server wants its data

    @property
    def is_busy(self) -> bool:
        """What came before is not all done."""
        return self.unsynced or self.will_copy

    def parse(self, payload: bytes) -> None:
        """Prepare a statement."""
        (name, query), rest = strings(payload, 2)
        self._transactions.begins()
        pieces = self._transactions.reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is None and len(pieces) > 1:
            problem = Refusal(SYNTAX, "cannot insert multiple commands into a prepared statement")
            refused = Piece(query.decode(), refusal=problem)
        if refused is not None:
            self._transactions.refuse(refused)
            return
        self._transactions.guard(only_reads=True)
        piece = pieces[0] if pieces else Piece("", only_reads=True)
        if piece.said is not None:
            query = piece.text.encode()
        noted = self._transactions.noted((piece,))
        self._names.parse(name, self._names.deallocated(query, pieces), Prepared(piece, rest), noted)

    def bind(self, payload: bytes) -> None:
        """Make a portal of a prepared statement and its parameters."""
        (portal, name), rest = strings(payload, 2)
        transactions = self._transactions
        prepared = self._names.get(name)
        if self._ask is not None and (portal.startswith(b"backout_") or prepared.piece.asks):
            refusal = OWN_NAME if portal.startswith(b"backout_") else ALONE if self.unsynced else self._ask()
            if refusal is not None:
                self.unsynced = True
                transactions.refuse(Piece(prepared.piece.original, refusal=refusal))
                return
            if not name:  # between two transactions the session's unnamed statement has become another
                unnamed = b"\0" + prepared.piece.text.encode() + b"\0" + prepared.types
                self._upstream.send(message(b"P", unnamed), Expected("parse", ours=True))
        self.unsynced = True
        transactions.guard(only_reads=True)
        if not prepared.piece.only_reads:
            transactions.remember((prepared.piece,))
        transactions.portals[portal] = (prepared, rest)
        if portal:
            transactions.opened.add(portal)
        self._upstream.send(message(b"B", portal + b"\0" + self._names.named(name) + b"\0" + rest), BOUND)

    def describe(self, payload: bytes) -> None:
        """Say what a statement or a portal will answer."""
        self._transactions.guard(only_reads=True)
        self._upstream.send(message(b"D", self._names.prefixed(payload)), DESCRIBED)

    def close(self, payload: bytes) -> None:
        """Close a statement or a portal."""
        self._transactions.guard(only_reads=True)
        if payload[:1] != b"S" and self._ask is not None and payload[1:].startswith(b"backout_"):
            self._transactions.refuse(Piece("", refusal=OWN_NAME))
            return
        if payload[:1] != b"S":
            self._transactions.portals.pop(payload[1:-1], None)
            self._upstream.send(message(b"C", payload), Expected("close"))
            return
        self._names.close(payload[1:-1])

    def execute(self, payload: bytes) -> None:
        """Run a portal."""
        (portal,), _ = strings(payload, 1)
        transactions = self._transactions
        self.unsynced = True
        prepared, bound = transactions.portals.get(portal, (NOTHING, b""))
        if self._ask is not None and portal.startswith(b"backout_"):
            transactions.refuse(Piece("", refusal=OWN_NAME))
            return
        piece = prepared.piece
        if piece.control in TRANSACTION:
            transactions.control(piece)
            return
        if piece.control is Control.SAVEPOINT and not transactions.will_be:
            transactions.refuse(Piece(piece.text, refusal=OUTSIDE))
            return
        transactions.guard(only_reads=piece.only_reads)
        noted = transactions.noted((piece,), bound, prepared.types)
        if piece.deallocates == "":
            transactions.deallocate_all(noted)
            return
        if not piece.copies_in:
            self._upstream.send(message(b"E", payload), Expected("execute", noted=noted))
            return
        # Whatever comes now is data, or must wait until it is known that the server does not want any.
        self.will_copy = True
        ended = self._copied
        self._upstream.send(
            message(b"E", payload), Expected("execute", done=ended, failed=ended, skipped=ended, noted=noted)
        )

    def _copied(self) -> None:
        """A COPY has ended, or never began."""
        self.will_copy = False

    def sync(self, _payload: bytes) -> None:
        """All that was asked for."""
        self.unsynced = False
        self._upstream.sync()

    def flush(self, _payload: bytes) -> None:
        """Answer what there is to answer so far."""
        self._upstream.send(message(b"H"))

    def call(self, _payload: bytes) -> None:
        """A function by its number, without a statement that could be read."""
        hint = "call the function in a SELECT"
        problem = Refusal(NOT_SUPPORTED, "fast-path function calls are not passed on", hint)
        self._transactions.refuse(Piece("", refusal=problem))
        self._upstream.sync()
