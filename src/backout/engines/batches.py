"""What a run in batches is, as values, and what an engine promises about it.

A batch is the rows of one table whose key lies in `(after, upto]`, and a transaction of its own. The journal has a row
for each, written in that transaction: a batch is committed with it or not at all. Only `runs/supervise.py` commits.

Keys are tuples of texts, as the database prints the values of the key's columns; None: before the first row.

What a batch writes beside the rows of its table (cascades, triggers, the target of an INSERT … SELECT) is captured as well,
where the engine has been told so beforehand (`Batches.arm`); a batch that writes more than that says so, and is begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, cast

from backout.engines.protocol import Database, Lends
from backout.engines.values import (
    Capture,
    CapturedTable,
    Counts,
    Missing,
    Resolution,
    RunState,
    Table,
    TableName,
    UndoOutcome,
    UndoPlan,
    Write,
)
from backout.errors import Refused

Key = tuple[str, ...]


class MoreIsWritten(Exception):
    """The batch has written tables whose writes are not followed: roll it back, arm them, and begin it anew.

    `tables`: their identifiers. Raised by `Batch.capture` alone, never twice for a table; not an error of anybody's.
    """

    def __init__(self, tables: Collection[str]) -> None:
        super().__init__(f"not armed: {sorted(tables)}")
        self.tables = frozenset(tables)


class Wanted(Enum):
    """What people have told a run in batches to do; it does so after the batch at hand."""

    GO_ON = "go on"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Keyset:
    """A table and the key by which a run goes through it; computed once, at the start."""

    table: Table
    by: tuple[str, ...]
    upper: Key | None  # the greatest key at the start, where the run ends; None: there was no row
    estimated_rows: int
    after_columns: tuple[str, ...]  # the only columns that the statement can change; all, where that is not certain
    writes: bool = True  # False: the statement only reads this table, and writes others (INSERT … SELECT)


@dataclass(frozen=True)
class BatchRecord:
    """One committed batch."""

    number: int  # from 1
    after: Key | None
    upto: Key
    looked_at: int  # keys between the bounds when they were found
    counts: Counts  # of the rows that were captured by their keys
    seconds: float
    affected: int = 0  # rows in the statement's command tag; of an undo 0
    others: tuple[CapturedTable, ...] = ()  # what was captured of armed tables: of this batch alone
    committed_at: datetime | None = None
    undoes: int | None = None  # of an undo: the batch of the original run
    undone_by: int | None = None  # the run that undid it
    left_rescue: str | None = None  # keys of the rows of the table itself that this undo has left
    open_conflicts: int = 0  # in all tables

    @property
    def written(self) -> int:
        """All writes that the database counted."""
        return self.counts.total + sum(one.counted.total for one in self.others if one.counted)


@dataclass(frozen=True)
class Batched:
    """A run in batches, as the journal has it."""

    run: int
    keyset: Keyset
    before_rescue: str
    after_rescue: str
    parameters: str  # fingerprint of the parameters' values: a run is resumed with the same
    fence: int  # of who holds it; whoever takes it over has the next number
    wanted: Wanted
    finished: bool  # went through to the end
    cancelled: bool
    batches: int = 0
    last: Key | None = None
    looked_at: int = 0
    counts: Counts = field(default_factory=Counts)  # of the rows that were captured by their keys
    undone: int = 0  # of the batches
    open_conflicts: int = 0
    pause_reason: str | None = None
    affected: int = 0  # rows in the command tags of all batches
    others: tuple[CapturedTable, ...] = ()  # armed tables, in the order in which they were: all batches together

    @property
    def written(self) -> int:
        """All writes that the database counted."""
        return self.counts.total + sum(one.counted.total for one in self.others if one.counted)

    @property
    def tables(self) -> tuple[CapturedTable, ...]:
        """All that was written, by table and by how it was captured."""
        others = tuple(one for one in self.others if one.counted and one.counted.total)
        return others if others and not self.counts.total else (self.captured, *others)

    @property
    def captured(self) -> CapturedTable:
        """The table as all batches together have changed it; without what was captured as an armed table's."""
        made, gone = self.counts.inserted + self.counts.updated, self.counts.updated + self.counts.deleted
        return CapturedTable(
            self.keyset.table, self.counts, gone, made, self.keyset.after_columns, "two snapshots, in batches",
            self.before_rescue if gone else None, self.after_rescue if made else None,
            undone=bool(self.batches) and self.undone == self.batches and not self.open_conflicts,
        )  # fmt: skip


