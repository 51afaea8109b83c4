"""What the schema of now says: tables, keys, foreign keys, and tables that a session cannot follow.

Source: https://sqlite.org/pragma.html (table_list, table_xinfo, index_list, foreign_key_list).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import apsw

from backout.engines.sqlite.statements import fetch, main_table, quote_name, single
from backout.engines.values import Column, Table, TableName

OWN_TABLES = re.compile(
    r"backout_(meta|run|run_table)|rescue_run_\d+_(\d+_(before|after|left)|changeset)", re.IGNORECASE
)
ROWID_NAMES = ("rowid", "_rowid_", "oid")
# Their shadow tables are ordinary tables of the same file, so the session sees every write (measured with 3.54).
FOLLOWED_MODULES = frozenset({"fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"})


@dataclass(frozen=True)
class ForeignKey:
    """One foreign key; `parent_columns` are always spelled out. Actions as SQLite prints them (`SET NULL`)."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_update: str
    on_delete: str


@dataclass(frozen=True)
class Form:
    """How a table is stored."""

    name: str
    kind: str  # "table", "virtual", "shadow"
    without_rowid: bool
    rowid_alias: str | None  # a name by which the rowid can be reached; None: there is none
    integer_key: bool  # the primary key is the rowid
    nullable_key: tuple[str, ...]  # columns of the primary key that may be NULL
    loose_key: bool  # keys can be equal and yet differ: 'a' and 'A' under NOCASE, 1 and 1.0 without affinity
    ambiguous_key: bool  # the key's index compares otherwise than its columns do
    settled: frozenset[str]  # columns whose values no unique index looks at, nor the key


@lru_cache(maxsize=1024)  # the session asks for every row that is written
def is_own(name: str) -> bool:
    """Whether the table is backout's or SQLite's own: exactly these are left out, no prefix that a user may use."""
    return OWN_TABLES.fullmatch(name) is not None or name.lower().startswith("sqlite_")


def table_names(connection: apsw.Connection, kinds: Iterable[str] = ("table", "shadow")) -> tuple[str, ...]:
    """The user's tables, in order."""
    wanted = frozenset(kinds)
    rows = connection.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    return tuple(name for name, kind in rows if kind in wanted and not is_own(name))


def find_table(connection: apsw.Connection, name: str) -> Table | None:
    """The table of that name (any case), or None; virtual tables and views are none."""
    row = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')"
        " AND name = ? COLLATE NOCASE",
        (name,),
    ).get
    if row is None or is_own(str(row)):
        return None
    return describe(connection, str(row))


def describe(connection: apsw.Connection, name: str) -> Table:
    """The table as the catalogue has it. `position` is 0: a cid shifts when a column before it is dropped."""
    columns = []
    key: list[tuple[int, str]] = []
    # hidden: 2 is a virtual, 3 a stored generated column
    for column, kind, place, hidden in connection.execute(
        "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'main')", (name,)
    ):
        columns.append(Column(str(column), str(kind), 0, generated=hidden in (2, 3)))
        if place:
            key.append((int(place), str(column)))
    triggers = connection.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY name",
        (name,),
    )
    return Table(
        name=TableName("main", name),
        identifier=name,
        columns=tuple(columns),
        key=tuple(column for _, column in sorted(key)),
        triggers=tuple(str(trigger) for (trigger,) in triggers),
    )


