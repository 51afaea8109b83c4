"""A change as the work of a run: real, or a ghost with its bill; with `prove_way_back` also its undo, in the ghost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backout.change.batched import batched_step
from backout.change.model import Change, DataClass, StepKind
from backout.change.subset import Subset
from backout.engines.batches import Limits
from backout.engines.protocol import Database, Transaction
from backout.engines.values import (
    Capture,
    CapturedTable,
    Mode,
    Resolution,
    RunRecord,
    RunStart,
    RunState,
    Table,
    TableName,
)
from backout.errors import BackoutError, CheckAfterFailed, OutcomeUnknown, ProofFailed
from backout.gates.policy import Window
from backout.recovery.plan import UndoPolicy, plan_undo
from backout.recovery.proof import Tightness, Verdict
from backout.runs.batches_asked import require_batches
from backout.runs.masking import PHI, shown_rows
from backout.runs.recorder import Progress, Recorder, Serve, ServeTurns, judged, parameters_of
from backout.runs.report import WOULD_REFUSE, AssertionReport, ProofReport, RescueReport, RunReport, TableReport
from backout.runs.rights import obstacle, require_no_obstacle, require_rights
from backout.runs.subsetting import Subsetting
from backout.runs.supervise import Reopen, Work, keep_back, supervise
from backout.runs.tracking import Tracking, is_tracked, target_of

MASKED = "values are masked, since the change says that its rows are PHI"
REVEALED = "the operator asked to see values that are PHI (--reveal)"


#: Waits until people have agreed to what was captured. Raises Refused where they have not; the run is rolled back.
Agree = Callable[[Transaction, Capture, RunReport], RunReport]


def _nobody_is_asked(_transaction: Transaction, _found: Capture, report: RunReport) -> RunReport:
    return report


@dataclass(frozen=True)
class ChangeRun:
    """All that a run of a change needs to know."""

    change: Change
    values: Mapping[str, Any]
    mode: Mode
    start: RunStart
    policy: UndoPolicy
    progress: Progress
    rows: int = 10
    least: Tightness = Tightness.BOUNDED
    prove_way_back: bool = False
    repeated: bool = False  # the second run of a rehearsal, a ghost: what is it that it still changes?
    snapshot: bool = False
    backup: Mapping[str, Any] | None = None  # the one that precedes the run
    reveal: bool = False  # show rows that are PHI as they are, on a terminal; the run's record says so
    serve: Serve | None = None  # for a program of another language
    serve_turns: ServeTurns | None = None  # for one in batches
    limits: Limits = field(default_factory=Limits)  # of a run in batches: what it gives way to
    subset: Subset | None = None  # the keys that the run is limited to
    tracking: Path | None = None  # the folder of tracking files
    quiet_hours: tuple[Window, ...] = ()  # in which a run in batches waits
    again: str | None = None  # why it runs once more on this environment
    agree: Agree = _nobody_is_asked  # of a session: waits for those who must agree to what it did


def run_change(database: Database, reopen: Reopen, run: ChangeRun) -> RunReport:
    """Run the change on the database; see `supervise` for what is raised."""
    _require_one_transaction(run.change)
    require_rights(database, run.change, run.mode, run.policy)
    limits = _limits(run)
    tracking = tracking_of(database, run)
    recorder = Recorder(
        run.change, run.values, run.mode, run.progress, run.repeated, serve=run.serve, tracking=tracking,
        subsetting=limits,
    )  # fmt: skip
    named = frozenset(name for step in run.change.steps for name in step.statement.tables)
    targets = frozenset((one.schema, one.table) for step in run.change.steps for one in step.statement.targets)

    def apply(transaction: Transaction, number: int) -> RunReport:
        report = RunReport(
            number, "", run.change.identifier, run.change.metadata.title, run.change.digest, run.start.environment,
            run.mode, outcome=RunState.RUNNING, state="untouched", data=run.change.metadata.data.value, backup=run.backup,
            subset=_subset_in_words(run), again=run.again,
        )  # fmt: skip
        tracking.begin(f"{run.start.environment}-{number}")
        try:
            recorder.apply(transaction, number)
        except BackoutError as error:
            error.report = error.report or progressed(report)
            raise
        return progressed(report)

    def progressed(report: RunReport) -> RunReport:
        return replace(
            report,
            statements=tuple(recorder.statements),
            assertions=tuple(recorder.assertions),
            notes=tuple(recorder.tracked),
            transcript=recorder.transcript,
        )

    def capture(transaction: Transaction, number: int) -> Capture:
        run.progress("reading the images of the changed rows")
        if run.repeated:  # whole images, which one session can compare
            return transaction.capture(number, (), keep=True)
        return transaction.capture(number, recorder.hints, keep=run.mode is Mode.REAL or run.prove_way_back)

    def inspect(transaction: Transaction, found: Capture, verdict: Verdict, report: RunReport) -> RunReport:
        report = described(transaction, found, verdict, report, targets | recorder.named, run.rows, reveal=run.reveal)
        if report.data == PHI:
            report = replace(report, notes=(*report.notes, REVEALED if run.reveal else MASKED))
        report = _with_obstacle(database, found, run, report)
        report = require_batches(database, found, run.change, run.mode, run.limits.rows_at_once, report)
        report = replace(report, tracking=tracking.changed(found.tables, transaction))
        if run.repeated:
            net = ((str(one.table.name), transaction.differing(one)) for one in found.tables)
            report = replace(report, net_change={table: count for table, count in net if count})
        report = run.agree(transaction, found, report)
        if run.prove_way_back:
            report = _way_back(transaction, found, run, report)
        return report

    work = Work(
        run.start, tuple(sorted(named, key=lambda name: (name[0] or "", name[1]))), apply, capture, inspect,
        run.mode is Mode.REAL, run.least,
        # The way back reads the rescue, which was committed after the run's snapshot; an undo is READ COMMITTED itself.
        run.snapshot and not (run.prove_way_back or run.repeated),
        run.change.metadata.data is DataClass.PHI, run.serve is not None,
    )  # fmt: skip
    report = kept(tracking, lambda: supervise(database, reopen, work))
    return checked_after(database, run, report, limits) if run.mode is Mode.REAL else report


def tracking_of(database: Database, run: ChangeRun) -> Tracking:
    """What is tracked of the run: of a ghost, of which nothing stays, the counts."""
    active = is_tracked(run.change) and not (run.repeated or run.subset) and bool(database.capabilities.tracking)

    def find(schema: str | None, name: str) -> Table | None:
        facts = database.table_facts(schema, name)
        return facts.table if facts else None

    writes = run.mode is Mode.REAL and run.change.metadata.tracking != "summary"
    target = target_of(run.change, find) if active else None
    return Tracking(run.change, run.tracking if writes else None, target, active=active)


def kept(tracking: Tracking, supervised: Callable[[], RunReport]) -> RunReport:
    """The run, with its tracking files where it is committed; where nobody knows, they keep their unfinished names."""
    try:
        report = supervised()
    except OutcomeUnknown:
        raise
    except BaseException:
        tracking.discard()
        raise
    return replace(report, notes=(*report.notes, *tracking.keep()))


def _require_one_transaction(change: Change) -> None:
    if batched_step(change) is not None:
        raise AssertionError("a change with @batch goes through `either.py`")


def _limits(run: ChangeRun) -> Subsetting | None:
    return Subsetting(run.change, run.values, run.subset) if run.subset else None


def _subset_in_words(run: ChangeRun) -> str | None:
    return run.subset.described(private=run.change.metadata.data is DataClass.PHI) if run.subset else None


def _with_obstacle(database: Database, found: Capture, run: ChangeRun, report: RunReport) -> RunReport:
    """What stands in the way of an exact undo: Refused for a real run, a note for a ghost run."""
    what = obstacle(database, found.tables, run.policy)
    if run.mode is Mode.REAL:
        require_no_obstacle(what, "rolled back")
    if what is None:
        return report
    return replace(report, notes=(*report.notes, f"{WOULD_REFUSE}its undo would not be exact: {what}"))


def described(
    transaction: Transaction, found: Capture, verdict: Verdict, report: RunReport,
    named: frozenset[tuple[str | None, str]], rows: int, *, reveal: bool = False,
) -> RunReport:  # fmt: skip
    """The report with what was captured and proven; of PHI the rows are masked."""
    samples = [transaction.sample(one, rows) if rows else () for one in found.tables]
    tables = tuple(
        table_report(one, named, shown_rows(report.data, sample, reveal=reveal))
        for one, sample in zip(found.tables, samples, strict=True)
    )
    rescue = tuple(
        RescueReport(name, count, None)
        for one in found.tables
        for name, count in ((one.before_rescue, one.before_rows), (one.after_rescue, one.after_rows))
        if name
    )
    notes = report.notes
    if found.armed:
        notes += (f"too big to scan, so armed with a trigger for the length of the run: {', '.join(found.armed)}",)
    return replace(
        report, notes=notes, tables=tables, rescue=rescue, proof=ProofReport(verdict.complete, verdict.level, verdict.checked),
        sequences=found.sequences, locks=found.locks, rescue_bytes=found.rescue_bytes, log_bytes=found.log_bytes,
    )  # fmt: skip


def table_report(one: CapturedTable, named: frozenset[tuple[str | None, str]], sample: Sequence[Any]) -> TableReport:
    """One table of a report. Counts are the database's where it has them, else those of the images."""
    name = one.table.name
    counted = one.counted
    inserted, updated, deleted = _net(one) if counted is None else (counted.inserted, counted.updated, counted.deleted)
    is_named = (None, name.name) in named or (name.schema, name.name) in named
    return TableReport(
        str(name), inserted, updated, deleted, one.captured_by, is_named, tuple(sample),
        tuple(column for column in one.after_columns if column not in one.table.key), one.table.key,
    )  # fmt: skip


