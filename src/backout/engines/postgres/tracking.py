"""Rows handed out one by one as text, for tracking files: of a query, and of the change that a run has captured.

Both images of a table are read in the order of their keys' texts and put together row by row, since while a run is open no
session sees both. `COLLATE "C"` orders by bytes of UTF-8 (manual 23.2.2), which is the order of Python's texts.

Invariant: memory does not grow with the rows; nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backout.engines.postgres.images import columns_named
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.session import Session
from backout.engines.values import CapturedTable, TableName

Cells = Sequence[str | None]
_AT_ONCE = 2_000  # rows a message: some MB at the most for usual rows


def stream(
    session: Session, text: str, parameters: Sequence[Any], begin: Callable[[Sequence[str]], None],
    take: Callable[[Cells], None],
) -> None:  # fmt: skip
    """Give the names of the columns to `begin` and each row to `take`, as the server prints its values."""
    cursor = quoted("backout_tracking")
    session.run(f"DECLARE {cursor} NO SCROLL CURSOR FOR {text}", parameters, doing="ask the tracking query")
    begun = False
    while True:
        answer = session.run_as_text(f"FETCH {_AT_ONCE} FROM {cursor}", doing="ask the tracking query")
        if not begun:
            begin(answer.columns)
            begun = True
        for row in answer.rows:
            take(row)
        if len(answer.rows) < _AT_ONCE:
            break
    session.run(f"CLOSE {cursor}")


def changes(
    before: Session, after: Session, schema: str, captured: CapturedTable, columns: Sequence[str],
    take: Callable[[Cells, Cells | None, Cells | None], None],
) -> None:  # fmt: skip
    """(key, columns before, columns after) of each row, in the order of the key; None where there is no such image."""
    old = _ordered(before, schema, captured.before_rescue, captured, columns, "old")
    new = _ordered(after, schema, captured.after_rescue, captured, columns, "new")
    one, other = next(old, None), next(new, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            take(one[0], one[1], None)
            one = next(old, None)
        elif one is None or other[0] < one[0]:
            take(other[0], None, other[1])
            other = next(new, None)
        else:
            take(one[0], one[1], other[1])
            one, other = next(old, None), next(new, None)


def _ordered(
    session: Session, schema: str, rescue: str | None, captured: CapturedTable, columns: Sequence[str], side: str
) -> Iterator[tuple[tuple[str, ...], Cells]]:
    """(key, columns) of a rescue table."""
    if rescue is None:
        return
    key = captured.table.key
    stored = {one.name for one in columns_named(captured.table, (*key, *columns))}
    assert stored >= set(columns)
    keys = [f'r.{quoted(name)}::text COLLATE "C"' for name in key]
    cells = comma([*keys, *(f"r.{quoted(name)}::text" for name in columns)])
    cursor, own = quoted(f"backout_{side}"), not session.in_transaction
    place = qualified(TableName(schema, rescue))
    begin = "BEGIN READ ONLY; " if own else ""
    session.run(
        f"{begin}DECLARE {cursor} NO SCROLL CURSOR FOR SELECT {cells} FROM {place} r ORDER BY {comma(keys)}",
        doing="read the rescue",
    )
    while True:
        rows = session.run(f"FETCH {_AT_ONCE} FROM {cursor}", doing="read the rescue").rows
        for row in rows:
            yield tuple(row[: len(key)]), row[len(key) :]
        if len(rows) < _AT_ONCE:
            break
    session.run("ROLLBACK" if own else f"CLOSE {cursor}")
