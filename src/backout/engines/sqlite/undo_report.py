"""The list of conflicts: in order, numbered from 1, printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from backout.engines.conflicts import Found
from backout.engines.halves import HELD
from backout.engines.sqlite import images
from backout.engines.sqlite.statements import fetch, printed, quote_name
from backout.engines.sqlite.undo_rows import Work
from backout.engines.values import Conflict, ConflictKind


def conflicts(connection: apsw.Connection, works: Sequence[Work]) -> list[Found[Work]]:
    """All rows with a `kind` of their own, in order of table and key."""
    found: list[Found[Work]] = []
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
        f"WHERE U.kind IS NOT NULL AND U.kind <> '{HELD}' ORDER BY {images.key_order(captured)}"
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
