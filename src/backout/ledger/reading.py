"""The ledger as it was read at one moment: what is in it, and whether its chain holds.

Not for: what counts of it (`project/book.py`). Invariant: it is read whole, and its chain is recomputed behind what the
journal of a database has sealed; most bodies are never taken apart, only searched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from operator import itemgetter

from backout.ledger.entry import GENESIS, Entry, Head, Row, content_of, entry_of, first_break, text_of
from backout.ledger.seal import Bodies, Seal, Sealing
from backout.ledger.statement import FORMAT, Kind, Signed, read_signed

_RUN_KEY = re.compile(r'\\"key\\":\\"([^"\\]+)\\"')  # inside the text of a statement, which is a string of the body
#: Marks of statements in their canonical text, in which keys are sorted; a long mark is found faster than a short one.
_KIND = f'\\"{FORMAT}\\",\\"kind\\":\\"'
RUN, REVIEW, ATTESTED = (f'{_KIND}{one.value}\\",' for one in (Kind.RUN, Kind.REVIEW, Kind.ATTEST))
EMERGENCY, _NO_ERROR = 'emergency\\":\\"', ',\\"error\\":null,'
_CLAIMS = tuple(f'{_KIND}{one.value}\\",' for one in (Kind.CLAIM, Kind.RELEASE))
_STRIDE = 500  # entries whose hashes are looked through at a time


class Reading:
    """The ledger at one moment."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self._rows = rows
        self._bodies = Bodies(rows)
        self._sealing: Sealing | None = None
        self._hashes = {GENESIS.encode()}  # those of the last entries, and that of the empty ledger
        self._looked_through = 0  # how many of the last entries

    def expect(self, seal: Seal | None) -> None:
        """Begin to find out whether it is still what it was under this seal, of the journal that is written to next."""
        self._sealing = Sealing(self._bodies, seal)

    @cached_property
    def problem(self) -> str | None:
        """The first place where the chain does not hold: recomputed where it is first asked for.

        In full, or behind the entries that are, byte for byte, what they were under the seal that was expected.
        """
        held = self._sealing.held_up_to() if self._sealing is not None else None
        behind = self._rows[held.position :] if held is not None else self._rows
        found = first_break(map(entry_of, behind), held)
        return f"entry {found.position}: {found.problem}" if found else None

    @property
    def seal(self) -> Seal | None:
        """What the journal is to keep, so that the next run has less to recompute; None where the chain does not hold."""
        return self._sealing.seal() if self._sealing is not None and self.problem is None else None

    @property
    def entries(self) -> Sequence[Entry]:
        """All of them."""
        return list(map(entry_of, self._rows))

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self._rows)

    @property
    def head(self) -> Head:
        """The last entry."""
        return Head(self._rows[-1][0], text_of(self._rows[-1][2])) if self._rows else Head()

    def has_been(self, head: str) -> bool:
        """Whether this is the hash of an entry, or of the empty ledger: what a head can have been.

        They are looked through from the end, as far as has to be: heads that are asked for are mostly of late.
        """
        wanted = head.encode()
        while wanted not in self._hashes and self._looked_through < len(self._rows):
            end = len(self._rows) - self._looked_through
            self._hashes.update(map(itemgetter(2), self._rows[max(0, end - _STRIDE) : end]))
            self._looked_through += _STRIDE
        return wanted in self._hashes

    def marked(self, *marks: str, on: str | None = None, mine: Collection[str] = ()) -> list[Signed]:
        """The statements that have one of these in the text of their entry: reading all would take too long.

        Without runs that ended well and were no emergencies: they are evidence for nothing, and there are many. So there are
        of claims and their releases: with `on` those of other environments are left out, and so are those there where all
        of them are by one of these names.
        """
        bodies = [*map(text_of, self._bodies.with_any_of([mark.encode() for mark in marks]))]
        left_out = _claims_left_out(bodies, on, mine) if on is not None else frozenset()
        wanted = (body for body in bodies if not _ended_well(body) and body not in left_out)
        return [one for body in wanted if (one := _signed(body)) is not None]

    def lacks(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of these runs that it does not have; the newest are looked for from the end."""
        missing, run = set(keys), RUN.encode()
        for *_, body in reversed(self._rows):
            if not missing:
                break
            if run in body and (match := _RUN_KEY.search(text_of(body))):
                missing.discard(match[1])
        return frozenset(missing)

    def run_keys(self) -> frozenset[str]:
        """The runs that it has: "identity#number", see `run_entries`."""
        runs = map(text_of, self._bodies.with_any_of([RUN.encode()]))
        return frozenset(match[1] for body in runs if (match := _RUN_KEY.search(body)))


def in_a_body(text: str) -> str:
    """Text of a statement as it stands in the body of its entry: as JSON inside of a JSON string."""
    return json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)[1:-1]


def signed_in(entry: Entry) -> Signed | None:
    """The statement in an entry; None where it is none."""
    return _signed(entry.body)


def _claims_left_out(bodies: Iterable[str], on: str, mine: Collection[str]) -> frozenset[str]:
    claims = frozenset(body for body in bodies if any(mark in body for mark in _CLAIMS))
    there = f'\\"environment\\":{in_a_body(on)},'
    by = [f'\\"person\\":{in_a_body(one)},' for one in mine]
    here = frozenset(body for body in claims if there in body)
    return claims if all(any(mark in body for mark in by) for body in here) else claims - here


def _signed(body: str) -> Signed | None:
    try:
        return read_signed(content_of(body))
    except (ValueError, RecursionError):
        return None


def _ended_well(body: str) -> bool:
    """Whether it is the statement of a run without an error, and of no emergency."""
    return RUN in body and _NO_ERROR in body and EMERGENCY not in body
