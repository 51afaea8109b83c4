"""Facts about a database, and plans for it, as plain values. No I/O, no driver.

What a run wrote is told per *table* (PostgreSQL: per partition leaf), because that is where rows live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


@dataclass(frozen=True, order=True)
class TableName:
    """A table's name; `schema` is "main" on SQLite. Printed quoted only where SQL would need it."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{_plain_or_quoted(self.schema)}.{_plain_or_quoted(self.name)}"


def _plain_or_quoted(name: str) -> str:
    plain = name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit() and name.isascii()
    return name if plain else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    """One column; `position` outlives a rename (PostgreSQL: attnum). 0: nothing does, the name alone counts (SQLite)."""

    name: str
    type: str
    position: int
    generated: bool = False
    identity_always: bool = False
    stored_as_text: bool = False  # in rescue tables: the type is not a built-in one


@dataclass(frozen=True)
class Table:
    """A table as the catalogue describes it; `key` is empty where no key identifies a row for certain."""

    name: TableName
    identifier: str  # PostgreSQL: oid; SQLite: the name
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    triggers: tuple[str, ...] = ()  # the application's own, enabled ones

    @property
    def restorable(self) -> tuple[Column, ...]:
        """The columns that can be written: all but generated ones."""
        return tuple(column for column in self.columns if not column.generated)


@dataclass(frozen=True)
class Counts:
    """Rows per operation. Counted by the database these are *attempts*: a row touched twice counts twice."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def total(self) -> int:
        """All writes."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True)
class CapturedTable:
    """What one run wrote to one table, and where its images are kept.

    Pre-images have every column. Post-images have the key and `after_columns` (all columns unless the engine
    has proven that no other column changed).
    """

    table: Table
    counted: Counts | None  # None: the engine counts only in sum (see `Capture.counted_in_sum`)
    before_rows: int
    after_rows: int
    after_columns: tuple[str, ...]
    captured_by: str  # "two snapshots", "two snapshots (quick)", "session"
    before_rescue: str | None  # name of the rescue table in the rescue schema; None: no rows
    after_rescue: str | None
    left_rescue: str | None = None  # keys of the rows that undo runs have not restored yet, once there was one
    undone: bool = False  # every row that can be restored has been
    both_rows: int = 0  # rows in both images, where `counted` is None: those were updated


@dataclass(frozen=True)
class SequenceMove:
    """A sequence that a run advanced; it stays advanced, since sequences do not roll back."""

    name: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Lock:
    """A lock that the run holds on a table until it ends."""

    table: str
    mode: str


@dataclass(frozen=True)
class Capture:
    """Everything that a transaction wrote, as captured just before it ends."""

    tables: tuple[CapturedTable, ...]
    counted_in_sum: int | None = None  # SQLite: the total_changes() delta
    sequences: tuple[SequenceMove, ...] = ()
    locks: tuple[Lock, ...] = ()
    tripwires: tuple[str, ...] = ()  # what was seen that no capture can explain; any of them fails the proof
    rescue_bytes: int | None = None
    log_bytes: int | None = None  # write-ahead log written by the transaction


@dataclass(frozen=True)
class RowChange:
    """One row before and after, all values as the database prints them; None for "no such row" and for NULL cells."""

    table: TableName
    before: Mapping[str, str | None] | None
    after: Mapping[str, str | None] | None


@dataclass(frozen=True)
class UpdateHint:
    """A plain UPDATE that the run executed: `rows` is its command tag, `columns` its SET list."""

    schema: str | None
    table: str
    columns: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class UndoTable:
    """How one captured table is put back."""

    captured: CapturedTable
    table: Table  # as it is now
    columns: Mapping[str, str]  # name of a captured column -> name of the column now; dropped ones are missing
    bookkeeping: tuple[str, ...] = ()  # differing here alone is no conflict, and the value of now stays


@dataclass(frozen=True)
class UndoPlan:
    """What an undo is about to do; computed without I/O from a run's record and the catalogue of now."""

    run: int
    tables: tuple[UndoTable, ...]
    notes: tuple[str, ...] = ()  # what a person should know: columns dropped since, tables left out by name


