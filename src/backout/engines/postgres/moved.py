"""Rows whose key the run has changed: which key before is which key now.

By its key alone such a row looks like one that was deleted and another one that was inserted. An undo must put back both
halves or none: with only one, the row would be there twice, or be gone.

The server knows: a row version that was replaced points to the one that took its place, and `currtid2` follows that chain
to the version that this session sees (tidscan, heapam.c `heap_get_latest_tid`; measured on 15.18, 16.14 and 18.4). Rows
that moved to another partition have no such link (htup_details.h, `ItemPointerIndicatesMovedPartitions`).

Not for: tables that were armed with triggers, and batches; see `undo_moved.in_doubt`.
Invariant: the table of pairs is made in the run's own transaction, or not at all.
"""

from __future__ import annotations

from backout.engines.postgres.images import columns_named, spare_name, stored
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.session import Session, at_once, pipe
from backout.engines.postgres.undo_columns import stored_type
from backout.engines.values import CapturedTable, Table, TableName

_DOING = "find the rows whose key has changed"


def key_may_change(captured: CapturedTable) -> bool:
    """Whether there is a key, and columns of it are among those that can have changed."""
    return any(name in captured.after_columns for name in captured.table.key)


def place_column(table: Table) -> str:
    """The column of the pre-images that says where the row version was, if the key may have changed."""
    return spare_name("backout_was_at", table)


def moved_name(before_rescue: str) -> str:
    """The table of pairs beside a table of pre-images."""
    return f"{before_rescue.removesuffix('before')}moved"


def note_moves(main: Session, aux: Session, schema: str, captured: CapturedTable, *, sees_rescue: bool) -> None:
    """Make the table of pairs (`was`, `became`: keys as one text), where rows have moved; behind the COMMIT of aux.

    `sees_rescue`: main reads what aux has committed; under REPEATABLE READ it does not, and the images are sent to it.
    """
    counted, table = captured.counted, captured.table
    if captured.before_rescue is None or captured.after_rescue is None or counted is None or not counted.updated:
        return
    if captured.logged or not key_may_change(captured):
        return
    if captured.is_explained and counted.total == counted.updated and _same_keys(main, aux, schema, captured):
        return
    before, after = TableName(schema, captured.before_rescue), TableName(schema, captured.after_rescue)
    if not sees_rescue:
        before = _sent(main, aux, before, table)
    same = " AND ".join(f"a.{quoted(name)} = b.{quoted(name)}" for name in table.key)
    gone = main.value(
        f"SELECT count(*) FROM {qualified(before)} b WHERE NOT EXISTS (SELECT FROM {qualified(after)} a WHERE {same})"
    )
    if not gone or (captured.is_explained and gone == counted.deleted):
        return
    was = f"ROW({comma(f'b.{quoted(one.name)}' for one in columns_named(table, table.key))})::text"
    became = f"ROW({comma(stored(one, 't') for one in columns_named(table, table.key))})::text"
    # currtid2 is volatile, and no condition on ctid may be: it is asked in a query of its own (OFFSET 0).
    main.run(
        f"CREATE TABLE {qualified(TableName(schema, moved_name(captured.before_rescue)))} AS "
        f"SELECT {was} AS was, {became} AS became FROM (SELECT i.*, pg_catalog.currtid2("
        f"{literal(qualified(table.name))}, i.{quoted(place_column(table))}) AS backout_is_at "
        f"FROM {qualified(before)} i OFFSET 0) b "
        f"JOIN ONLY {qualified(table.name)} AS t ON t.ctid = b.backout_is_at WHERE {was} <> {became}",
        doing=_DOING,
    )


def _sent(main: Session, aux: Session, before: TableName, table: Table) -> TableName:
    """A copy of keys and places that main sees."""
    copy = TableName("pg_temp", before.name)
    columns = comma(map(quoted, (*table.key, place_column(table))))
    typed = comma(
        [f"NULL::{stored_type(one)} AS {quoted(one.name)}" for one in columns_named(table, table.key)]
        + [f"NULL::tid AS {quoted(place_column(table))}"]
    )
    main.run(f"CREATE TEMP TABLE {quoted(copy.name)} ON COMMIT DROP AS SELECT {typed} WHERE false")
    pipe(
        aux, f"COPY (SELECT {columns} FROM {qualified(before)}) TO STDOUT", main,
        f"COPY {qualified(copy)} ({columns}) FROM STDIN",
    )  # fmt: skip
    return copy


def _same_keys(main: Session, aux: Session, schema: str, captured: CapturedTable) -> bool:
    """Whether both images have the same keys, by a hash of all of them, without a join."""
    keys = comma(f"i.{quoted(name)}" for name in captured.table.key)

    def hashed(session: Session, rescue: str | None) -> object:
        place = qualified(TableName(schema, str(rescue)))
        return session.value(
            f"SELECT pg_catalog.bit_xor(pg_catalog.hashtextextended(ROW({keys})::text, 0)) FROM {place} i"
        )

    before, after = at_once(lambda: hashed(aux, captured.before_rescue), lambda: hashed(main, captured.after_rescue))
    return before == after
