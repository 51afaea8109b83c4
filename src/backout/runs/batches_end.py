"""How a run in batches ends: what is asked behind the last batch, what is reported, what the journal keeps.

Invariant: what is said of the database is what the journal has of its batches.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

from backout.change.bind import bounds
from backout.change.model import Expectation, StepKind
from backout.engines.batches import (
    Batches,
    BatchingDatabase,
    in_batches,
)
from backout.engines.values import CapturedTable, RunState
from backout.errors import (
    AssertionFailed,
    BackoutError,
    ExpectationFailed,
    Interrupted,
    OutcomeUnknown,
    PartlyCommitted,
    Refused,
)
from backout.runs.as_json import report_for_journal
from backout.runs.batches_armed import writes_of
from backout.runs.batches_going import Going, go_on_behind
from backout.runs.batches_report import blank_report
from backout.runs.batches_waits import Cancelled
from backout.runs.masking import PHI
from backout.runs.recorder import judged, parameters_of
from backout.runs.report import WOULD_REFUSE, AssertionReport, RunReport
from backout.runs.supervise import Reopen


def end(database: BatchingDatabase, number: int, report: RunReport, *, keeps: bool, finished: bool = False,
        cancelled: bool = False) -> None:  # fmt: skip
    """Write the end into the journal."""
    if keeps:
        journal = database.batch_journal
        journal.end(number, report.outcome, report_for_journal(report), finished=finished, cancelled=cancelled)
    else:
        database.journal.end_run(number, report.outcome, (), report_for_journal(report))


def expect(going: Going, expectation: Expectation | None, affected: int, what: str) -> None:
    """Raise ExpectationFailed unless so many rows were expected of `what`; the second run of a rehearsal only notes it."""
    if expectation is None:
        return
    low, high = bounds(expectation, going.run.values)
    if low <= affected <= high:
        return
    wanted = f"{low}" if low == high else f"{low}..{high}"
    if going.run.repeated:
        going.notes.append(f"{what} wrote {affected} rows, and {wanted} are expected of a first run")
        return
    raise ExpectationFailed(
        f"{going.run.change.path}:{expectation.line}: {what} wrote {affected} rows, and {wanted} were expected",
        hint="look at the rows with `backout ghost`; change the statement or its @expect",
    )


def asked_at_the_end(going: Going) -> tuple[AssertionReport, ...]:
    """`@expect total` and `@assert`, once all batches are through; in a ghost run nothing is there to be asked."""
    run = going.run
    if going.is_sampled:
        going.notes.append(f"only the first {going.done} batches were tried (`ghost_batches`): a run has all of them")
    else:
        expect(going, going.step.total, going.affected, "all batches together")
    asked = [step for step in run.change.steps if step.kind is StepKind.ASSERT]
    if not going.keeps:
        if asked:
            going.notes.append("assertions are asked after the last batch, and were not: each batch was rolled back")
        return ()
    found: list[AssertionReport] = []
    for step in asked:
        answer = going.database.query(step.statement.text, parameters_of(step, run.values, run.change.dialect))
        found.append(judged(step, answer.rows, private=run.change.metadata.data.value == PHI))
        if not found[-1].passed:
            raise AssertionFailed(
                f'{run.change.path}:{step.statement.line}: the assertion "{step.title}" is not true: '
                f"its query said {found[-1].value}",
                hint="look at the data, then keep it or take it back",
            )
    return tuple(found)


def track(going: Going, kind: StepKind) -> None:
    """Ask the tracking queries of this kind, and note how many rows they have; of a resumed run `@pre` was asked before."""
    tracking = going.tracking
    for step in going.run.change.steps:
        if step.kind is not kind:
            continue
        parameters = parameters_of(step, going.run.values, going.run.change.dialect)
        if tracking is None or not tracking.active:
            rows: int | None = len(going.database.query(step.statement.text, parameters).rows)
        elif kind is StepKind.PRE and going.resumed:
            rows = tracking.found_again(step)
        else:
            rows = tracking.query(step, parameters, going.database)
        what = "its file of before the run is not here" if rows is None else f"{rows} rows"
        going.notes.append(f'{kind.value} "{step.title}": {what}')
    if tracking is not None and kind is StepKind.PRE and going.keeps:
        going.notes += tracking.keep()  # batches are committed from now on: it stays, however the run ends


def track_change(going: Going) -> None:
    """Write down what all batches have changed, and compare it with the tracking queries."""
    if going.tracking is None or not going.keeps or not going.done:
        return
    batched = going.database.batch_journal.batched(going.number)
    assert batched is not None
    write = writes_of(going.step)
    named = (write.schema, write.table)
    own = [one for one in batched.tables if named in _names(one)]
    going.tracking.changed(own, going.database)


def _names(one: CapturedTable) -> tuple[tuple[str | None, str], ...]:
    """As a statement may say the table's name."""
    return (None, one.table.name.name), (one.table.name.schema, one.table.name.name)