@dataclass(frozen=True)
class Pressure:
    """One thing that a run in batches gives way to, as it was read just now; `value` beyond `limit` makes it wait."""

    name: str  # "replica lag", "waiting sessions", …
    value: float
    limit: float
    unit: str

    @property
    def too_much(self) -> bool:
        """Whether to wait."""
        return self.value > self.limit

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}: {self.value:g}{unit}, and {self.limit:g}{unit} is the limit"


@dataclass(frozen=True)
class Limits:
    """What a run in batches gives way to, and what has to be one. Durations in seconds."""

    row_locks_s: float = 0.1  # how long a batch should hold its locks
    replica_lag_s: float = 5.0
    replicas: tuple[str, ...] = ()  # by name; empty: all
    waiting_sessions: int = 0  # how many may wait for a lock of ours when a batch ends
    long_transaction_s: float = 3600.0  # the oldest transaction of another session
    needs_transactions: bool = False  # the run stops where it may not see them
    flag_file: str | None = None  # wait as long as this file is there
    wal_rate_bytes: float | None = None  # a second, of all sessions together
    archive_backlog_bytes: float | None = None  # of log that waits to be archived
    commit_latency_s: float | None = None  # of a commit of one small row
    analyze: bool = False  # before the first batch, where the statistics are stale
    ghost_batches: int | None = None  # how many a ghost run tries; None: all
    rows_at_once: int | None = None  # that a change may write without batches; None: any number


class Batch(Protocol):
    """One batch in its open transaction."""

    @property
    def after(self) -> Key | None: ...

    @property
    def upto(self) -> Key: ...

    @property
    def looked_at(self) -> int: ...

    def execute(self, statement: str, parameters: Sequence[Any]) -> int:
        """Run the statement on the rows of the batch, under the environment's role; rows in its command tag."""

    def open(self) -> None:
        """Let somebody else write (`Batches.script`), under the environment's role, instead of `execute`.

        Of the table itself it may write the batch's rows alone: what it does to others is refused by `capture`.
        """

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """Put rows back; see `engines.protocol.Transaction.revert`."""

    def capture(self) -> Capture:
        """The images of the batch's rows, and of what it wrote to armed tables, put into the run's rescue.

        Raises MoreIsWritten where it wrote rows that neither its bounds nor an armed table's log show.
        """

    def described(self, capture: Capture, *, seconds: float, undoes: int | None = None) -> BatchRecord:
        """The batch as the journal is to have it; behind `capture`."""

    def differing(self) -> Mapping[TableName, int]:
        """Rows in which the images of the batch differ, where whole images were kept; behind `capture`."""

    def waiting(self) -> int:
        """How many sessions wait for a lock of this batch at this moment."""

    def within(self, reference: str, after: Key | None, upto: Key) -> str:
        """SQL: the rows of the table, said with `reference`, whose key lies between these bounds."""

    def record(self, record: BatchRecord) -> None:
        """The batch's row of the journal, in its transaction. Raises Interrupted where somebody else has the run now."""

    def commit(self) -> None:
        """See `engines.protocol.Transaction.commit`."""

    def rollback(self) -> None:
        """Never raises."""


class LendsBatches(Lends, Protocol):
    """The session of a run in batches for a program, with what has to be done between two of its transactions."""

    def last_line(self, run: int) -> tuple[int, str] | None:
        """Number and hash of the last line of the run's transcript; a run that is resumed goes on behind it."""

    def begin_reading(self) -> None:
        """Begin a transaction that can only read, under the environment's role; `lend` does so first."""

    def end_reading(self) -> None:
        """Roll that back, where there is one."""

    def release(self, savepoint: str) -> None:
        """Release a savepoint of the transaction at hand."""

    def take_settings(self, own: Mapping[str, str], memory: Collection[str]) -> Mapping[str, tuple[str, bool]]:
        """What has to be put in place in the next transaction; until then the session has its own settings.

        `own`: settings that clients have set, each with the setting that remembers its value before (`=` and the value).
        """

    def put_settings(self, carried: Mapping[str, tuple[str, bool]]) -> None:
        """Put them in place: name -> (value, whether it ends with the transaction)."""

    @property
    def statement(self) -> str:
        """SQL that says the bounds of the batch at hand as `tell` has told them; no row where it has not."""

    def tell(self, number: int, after: Key | None, upto: Key, where: str, *, again: bool) -> None:
        """Set what `statement` says, until the transaction ends."""


