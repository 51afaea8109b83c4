"""The list of an undo's conflicts, where the engine keeps what it found in work tables: numbers, fingerprint, consent.

Not for: PostgreSQL, whose list is a temporary table of its server. Invariant: a number means the row that people saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Generic, TypeVar

from backout.engines.values import Conflict, Resolution

Work = TypeVar("Work")


@dataclass(frozen=True)
class Found(Generic[Work]):
    """A conflict with the row of the work table that it is about."""

    conflict: Conflict
    work: Work
    row: int


def fingerprint(found: Sequence[Found[Work]]) -> str:
    """sha256 over number, table, key, kind and the row of now of every conflict."""
    digest = hashlib.sha256()
    for entry in found:
        c = entry.conflict
        now = None if c.now is None else dict(c.now)
        digest.update(json.dumps([c.number, str(c.table), dict(c.key), c.kind.name, now], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def renumbered(found: Sequence[Found[Work]], known: Sequence[Found[Work]]) -> list[Found[Work]]:
    """The same conflicts under the numbers that people have seen; those that are new come after."""
    numbers = {(entry.conflict.table, entry.row): entry.conflict.number for entry in known}
    following = count(len(known) + 1)
    renamed = []
    for entry in found:
        number = numbers.get((entry.conflict.table, entry.row)) or next(following)
        renamed.append(replace(entry, conflict=replace(entry.conflict, number=number)))
    return renamed


def allows(resolution: Resolution, numbers: set[int]) -> bool:
    """Whether the undo may go on: each number that is named is in the list, and without `partial` all are named."""
    return resolution.overwrite <= numbers and (resolution.partial or numbers <= resolution.overwrite)


def refusals(left: Sequence[Found[Work]], resolution: Resolution) -> list[str]:
    """Notes on conflicts that were to be overwritten and could not be."""
    return [
        f"conflict {entry.conflict.number} cannot be overwritten: {entry.conflict.kind.value}"
        for entry in left
        if entry.conflict.number in resolution.overwrite
    ]
