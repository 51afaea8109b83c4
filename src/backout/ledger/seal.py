"""A seal: one hash over a whole ledger up to an entry, so that the next run need not recompute its chain link by link.

A run whose gates have recomputed the chain leaves the seal in the *journal of the database that it wrote to*; the next
run there hashes the same bytes in one go, and recomputes the links behind them. Not for: believing a seal that comes from
anywhere else. Invariant: what is hashed gives back every hash and every body of rows that hold, so that rows under one
seal are the same rows; where they are not, every link is recomputed.

Why that is as safe as recomputing: docs/decisions/0021-signatures-in-process.md.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from threading import Thread

from backout.ledger.entry import Head, Row, text_of


@dataclass(frozen=True)
class Seal:
    """Over the first `count` entries; `digest` is lower-case hexadecimal sha256."""

    count: int
    digest: str

    @property
    def text(self) -> str:
        """As the journal keeps it."""
        return f"{self.count}:{self.digest}"


def read_seal(text: object) -> Seal | None:
    """The seal that this text is; None where it is none."""
    count, _, digest = text.partition(":") if isinstance(text, str) else ("", "", "")
    return Seal(int(count), digest) if count.isascii() and count.isdigit() and len(count) < 16 else None


class Bodies:
    """The bodies of all entries in one piece, which is hashed, and searched, many times faster than row by row."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.bytes = b"".join([one[3] for one in rows])

    @cached_property
    def ends(self) -> Sequence[int]:
        """Where each body ends."""
        return list(accumulate(len(one[3]) for one in self.rows))

    def with_any_of(self, marks: Sequence[bytes]) -> list[bytes]:
        """The bodies that have one of these, in the order of the ledger."""
        found: set[int] = set()
        for mark in marks:  # from the end, which is twice as fast for a mark that ends in what every body is full of
            at = self.bytes.rfind(mark)
            while at >= 0:
                place = bisect_right(self.ends, at)
                found.add(place)  # a mark that lies across two bodies is in neither, and does no harm here
                begin = self.ends[place] - len(self.rows[place][3])
                at = self.bytes.rfind(mark, 0, begin + len(mark) - 1)
        return [self.rows[place][3] for place in sorted(found)]


class Sealing:
    """The hashing of a ledger, in a thread of its own: hashing much at once leaves the interpreter to others."""

    def __init__(self, bodies: Bodies, expected: Seal | None) -> None:
        self._bodies = bodies
        self._expected = expected if expected is not None and 0 < expected.count <= len(bodies.rows) else None
        self._found: Seal | None = None
        self._now: Seal | None = None
        self._thread = Thread(target=self._hash)
        self._thread.start()

    def held_up_to(self) -> Head | None:
        """The last entry that the expected seal covers, where its rows are what they were; None: nothing is known."""
        self._thread.join()
        if self._expected is None or self._found != self._expected:
            return None
        count, rows = self._expected.count, self._bodies.rows
        if [one[0] for one in rows[:count]] != list(range(1, count + 1)):
            return None
        return Head(count, text_of(rows[count - 1][2]))

    def seal(self) -> Seal | None:
        """Of the whole ledger as it was read, which means something only where its chain holds; None: it is empty."""
        self._thread.join()
        return self._now

    def _hash(self) -> None:
        bodies, count = self._bodies, len(self._bodies.rows)
        if not count:
            return
        covered = self._expected.count if self._expected is not None else count
        view = memoryview(bodies.bytes)
        hashed = hashlib.sha256(view[: bodies.ends[covered - 1]])
        self._found = _seal(bodies, covered, hashed.digest())
        hashed.update(view[bodies.ends[covered - 1] :])
        self._now = _seal(bodies, count, hashed.digest())


def _seal(bodies: Bodies, count: int, hashed: bytes) -> Seal:
    """Where each body ends tells them apart again; the hash of an entry that holds is 64 letters, and no line break.

    Numbers are in this machine's own form: on one of another kind a seal does not fit, and every link is recomputed.
    """
    sealed = hashlib.sha256(hashed + array("Q", bodies.ends[:count]).tobytes())
    sealed.update(b"\n".join(map(itemgetter(2), bodies.rows[:count])))
    return Seal(count, sealed.hexdigest())
