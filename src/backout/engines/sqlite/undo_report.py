"""The list of conflicts: in order, numbered from 1, printed, with the fingerprint that a later answer must repeat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.statements import fetch, printed, quote_name
from backout.engines.sqlite.undo_rows import Work
from backout.engines.values import Conflict, ConflictKind


@dataclass(frozen=True)
class Found:
    """A conflict with the row of the work table that it is about."""

    conflict: Conflict
    work: Work
    row: int


def conflicts(connection: apsw.Connection, works: Sequence[Work]) -> list[Found]:
    """All rows with a `kind`, in order of table and key."""
    found: list[Found] = []
    for work in works:
        for conflict, row in _of_table(connection, work, len(found)):
            found.append(Found(conflict, work, row))
    return found


def _of_table(connection: apsw.Connection, work: Work, numbered: int) -> Iterator[tuple[Conflict, int]]:
    captured = work.plan.captured
    before, after, now = images.columns_before(captured), images.columns_after(captured), work.now_columns
    shown = [printed(f"B.{quote_name(name)}") for name in before]
    shown += [printed(f"A.{quote_name(name)}") for name in after]
    shown += [printed(f"U.n{place}") for place in range(len(now))]
    query = (
        f"SELECT U.row, U.kind, U.cols, U.detail, U.b, U.a, U.n, {', '.join(shown)} FROM {work.images} "
        f"WHERE U.kind IS NOT NULL ORDER BY {images.key_order(captured)}"
    )
    for row, kind, cols, detail, b, a, n, *values in fetch(connection, query):
        numbered += 1
        old = dict(zip(before, values, strict=False)) if b else None
        ours = dict(zip(after, values[len(before) :], strict=False)) if a else None
        if old is not None and ours is not None:
            ours = {**old, **ours}
        image = ours or old or {}
        conflict = Conflict(
            number=numbered,
            table=work.plan.table.name,
            kind=ConflictKind[kind],
            key={name: image.get(name) for name in captured.table.key or before or after},
            columns=tuple(now[int(place)] for place in str(cols or "").split(",") if place),
            before=old,
            ours=ours,
            now=dict(zip(now, values[len(before) + len(after) :], strict=True)) if n else None,
            detail=detail or "",
        )
        yield conflict, int(row)


def fingerprint(found: Sequence[Found]) -> str:
    """sha256 over number, table, key, kind and the row of now of every conflict."""
    digest = hashlib.sha256()
    for entry in found:
        c = entry.conflict
        now = None if c.now is None else dict(c.now)
        digest.update(json.dumps([c.number, str(c.table), dict(c.key), c.kind.name, now], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def renumbered(found: Sequence[Found], known: Sequence[Found]) -> list[Found]:
    """The same conflicts under the numbers that people have seen; those that are new come after."""
    numbers = {(entry.work.table, entry.row): entry.conflict.number for entry in known}
    following = count(len(known) + 1)
    renamed = []
    for entry in found:
        number = numbers.get((entry.work.table, entry.row)) or next(following)
        renamed.append(replace(entry, conflict=replace(entry.conflict, number=number)))
    return renamed
