"""The list of conflicts: in order, numbered from 1, printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backout.engines.conflicts import Found
from backout.engines.halves import HELD
from backout.engines.mariadb import images
from backout.engines.mariadb.images import printed
from backout.engines.mariadb.names import comma, quoted
from backout.engines.mariadb.session import Session
from backout.engines.mariadb.undo_rows import Work
from backout.engines.values import Column, Conflict, ConflictKind

_Row = dict[str, str | None]


def conflicts(session: Session, works: Sequence[Work]) -> list[Found[Work]]:
    """All rows with a `kind`, in order of table and key."""
    found: list[Found[Work]] = []
    for work in works:
        for conflict, row in _of_table(session, work, len(found)):
            found.append(Found(conflict, work, row))
    return found


def _of_table(session: Session, work: Work, numbered: int) -> Iterator[tuple[Conflict, int]]:
    table = work.captured.table
    before = table.restorable if work.captured.before_rescue else ()
    after = (
        images.columns_named(table, {*table.key, *work.captured.after_columns}) if work.captured.after_rescue else ()
    )
    now = work.plan.table.restorable if work.key else ()
    shown = [printed(column, "B") for column in before]
    shown += [printed(column, "A") for column in after]
    shown += [printed(column, "T") for column in now]
    if work.key:
        present, source, order = work.has("T"), work.source(now="LEFT JOIN"), work.key_columns("U")
    else:
        present, source, order = "FALSE", _keyless_source(work), "U.`row`"
    query = (
        f"SELECT U.`row`, U.kind, U.cols, U.detail, U.b, U.a, {present}, {comma(shown)} FROM {source} "
        f"WHERE U.kind IS NOT NULL AND U.kind <> '{HELD}' ORDER BY {order}"
    )
    for row, kind, cols, detail, b, a, n, *cells in session.rows(query):
        numbered += 1
        texts = [_text(cell) for cell in cells]
        old = _named(before, texts) if b else None
        ours = _named(after, texts[len(before) :]) if a else None
        if old is not None and ours is not None:
            ours = {**old, **ours}
        image = ours or old or {}
        names = [column.name for column in work.plan.table.restorable]
        yield (
            Conflict(
                number=numbered,
                table=work.plan.table.name,
                kind=ConflictKind[kind],
                key={name: image.get(name) for name in table.key or tuple(image)},
                columns=tuple(names[int(place)] for place in str(cols or "").split(",") if place),
                before=old,
                ours=ours,
                now=_named(now, texts[len(before) + len(after) :]) if n else None,
                detail=detail or "",
            ),
            int(row),
        )


def _keyless_source(work: Work) -> str:
    row = quoted(images.row_column(work.captured.table))
    source = f"{work.table} U"
    for alias, name, side in (("B", work.captured.before_rescue, "U.b"), ("A", work.captured.after_rescue, "U.a")):
        if name is not None:
            source += f" LEFT JOIN {work.rescue_table(name)} {alias} ON {side} AND {alias}.{row} = U.image"
    return source


def _named(columns: Sequence[Column], cells: Sequence[str | None]) -> _Row:
    return {column.name: cell for column, cell in zip(columns, cells, strict=False)}


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
