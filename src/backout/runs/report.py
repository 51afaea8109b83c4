"""What a run tells about itself: one value that the screen, `--json` and the journal all show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backout.engines.values import Authority, Conflict, Lock, Mode, RowChange, RunState, SequenceMove


@dataclass(frozen=True)
class StatementReport:
    """One executed statement: where it stands, how many rows its command tag said, how long it took."""

    line: int
    text: str
    affected: int
    seconds: float


@dataclass(frozen=True)
class AssertionReport:
    """One `@assert` (or `@after`) and what its query said."""

    title: str
    passed: bool
    value: str


@dataclass(frozen=True)
class TableReport:
    """What the run did to one table. `rows_*` are net: a row changed twice is one row."""

    table: str
    inserted: int
    updated: int
    deleted: int
    captured_by: str
    named_in_change: bool  # False: reached by a cascade, a trigger, a rule or a function
    sample: tuple[RowChange, ...] = ()
    changed_columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProofReport:
    """The completeness proof: `level` is "exact", "repeated N" or "bounded" (see docs/explanation/proof.md)."""

    complete: bool
    level: str
    checked: tuple[str, ...]  # the tables that were diffed


@dataclass(frozen=True)
class RescueReport:
    """One rescue table that the run left."""

    table: str
    rows: int
    expires_at: datetime | None


@dataclass(frozen=True)
class TrackingReport:
    """One tracking query, or the change of one table: how many rows, and the file that they are in."""

    step: str  # "pre", "post", "change"
    title: str  # the query's, or the table
    rows: int
    file: str | None  # its name in the folder of tracking files; None: only counted
    sha256: str | None


#: How the note of a ghost run begins that says so.
WOULD_REFUSE = "`run` would refuse: "


@dataclass(frozen=True)
class RunReport:
    """The whole of a run; `as_json` in `runs/as_json.py` is its stable form."""

    run: int
    identifier: str  # "production-41"
    change: str
    title: str
    digest: str
    environment: str
    mode: Mode
    outcome: RunState
    state: str  # what is true of the database now, in words
    tables: tuple[TableReport, ...] = ()
    statements: tuple[StatementReport, ...] = ()
    assertions: tuple[AssertionReport, ...] = ()
    proof: ProofReport | None = None
    conflicts: tuple[Conflict, ...] = ()
    conflicts_unlisted: int = 0  # rows in conflict beyond those in `conflicts`
    sequences: tuple[SequenceMove, ...] = ()
    locks: tuple[Lock, ...] = ()
    rescue: tuple[RescueReport, ...] = ()
    undo_of: int | None = None
    ghost_undo: bool = False  # an undo that is only shown, and rolled back
    undo_how: str | None = None  # how the application's triggers were kept out of an undo
    data: str = "internal"  # how sensitive the rows are; of "phi" no value is shown
    conflicts_seen: str | None = None  # fingerprint of the listed conflicts, which `--overwrite` numbers refer to
    way_back: str | None = None  # of ghost --undo: "proven" or the difference that was found
    net_change: Mapping[str, int] | None = None  # of a repeated run: table -> images that differ; empty: no change
    subset: str | None = None  # what `--subset` limited the run to; None: all of the change
    transcript: Mapping[str, Any] | None = None  # of a program: {"statements": how many, "sha256": the chain's head}
    rescue_bytes: int | None = None
    log_bytes: int | None = None
    backup: Mapping[str, Any] | None = None  # the backup that precedes it, as `recovery/backups/model.py` records it
    duration_s: float = 0.0
    tracking: tuple[TrackingReport, ...] = ()
    again: str | None = None  # why the change was run once more on this environment
    notes: tuple[str, ...] = ()
    started_at: datetime | None = None
    authority: Authority | None = None
    agreement: Mapping[str, Any] | None = None  # of a session: {"sha256": of its rows, "people", "statements"}
    database: Mapping[str, Any] = field(default_factory=dict)  # product, version, name, role

    @property
    def is_ghost(self) -> bool:
        """Whether it was to be rolled back from the beginning."""
        return self.mode is Mode.GHOST or self.ghost_undo

    @property
    def would_be_refused(self) -> bool:
        """Whether it is a ghost run of what a real run would refuse; the notes say why."""
        return any(note.startswith(WOULD_REFUSE) for note in self.notes)


def shown(value: object, *, private: bool) -> str:
    """A value in words. Of PHI none leaves the database, in a report as little as in an error, but true and false."""
    return "•••" if private and not isinstance(value, bool | None) else str(value)
