"""Queries of the simple protocol: one message, any number of statements, one ReadyForQuery at the end.

Not for: prepared statements (`extended.py`). Invariant: what controls the transaction is sent apart from what does not,
as a control of ours.
Source: manual 55.2.2 (one message is one transaction, unless it says otherwise).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from backout.endpoint.frames import message, strings, table
from backout.endpoint.names import Names
from backout.endpoint.pieces import NOT_NOW, Control, Piece, Refusal
from backout.endpoint.transactions import OUTSIDE, TRANSACTION, Transactions
from backout.endpoint.turns import ALONE, Ask
from backout.endpoint.upstream import Expected, Upstream
from backout.errors import BackoutError

#: What the session has changed so far: table, which row, before, after.
Look = Callable[[], Sequence[tuple[str, str, str, str]]]


class Queries:
    """The queries of one client. `unanswered` is called when one will never be answered."""

    def __init__(
        self, upstream: Upstream, transactions: Transactions, names: Names, unanswered: Callable[[], None],
        look: Look | None = None, ask: Ask | None = None,
    ) -> None:  # fmt: skip
        self._upstream, self._transactions, self._names = upstream, transactions, names
        self._unanswered, self._look, self._ask = unanswered, look, ask
        self.units: deque[tuple[Piece, ...]] = deque()  # what is left of a query with several statements

    def query(self, payload: bytes) -> None:
        """Do what a query says."""
        (query,), _ = strings(payload, 1)
        self._transactions.begins()
        pieces = self._transactions.reader.read(query)
        refused = next((piece for piece in pieces if piece.refusal), None)
        if refused is None and any(piece.asks for piece in pieces):
            refused = self._asked(pieces)
        if refused is not None:
            self._refuse(refused)
        elif any(piece.control in TRANSACTION for piece in pieces):
            self.units.extend(_units(pieces))
            self.next_unit()
        elif len(pieces) == 1 and pieces[0].looks and self._look is not None and self._is_at_rest():
            self._show(pieces[0], self._look)
        else:
            self._plain(query, pieces)

    def _asked(self, pieces: tuple[Piece, ...]) -> Piece | None:
        """The next batch is at hand; else why not."""
        assert self._ask is not None, "read as asking only where somebody can be asked"
        refusal = ALONE if len(pieces) > 1 else self._ask()
        return Piece(pieces[0].original, refusal=refusal) if refusal else None

    def next_unit(self) -> None:
        """Go on with what is left."""
        unit = self.units.popleft()
        if unit[0].control in TRANSACTION:
            self._transactions.control(unit[0])
            self._upstream.sync()
        else:
            self._send(_joined(unit), unit)

    def _plain(self, query: bytes, pieces: tuple[Piece, ...]) -> None:
        transactions = self._transactions
        outside = [piece for piece in pieces if piece.control is Control.SAVEPOINT]
        if outside and not transactions.will_be and len(pieces) == 1:
            self._refuse(Piece(outside[0].text, refusal=OUTSIDE))
            return
        if len(pieces) == 1 and pieces[0].deallocates == "":
            transactions.guard()
            transactions.deallocate_all(transactions.noted(pieces))
            self._upstream.sync()
            return
        if any(piece.said is not None for piece in pieces):
            query = _joined(pieces)
        self._send(self._names.deallocated(query, pieces), pieces)

    def _send(self, query: bytes, pieces: tuple[Piece, ...]) -> None:
        transactions = self._transactions
        transactions.guard(only_reads=all(piece.only_reads for piece in pieces))
        if transactions.remember(pieces):
            self._upstream.sync(ours=True)  # a query after an error of ours would never be answered
        expected = Expected("query", skipped=self._unanswered, noted=transactions.noted(pieces))
        self._upstream.send(message(b"Q", query + b"\0"), expected)

    def _is_at_rest(self) -> bool:
        """Nothing is on its way, and the client's transaction has not failed: then the server says what is wrong."""
        return not (self._upstream.owed or self._upstream.outgoing or self._transactions.failed)

    def _show(self, piece: Piece, look: Look) -> None:
        """What the session has changed so far, as the answer to a query."""
        try:
            rows = look()
        except BackoutError as error:
            problem = Refusal(NOT_NOW, f"it cannot be shown now: {error.message}", error.hint)
            self._refuse(Piece(piece.text, refusal=problem))
            return
        self._transactions.guard(only_reads=True)
        answer = table(("table", "row", "before", "after"), rows)
        self._upstream.control(
            "nothing", tag="SHOW", answer=answer
        )  # not noted: it is none of the session's statements
        self._upstream.sync()

    def _refuse(self, piece: Piece) -> None:
        self._transactions.refuse(piece)
        self._upstream.sync()


def _joined(pieces: Sequence[Piece]) -> bytes:
    """One query of several statements. A statement may end with a comment up to the end of its line."""
    return "\n;\n".join(piece.text for piece in pieces).encode()


def _units(pieces: tuple[Piece, ...]) -> Iterator[tuple[Piece, ...]]:
    """Statements as they can be sent together: what controls the transaction stands alone."""
    together: list[Piece] = []
    for piece in pieces:
        if piece.control in TRANSACTION:
            if together:
                yield tuple(together)
                together = []
            yield (piece,)
        else:
            together.append(piece)
    if together:
        yield tuple(together)
