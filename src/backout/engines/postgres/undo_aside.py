"""Unique values that go round in a circle, in a table on whose rows foreign keys act: they are put aside for a moment.

Of such rows each is refused as long as the next one still has its value. Where no foreign key acts they are deleted and
inserted anew (`undo_statements.Rewriting`). Here they get values that no row has, and then those of before, by UPDATEs.

Not for: columns that are part of a foreign key, and types of which no free value is known. Invariant: a row whose values
were put aside is written before `aside` ends, or all of it is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backout.engines.postgres.names import comma, literal, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, Pair
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_work import Spares, Work
from backout.errors import DatabaseFailed

#: The mark of a row in the conflict table, as one that is to be overwritten: it is no more as the run left it.
_ASIDE = "aside"

_NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8"}
_TIMES = {"date": "1", "timestamp": "interval '1 day'", "timestamptz": "interval '1 day'"}


def spares_of(work: Work) -> dict[int, Spares]:
    """By place: tables that cannot be rewritten, and in which unique values that the run changed can be put aside."""
    return {
        table.place: spares for table in work.tables
        if isinstance(table, KeyedTable) and table.place not in work.rewritable and (spares := _spares(work, table))
    }  # fmt: skip


def refuses_a_value(work: Work, error: DatabaseFailed) -> bool:
    """Whether a constraint refuses, or the type of a column whose values are put aside (manual, appendix A)."""
    return (error.sqlstate or "")[:2] in ({"22", "23", "54"} if work.putting_aside else {"23"})


@contextmanager
def aside(work: Work, tables: Sequence[KeyedTable], rows: Sequence[str] | None = None) -> Iterator[None]:
    """Put the values of the rows that are to be updated aside; inside of the block `update` writes them all the same.

    `rows`: only these, by identity. Raises DatabaseFailed where a value is refused; the caller rolls back.
    """
    for table in tables:
        _put_aside(work, table, rows)
    yield
    if tables:
        work.main.run(f"DELETE FROM {CONFLICT_TABLE} WHERE kind = '{_ASIDE}'")


def _put_aside(work: Work, table: KeyedTable, rows: Sequence[str] | None) -> None:
    spares = work.putting_aside[table.place]
    sets = comma(
        f"{quoted(pair.now.name)} = CASE WHEN {table.differs(pair, 'p', 'q')} THEN {spare} ELSE t.{quoted(pair.now.name)} END"
        for pair, spare in spares
    )
    changed = " OR ".join(table.differs(pair, "p", "q") for pair, _ in spares)
    only = "" if rows is None else f" AND {table.identity('p')} = ANY ($1)"
    work.main.run(
        f"WITH put AS (UPDATE {table.target} AS t SET {sets} FROM {table.before} JOIN {table.after} ON {table.same_key} "
        f"WHERE {table.now_is('p')} AND {table.may_update(merging=True)} AND ({changed}){only} "
        f"RETURNING {table.identity('p')} AS identity) INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, forced) "
        f"SELECT {table.place}, identity, '{_ASIDE}', ARRAY[]::text[], true FROM put",
        [] if rows is None else [list(rows)],
        doing="put the rows back",
    )


def _spares(work: Work, table: KeyedTable) -> Spares:
    changed = {pair.now.name: pair for pair in table.compared if not pair.now.identity_always}
    found = []
    for name, may_be_null, type_name, length in work.main.run(
        query("unique_columns"), [table.undo.table.identifier]
    ).rows:
        if name in changed:
            spare = "NULL" if may_be_null else _spare(table, changed[name], type_name, length)
            if spare is not None:
                found.append((changed[name], spare))
    return found


def _spare(table: KeyedTable, pair: Pair, type_name: str, length: int | None) -> str | None:
    """By the type: behind a digest of the row's key, or as far below the least value as the row's is above it."""
    column = f"t.{quoted(pair.now.name)}"
    digest = f"pg_catalog.md5({literal(str(table.place))} || {table.identity('p')})"
    least = f"(SELECT min(o.{quoted(pair.now.name)}) FROM {table.target} AS o)"
    if type_name == "uuid":
        return f"{digest}::uuid"
    if type_name in {"text", "varchar", "bpchar"}:
        text = f"{digest} || {column}"
        return text if length is None else f"pg_catalog.left({text}, {length})"
    if type_name in _NUMBERS:
        return f"{least} - 1 - ({column} - {least})"
    if type_name in _TIMES:
        return f"{least} - ({column} - {least}) - {_TIMES[type_name]}"
    return None
