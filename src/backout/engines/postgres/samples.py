"""Rows before and after, for people to look at: a few, in the order of the key, every value as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backout.engines.postgres.images import columns_named
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.session import Session, at_once
from backout.engines.values import CapturedTable, Column, RowChange, TableName

_Row = dict[str, str | None]


def sample_rows(
    before_session: Session, after_session: Session, schema: str, captured: CapturedTable, limit: int
) -> Sequence[RowChange]:
    """Up to `limit` rows. While the run is open only aux sees its pre-images, and only main its post-images."""
    table, key = captured.table, captured.table.key
    all_columns = table.restorable
    after_kept = columns_named(table, (*key, *captured.after_columns)) if key else all_columns
    inserted = captured.counted.inserted if captured.counted else 0
    first = limit - min(inserted, limit // 3) if key else limit  # of a mixed change some new rows are shown, too
    before, after = at_once(
        lambda: _rows(before_session, schema, captured.before_rescue, all_columns, key, first),
        lambda: _rows(after_session, schema, captured.after_rescue, after_kept, key, limit),
        beside=before_session is not after_session,
    )
    if not key:
        return [RowChange(table.name, row, None) for _, row in before] + [
            RowChange(table.name, None, row) for _, row in after
        ]
    after_of, named = dict(after), [identity for identity, _ in before]
    missing = [identity for identity in named if identity not in after_of]  # deleted, or not among the first by key
    after_of |= _rows(after_session, schema, captured.after_rescue, after_kept, key, limit, only=missing)
    changes = [RowChange(table.name, row, _merged(row, after_of.get(identity))) for identity, row in before]
    if len(changes) < limit:
        new = _rows(after_session, schema, captured.after_rescue, after_kept, key, limit, but=named)
        for identity, row in new[: limit - len(changes)]:
            old = dict(_rows(before_session, schema, captured.before_rescue, all_columns, key, 1, only=[identity]))
            if identity not in old:
                changes.append(RowChange(table.name, None, row))
    return changes


def _merged(before: _Row, after: Mapping[str, str | None] | None) -> _Row | None:
    """The whole row after; columns of which no post-image is kept did not change."""
    return None if after is None else {**before, **after}


def _rows(
    session: Session,
    schema: str,
    rescue: str | None,
    columns: Sequence[Column],
    key: Sequence[str],
    limit: int,
    *,
    only: Sequence[str] | None = None,
    but: Sequence[str] | None = None,
) -> list[tuple[str, _Row]]:
    """(key as text, row) of a rescue table, in the order of the key."""
    if rescue is None or (only is not None and not only):
        return []
    identity = f"ROW({comma(f'r.{quoted(name)}' for name in key)})::text" if key else "''"
    cells = comma(f"r.{quoted(column.name)}::text" for column in columns)
    order = comma(f"r.{quoted(name)}" for name in key)
    ordered = f" ORDER BY {order}" if order else ""
    source, parameters = f"{qualified(TableName(schema, rescue))} r", []
    if only is not None or but is not None:
        parameters = [list(only if only is not None else but or ())]
        source += f" WHERE {identity} {'= ANY' if only is not None else '<> ALL'} ($1)"
    # The inner LIMIT first: casting every row to text takes ten times as long as finding the first few.
    text = f"SELECT {identity}, {cells} FROM (SELECT r.* FROM {source}{ordered} LIMIT {int(limit)}) r{ordered}"
    names = [column.name for column in columns]
    return [(row[0], dict(zip(names, row[1:], strict=True))) for row in session.run(text, parameters).rows]
