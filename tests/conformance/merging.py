"""The merge rule of an undo, said once more in plain Python over dumps: what must have become of each row.

Per row, told by its key: what the run changed goes back unless somebody changed the very same since; what others
changed stays. Constraints are left out: a row that one of them keeps from being put back is told by its kind of
conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from backout.engines.values import ConflictKind

Row = Mapping[str, str | None]
Key = tuple[str, ...]

#: Kinds that the rule below tells without knowing any constraint.
BY_VALUE = {ConflictKind.CHANGED, ConflictKind.DELETED, ConflictKind.KEY_REUSED}


@dataclass(frozen=True)
class Expected:
    """What must be there after the undo, and which keys must be reported."""

    rows: Mapping[Key, Row]
    conflicts: Mapping[Key, ConflictKind]


def key_of(row: Row, names: Sequence[str]) -> Key:
    """Equal keys have equal texts here: 1.0 and 1.00 are one, so are 0 and -0."""
    return tuple(_plain(row[name] or "") for name in names)


def _plain(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return str(number.normalize() + 0) if number.is_finite() else text


def by_key(rows: Sequence[Row], names: Sequence[str]) -> dict[Key, Row]:
    """Rows under their keys."""
    found = {key_of(row, names): row for row in rows}
    assert len(found) == len(rows)
    return found


def merged(
    before: Mapping[Key, Row], after: Mapping[Key, Row], now: Mapping[Key, Row], bookkeeping: frozenset[str]
) -> Expected:
    """What the undo of a run that made `after` of `before` must make of `now`."""
    rows, conflicts = dict(now), {}
    for key in before.keys() | after.keys():
        found = _merged_row(before.get(key), after.get(key), now.get(key), bookkeeping)
        if isinstance(found, ConflictKind):
            conflicts[key] = found
        elif found is not None:
            rows[key] = found
        else:
            rows.pop(key, None)
    return Expected(rows, conflicts)


def _merged_row(b: Row | None, a: Row | None, n: Row | None, bookkeeping: frozenset[str]) -> Row | ConflictKind | None:
    if b is None:
        assert a is not None
        untouched = n is None or all(n[name] == a[name] for name in a if name not in bookkeeping)
        return None if untouched else ConflictKind.CHANGED
    if a is None:
        return b if n is None or n == b else ConflictKind.KEY_REUSED
    touched = {name for name in b if b[name] != a[name]}
    if n is None:
        return ConflictKind.DELETED if touched else None
    if any(n[name] not in (a[name], b[name]) for name in touched - bookkeeping):
        return ConflictKind.CHANGED
    return dict(n) | {name: n[name] if name in bookkeeping and n[name] != a[name] else b[name] for name in touched}


def merged_whole(before: Sequence[Row], after: Sequence[Row], now: Sequence[Row]) -> Counter[str] | None:
    """The same without a key: all of the table's changes, or (None) none of them."""
    b, a, n = (Counter(repr(row) for row in rows) for rows in (before, after, now))
    made, gone = a - b, b - a
    return None if made - n else n - made + gone