class ConflictKind(Enum):
    """Why a row is not put back unless it is named."""

    CHANGED = "changed since"
    DELETED = "deleted since"
    KEY_REUSED = "key used again since"
    REFERENCED = "other rows refer to it now"
    PARENT_GONE = "the row it refers to is gone"
    CONSTRAINT = "a constraint refuses it"


@dataclass(frozen=True)
class Conflict:
    """A row that others changed since the run; `number` counts from 1 in the order (table, key)."""

    number: int
    table: TableName
    kind: ConflictKind
    key: Mapping[str, str | None]
    columns: tuple[str, ...]  # the columns in conflict; empty where the row as a whole is
    before: Mapping[str, str | None] | None
    ours: Mapping[str, str | None] | None
    now: Mapping[str, str | None] | None
    detail: str = ""


@dataclass(frozen=True)
class Resolution:
    """What to do about conflicts: nothing is overwritten that `overwrite` does not name."""

    partial: bool = False
    overwrite: frozenset[int] = frozenset()
    seen: str | None = None  # fingerprint of the list in which `overwrite` numbers were read; must still be true


@dataclass(frozen=True)
class UndoOutcome:
    """What an undo did in its still open transaction."""

    restored: Mapping[TableName, Counts]
    conflicts: tuple[Conflict, ...]  # those that were left
    how: str  # "replica role", "triggers disabled by the owner", "no triggers in the way", …
    refused: bool  # conflicts, and the resolution does not allow to go on: nothing was written
    fingerprint: str | None = None  # of all conflicts met, to be named by a later `Resolution.seen`
    notes: tuple[str, ...] = ()
    unlisted: int = 0  # rows in conflict, and left, beyond those in `conflicts`


class RunState(Enum):
    """Where a run stands; each edge is described in docs/explanation/life-of-a-run.md."""

    RUNNING = "running"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


class Mode(Enum):
    """The three kinds of run."""

    GHOST = "ghost"
    REAL = "real"
    UNDO = "undo"


@dataclass(frozen=True)
class RunStart:
    """What is known when a run begins; the journal adds the number and the time."""

    change: str
    digest: str
    title: str
    mode: Mode
    environment: str
    operator: str
    undo_of: int | None = None
    keep_days: float = 7.0


@dataclass(frozen=True)
class RunRecord:
    """One row of the journal. Times are the database's clock, with zone."""

    number: int
    start: RunStart
    state: RunState
    started_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    tables: tuple[CapturedTable, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    rescue_dropped_at: datetime | None = None
    open_conflicts: int = 0

    @property
    def identifier(self) -> str:
        """The run's id as people write it, e.g. `production-41`."""
        return f"{self.start.environment}-{self.number}"


@dataclass(frozen=True)
class ServerFacts:
    """Who and where we are, as the server says."""

    product: str  # "PostgreSQL", "SQLite"
    version: str
    database: str
    login_role: str | None
    role: str | None
    is_primary: bool
    is_superuser: bool
    identity: str  # stays the same for this very database: PostgreSQL system_identifier/oid; SQLite: a stored uuid
    free_bytes: int | None = None  # on the disk of the data, where it can be known


class JournalState(Enum):
    """Whether the target database has a journal that this version understands."""

    ABSENT = "absent"
    PRESENT = "present"
    NEWER = "newer"  # made by a newer backout: refuse


@dataclass(frozen=True)
class TableFacts:
    """What `check --on ENV` tells of a table that a change names."""

    table: Table
    estimated_rows: int | None
    bytes: int | None
    cascades_to: tuple[str, ...] = ()  # tables that foreign keys with CASCADE / SET NULL / SET DEFAULT would write
    undo_needs: str | None = None  # the right that is missing for an exact undo, or None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What an engine can and cannot do; tests are skipped only by naming one of these that is false."""

    counts_per_table: bool  # the completeness proof is per table and operation
    has_roles: bool
    has_sequences: bool
    has_row_security: bool
    sqlalchemy: bool  # `db.sqlalchemy()` in Python changes
    concurrent_writers: bool  # other sessions can write while a run is open


@dataclass(frozen=True)
class Settings:
    """How to connect and how to behave there; from the environment's policy. Durations in seconds."""

    url: str
    environment: str
    role: str | None = None
    superuser_allowed: bool = False
    lock_timeout_s: float = 5.0
    statement_timeout_s: float | None = None
    isolation: str = "read committed"
    rescue_schema: str = "rescue"
    append_only: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()