def ended_early(going: Going, reopen: Reopen, error: BackoutError) -> BackoutError:
    """Write down how far it came; the error that says so, with its report."""
    if isinstance(error, OutcomeUnknown) or (isinstance(error, Interrupted) and not isinstance(error, Cancelled)):
        error = _asked(going, reopen, error)
    if going.done and going.keeps and not isinstance(error, Interrupted | OutcomeUnknown):
        name = going.name
        error = PartlyCommitted(
            error.message, state=going.state,
            hint=f"take back what was done: backout undo {name}; or mend what was wrong, then: backout resume {name}",
        )  # fmt: skip
    if going.tracking is not None:
        going.tracking.discard()
    going.notes += disarmed(going)
    report = report_of(going, _outcome(going, error), error.state)
    error.report = report
    if isinstance(error, OutcomeUnknown):
        return error
    try:
        end(going.database, going.number, report, keeps=going.keeps, cancelled=isinstance(error, Cancelled))
    except BackoutError:
        note = "the journal could not be reached: the next command on this environment settles the run"
        error.report = replace(report, notes=(*report.notes, note))
    return error


def left_behind(batches: Batches) -> list[str]:
    """Take away what is armed; what could not be, in words."""
    return [f"{what}; the next command on this environment takes it away" for what in batches.disarm()]


def disarmed(going: Going) -> list[str]:
    """Take away what is armed; what was, and what could not be taken away, in words."""
    left, names = left_behind(going.batches), ", ".join(str(one.name) for one in going.armed)
    return [f"written as well, so armed with a trigger for the length of the run: {names}", *left] if names else left


def _outcome(going: Going, error: BackoutError) -> RunState:
    if isinstance(error, OutcomeUnknown):
        return RunState.UNKNOWN
    if isinstance(error, PartlyCommitted) or (isinstance(error, Cancelled) and going.done):
        return RunState.PARTIAL
    if isinstance(error, Interrupted):
        return RunState.INTERRUPTED
    return RunState.REFUSED if isinstance(error, Refused) else RunState.ROLLED_BACK


def _asked(going: Going, reopen: Reopen, error: BackoutError) -> BackoutError:
    """After a lost connection the journal says which batch was the last; a batch whose COMMIT got lost may be it."""
    if not going.keeps or going.told.signal is not None:
        error.state = going.state
        if going.done and going.keeps:
            error.hint = f"backout resume {going.name}"
        return error
    try:
        fresh = in_batches(reopen())
    except BackoutError:
        return error
    try:
        batched = fresh.batch_journal.batched(going.number)
    except BackoutError:
        return error
    finally:
        fresh.close()
    if isinstance(error, OutcomeUnknown):  # its transaction may still be on its way: `resume` waits for it, then asks
        error.hint = f"backout resume {going.name} asks the journal, and goes on behind the last batch that it has"
        return error
    if batched is not None:
        go_on_behind(going, batched)
    error.state = going.state
    error.hint = f"backout resume {going.name}" if going.done else error.hint
    return error


def report_of(going: Going, outcome: RunState, state: str) -> RunReport:
    """How far the run came, and what it met."""
    notes = [*going.notes, f"{going.done} batches, the longest held its rows for {going.longest_s * 1000:.0f} ms"]
    notes += [f"waited {seconds:.1f} s: {reason}" for reason, seconds in going.pauses.items()]
    if going.retries:
        notes.append(f"{going.retries} times a batch met a lock or a deadlock, and was begun anew")
    if not going.keeps:
        notes.append("each batch was rolled back by itself: they did not see each other")
    notes += [f"{WOULD_REFUSE}its undo would not be exact: {obstacle}" for obstacle in sorted(going.obstacles)]
    report = blank_report(going)
    net = {str(name): count for name, count in going.differing.items()} if going.run.repeated else None
    return replace(
        report, outcome=outcome, state=state, notes=tuple(notes), net_change=net, sequences=tuple(going.sequences.values()),
        tracking=going.tracking.report if going.tracking else (), duration_s=monotonic() - going.began,
    )  # fmt: skip
