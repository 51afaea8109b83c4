"""SQL text for the images of rows: who wrote a row version, which columns are kept, and how two images compare.

Only text is made here. Facts that it rests on, each measured on PostgreSQL 15.18, 16.14 and 18.4:

- `age(xid)` is relative to the session's own top transaction id once it has one, else to the next one, and stays the
  same for the whole transaction (source: xid.c, `xid_age` and `GetStableLatestTransactionId`). In the run's session our
  top xid has age 0 and our subtransactions have negative ages.
- `record *= record` compares the stored bytes after detoasting, for every type, json included, and tells 1.0 from 1.00
  and -0.0 from 0.0 (manual 9.25.6, "Composite Type Comparison").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.values import Column, Table, TableName

XID_SPAN = 2**32


def ours(alias: str, xid: int, next_xid: int) -> str:
    """Is the row version one that this transaction made? For the run's own session.

    Any transaction id that is visible to us and still in progress is ours. CASE keeps pg_xact_status from being asked
    about ids from `next_xid` on, for which it raises an error: such an id is that of a row that was frozen long ago,
    more than 2^31 transactions back, since freezing leaves it in place (htup_details.h, HEAP_XMIN_FROZEN).
    """
    return (
        f"CASE WHEN pg_catalog.age({alias}.xmin) BETWEEN {xid - next_xid + 1} AND 0 THEN pg_catalog.pg_xact_status("
        f"({xid} - pg_catalog.age({alias}.xmin))::text::xid8) = 'in progress' ELSE false END"
    )


def with_ours(text: str, xid: int, next_xid: int) -> str:
    """Replace each `{ours:alias}` of a named query."""
    return re.sub(r"\{ours:(\w+)\}", lambda match: ours(match[1], xid, next_xid), text)


def stored(column: Column, alias: str) -> str:
    """The column as a rescue table keeps it."""
    text = f"{alias}.{quoted(column.name)}"
    return as_text(text) if column.stored_as_text else text


def as_text(value: str) -> str:
    """What the type's own output function says, which its input function takes back; null for null.

    Not `::text`, which may be a cast that the application has made (CREATE CAST … WITH FUNCTION) and that says less.
    `num_nulls` tells null from a composite value of nulls, as `IS NULL` does not (manual 9.2, 9.4.1 `format`).
    """
    return f"CASE WHEN pg_catalog.num_nulls({value}) = 0 THEN pg_catalog.format('%s', {value}) END"


def stored_list(columns: Iterable[Column], alias: str) -> str:
    """A select list of stored columns under their own names."""
    return comma(f"{stored(column, alias)} AS {quoted(column.name)}" for column in columns)


def restored(column: Column, alias: str, name: str) -> str:
    """The column of a rescue table, in the type that the table has now."""
    text = f"{alias}.{quoted(name)}"
    return f"{text}::{column.type}" if column.stored_as_text else text


def image(parts: Iterable[str]) -> str:
    """A record of the expressions, to be compared with `*=`."""
    return f"ROW({comma(parts)})::record"


def spare_name(wanted: str, table: Table) -> str:
    """A column name that the table does not use."""
    taken = {column.name for column in table.columns}
    while wanted in taken:
        wanted += "_"
    return wanted


def created(place: TableName) -> str:
    """The beginning of CREATE TABLE … AS; a temporary table empties itself at each COMMIT."""
    if place.schema == "pg_temp":
        return f"CREATE TEMP TABLE {quoted(place.name)} ON COMMIT DELETE ROWS"
    return f"CREATE TABLE {qualified(place)}"


def batch_column(table: Table) -> str:
    """The column of the rescue tables of a run in batches that says to which batch an image belongs."""
    return spare_name("backout_batch", table)


def columns_named(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    """The table's columns with these names, in the table's order."""
    return tuple(column for column in table.columns if column.name in names)