def form_of(connection: apsw.Connection, name: str) -> Form:
    """How the table is stored."""
    kind, without_rowid = connection.execute(
        "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE", (name,)
    ).get
    columns = connection.execute("SELECT name, pk, \"notnull\" FROM pragma_table_xinfo(?, 'main')", (name,)).fetchall()
    key = [(column, not_null) for column, place, not_null in columns if place]
    # A primary key that is the rowid has no index of its own; every other one has (https://sqlite.org/rowidtable.html).
    indexed = single(connection, "SELECT count(*) FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (name,))
    integer_key = bool(key) and not without_rowid and not indexed
    taken = {str(column).lower() for column, _, _ in columns}
    alias = None if without_rowid else next((name for name in ROWID_NAMES if name not in taken), None)
    nullable = () if integer_key or without_rowid else tuple(str(column) for column, not_null in key if not not_null)
    loose, ambiguous = (False, False) if integer_key or not key else _comparison(connection, name)
    settled = frozenset(str(column) for column, _, _ in columns) - _looked_at(connection, name)
    return Form(name, str(kind), bool(without_rowid), alias, integer_key, nullable, loose, ambiguous, settled)


def _looked_at(connection: apsw.Connection, name: str) -> frozenset[str]:
    """Columns of the key and of unique indexes; all columns where one has a condition or an expression."""
    found = {
        column for (column,) in connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main') WHERE pk", (name,))
    }
    for index, partial in connection.execute(
        "SELECT name, partial FROM pragma_index_list(?, 'main') WHERE \"unique\"", (name,)
    ).fetchall():
        columns = connection.execute("SELECT name FROM pragma_index_xinfo(?) WHERE key", (index,)).fetchall()
        if partial or (None,) in columns:
            return frozenset(
                name for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main')", (name,))
            )
        found.update(column for (column,) in columns)
    return frozenset(found)


def _comparison(connection: apsw.Connection, name: str) -> tuple[bool, bool]:
    """(loose, ambiguous) of a primary key with an index."""
    rows = fetch(
        connection,
        "SELECT x.name, x.coll FROM pragma_index_list(?1, 'main') AS i, pragma_index_xinfo(i.name, 'main') AS x"
        " WHERE i.origin = 'pk' AND x.key",
        (name,),
    )
    loose = ambiguous = False
    for column, collation in rows:
        declared, own, *_ = connection.column_metadata("main", name, column)
        ambiguous = ambiguous or own.upper() != collation.upper()
        loose = loose or own.upper() != "BINARY" or _has_no_affinity(declared or "")
    return loose, ambiguous


def _has_no_affinity(declared: str) -> bool:
    """https://sqlite.org/datatype3.html, 3.1; ANY in a STRICT table has none either."""
    kind = declared.upper()
    if any(word in kind for word in ("INT", "CHAR", "CLOB", "TEXT")):
        return False
    return not kind or "BLOB" in kind or kind == "ANY"


def loose_counts(connection: apsw.Connection) -> Mapping[str, int]:
    """Rows of every table with a loose key, for `capture.drop_echoes` to compare."""
    names = [name for name in table_names(connection) if form_of(connection, name).loose_key]
    return {name: single(connection, f"SELECT count(*) FROM {main_table(name)}") for name in names}


def foreign_keys(connection: apsw.Connection) -> tuple[ForeignKey, ...]:
    """Every foreign key of the user's tables."""
    keys = []
    names = {name.lower(): name for name in table_names(connection)}
    for child in names.values():
        grouped: dict[int, list[tuple[str, str | None, str, str, str]]] = {}
        rows = connection.execute(
            'SELECT id, "from", "to", "table", on_update, on_delete FROM pragma_foreign_key_list(?, \'main\')'
            " ORDER BY id, seq",
            (child,),
        )
        for number, column, target, parent, on_update, on_delete in rows:
            grouped.setdefault(number, []).append((column, target, parent, on_update, on_delete))
        for parts in grouped.values():
            parent = names.get(parts[0][2].lower())
            if parent is None:
                continue  # the parent table does not exist: nothing can refer to it
            targets = tuple(part[1] for part in parts if part[1] is not None) or describe(connection, parent).key
            columns = tuple(part[0] for part in parts)
            if len(targets) == len(columns):
                keys.append(ForeignKey(child, columns, parent, targets, parts[0][3], parts[0][4]))
    return tuple(keys)


def cascade_targets(connection: apsw.Connection, name: str) -> tuple[str, ...]:
    """Tables that a write to `name` may also write through CASCADE, SET NULL or SET DEFAULT, however far away."""
    acting = {"CASCADE", "SET NULL", "SET DEFAULT"}
    keys = [key for key in foreign_keys(connection) if {key.on_update, key.on_delete} & acting]
    found: set[str] = set()
    waiting = [name.lower()]
    while waiting:
        parent = waiting.pop()
        for key in keys:
            if key.parent.lower() == parent and key.child not in found:
                found.add(key.child)
                waiting.append(key.child.lower())
    return tuple(sorted(found))


def virtual_tables(connection: apsw.Connection) -> Mapping[str, str]:
    """Name -> module of the virtual tables."""
    rows = connection.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
    )
    found = {}
    for name, sql in rows:
        match = re.search(r"\bUSING\s+[\"'\[`]?(\w+)", str(sql), re.IGNORECASE)
        found[str(name)] = match[1].lower() if match else "?"
    return found


def null_key(connection: apsw.Connection, form: Form) -> str | None:
    """A column of the primary key that is NULL in some row, or None."""
    for column in form.nullable_key:
        query = f"SELECT 1 FROM {main_table(form.name)} WHERE {quote_name(column)} IS NULL LIMIT 1"
        if connection.execute(query).get is not None:
            return column
    return None


def _hides_rowid(table: Table) -> bool:
    return not table.key and any(column.name.lower() == "_rowid_" for column in table.columns)


def unfollowed_tables(connection: apsw.Connection) -> Mapping[str, str]:
    """Lower-case name -> why a session cannot follow writes to that table: it must not be written.

    Sources: rows with NULL in a PRIMARY KEY are not recorded (https://sqlite.org/session/sqlite3session_attach.html);
    a column called _rowid_ hides the rowid, and the session then mistakes its values for the identity (measured, 3.54).
    """
    reasons = {}
    for name in table_names(connection):
        form = form_of(connection, name)
        column = null_key(connection, form)
        if column is not None:
            reasons[name.lower()] = f'has rows with NULL in column "{column}" of its primary key'
        elif form.ambiguous_key:
            reasons[name.lower()] = "has a primary key that is compared with another collation than its columns"
        elif _hides_rowid(describe(connection, name)):
            reasons[name.lower()] = 'has no primary key, and its column "_rowid_" hides the identity of its rows'
    for name, module in virtual_tables(connection).items():
        if module not in FOLLOWED_MODULES:
            reasons[name.lower()] = f'is a virtual table of module "{module}", whose writes cannot be captured'
    return reasons