def recorded_tables(
    record: RunRecord,
    samples: Mapping[TableName, Sequence[Any]],
    named: frozenset[tuple[str | None, str]] = frozenset(),
) -> tuple[TableReport, ...]:
    """The tables of a run of the journal; of an undo the rows that it put back, as it has said itself.

    The database's counts hold each attempt that met a conflict and was taken back, too.
    """
    tables = tuple(table_report(one, named, samples.get(one.table.name, ())) for one in record.tables)
    if record.start.mode is not Mode.UNDO or "tables" not in record.report:
        return tables
    said: Mapping[str, Mapping[str, int]] = {one["table"]: one for one in record.report["tables"]}
    return tuple(_as_said(one, said.get(one.table, {})) for one in tables)


def _as_said(table: TableReport, said: Mapping[str, int]) -> TableReport:
    inserted, updated, deleted = (said.get(count, 0) for count in ("inserted", "updated", "deleted"))
    return replace(table, inserted=inserted, updated=updated, deleted=deleted)


def _net(one: CapturedTable) -> tuple[int, int, int]:
    return one.after_rows - one.both_rows, one.both_rows, one.before_rows - one.both_rows


def _way_back(transaction: Transaction, found: Capture, run: ChangeRun, report: RunReport) -> RunReport:
    """Undo the ghost inside its own transaction, and compare with the start: nothing may differ."""
    run.progress("taking it back, and comparing")
    now: dict[TableName, Any] = {one.table.name: one.table for one in found.tables}
    plan = plan_undo(report.run, found.tables, now, run.policy)
    outcome = transaction.revert(plan, Resolution())
    if outcome.refused:
        raise ProofFailed(
            f"the way back is not exact: {len(outcome.conflicts)} rows could not be put back",
            hint="the rows are in conflict with a constraint; see docs/explanation/undo.md",
        )
    again = transaction.capture(report.run, (), keep=True)
    if again.tripwires:
        raise ProofFailed(
            f"the way back could not be proven: {again.tripwires[0]}", hint="look at the change's functions"
        )
    for one in again.tables:
        differing = 0 if run.policy.is_append_only(one.table.name) else transaction.differing(one)
        if differing:
            raise ProofFailed(
                f'the way back is not exact: {differing} rows of "{one.table.name}" differ from the start',
                hint="look for triggers and constraints on that table; see docs/explanation/undo.md",
            )
    return replace(report, way_back="proven", undo_how=outcome.how, notes=(*report.notes, *plan.notes))


def checked_after(database: Database, run: ChangeRun, report: RunReport, limits: Subsetting | None) -> RunReport:
    """`@after`: asked of a fresh session, once the run is committed."""
    found: list[AssertionReport] = []
    for step in run.change.steps:
        if step.kind is StepKind.AFTER:
            asked = limits.limited(step) if limits else step
            try:
                answer = database.query(asked.statement.text, parameters_of(step, run.values, run.change.dialect))
            except BackoutError as cause:  # whatever it says of the state, the run is committed
                if report.data == PHI:
                    keep_back(cause)
                unanswered = CheckAfterFailed(
                    f'the check "{step.title}" after the commit could not be made: {cause.message}',
                    state="committed", hint=cause.hint,
                )  # fmt: skip
                unanswered.report = report
                raise unanswered from None
            found.append(judged(step, answer.rows, private=report.data == PHI))
    report = replace(report, assertions=(*report.assertions, *found))
    failed = [one for one in found if not one.passed]
    if failed:
        error = CheckAfterFailed(
            f'the check "{failed[0].title}" after the commit is not true: its query said {failed[0].value}',
            state="committed", hint=f"look at the data, then keep it or take it back: backout undo {report.identifier}",
        )  # fmt: skip
        error.report = report
        raise error
    return report
