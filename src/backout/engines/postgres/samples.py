"""Rows before and after, for people to look at: a few, in the order of the key, every value as text.

Of a large rescue the few come from its first pages, in the order of their keys: to sort half a million rows took 0.1 s
on each side, for ten of them (measured on 18.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backout.engines.postgres.images import columns_named
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.session import Session
from backout.engines.values import CapturedTable, Column, RowChange, TableName

_Row = dict[str, str | None]
_Key = tuple[str | None, ...]

_CANDIDATES = 20  # times the rows to show, among which new ones are looked for
_MANY_ROWS = 50_000
_FIRST_PAGES = 500  # of 8 kB; a TID range scan reads no more of them (manual 14.1.2: since PostgreSQL 14)


def sample_rows(
    before_session: Session, after_session: Session, schema: str, captured: CapturedTable, limit: int
) -> Sequence[RowChange]:
    """Up to `limit` rows. While the run is open only aux sees its pre-images, and only main its post-images."""
    name, key = captured.table.name, captured.table.key
    all_columns = captured.table.restorable
    before = _Rescue(before_session, schema, captured.before_rescue, captured.before_rows, all_columns, key)
    kept = columns_named(captured.table, (*key, *captured.after_columns)) if key else all_columns
    after = _Rescue(after_session, schema, captured.after_rescue, captured.after_rows, kept, key)
    if not key:
        return [RowChange(name, row, None) for _, row in before.first(limit)] + [
            RowChange(name, None, row) for _, row in after.first(limit)
        ]
    inserted = captured.counted.inserted if captured.counted else 0
    old = before.first(limit - min(inserted, limit // 3))  # of a mixed change some new rows are shown, too
    named = [identity for identity, _ in old]
    new = dict(after.named(named))
    changes = [RowChange(name, row, _merged(row, new.get(identity))) for identity, row in old]
    if len(changes) < limit:
        others = after.first(_CANDIDATES * limit, but=named)
        there = dict(before.named([identity for identity, _ in others]))
        changes += [RowChange(name, None, row) for identity, row in others if identity not in there]
    return changes[:limit]


def _merged(before: _Row, after: Mapping[str, str | None] | None) -> _Row | None:
    """The whole row after; columns of which no post-image is kept did not change."""
    return None if after is None else {**before, **after}


class _Rescue:
    """One rescue table, or none, and the session that sees it."""

    def __init__(
        self, session: Session, schema: str, name: str | None, rows: int, columns: Sequence[Column], key: Sequence[str]
    ) -> None:
        self._session, self._key, self._rows = session, key, rows
        self._place = qualified(TableName(schema, name)) if name is not None else None
        self._columns = columns
        self._types = {one.name: "text" if one.stored_as_text else one.type for one in columns}

    def first(self, limit: int, *, but: Sequence[_Key] = ()) -> list[tuple[_Key, _Row]]:
        """(key, row) of the first rows, without those that are named already."""
        taken = f"({self._matches}) IS NOT TRUE" if but else "true"
        pages = max(_FIRST_PAGES, limit)  # a page holds a row at least
        few = f"r.ctid < '({pages},0)'::tid" if self._rows > _MANY_ROWS and not but else "true"
        return self._asked(f"{few} AND {taken}", limit, but)

    def named(self, keys: Sequence[_Key]) -> list[tuple[_Key, _Row]]:
        """(key, row) of the rows with these keys."""
        return self._asked(self._matches, len(keys), keys) if keys else []

    @property
    def _matches(self) -> str:
        """Is the row's key among those given, an array of texts for each column? Compared in its type, by hash."""
        given = comma(f"${place}::text[]" for place in range(1, len(self._key) + 1))
        names = comma(f"k{place}" for place in range(len(self._key)))
        typed = comma(f"w.k{place}::{self._types[name]}" for place, name in enumerate(self._key))
        return (
            f"({comma(f'r.{quoted(name)}' for name in self._key)}) IN (SELECT {typed} FROM unnest({given}) w({names}))"
        )

    def _asked(self, condition: str, limit: int, keys: Sequence[_Key]) -> list[tuple[_Key, _Row]]:
        if self._place is None:
            return []
        ordered = f" ORDER BY {comma(f'r.{quoted(name)}' for name in self._key)}" if self._key else ""
        cells = comma(f"r.{quoted(column.name)}::text" for column in self._columns)
        # The inner LIMIT first: casting every row to text takes ten times as long as finding the first few.
        inner = f"SELECT r.* FROM {self._place} r WHERE {condition}{ordered} LIMIT {int(limit)}"
        names = [column.name for column in self._columns]
        rows = self._session.run(
            f"SELECT {cells} FROM ({inner}) r{ordered}", [list(one) for one in zip(*keys, strict=True)]
        ).rows
        found = [dict(zip(names, row, strict=True)) for row in rows]
        return [(tuple(row[name] for name in self._key), row) for row in found]
