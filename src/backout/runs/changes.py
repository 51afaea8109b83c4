"""A change as the work of a run: real, or a ghost with its bill; with `prove_way_back` also its undo, in the ghost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backout.change.model import Change, DataClass, StepKind
from backout.engines.protocol import Database, Transaction
from backout.engines.values import Capture, CapturedTable, Mode, Resolution, RunStart, RunState, TableName
from backout.errors import BackoutError, CheckAfterFailed, ProofFailed, Refused
from backout.recovery.plan import UndoPolicy, plan_undo
from backout.recovery.proof import Tightness, Verdict
from backout.runs.recorder import Progress, Recorder, judged, parameters_of
from backout.runs.report import AssertionReport, ProofReport, RescueReport, RunReport, TableReport
from backout.runs.supervise import Reopen, Work, keep_back, supervise

PHI = DataClass.PHI.value


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
    snapshot: bool = False


def run_change(database: Database, reopen: Reopen, run: ChangeRun) -> RunReport:
    """Run the change on the database; see `supervise` for what is raised."""
    recorder = Recorder(run.change, run.values, run.mode, run.progress)
    named = frozenset(name for step in run.change.steps for name in step.statement.tables)

    def apply(transaction: Transaction, number: int) -> RunReport:
        report = RunReport(
            number, "", run.change.identifier, run.change.metadata.title, run.change.digest, run.start.environment,
            run.mode, outcome=RunState.RUNNING, state="untouched", data=run.change.metadata.data.value,
        )  # fmt: skip
        try:
            recorder.apply(transaction)
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
        )

    def capture(transaction: Transaction, number: int) -> Capture:
        run.progress("reading the images of the changed rows")
        return transaction.capture(number, recorder.hints, keep=run.mode is Mode.REAL or run.prove_way_back)

    def inspect(transaction: Transaction, found: Capture, verdict: Verdict, report: RunReport) -> RunReport:
        report = described(transaction, found, verdict, report, named, shown_rows(report.data, run.rows))
        if report.data == PHI:
            report = replace(report, notes=(*report.notes, "rows are not shown: the change says that they are PHI"))
        obstacle = _obstacle(database, found.tables, run.policy)
        if obstacle and run.mode is Mode.REAL:
            raise Refused(
                "undo rights",
                f"the undo of this run would not be exact: {obstacle}",
                state="rolled back",
                hint="give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`",
            )
        if obstacle:
            report = replace(
                report, notes=(*report.notes, f"`run` would refuse: its undo would not be exact: {obstacle}")
            )
        if run.prove_way_back:
            report = _way_back(transaction, found, run, report)
        return report

    work = Work(
        run.start, tuple(sorted(named, key=lambda name: (name[0] or "", name[1]))), apply, capture, inspect,
        run.mode is Mode.REAL, run.least,
        # The way back reads the rescue, which was committed after the run's snapshot; an undo is READ COMMITTED itself.
        run.snapshot and not run.prove_way_back,
        run.change.metadata.data is DataClass.PHI,
    )  # fmt: skip
    report = supervise(database, reopen, work)
    return _checked_after(database, run, report) if run.mode is Mode.REAL else report


def shown_rows(data: str, rows: int) -> int:
    """Of PHI no row leaves the database, not even to a screen."""
    return 0 if data == PHI else rows


def _obstacle(database: Database, captured: Sequence[CapturedTable], policy: UndoPolicy) -> str | None:
    tables = [one.table for one in captured if not policy.is_append_only(one.table.name)]
    return database.undo_obstacle(tables) if tables else None


def described(
    transaction: Transaction, found: Capture, verdict: Verdict, report: RunReport,
    named: frozenset[tuple[str | None, str]], rows: int,
) -> RunReport:  # fmt: skip
    """The report with what was captured and proven."""
    tables = tuple(table_report(one, named, transaction.sample(one, rows) if rows else ()) for one in found.tables)
    rescue = tuple(
        RescueReport(name, count, None)
        for one in found.tables
        for name, count in ((one.before_rescue, one.before_rows), (one.after_rescue, one.after_rows))
        if name
    )
    return replace(
        report, tables=tables, rescue=rescue, proof=ProofReport(verdict.complete, verdict.level, verdict.checked),
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
    for one in again.tables:
        differing = 0 if run.policy.is_append_only(one.table.name) else transaction.differing(one)
        if differing:
            raise ProofFailed(
                f'the way back is not exact: {differing} rows of "{one.table.name}" differ from the start',
                hint="look for triggers and constraints on that table; see docs/explanation/undo.md",
            )
    return replace(report, way_back="proven", undo_how=outcome.how, notes=(*report.notes, *plan.notes))


def _checked_after(database: Database, run: ChangeRun, report: RunReport) -> RunReport:
    """`@after`: asked of a fresh session, once the run is committed."""
    found: list[AssertionReport] = []
    for step in run.change.steps:
        if step.kind is StepKind.AFTER:
            try:
                answer = database.query(step.statement.text, parameters_of(step, run.values, run.change.dialect))
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
