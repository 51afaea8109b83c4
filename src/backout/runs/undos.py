"""An undo as the work of a run: it is captured, proven and recorded like any other, and can be undone itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from backout.engines.protocol import Database, Transaction
from backout.engines.values import (
    Capture,
    Conflict,
    Counts,
    Mode,
    Resolution,
    RunRecord,
    RunStart,
    RunState,
    Table,
    TableName,
    UndoOutcome,
    UndoPlan,
    UpdateHint,
)
from backout.errors import Conflicts, ProofFailed, UsageError
from backout.recovery.plan import UndoPolicy, plan_undo, require_undoable
from backout.recovery.proof import Verdict
from backout.runs.changes import described
from backout.runs.masking import PHI
from backout.runs.recorder import Progress
from backout.runs.report import RunReport, TableReport
from backout.runs.supervise import Reopen, Work, supervise
from backout.sql.literals import MASK


@dataclass(frozen=True)
class UndoRun:
    """All that an undo needs to know."""

    record: RunRecord
    resolution: Resolution
    start: RunStart
    policy: UndoPolicy
    progress: Progress
    rows: int = 10
    ghost: bool = False
    reveal: bool = False  # see `ChangeRun.reveal`


def run_undo(database: Database, reopen: Reopen, run: UndoRun) -> RunReport:
    """Undo a run. Raises Conflicts, with nothing written, where rows were changed since and nobody said what to do."""
    require_undoable(run.record)
    now: Mapping[TableName, Table | None] = {
        one.table.name: database.table(one.table.name, one.table.identifier) for one in run.record.tables
    }
    plan = plan_undo(run.record.number, run.record.tables, now, run.policy)
    outcomes: list[UndoOutcome] = []
    data = str(run.record.report.get("data", "internal"))

    def apply(transaction: Transaction, number: int) -> RunReport:
        run.progress("putting the rows back")
        outcome = transaction.revert(plan, run.resolution)
        if data == PHI:
            outcome = replace(outcome, conflicts=tuple(masked(one) for one in outcome.conflicts))
        outcomes.append(outcome)
        report = RunReport(
            number, "", run.start.change, run.start.title, run.start.digest, run.start.environment, Mode.UNDO,
            RunState.RUNNING, "untouched", conflicts=outcome.conflicts, undo_of=run.record.number, undo_how=outcome.how,
            notes=outcome.notes, data=data, conflicts_seen=outcome.fingerprint, conflicts_unlisted=outcome.unlisted,
            ghost_undo=run.ghost,
        )  # fmt: skip
        _require_known(run.resolution, outcome)
        if outcome.refused:
            raise _conflicts(run, plan, outcome, report)
        return report

    def capture(transaction: Transaction, number: int) -> Capture:
        run.progress("reading the images of the restored rows")
        return transaction.capture(number, _hints(plan, outcomes[-1]), keep=not run.ghost)

    def inspect(transaction: Transaction, found: Capture, verdict: Verdict, report: RunReport) -> RunReport:
        _require_planned(found, outcomes[-1])
        report = described(transaction, found, verdict, report, frozenset(), run.rows, reveal=run.reveal)
        restored = {str(name): counts for name, counts in outcomes[-1].restored.items()}
        return replace(report, tables=tuple(_as_planned(one, restored[one.table]) for one in report.tables))

    known = tuple((undo.table.name.schema, undo.table.name.name) for undo in plan.tables)
    work = Work(run.start, known, apply, capture, inspect, not run.ghost, private=data == PHI)
    return supervise(database, reopen, work)


def _as_planned(table: TableReport, counts: Counts) -> TableReport:
    """The rows that were put back; the database also counts attempts that met a conflict."""
    return replace(table, inserted=counts.inserted, updated=counts.updated, deleted=counts.deleted)


def _conflicts(run: UndoRun, plan: UndoPlan, outcome: UndoOutcome, report: RunReport) -> Conflicts:
    name = run.record.identifier
    said = [note for note in outcome.notes if note not in plan.notes]
    hint = "; ".join([*said, way_out(outcome, f"backout undo {name} --partial", "")])
    error = Conflicts(f'{in_words(outcome)} since run "{name}"', outcome.conflicts, hint=hint)
    error.report = replace(report, outcome=RunState.REFUSED, state="untouched")
    return error


def in_words(outcome: UndoOutcome) -> str:
    """How many rows are in conflict, and whether others changed them."""
    count = len(outcome.conflicts) + outcome.unlisted
    what = "changed by others" if any(one.kind.of_values for one in outcome.conflicts) else "hindered by others"
    return f"{count} {'row was' if count == 1 else 'rows were'} {what}"


def way_out(outcome: UndoOutcome, partial: str, named: str) -> str:
    """What to type; rows that something else is in the way of are proposed by nobody."""
    numbers = [str(one.number) for one in outcome.conflicts if one.kind.of_values][:2]
    others = f"these too, by number: {named}--overwrite {','.join(numbers)}"
    if not numbers:
        others = "what is in the way of the listed ones has to be mended first"
    return f"restore all the others: {partial}; {others}"


def masked(conflict: Conflict) -> Conflict:
    """The conflict without any value, its key's included: a key can be a name. Its number is what names it."""

    def values(row: Mapping[str, str | None] | None) -> Mapping[str, str | None] | None:
        return None if row is None else dict.fromkeys(row, MASK)

    return replace(
        conflict, key=dict.fromkeys(conflict.key, MASK), before=values(conflict.before), ours=values(conflict.ours),
        now=values(conflict.now),
    )  # fmt: skip


def _require_known(resolution: Resolution, outcome: UndoOutcome) -> None:
    unknown = resolution.overwrite - {conflict.number for conflict in outcome.conflicts}
    if unknown and outcome.refused:
        raise UsageError(f"there is no conflict number {min(unknown)}", hint="list them: backout undo RUN")


def _hints(plan: UndoPlan, outcome: UndoOutcome) -> list[UpdateHint]:
    """The undo's own updates, as the plain UPDATEs that they are."""
    found = []
    for undo in plan.tables:
        counts = outcome.restored[undo.table.name]
        columns = tuple(undo.columns[name] for name in undo.captured.after_columns if name in undo.columns)
        if counts.updated and not counts.inserted and not counts.deleted and columns:
            found.append(UpdateHint(undo.table.name.schema, undo.table.name.name, columns, counts.updated))
    return found


def _require_planned(found: Capture, outcome: UndoOutcome) -> None:
    """An undo writes the rows that it planned and no other: not by a cascade, not by a trigger."""
    for one in found.tables:
        planned = outcome.restored.get(one.table.name)
        if planned is None:
            raise ProofFailed(f'the undo wrote to "{one.table.name}", which is not part of it', hint=_HINT)
        if one.before_rows > planned.updated + planned.deleted or one.after_rows > planned.inserted + planned.updated:
            raise ProofFailed(f'the undo wrote rows of "{one.table.name}" that it had not planned', hint=_HINT)


_HINT = "a trigger or a cascade fired during the undo; please report it with the table's definition"
