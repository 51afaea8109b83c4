"""What information_schema says of tables, keys, triggers, views, routines and foreign keys, as values.

Invariant: names are compared as the server does, by default byte by byte; information_schema's own comparison ignores
case. What an account has no right on is not shown at all: see `visible.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from backout.engines.mariadb.names import comma, text_literal
from backout.engines.mariadb.session import Session
from backout.engines.values import Column, Table, TableName

#: In the place of a body that was made under NO_BACKSLASH_ESCAPES and has a backslash: where its texts end is not what our
#: reading of it would say, so that a statement could pass for a text (manual, "SQL_MODE": kept with each routine).
BACKSLASHES = "\\"

SYSTEM = ("mysql", "information_schema", "performance_schema", "sys")


@dataclass(frozen=True)
class Relation:
    """Something that can stand where a table can."""

    name: TableName
    kind: str  # "BASE TABLE", "VIEW", "SYSTEM VERSIONED", "SEQUENCE", "SYSTEM VIEW"
    engine: str | None
    rows: int | None  # the server's estimate
    bytes: int | None
    created_with: str


@dataclass(frozen=True)
class Trigger:
    """One trigger; `event` is INSERT, UPDATE or DELETE."""

    schema: str
    name: str
    table: TableName
    event: str
    timing: str
    body: str


@dataclass(frozen=True)
class ForeignKey:
    """`columns` of `child` refer to `referenced` of `parent`; rules as information_schema prints them."""

    name: str
    child: TableName
    columns: tuple[str, ...]
    parent: TableName
    referenced: tuple[str, ...]
    on_update: str
    on_delete: str

    @property
    def acts(self) -> bool:
        """Whether a write to the parent can write the child."""
        return bool({self.on_update, self.on_delete} & {"CASCADE", "SET NULL", "SET DEFAULT"})


def relations(session: Session, names: Collection[TableName]) -> list[Relation]:
    """Those of the names that exist and that this account sees, under the names that the server has them by."""
    if not names:
        return []
    wanted = {session.folded(name) for name in names}
    rows = session.rows(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS, DATA_LENGTH + INDEX_LENGTH, "
        "COALESCE(CREATE_OPTIONS, '') FROM information_schema.TABLES "
        f"WHERE TABLE_SCHEMA IN ({_texts(name.schema for name in wanted)}) "
        f"AND TABLE_NAME IN ({_texts(name.name for name in wanted)})"
    )
    found = [Relation(TableName(row[0], row[1]), *row[2:]) for row in rows]
    return [relation for relation in found if session.folded(relation.name) in wanted]


def user_tables(session: Session, schemas: Collection[str] | None = None) -> list[TableName]:
    """Every base table outside of the server's own and backout's databases; of `schemas` only, where they are named."""
    where = f"IN ({_texts(schemas)})" if schemas is not None else f"NOT IN ({_texts(SYSTEM)})"
    rows = session.rows(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES "
        f"WHERE TABLE_SCHEMA {where} AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')"
    )
    return [TableName(*row) for row in rows]


def describe(session: Session, name: TableName) -> Table | None:
    """The table as it is now; None where there is no base table of that name."""
    columns = session.rows(
        "SELECT COLUMN_NAME, COLUMN_TYPE, IS_GENERATED, GENERATION_EXPRESSION FROM information_schema.COLUMNS "
        f"WHERE TABLE_SCHEMA = {text_literal(name.schema)} AND BINARY TABLE_SCHEMA = {text_literal(name.schema)} "
        f"AND TABLE_NAME = {text_literal(name.name)} AND BINARY TABLE_NAME = {text_literal(name.name)} "
        "ORDER BY ORDINAL_POSITION"
    )
    if not columns:
        return None
    found = tuple(Column(row[0], row[1], 0, generated=row[2] != "NEVER") for row in columns)
    triggers = tuple(trigger.name for trigger in triggers_on(session, [name]))
    return Table(name, f"{name.schema}.{name.name}", found, _key(session, name, found), triggers)


def _key(session: Session, name: TableName, columns: Sequence[Column]) -> tuple[str, ...]:
    """The primary key, else the first unique index over whole plain NOT NULL columns."""
    indexes: dict[str, list[tuple[str, bool]]] = {}
    for index, column, part, nullable, kind in session.rows(
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART, NULLABLE, INDEX_TYPE FROM information_schema.STATISTICS "
        f"WHERE TABLE_SCHEMA = {text_literal(name.schema)} AND BINARY TABLE_SCHEMA = {text_literal(name.schema)} "
        f"AND TABLE_NAME = {text_literal(name.name)} AND BINARY TABLE_NAME = {text_literal(name.name)} "
        "AND NON_UNIQUE = 0 ORDER BY INDEX_NAME = 'PRIMARY' DESC, INDEX_NAME, SEQ_IN_INDEX"
    ):
        whole = part is None and nullable != "YES" and kind == "BTREE"
        indexes.setdefault(index, []).append((column, whole))
    plain = {column.name for column in columns if not column.generated}
    for parts in indexes.values():
        if all(whole and column in plain for column, whole in parts):
            return tuple(column for column, _ in parts)
    return ()


def self_setting_columns(session: Session, name: TableName) -> tuple[str, ...]:
    """Columns with ON UPDATE CURRENT_TIMESTAMP."""
    rows = session.rows(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS "
        f"WHERE TABLE_SCHEMA = {text_literal(name.schema)} AND BINARY TABLE_NAME = {text_literal(name.name)} "
        "AND EXTRA LIKE '%on update%'"
    )
    return tuple(str(row[0]) for row in rows)


def triggers_on(session: Session, names: Collection[TableName]) -> list[Trigger]:
    """The triggers of these tables."""
    if not names:
        return []
    wanted = set(names)
    rows = session.rows(
        "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, EVENT_MANIPULATION, "
        f"ACTION_TIMING, {_body('ACTION_STATEMENT')} FROM information_schema.TRIGGERS "
        f"WHERE EVENT_OBJECT_SCHEMA IN ({_texts(name.schema for name in wanted)}) "
        f"AND EVENT_OBJECT_TABLE IN ({_texts(name.name for name in wanted)}) ORDER BY TRIGGER_NAME"
    )
    found = [Trigger(row[0], row[1], TableName(row[2], row[3]), *row[4:]) for row in rows]
    return [trigger for trigger in found if trigger.table in wanted]


def view_body(session: Session, name: TableName) -> str:
    """A view's definition; empty where it may not be seen."""
    rows = session.rows(
        "SELECT VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = "
        f"{text_literal(name.schema)} AND TABLE_NAME = {text_literal(name.name)}"
    )
    return str(rows[0][0] or "") if rows else ""


