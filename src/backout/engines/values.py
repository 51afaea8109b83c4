"""Facts about a database, and plans for it, as plain values. No I/O, no driver.

What a run wrote is told per *table* (PostgreSQL: per partition leaf), because that is where rows live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Literal


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

    @property
    def replaced(self) -> int:
        """Row versions that are over."""
        return self.updated + self.deleted

    @property
    def made(self) -> int:
        """Row versions that are new."""
        return self.inserted + self.updated


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
    captured_by: str  # "two snapshots", "two snapshots, quick form", "armed triggers", "session", "rescue triggers"
    before_rescue: str | None  # name of the rescue table in the rescue schema; None: no rows
    after_rescue: str | None
    left_rescue: str | None = None  # keys of the rows that undo runs have not restored yet, once there was one
    undone: bool = False  # every row that can be restored has been
    both_rows: int = 0  # rows in both images, where `counted` is None: those were updated
    batch: int | None = None  # of a run in batches: this one alone; the rescue tables hold all of them
    unlogged: int = 0  # of counted row versions, those that no armed trigger logged: statements that failed half-way
    logged: bool = False  # the images are the net difference of all writes, each logged as it was made
    place: int = 0  # among the armed tables of a run in batches, from 1

    @property
    def is_explained(self) -> bool:
        """Whether the images are as many as the server counted: no row was written twice, no write rolled back."""
        counted = self.counted
        return counted is not None and (self.before_rows, self.after_rows) == (counted.replaced, counted.made)


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
    means: str = ""  # who waits for it, in words


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
    armed: tuple[str, ...] = ()  # tables that had triggers put on for the run, since they are too big to scan


@dataclass(frozen=True)
class RowChange:
    """One row before and after, all values as the database prints them; None for "no such row" and for NULL cells."""

    table: TableName
    before: Mapping[str, str | None] | None
    after: Mapping[str, str | None] | None


@dataclass(frozen=True)
class Write:
    """A kind of write to one table: "insert", "update", "delete"; others are told nothing about."""

    schema: str | None
    table: str
    operation: str


@dataclass(frozen=True)
class Foreseen:
    """What the rights of now say of writes to come; each grant is a statement for an administrator."""

    grants: tuple[str, ...] = ()  # without these the writes fail, or cannot be captured
    undo_grants: tuple[str, ...] = ()  # without these they could not be taken back
    undo_obstacle: str | None = None  # what else would make their undo inexact, in words


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

    @property
    def of_values(self) -> bool:
        """Whether others changed the row itself, so that naming it is enough; else something else is in its way."""
        return self in (ConflictKind.CHANGED, ConflictKind.DELETED, ConflictKind.KEY_REUSED)


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


@dataclass(frozen=True)
class Contents:
    """What is in a table at one moment; equal fingerprints, made on one server, mean equal rows in any order."""

    rows: int
    fingerprint: str | None = None  # None: the rows were only counted


class RunState(Enum):
    """Where a run stands; each edge is described in docs/explanation/life-of-a-run.md."""

    RUNNING = "running"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    PARTIAL = "partial"  # in batches: some are committed, and it does not go on by itself
    UNKNOWN = "unknown"


class Mode(Enum):
    """The three kinds of run."""

    GHOST = "ghost"
    REAL = "real"
    UNDO = "undo"


@dataclass(frozen=True)
class Authority:
    """By what right a run began; the journal keeps it, so that the ledger can be held against it afterwards."""

    person: str  # who ran it, by the one name that the project knows them by
    signed: bool  # whether that is proven by a signature
    profile: str  # of the policy that was asked
    ledger_head: str | None = None  # hash of the ledger's last entry then; None: there was no ledger to be had
    emergency: str | None = None  # why nobody was waited for
    ledger_seal: str | None = None  # over the ledger as it was found to be sound then, see `ledger/seal.py`
    policy: str | None = None  # sha256 of the files that said who may approve and run


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
    authority: Authority | None = None  # None: the environment asks nothing of people, and there is no ledger


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
    batches: int = 0  # committed ones; 0: the run was one transaction

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
    rescue_goes_to: tuple[str, ...] = ()  # what would carry the rescue tables out of this server, in words
    host: str | None = None  # that we are connected to, as the driver says; None: a file, or a socket


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
class Missing:
    """A capability that an engine does not have, with the reason that its page of the reference gives; false."""

    why: str

    def __bool__(self) -> Literal[False]:
        return False


Capability = Literal[True] | Missing


def _means(text: str) -> Mapping[str, str]:
    """What a capability is, for `docs/reference/engines.md`."""
    return {"means": text}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do; what it cannot, it names with the reason: `merge=Missing("there is no MERGE")`.

    A test of `tests/conformance` is skipped for an engine only by naming one of these that is missing there.
    """

    # -- how it works
    counts_per_table: Capability = field(
        default=True, metadata=_means("the completeness proof is per table and operation, not in sum")
    )
    concurrent_writers: Capability = field(
        default=True, metadata=_means("other sessions can write while a run is open")
    )
    is_a_server: Capability = field(
        default=True, metadata=_means("sessions are connections that can be lost or ended, with COMMIT on its way")
    )
    isolation_levels: Capability = field(
        default=True, metadata=_means('`isolation = "repeatable read"` can be chosen for an environment')
    )
    has_roles: Capability = field(default=True, metadata=_means("a change runs under a role of its own"))
    has_row_security: Capability = field(
        default=True, metadata=_means("rows that the role may not see make the run fail instead of being missed")
    )
    has_sequences: Capability = field(default=True, metadata=_means("sequences that a run advances are reported"))
    sqlalchemy: Capability = field(default=True, metadata=_means("`db.sqlalchemy()` in Python changes"))

    keeps_triggers_out: Capability = field(
        default=True,
        metadata=_means("the application's triggers do not fire while an undo puts rows back, whatever they do"),
    )

    # -- what a change may do there
    writing_ctes: Capability = field(default=True, metadata=_means("`WITH … AS (DELETE … RETURNING …)`"))
    writing_functions: Capability = field(
        default=True, metadata=_means("functions and procedures that write: `DO`, `CALL`, `SELECT f()`")
    )
    batches: Capability = field(
        default=True, metadata=_means("`@batch`: a change in many small transactions, each with its own way back")
    )
    tracking: Capability = field(
        default=True, metadata=_means("the rows of `@pre` and `@post` and the change itself as CSV files")
    )
    merge: Capability = field(default=True, metadata=_means("`MERGE`"))
    replace: Capability = field(default=True, metadata=_means("`REPLACE`, which deletes the rows in its way"))
    writable_views: Capability = field(default=True, metadata=_means("views that can be written to"))

    # -- what a table may have
    keyless_tables: Capability = field(
        default=True, metadata=_means("tables without a key can be changed and put back, duplicates included")
    )
    pairs_keyless_rows: Capability = field(
        default=True,
        metadata=_means("without a key each changed row is put back alone, not the table's changes as a whole"),
    )
    pairs_moved_rows: Capability = field(
        default=True,
        metadata=_means("of rows whose key a run changed, an undo leaves those alone that are in conflict"),
    )
    identity_always: Capability = field(
        default=True, metadata=_means("`GENERATED ALWAYS AS IDENTITY` columns, also where they are no key")
    )
    partitions: Capability = field(default=True, metadata=_means("partitioned tables, and rows that move"))
    references_to_partitions: Capability = field(
        default=True, metadata=_means("foreign keys that name a partitioned table")
    )
    inheritance: Capability = field(default=True, metadata=_means("tables that inherit from others"))
    partial_indexes: Capability = field(default=True, metadata=_means("unique indexes with WHERE"))
    expression_indexes: Capability = field(default=True, metadata=_means("unique indexes on expressions"))
    set_default_actions: Capability = field(
        default=True, metadata=_means("`ON DELETE SET DEFAULT` and `ON UPDATE SET DEFAULT`")
    )
    deferrable_foreign_keys: Capability = field(
        default=True, metadata=_means("foreign keys that are checked at the end of the transaction")
    )
    deferrable_unique: Capability = field(
        default=True, metadata=_means("unique constraints that are checked at the end of the transaction")
    )

    # -- what may have happened to a table before the undo
    finds_renamed_columns: Capability = field(
        default=True, metadata=_means("a column, or a table, that was renamed since is still found")
    )
    changes_constraints: Capability = field(
        default=True, metadata=_means("constraints can be added to a table that is there")
    )


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
    scan_limit_bytes: int = 8 * 2**30  # from this size on a table is armed instead of scanned
    arm: tuple[str, ...] = ()  # tables that are armed, too, where they pass the limit
    append_only: tuple[str, ...] = ()  # tables that an undo may leave as they are, by bare or qualified name
    bookkeeping: tuple[str, ...] = ()  # columns whose value an undo may leave as it is
