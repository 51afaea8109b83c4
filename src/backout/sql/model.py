"""What can be known of an SQL statement from its text alone.

Not for: facts that need a catalogue (keys, triggers, cascades); those are the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Dialect(Enum):
    """The language of a change's statements."""

    POSTGRES = "postgres"
    SQLITE = "sqlite"
    MARIADB = "mariadb"


class Kind(Enum):
    """What a statement is, as far as a run is concerned."""

    READ = "read"  # returns rows, writes nothing that the text shows (a function it calls may write)
    WRITE = "write"  # INSERT, UPDATE, DELETE, MERGE, COPY … FROM, DO, CALL
    TEMPORARY = "temporary"  # DDL on temporary tables only
    SETTING = "setting"  # SET of something harmless
    FORBIDDEN = "forbidden"  # may not stand in a change at all; see `Statement.objection`


class Trait(Enum):
    """Something in a statement's text that a reviewer should know of."""

    EVERY_ROW = "every row"  # UPDATE or DELETE without WHERE
    SAMPLE = "sample"  # TABLESAMPLE
    LIMIT_WITHOUT_ORDER = "limit without order"  # LIMIT or FETCH FIRST without ORDER BY
    REPLACE = "replace"  # SQLite: INSERT OR REPLACE, REPLACE INTO, UPDATE OR REPLACE
    SEARCH_PATH = "search path"  # SET search_path: names after it may mean other tables


#: What stands for the schema of a temporary table that the change itself has made: PostgreSQL's word, and everybody else's.
TEMPORARY_SCHEMAS = frozenset({"pg_temp", "temp"})


@dataclass(frozen=True)
class WriteTarget:
    """One table that a statement names as the target of a write."""

    operation: str  # "insert", "update", "delete", "merge", "copy"
    schema: str | None  # as written; one of `TEMPORARY_SCHEMAS` for a temporary table of this change
    table: str
    columns: tuple[str, ...] = ()  # UPDATE: the columns of its SET list; otherwise empty


@dataclass(frozen=True)
class Objection:
    """Why a statement may not run in a change, and what to write instead."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Comment:
    """One line comment, with its place in the file (1-based)."""

    text: str  # without the leading "--"
    line: int
    column: int
    own_line: bool = True  # nothing but white space stands before it on its line


@dataclass(frozen=True)
class Statement:
    """One statement of a change, as it stands in the file.

    `text` is the original text with each declared `:name` replaced by the placeholder of its dialect
    (`$1` for PostgreSQL, `:name` unchanged for SQLite); nothing else differs from the file.
    """

    text: str
    parameters: tuple[str, ...]  # PostgreSQL: parameter names in the order of $1, $2 …; SQLite: the names used
    line: int
    column: int
    comments: tuple[Comment, ...]  # the line comments that stand between the previous statement and this one
    kind: Kind
    targets: tuple[WriteTarget, ...]  # every table that the text names as written, data-modifying CTEs included
    functions: tuple[str, ...]  # names of the functions that the text calls, lower-case, schema-qualified if written so
    tables: tuple[tuple[str | None, str], ...]  # every table that the text names, read or written (schema, name)
    is_single_update: bool  # a plain UPDATE of one table, no CTE that writes: its command tag counts its rows
    objection: Objection | None  # set exactly when kind is FORBIDDEN
    traits: frozenset[Trait] = frozenset()
    inner_comments: tuple[Comment, ...] = ()  # the line comments inside the statement, up to its semicolon


@dataclass(frozen=True)
class Script:
    """The statements of a file, and the line comments after the last one."""

    statements: tuple[Statement, ...]
    trailing_comments: tuple[Comment, ...]