def routine_bodies(session: Session, names: Collection[TableName]) -> dict[TableName, str | None]:
    """Name -> body of those names that are functions or procedures; None where the body may not be seen."""
    if not names:
        return {}
    wanted = {(session.folded(name).schema, name.name.lower()) for name in names}
    rows = session.rows(
        f"SELECT ROUTINE_SCHEMA, ROUTINE_NAME, {_body('ROUTINE_DEFINITION')} FROM information_schema.ROUTINES "
        f"WHERE ROUTINE_SCHEMA IN ({_texts(name.schema for name in names)}) "
        f"AND ROUTINE_NAME IN ({_texts(name.name for name in names)})"
    )
    bodies: dict[TableName, str | None] = {}
    for schema, name, body in rows:  # a function and a procedure may share a name
        if (session.folded(TableName(schema, name)).schema, name.lower()) in wanted:
            known = bodies.get(TableName(schema, name), "")
            both = BACKSLASHES if BACKSLASHES in (body, known) else f"{known}; {body}"
            bodies[TableName(schema, name)] = None if body is None or known is None else both
    return bodies


def foreign_keys(session: Session, names: Collection[TableName] | None = None) -> list[ForeignKey]:
    """Every foreign key that has one of these tables on either side (all: None)."""
    where = "k.REFERENCED_TABLE_NAME IS NOT NULL"
    if names is not None:
        if not names:
            return []
        schemas = _texts({name.schema for name in names})
        tables = _texts({name.name for name in names})
        where += (
            f" AND ((k.TABLE_SCHEMA IN ({schemas}) AND k.TABLE_NAME IN ({tables})) "
            f"OR (k.REFERENCED_TABLE_SCHEMA IN ({schemas}) AND k.REFERENCED_TABLE_NAME IN ({tables})))"
        )
    rows = session.rows(
        "SELECT k.CONSTRAINT_NAME, k.TABLE_SCHEMA, k.TABLE_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, "
        "k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, r.UPDATE_RULE, r.DELETE_RULE "
        "FROM information_schema.KEY_COLUMN_USAGE k JOIN information_schema.REFERENTIAL_CONSTRAINTS r "
        "ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME "
        f"AND r.TABLE_NAME = k.TABLE_NAME WHERE {where} "
        "ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
    )
    grouped: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for row in rows:
        grouped.setdefault((row[1], row[2], row[0]), []).append(row)
    keys = [
        ForeignKey(
            name, TableName(schema, table), tuple(part[3] for part in parts), TableName(parts[0][4], parts[0][5]),
            tuple(part[6] for part in parts), parts[0][7], parts[0][8],
        )
        for (schema, table, name), parts in grouped.items()
    ]  # fmt: skip
    if names is None:
        return keys
    wanted = set(names)
    return [key for key in keys if key.child in wanted or key.parent in wanted]


def refers_to_itself(session: Session, name: TableName) -> bool:
    """Whether a write to a row of the table can write other rows of it through a foreign key."""
    return any(key.acts and key.child == key.parent for key in foreign_keys(session, [name]))


def cascade_closure(session: Session, names: Iterable[TableName]) -> frozenset[TableName]:
    """Tables that writes to `names` may also write through foreign keys, however far away; without `names` themselves."""
    known = set(names)
    start, waiting = set(known), set(known)
    while waiting:
        keys = foreign_keys(session, waiting)
        waiting = {key.child for key in keys if key.acts and key.parent in waiting} - known
        known |= waiting
    return frozenset(known - start)


def _body(column: str) -> str:
    unlike_ours = f"FIND_IN_SET('NO_BACKSLASH_ESCAPES', SQL_MODE) AND INSTR({column}, {text_literal(BACKSLASHES)})"
    return f"IF({unlike_ours}, {text_literal(BACKSLASHES)}, {column})"


def _texts(names: Iterable[str]) -> str:
    return comma(text_literal(name) for name in sorted(set(names)))
