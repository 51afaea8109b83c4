"""One entry of the ledger and the chain that it is a link of.

Not for: storing it (`store`). Invariant: an entry's hash covers its position, the hash before it and its body, byte for
byte, so that no entry can be altered, removed or moved without every later hash being another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

GENESIS = "0" * 64  # what the first entry has for the hash before it

STATEMENT, RUN = "statement", "run"  # the kinds of entry

#: An entry as it is read: position, previous, hash and body, texts in UTF-8. No more is made of most of them.
Row: TypeAlias = tuple[int, bytes, bytes, bytes]


class Entry(NamedTuple):
    """A link of the chain; `position` counts from 1, hashes are lower-case hexadecimal sha256.

    A tuple rather than a dataclass: a ledger is read whole, and this is made four times as fast.
    """

    position: int
    previous: str
    hash: str
    body: str  # JSON; with its kind under "kind"

    @property
    def content(self) -> dict[str, Any]:
        """The body as a value; ValueError where it is no JSON object."""
        return content_of(self.body)


@dataclass(frozen=True)
class Head:
    """The last link: what a later reader must still find. `position` 0 is an empty ledger."""

    position: int = 0
    hash: str = GENESIS


@dataclass(frozen=True)
class Break:
    """The first place where the chain does not hold."""

    position: int
    problem: str  # "altered", "removed", "reordered", each with what was seen


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def entry_hash(position: int, previous: str, body: str) -> str:
    """The hash of an entry. `position` and `previous` have no colon, so that no two entries are the same bytes."""
    return hashlib.sha256(f"{position}:{previous}:{body}".encode()).hexdigest()


def canonical(content: Mapping[str, Any]) -> str:
    """The one text of a value: sorted keys, no space, UTF-8 as it is. TypeError for what JSON lacks."""
    return _ENCODER.encode(dict(content))


def content_of(body: str) -> dict[str, Any]:
    """A body as a value; ValueError where it is no JSON object."""
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  like text that is no JSON at all
    return value


def entry_of(row: Row) -> Entry:
    """The entry of a row."""
    position, previous, hashed, body = row
    return Entry(position, text_of(previous), text_of(hashed), text_of(body))


def text_of(data: bytes) -> str:
    """As text, the same wherever it is read; bytes that are no UTF-8, which nobody of us writes, become others."""
    return data.decode("utf-8", "replace")


def link(head: Head, body: str) -> Entry:
    """The entry that follows `head`."""
    position = head.position + 1
    return Entry(position, head.hash, entry_hash(position, head.hash, body), body)


def first_break(entries: Iterable[Entry], after: Head | None = None) -> Break | None:
    """Recompute the chain, in the order of positions; None: it holds. `after` is the entry before the first of these."""
    return next(breaks(entries, after), None)


def breaks(entries: Iterable[Entry], after: Head | None = None) -> Iterator[Break]:
    """Every place where a link does not follow from the one before it."""
    position, previous = (after.position, after.hash) if after is not None else (0, GENESIS)
    sha256 = hashlib.sha256
    for found, before, hashed, body in entries:  # taken apart: names cost a quarter of the time
        position += 1
        if found != position:
            missing = f"{position}" if found == position + 1 else f"{position} to {found - 1}"
            yield Break(position, f"removed: entry {missing} is not there")
            position = found
        elif before != previous:
            yield Break(position, "reordered: it does not follow from the entry before it")
        # The text of `entry_hash`, in line: this loop is what an audit of a long ledger spends its time on.
        if sha256(f"{found}:{before}:{body}".encode()).hexdigest() != hashed:
            yield Break(position, "altered: its text is not what its hash was made of")
        previous = hashed