class Batches(Protocol):
    """What goes through one table in batches; owns its sessions."""

    def survey(
        self, schema: str | None, name: str, by: Sequence[str], columns: Sequence[str], *, update_only: bool,
        writes: bool = True,
    ) -> Keyset:  # fmt: skip
        """The key's bounds, and that the table is fit for batches; Refused with the reason where it is not."""

    def foreseen(self, keyset: Keyset, write: Write, columns: Sequence[str]) -> frozenset[str]:
        """Identifiers of the tables that this write can reach by foreign keys, or of an insert's own target.

        `columns`: of an update, those that it sets.
        """

    def require_by_rows(self, statement: str, parameters: Sequence[Any]) -> None:
        """Refused where the INSERT … SELECT joins rows of its source into one (by an aggregate, a window, a LIMIT)."""

    def statistics(self, keyset: Keyset, *, analyze: bool) -> str | None:
        """What is wrong with the planner's statistics of the table, and what was done about it; None: nothing is."""

    def ghost(self, run: int, keyset: Keyset) -> None:
        """From now on nothing is kept: the images are in tables that end with the session."""

    def keep(self, run: int, keyset: Keyset, parameters: str) -> Batched:
        """Make the rescue tables, and register the run in the journal; both are committed."""

    def prepare_undo(self, original: Batched) -> None:
        """Have the images of single batches found quickly."""

    def take_over(self, run: int) -> Batched:
        """Take a run that nobody is on any more: its next fencing number; whoever had it can commit no batch from now on."""

    def arm(self, tables: Collection[str]) -> Sequence[Table]:
        """Have the writes of these tables, and of those that the run knows already, logged from now on, between two batches.

        Returns those that are new to the run. Raises Refused where a right is missing, or a table is not what it was;
        Busy where a table is not free for a moment. What was armed so far stays armed until `disarm`.
        """

    def disarm(self) -> Sequence[str]:
        """Take all that was armed away; what could not be, in words. Never raises."""

    def begin(self, keyset: Keyset, number: int, after: Key | None, size: int) -> Batch | None:
        """Begin the next batch, of about `size` keys; None where there are no more."""

    def begin_between(
        self, keyset: Keyset, number: int, after: Key | None, upto: Key, looked_at: int
    ) -> Batch:  # fmt: skip
        """Begin a batch with bounds that are known, and so many keys between them."""

    def script(self, guard: Callable[[str], None]) -> Any:
        """The `db` for a Python change, in whatever batch is open, or in `reading`; see `engines.protocol.Transaction`."""

    def lending(self, keyset: Keyset) -> LendsBatches:
        """The session that writes the batches, for a program; only where it was opened for that."""

    def reading(self) -> AbstractContextManager[None]:
        """Between two batches: a transaction that can only read, under the environment's role, and is rolled back."""

    def pressures(self, limits: Limits) -> Sequence[Pressure]:
        """What is to be given way to, read anew. Raises BackoutError where something cannot be read."""

    def close(self) -> None:
        """Take away what is armed, and end the sessions."""


class BatchJournal(Protocol):
    """The journal's part about runs in batches. Every method commits what it writes."""

    def batched(self, run: int) -> Batched | None:
        """None: the run was one transaction, or there is no such run."""

    def batches(self, run: int) -> Sequence[BatchRecord]:
        """Its committed batches, in order."""

    def wanted(self, run: int) -> Wanted:
        """What people have told the run."""

    def tell(self, run: int, wanted: Wanted) -> None:
        """Say what a run should do after the batch at hand."""

    def note_pause(self, run: int, pressure: Pressure | None) -> None:
        """A run waits, for this reason; None: it goes on."""

    def pauses(self, run: int) -> Sequence[tuple[str, float | None, float | None, datetime, datetime | None]]:
        """(reason, value, limit, from, until) of each."""

    def end(self, run: int, state: RunState, report: Mapping[str, Any], *, finished: bool, cancelled: bool) -> None:
        """How a run ended, for now or for good, and that nobody is on it any more.

        Its rescue stays, unless it has committed no batch.
        """


class BatchingDatabase(Database, Protocol):
    """A database whose capability `batches` is true."""

    @property
    def batch_journal(self) -> BatchJournal: ...

    def batches(self, *, to_lend: bool = False) -> Batches:
        """Open the sessions for a run in batches; `to_lend`: so that `Batches.lending` can lend the one that writes."""


def in_batches(database: Database) -> BatchingDatabase:
    """The database as one that can run in batches; Refused with its reason where it cannot."""
    able = database.capabilities.batches
    if isinstance(able, Missing):
        raise Refused(
            "batches", f"this database cannot run a change in batches: {able.why}",
            hint="take out @batch, or in Python the loop over db.batches",
        )  # fmt: skip
    return cast("BatchingDatabase", database)
