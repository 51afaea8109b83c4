"""The undo of a run in batches: one transaction for each batch, the last one first, each captured and proven.

An undo that ended half-way is gone on with by another undo: the journal knows of each batch whether it is put back.

Invariant: a batch is put back once; rows that others changed since are left, or nothing of their batch is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from backout.engines.batches import (
    Batch,
    Batched,
    Batches,
    BatchingDatabase,
    BatchRecord,
    Keyset,
    MoreIsWritten,
    in_batches,
)
from backout.engines.protocol import Database
from backout.engines.values import (
    Capture,
    CapturedTable,
    Conflict,
    Counts,
    Mode,
    RunState,
    Table,
    TableName,
    UndoOutcome,
)
from backout.errors import (
    BackoutError,
    Conflicts,
    Interrupted,
    OutcomeUnknown,
    PartlyCommitted,
    ProofFailed,
    Refused,
    UsageError,
)
from backout.recovery.plan import plan_undo, require_undoable
from backout.runs.batches_end import end, left_behind
from backout.runs.batches_going import Told, added, stoppable
from backout.runs.masking import PHI
from backout.runs.report import ProofReport, RunReport, TableReport
from backout.runs.supervise import Reopen, commit_batch, keep_back, require_exact
from backout.runs.undos import UndoRun, in_words, masked, way_out


@dataclass
class Undoing:
    """One undo, under way."""

    run: UndoRun
    database: BatchingDatabase
    batches: Batches
    original: Batched
    now: Mapping[TableName, Table | None]  # the tables that the run has written, as they are now
    keyset: Keyset
    number: int
    done: int = 0
    counts: dict[TableName, Counts] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    unlisted: int = 0
    notes: list[str] = field(default_factory=list)
    how: str | None = None
    seen: str | None = None
    began: float = field(default_factory=monotonic)

    @property
    def state(self) -> str:
        """What is true of the database, between two batches."""
        return f"{self.done} batches are put back" if self.done and not self.run.ghost else "untouched"


def undo_batches(database: Database, reopen: Reopen, run: UndoRun, batch: int | None) -> RunReport:  # noqa: ARG001
    """Put back all batches that are not yet, or one. Raises Conflicts where rows were changed since and nobody said what
    to do: nothing of that batch is written then, and of those behind it all is put back already.
    """
    require_undoable(run.record)
    target = in_batches(database)
    original = target.batch_journal.batched(run.record.number)
    assert original is not None
    wanted = _wanted(target, original, run, batch)
    now = {one.table.name: target.table(one.table.name, one.table.identifier) for one in original.tables}
    for name, table in now.items():
        if table is None and not run.policy.is_append_only(name):
            raise Refused(
                "undo", f'table "{name}" is gone: its rows cannot be put back',
                hint="bring the table back first; the rows are in the rescue tables",
            )  # fmt: skip
    if all(run.policy.is_append_only(name) for name in now):
        name = next(iter(now))
        raise Refused(
            "undo", f'"{name}" is append-only: its rows stay as they are', hint="take it out of `append_only`"
        )
    if run.resolution.overwrite and len(wanted) > 1:
        raise UsageError("--overwrite names rows of one batch", hint="say which: --batch N --overwrite 1,3")
    with stoppable() as told:
        batches = target.batches()
        try:
            return _through(_begun(target, batches, run, original, now), wanted, told)
        finally:
            batches.close()


def _wanted(database: BatchingDatabase, original: Batched, run: UndoRun, batch: int | None) -> Sequence[BatchRecord]:
    """What is still to be put back, the last batch first."""
    records = [one for one in database.batch_journal.batches(original.run) if batch in (None, one.number)]
    if batch is not None and not records:
        raise UsageError(
            f'run "{run.record.identifier}" has no batch {batch}', hint=f"its batches are 1 to {original.batches}"
        )
    left = [one for one in records if one.undone_by is None or one.open_conflicts]
    if not left:
        what = f"batch {batch} of run" if batch is not None else "run"
        raise Refused(
            "undo", f'{what} "{run.record.identifier}" is undone already', hint="`backout log` shows by which run"
        )
    return left[::-1]


def _begun(
    database: BatchingDatabase, batches: Batches, run: UndoRun, original: Batched, now: Mapping[TableName, Table | None]
) -> Undoing:
    table = now.get(original.keyset.table.name) or original.keyset.table
    columns = tuple(one.name for one in table.restorable)
    keyset = Keyset(
        table, original.keyset.by, original.last, original.looked_at, columns, original.keyset.writes
    )  # fmt: skip
    number = database.journal.begin_run(run.start)
    undoing = Undoing(run, database, batches, original, now, keyset, number)
    try:
        batches.prepare_undo(original)
        if run.ghost:
            batches.ghost(number, keyset)
        else:
            batches.keep(number, keyset, "")
        logged = (
            one.table.name for one in original.tables if one.logged and not run.policy.is_append_only(one.table.name)
        )
        batches.arm([table.identifier for table in map(now.get, logged) if table is not None])
    except BackoutError as error:
        batches.disarm()
        outcome = RunState.REFUSED if isinstance(error, Refused) else RunState.ROLLED_BACK
        database.journal.end_run(number, outcome, (), {"outcome": outcome.value, "state": "untouched"})
        raise
    return undoing


def _through(undoing: Undoing, wanted: Sequence[BatchRecord], told: Told) -> RunReport:
    try:
        for position, record in enumerate(wanted, 1):
            if told.signal is not None:
                raise Interrupted(
                    f"stopped by {told.signal}", state=undoing.state,
                    hint=f"go on: backout undo {undoing.run.record.identifier}",
                )  # fmt: skip
            _one(undoing, record)
            undoing.run.progress(f"batch {record.number} is put back, {len(wanted) - position} to go")
    except BackoutError as error:
        raise _ended_early(undoing, error) from None
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted twice: the batch at hand was rolled back", state=undoing.state)
        raise _ended_early(undoing, stopped) from None
    ghost = undoing.run.ghost
    outcome, state = (RunState.ROLLED_BACK, "untouched") if ghost else (RunState.COMMITTED, "committed")
    undoing.notes += left_behind(undoing.batches)
    report = _report(undoing, outcome, state)
    end(undoing.database, undoing.number, report, keeps=not ghost, finished=True)
    return report


def _one(undoing: Undoing, original: BatchRecord) -> None:
    """Put one batch back, in its own transaction."""
    run, started = undoing.run, monotonic()
    wrote = _left_of(undoing.original, original)
    plan = plan_undo(undoing.original.run, wrote, undoing.now, run.policy)
    batch = undoing.batches.begin_between(
        undoing.keyset, undoing.done + 1, original.after, original.upto, original.looked_at
    )
    try:
        outcome = batch.revert(plan, run.resolution)
        if str(run.record.report.get("data")) == PHI:
            outcome = replace(outcome, conflicts=tuple(masked(one) for one in outcome.conflicts))
        undoing.how, undoing.seen = outcome.how, outcome.fingerprint
        if outcome.refused:
            raise _conflicts(undoing, original, outcome)
        capture = _captured(batch, undoing)
        if run.ghost:
            require_exact(capture, outcome.restored)
            batch.rollback()
        else:
            record = batch.described(capture, seconds=monotonic() - started, undoes=original.number)
            commit_batch(batch, capture, record, outcome.restored)
    except BaseException:
        batch.rollback()
        raise
    undoing.done += 1
    for name, counts in outcome.restored.items():
        undoing.counts[name] = added(undoing.counts.get(name, Counts()), counts)
    undoing.conflicts += outcome.conflicts
    undoing.unlisted += outcome.unlisted
    undoing.notes += [note for note in outcome.notes if note not in undoing.notes]


def _captured(batch: Batch, undoing: Undoing) -> Capture:
    try:
        return batch.capture()
    except MoreIsWritten:
        raise ProofFailed(
            "the undo wrote to a table that is not part of it", state=undoing.state,
            hint="a trigger or a cascade fired during the undo; please report it with the table's definition",
        ) from None  # fmt: skip


def _left_of(run: Batched, batch: BatchRecord) -> list[CapturedTable]:
    """What one batch wrote and is not put back yet, by table.

    The rescue tables of its own table are there as long as any batch has such images; of a batch that wrote to it by
    an armed table's log alone there are none of its own.
    """
    others = [one for one in batch.others if not one.undone]
    own_is_done = batch.undone_by is not None and batch.left_rescue is None
    if not run.keyset.writes or own_is_done or (batch.others and not batch.counts.total):
        return others
    counts = batch.counts
    gone, made = counts.updated + counts.deleted, counts.inserted + counts.updated
    captured = replace(
        run.captured, counted=counts, before_rows=gone, after_rows=made, batch=batch.number,
        left_rescue=batch.left_rescue, undone=False,
    )  # fmt: skip
    own = replace(
        captured, before_rescue=captured.before_rescue if gone else None,
        after_rescue=captured.after_rescue if made else None,
    )  # fmt: skip
    return [own, *others]


def _conflicts(undoing: Undoing, original: BatchRecord, outcome: UndoOutcome) -> Conflicts:
    name = undoing.run.record.identifier
    unknown = undoing.run.resolution.overwrite - {conflict.number for conflict in outcome.conflicts}
    if unknown and undoing.run.resolution.overwrite:
        raise UsageError(f"there is no conflict number {min(unknown)}", hint="list them: backout undo RUN --batch N")
    return Conflicts(
        f'{in_words(outcome)} since batch {original.number} of run "{name}"', outcome.conflicts, state=undoing.state,
        hint=way_out(outcome, f"backout undo {name} --partial", f"backout undo {name} --batch {original.number} "),
    )  # fmt: skip


def _ended_early(undoing: Undoing, error: BackoutError) -> BackoutError:
    if str(undoing.run.record.report.get("data")) == PHI:
        keep_back(error)
    name = undoing.run.record.identifier
    if undoing.done and not undoing.run.ghost and not isinstance(error, Conflicts | Interrupted | OutcomeUnknown):
        error = PartlyCommitted(
            error.message, state=undoing.state, hint=f"mend what was wrong, then: backout undo {name}"
        )
    elif isinstance(error, OutcomeUnknown):
        error.state, error.hint = f"{undoing.state}, and perhaps one more", f"the journal knows: backout undo {name}"
    elif isinstance(error, Interrupted):
        error.state, error.hint = undoing.state, f"it goes on where it stopped: backout undo {name}"
    outcome = RunState.ROLLED_BACK
    if isinstance(error, Interrupted | OutcomeUnknown):
        outcome = RunState.INTERRUPTED
    elif undoing.done and not undoing.run.ghost:
        outcome = RunState.PARTIAL
    elif isinstance(error, Refused | Conflicts | UsageError):
        outcome = RunState.REFUSED
    conflicts = (
        tuple(one for one in error.conflicts if isinstance(one, Conflict)) if isinstance(error, Conflicts) else ()
    )
    undoing.notes += left_behind(undoing.batches)
    report = replace(_report(undoing, outcome, error.state), conflicts=conflicts)
    error.report = report
    try:
        # What an undo has put back stays so: as a run it is over, and can be undone; another undo goes on.
        end(undoing.database, undoing.number, report, keeps=not undoing.run.ghost, cancelled=bool(undoing.done))
    except BackoutError:
        note = "the journal could not be reached: the next command on this environment settles the run"
        error.report = replace(report, notes=(*report.notes, note))
    return error


def _report(undoing: Undoing, outcome: RunState, state: str) -> RunReport:
    start, facts = undoing.run.start, undoing.database.facts()
    by = {(undoing.now[one.table.name] or one.table).name: one for one in undoing.original.tables}
    tables = tuple(
        TableReport(
            str(name), counts.inserted, counts.updated, counts.deleted, by[name].captured_by, named_in_change=False,
            key=by[name].table.key,
        )
        for name, counts in undoing.counts.items() if counts.total and name in by
    )  # fmt: skip
    about = {
        "product": facts.product, "version": facts.version, "name": facts.database,
        "role": facts.role or facts.login_role, "free_bytes": facts.free_bytes,
    }  # fmt: skip
    return RunReport(
        undoing.number, f"{start.environment}-{undoing.number}", start.change, start.title, start.digest,
        start.environment, Mode.UNDO, outcome, state, tables=tables,
        proof=ProofReport(complete=True, level="exact", checked=tuple(map(str, undoing.counts))) if undoing.done else None,
        conflicts=tuple(replace(one, number=at) for at, one in enumerate(undoing.conflicts, 1)),
        undo_of=undoing.run.record.number, undo_how=undoing.how, notes=(*undoing.notes, f"{undoing.done} batches put back"),
        data=str(undoing.run.record.report.get("data", "internal")), conflicts_seen=undoing.seen,
        authority=start.authority, duration_s=monotonic() - undoing.began, database=about,
        conflicts_unlisted=undoing.unlisted, ghost_undo=undoing.run.ghost,
    )  # fmt: skip
