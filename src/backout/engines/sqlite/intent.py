"""What a statement is going to write, told by the authorizer when it is prepared, before anything runs.

The text of the statement is not looked at. The authorizer is asked for every table and column that a statement writes,
those of triggers and foreign key actions included (https://sqlite.org/c3ref/set_authorizer.html; measured with 3.54:
`SET rowid = 1` is a write to "ROWID" or to the key's column). It does not tell which rows REPLACE would delete.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import apsw

from backout.engines.sqlite.catalogue import ROWID_NAMES, describe, foreign_keys, form_of
from backout.engines.sqlite.guard import Guard
from backout.engines.sqlite.statements import Parameters, bindings_of, fetch
from backout.engines.values import Table


@dataclass(frozen=True)
class Intent:
    """What one statement will write in the main database. Names are as declared."""

    tables: frozenset[str]
    columns: frozenset[str]  # those that UPDATE sets
    updates: bool
    deletes: bool
    inserts: bool
    indirect: bool  # a trigger or a foreign key action writes as well
    whole: bool  # the text has one statement only: nothing follows that was not asked about


@dataclass(frozen=True)
class Plainness:
    """Which writes to a table touch exactly the rows that they name: no trigger, no action, no REPLACE."""

    table: Table
    free: frozenset[str]  # columns that no key and no unique index has
    updates: bool  # an UPDATE of free columns is plain
    deletes: bool  # a DELETE is plain


def foresee(connection: apsw.Connection, guard: Guard, statement: str, parameters: Parameters) -> Intent:
    """Prepare the statement, and do not run it. Raises what preparing it raises, a denial by the guard too."""
    first: list[str] = []

    def look(_cursor: apsw.Cursor, text: str, _bindings: Any) -> bool:
        first.append(text)
        return False

    cursor = connection.cursor()
    cursor.exec_trace = look
    with guard.listening() as heard, suppress(apsw.ExecTraceAbort):
        cursor.execute(statement, bindings_of(parameters), can_cache=False)
    writes = [access for access in heard if access.database != "temp"]
    codes = {access.code for access in writes}
    return Intent(
        tables=frozenset(access.table for access in writes),
        columns=frozenset(access.column or "" for access in writes if access.code == apsw.SQLITE_UPDATE),
        updates=apsw.SQLITE_UPDATE in codes,
        deletes=apsw.SQLITE_DELETE in codes,
        inserts=apsw.SQLITE_INSERT in codes,
        indirect=any(access.inner is not None for access in writes),
        whole=not first or first[0].strip() == statement.strip(),
    )


def plainness(connection: apsw.Connection, name: str) -> Plainness | None:
    """Which writes to that table are plain; None: none are, or there is no such table.

    Only rows of a unique index can be in REPLACE's way; a partial index or one over an expression depends on more
    columns than it lists, hence no UPDATE is plain there (https://sqlite.org/lang_conflict.html, partialindex.html).
    """
    table = _keyed(connection, name)
    if table is None or table.triggers:
        return None
    indexed = _unique_columns(connection, name)
    restorable = {column.name for column in table.restorable}
    acting = any(
        key.parent == name and key.on_delete in ("CASCADE", "SET NULL", "SET DEFAULT")
        for key in foreign_keys(connection)
    )
    return Plainness(
        table=table,
        free=frozenset(restorable - set(table.key) - (indexed or frozenset())),
        updates=indexed is not None and indexed <= restorable,
        deletes=not acting,
    )


def plain_in_undo(connection: apsw.Connection, name: str) -> Table | None:
    """The table if an undo's DELETE and INSERT touch exactly the rows that they name: triggers and actions are off then.

    `UNIQUE ON CONFLICT REPLACE` can stand in a table's definition, where only its text tells.
    """
    table = _keyed(connection, name)
    text = fetch(connection, "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", (name,))
    return None if table is None or "REPLACE" in str(text[0][0]).upper() else table


def _keyed(connection: apsw.Connection, name: str) -> Table | None:
    """An ordinary table whose rows are told apart by a key that is equal only where it is the same."""
    kinds = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ?"
    if not fetch(connection, kinds, (name,)):
        return None
    table = describe(connection, name)
    hides_rowid = any(column.name.lower() in ROWID_NAMES for column in table.columns)
    return None if not table.key or hides_rowid or form_of(connection, name).loose_key else table


def _unique_columns(connection: apsw.Connection, name: str) -> frozenset[str] | None:
    """The columns of all unique indexes; None where an index depends on more than its columns."""
    found: set[str] = set()
    rows: Sequence[tuple[Any, ...]] = fetch(
        connection,
        "SELECT i.partial, x.name FROM pragma_index_list(?1, 'main') AS i, pragma_index_xinfo(i.name, 'main') AS x"
        ' WHERE i."unique" AND x.key',
        (name,),
    )
    for partial, column in rows:
        if partial or column is None:
            return None
        found.add(str(column))
    return frozenset(found)


def is_plain(intent: Intent, plain: Plainness) -> bool:
    """Whether the statement writes exactly the rows of this one table that it names, each once, and keeps their keys."""
    return (
        intent.whole
        and not intent.inserts
        and not intent.indirect
        and intent.tables == {plain.table.name.name}
        and (not intent.updates or (plain.updates and intent.columns <= plain.free))
        and (not intent.deletes or plain.deletes)
    )
