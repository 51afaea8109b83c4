"""A client's transactions, as savepoints of the run's one transaction.

A client's BEGIN, or its first statement outside of a transaction, makes the guard (a savepoint) new; ROLLBACK, or an
error outside of a transaction, goes back to it; COMMIT leaves it behind. One savepoint is enough for all of it, since a
client has one transaction at a time, and only the client that holds the session has any. What a server ends with a
transaction is ended by hand: settings that are local to it, portals and cursors, tables that are to be dropped.

Not for: which messages ask for it (`simple.py`, `extended.py`). Invariant: nothing here begins or ends the run's own
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backout.endpoint import frames
from backout.endpoint.names import Names, Prepared
from backout.endpoint.pieces import NO_TRANSACTION, Control, Piece, Refusal
from backout.endpoint.settings import Settings
from backout.endpoint.statements import Reader
from backout.endpoint.transcript import Noted, Transcript
from backout.endpoint.upstream import Upstream

TRANSACTION = (Control.BEGIN, Control.COMMIT, Control.ROLLBACK)
OUTSIDE = Refusal(NO_TRANSACTION, "savepoints can only be used in transaction blocks")


class Transactions:
    """Where one client is: `inside` of a transaction as far as the server has answered, and what `will_be`."""

    def __init__(
        self, number: int, upstream: Upstream, settings: Settings, transcript: Transcript, names: Names, isolation: str,
        bounds: str | None = None,
    ) -> None:  # fmt: skip
        self._number, self._upstream, self._settings = number, upstream, settings
        self._transcript, self._names = transcript, names
        self.reader = Reader(isolation, bounds)
        self.portals: dict[bytes, tuple[Prepared, bytes]] = {}  # with what was bound
        self.opened: set[bytes] = set()  # portals and cursors that end with the client's transaction
        self._local: set[str] = set()  # settings that end with it
        self._dropped: set[str] = set()  # temporary tables that do
        self.inside = False  # as the server has answered so far
        self.will_be = False  # when all that was sent has been done
        self.failed = False
        self.guarded = False  # since the last Sync
        self._began_at = self._done_at = 0  # lines of the transcript when what is not in a client's transaction began
        self._read_only = False
        self._ended = False  # by hand, what a server ends with a statement outside of a transaction

    # -- statements ----------------------------------------------------------------------------------------------------

    def begins(self) -> None:
        """A message begins: outside of a transaction it is read as one of its own."""
        if not (self.will_be or self.guarded):
            self.reader.begin()

    def guard(self, *, only_reads: bool = False) -> None:
        """Outside of a transaction: make what comes until the Sync a transaction of its own.

        What only reads needs the guard for the case that it fails, and leaves it as good as new for the next.
        """
        if self.will_be:
            return
        if not self.guarded:
            if not self._upstream.owed:
                self._begins_at(0)
            self._upstream.guarded()
            self.guarded = True
        if not only_reads:
            self._upstream.guard_is_clean = False

    def guard_is_there(self) -> None:
        """As `guard(only_reads=True)` where the guard is clean, and nothing on its way."""
        if not self.will_be:
            self._begins_at(0)
            self.guarded = True

    def _begins_at(self, more: int) -> None:
        """What comes behind so many `more` lines of the transcript stands or falls together, without any BEGIN."""
        transcript = self._transcript
        self._began_at, self._done_at = transcript.statements + more, transcript.done + more

    def _covered(self) -> int:
        """How many lines that are, if any statement of them has been done."""
        transcript = self._transcript
        return transcript.statements - self._began_at if transcript.done > self._done_at else 0

    def noted(
        self, pieces: Sequence[Piece], bound: bytes = b"", types: bytes = b"", began: float | None = None
    ) -> Noted:
        """A place in the transcript for these statements. `began`: by the performance counter, if not now."""
        texts = (pieces[0].original,) if len(pieces) == 1 else tuple(piece.original for piece in pieces)
        noted = Noted(self._transcript, self._number, texts, bound, types)
        if began is not None:
            noted.began = began
        return noted

    def remember(self, pieces: Sequence[Piece]) -> bool:
        """Before the statements: what has to be known of them at the end. Returns whether something was sent."""
        sent = False
        for piece in pieces:
            if piece.tables:
                self._transcript.tables.update(piece.tables)
            if piece.defers:
                self._upstream.checks_constraints = True
            if piece.portal:
                self.opened.add(piece.portal.encode())
            if piece.prepares:
                self._names.texts.add(piece.prepares)
            if piece.drops:
                self._dropped.add(piece.drops)
            if piece.rolls_back:
                self.reader.back()
            if piece.resets_all and not self.failed:
                self._settings.reset(self._number)
                sent = True
            if piece.settings and not self.failed:
                self._settings.before(self._number, piece.settings, self._local)
                sent = True
        return sent

    def refuse(self, piece: Piece) -> None:
        """Fail on the server too, so that it and the client have the same idea of the transaction."""
        assert piece.refusal is not None
        noted, sqlstate = self.noted((piece,)), piece.refusal.sqlstate
        self.guard()
        said = frames.error(sqlstate, piece.refusal.message, piece.refusal.hint)
        self._upstream.control("fail", error=said, failed=lambda: noted.refuse(sqlstate))
        self._names.unsure()

    # -- beginnings and ends -------------------------------------------------------------------------------------------

    def control(self, piece: Piece) -> None:
        """BEGIN, COMMIT or ROLLBACK of the client."""
        if piece.chain and not self.will_be:
            said = f"{piece.control.value} AND CHAIN can only be used in transaction blocks"
            self.refuse(replace(piece, refusal=Refusal(NO_TRANSACTION, said)))
            return
        noted = self.noted((piece,))
        if self.failed and piece.control is not Control.BEGIN:
            self._roll_back(piece, noted)
        elif piece.control is Control.BEGIN:
            self._begin(piece, noted)
        elif piece.control is Control.COMMIT:
            self._commit(piece, noted)
        else:
            self._roll_back(piece, noted)

    def _begin(self, piece: Piece, noted: Noted) -> None:
        self.guard(only_reads=True)  # what was done since the last Sync becomes part of it, as on a server
        # A transaction that only reads is ended by going back, which makes the next one writable again.
        if not self.will_be and piece.read_only and self._upstream.guard_is_clean:
            self._upstream.control("read_only")
            self._read_only = True
        if not self.will_be:
            self._upstream.guard_is_clean = False

        def begun() -> None:
            noted.covers = 0 if self.inside else self._covered()
            self.inside = True

        self._upstream.control("nothing", tag="BEGIN", done=begun, noted=noted)
        self.will_be = True

    def _commit(self, piece: Piece, noted: Noted) -> None:
        self.guard()
        if self._upstream.checks_constraints:
            self._upstream.control("check", failed=self._ends_failed, noted=noted)
            self._upstream.control("defer")
        self._end_by_hand()
        how = "back" if self._read_only else "nothing"
        self._upstream.control(how, tag="COMMIT", done=lambda: self._ends(chain=piece.chain), noted=noted)
        self._after(piece)

    def _roll_back(self, piece: Piece, noted: Noted) -> None:
        self.guard()

        def ended() -> None:
            noted.covers = 0 if self.inside else self._covered()
            self._ends(chain=piece.chain)

        self._upstream.control("back", tag="ROLLBACK", done=ended, noted=noted)
        self.reader.back()
        self._forget()
        self._after(piece)

    def _ends(self, *, chain: bool) -> None:
        """Its COMMIT or ROLLBACK has been answered, and has no line yet."""
        self.inside = chain
        self._begins_at(1)

    def _ends_failed(self) -> None:
        """Its COMMIT has failed, and has its line."""
        self.inside = False
        self._begins_at(0)

    def _after(self, piece: Piece) -> None:
        self.will_be = self.guarded = self._read_only = False
        self.portals.clear()
        if piece.chain:
            self.guard()
            self.will_be = True

    def _end_by_hand(self) -> bool:
        """What a server ends with a transaction that is committed. Returns whether there was anything."""
        if not (self._local or self.opened or self._dropped):
            return False
        for name in sorted(self.opened):
            self._upstream.close(b"P" + name + b"\0")
        self._settings.end(self._local)
        for table in sorted(self._dropped):
            quoted = table.replace('"', '""')
            self._upstream.once(f'DROP TABLE IF EXISTS pg_temp."{quoted}"')
            self.reader.forget(table)
        self._forget()
        return True

    def _forget(self) -> None:
        """A rollback takes all of them back; the server knows."""
        self._local.clear()
        self.opened.clear()
        self._dropped.clear()

    # -- what the server has answered ----------------------------------------------------------------------------------

    def take_back(self) -> None:
        """A statement outside of a transaction has failed."""
        self._ended = False
        self.reader.back()
        self._forget()
        self.note_undone()
        self._upstream.control("back")

    def note_undone(self) -> None:
        """Say in the transcript that what came since the last Sync, and was done, was not kept: nobody said ROLLBACK."""
        covered = 0 if self.inside else self._covered()
        if covered:
            noted = self.noted((Piece("ROLLBACK"),))
            noted.covers = covered
            noted.complete("ROLLBACK")

    def owes_end(self) -> bool:
        """At the end of a statement outside of a transaction: do what a server does there; a Sync of it is owed then."""
        if self.inside or self._ended:
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

    def idle(self) -> None:
        """There is none, and nothing is on its way."""
        self.failed = self.will_be = self.guarded = self.inside = False
        self.portals.clear()

    def deallocate_all(self, noted: Noted) -> None:
        """What this client has prepared; nobody else's."""
        self._names.close_all()
        self._upstream.control("nothing", tag="DEALLOCATE ALL", noted=noted)
