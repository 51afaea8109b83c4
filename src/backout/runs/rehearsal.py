"""A rehearsal: the whole way there and back on an environment that is not production, and what it proved.

    ghost → contents → run, with its `@after` → ghost again on the changed state → undo → contents, compared → run again?

Each step is a run of its own, supervised and recorded like any other. Whatever goes wrong after the real run, the
change is taken back before the error leaves here, as far as that is possible; the error says whether it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from backout.engines.protocol import Database
from backout.engines.values import Contents, Mode, Resolution, TableName
from backout.errors import BackoutError, CheckAfterFailed, Conflicts, PartlyCommitted, RehearsalFailed, RolledBack
from backout.gates.certificate import Certificate, Shape
from backout.runs.changes import ChangeRun
from backout.runs.either import run_as_written, undo_as_run
from backout.runs.report import RunReport
from backout.runs.supervise import Reopen
from backout.runs.undos import UndoRun

#: A person looks at the application: ("run" | "undo", the run's report). Returning goes on.
Pause = Callable[[str, RunReport], None]


def nobody_looks(_after: str, _report: RunReport) -> None:
    """Do not pause."""


@dataclass(frozen=True)
class Rehearsal:
    """What was done, in the order of doing, and the certificate of it; None where nothing was proven, and why."""

    bill: RunReport  # of the first ghost run
    run: RunReport
    again: RunReport | None  # the ghost run on the changed state; None: it could not run
    again_failed: str | None  # why not
    undo: RunReport
    compared: Mapping[str, int]  # table -> rows of every table that was compared; those that were touched by content
    reapplied: RunReport | None
    certificate: Certificate | None
    why_none: str | None = None

    @property
    def is_idempotent(self) -> bool | None:
        """Whether a second run changed nothing; None: it could not run."""
        return None if self.again is None else not self.again.net_change


def rehearse(
    database: Database, reopen: Reopen, change: ChangeRun, *, reapply: bool, pause: Pause = nobody_looks
) -> Rehearsal:
    """Rehearse the change; it is put back at the end, or with `reapply` applied again.

    `change` is the real run. Raises what its runs raise; `RehearsalFailed` where the end differs from the start.
    """
    bill = run_as_written(database, reopen, _as(change, Mode.GHOST))
    touched = _touched(database, bill, change)
    start = _compared(database, change, touched)
    run = _run_or_put_back(database, reopen, change)
    try:
        pause("run", run)
        again, again_failed = _again(database, reopen, change)
    except BaseException:
        _put_back(database, reopen, change, run)
        raise
    undo = _put_back(database, reopen, change, run)
    pause("undo", undo)
    end = _compared(database, change, touched)
    _require_equal(start, end, touched, run)
    _require_as_declared(change, again, again_failed)
    reapplied = run_as_written(database, reopen, change) if reapply else None
    rehearsal = Rehearsal(
        bill, run, again, again_failed, undo, {str(name): one.rows for name, one in end.items()}, reapplied, None
    )
    return _certified(database, change, rehearsal)


def _as(change: ChangeRun, mode: Mode, *, repeated: bool = False) -> ChangeRun:
    return replace(change, mode=mode, start=replace(change.start, mode=mode), repeated=repeated)


def _touched(database: Database, bill: RunReport, change: ChangeRun) -> tuple[TableName, ...]:
    """The tables that the ghost run wrote."""
    written = {one.table for one in bill.tables}
    return tuple(name for name in _compared(database, change) if str(name) in written)


def _compared(
    database: Database, change: ChangeRun, touched: tuple[TableName, ...] = ()
) -> Mapping[TableName, Contents]:
    """Every table but the append-only ones, which an undo leaves alone, by name."""
    found = database.contents(touched)
    return {name: one for name, one in found.items() if not change.policy.is_append_only(name)}


def _run_or_put_back(database: Database, reopen: Reopen, change: ChangeRun) -> RunReport:
    """The real run. Where a check after its commit failed it is committed, and is taken back before that is said."""
    try:
        return run_as_written(database, reopen, change)
    except (CheckAfterFailed, PartlyCommitted) as failed:
        if isinstance(failed.report, RunReport):
            _put_back(database, reopen, change, failed.report)
            failed.hint = f"the change was put back: run {failed.report.identifier}, undone; {failed.hint}"
        raise


def _again(database: Database, reopen: Reopen, change: ChangeRun) -> tuple[RunReport | None, str | None]:
    """What a second run would change; a change that is not made to run twice may well fail here."""
    try:
        return run_as_written(database, reopen, _as(change, Mode.GHOST, repeated=True)), None
    except RolledBack as failed:
        return None, failed.message


def _put_back(database: Database, reopen: Reopen, change: ChangeRun, run: RunReport) -> RunReport:
    record = database.journal.run(run.run)
    assert record is not None, "a committed run is in the journal"
    start = replace(change.start, mode=Mode.UNDO, undo_of=run.run)
    work = UndoRun(record, Resolution(), start, change.policy, change.progress, change.rows)
    try:
        return undo_as_run(database, reopen, work)
    except Conflicts as conflicts:
        raise RehearsalFailed(
            f"the rehearsal could not be put back: {conflicts.message}",
            state="committed",
            hint=f"somebody else works on this environment; restore the rest: backout undo {run.identifier} --partial",
        ) from None
    except BackoutError as error:
        error.hint = (
            f"the change is still applied there; take it back: backout undo {run.identifier}. {error.hint or ''}"
        )
        raise


def _require_equal(
    start: Mapping[TableName, Contents],
    end: Mapping[TableName, Contents],
    touched: tuple[TableName, ...],
    run: RunReport,
) -> None:
    """Touched tables by content, the others by their number of rows."""
    different = [
        f"{name} ({_rows(start.get(name))} rows, then {_rows(end.get(name))})"
        if name not in touched or _rows(start.get(name)) != _rows(end.get(name))
        else f"{name} (its content)"
        for name in sorted({*start, *end})
        if start.get(name) != end.get(name)
    ]
    if different:
        raise RehearsalFailed(
            f"after the undo of {run.identifier} the database is not as it was: {', '.join(different)}",
            state="the change was put back",
            hint="if others wrote to these tables meanwhile, rehearse when nobody does; else look at triggers and "
            "append_only tables: docs/how-to/rehearse.md",
        )


def _rows(contents: Contents | None) -> int:
    return 0 if contents is None else contents.rows


def _require_as_declared(change: ChangeRun, again: RunReport | None, failed: str | None) -> None:
    if not change.change.metadata.idempotent:
        return
    if again is None:
        problem = f"it could not run again: {failed}"
    elif again.net_change:
        problem = "a second run changed " + ", ".join(sorted(again.net_change))
    else:
        return
    raise RehearsalFailed(
        f'the change says "idempotent = true", and {problem}',
        state="the change was put back",
        hint="write the statements so that they find nothing to do the second time, or take `idempotent` out",
    )


def _certified(database: Database, change: ChangeRun, rehearsal: Rehearsal) -> Rehearsal:
    facts, run = database.facts(), rehearsal.run
    record = database.journal.run(run.run)
    assert record is not None, "a committed run is in the journal"
    certificate = Certificate(
        change.change.identifier, change.change.digest, run.environment, change.start.operator, run.identifier,
        record.started_at, facts.product, facts.version,
        {one.table: (one.inserted, one.updated, one.deleted) for one in run.tables},
        {str(one.table.name): Shape.of(one.table) for one in record.tables},
        idempotent=rehearsal.is_idempotent,
    )  # fmt: skip
    if certificate.certified_nothing:
        return replace(rehearsal, why_none="no row was written: there was nothing to rehearse on")
    return replace(rehearsal, certificate=certificate)
