"""A change in batches: drives one batch after the other, waits where it must, and ends between two batches.

Whether a batch is committed is decided in `supervise.py`. What makes this one run: its number, its rescue, and the
journal's row of each batch, from which it is resumed behind the last one that is committed.

Invariant: a key belongs to one batch; the next batch begins behind the last committed bound, never anywhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

from backout.change.batched import batched_step
from backout.change.model import Step, StepKind
from backout.engines.batches import (
    Batch,
    Batches,
    BatchingDatabase,
    BatchRecord,
    MoreIsWritten,
    in_batches,
)
from backout.engines.protocol import Database
from backout.engines.values import Mode, RunState
from backout.errors import (
    BackoutError,
    Busy,
    DatabaseFailed,
    Interrupted,
)
from backout.runs.batches_armed import follow, foresee, place_of, require_way_back, writes_of
from backout.runs.batches_end import (
    asked_at_the_end,
    disarmed,
    end,
    ended_early,
    expect,
    report_of,
    track,
    track_change,
)
from backout.runs.batches_going import Going, Told, go_on_behind, stoppable
from backout.runs.batches_pace import ATTEMPTS, Pace, before_attempt
from backout.runs.batches_program import run_program
from backout.runs.batches_report import with_totals
from backout.runs.batches_script import run_loop
from backout.runs.batches_settle import is_worth_another, note_settled, settled
from backout.runs.batches_waits import give_way
from backout.runs.changes import ChangeRun, checked_after, tracking_of
from backout.runs.masking import PHI, shown_text
from backout.runs.recorder import parameters_of
from backout.runs.report import AssertionReport, RunReport
from backout.runs.supervise import Reopen, keep_back
from backout.sql.restrict import Restrictable, quoted_name
from backout.sql.restrict_insert import batchable


def run_batched(database: Database, reopen: Reopen, run: ChangeRun, *, resume: int | None = None) -> RunReport:
    """Run the change in batches, or go on with the run `resume` of it.

    Returns its report when it went through to the end. Raises Interrupted where it was told to stop, PartlyCommitted
    where a batch failed behind committed ones; what the first batch raises is raised as of a run in one transaction.
    """
    target = in_batches(database)
    step = batched_step(run.change)
    assert step is not None
    with stoppable() as told:
        batches = target.batches(to_lend=run.change.language == "program")
        try:
            going = _begun(target, batches, run, step, told, resume)
            going.tracking = tracking_of(database, run)
            going.tracking.begin(going.name)
            report = _through(going, reopen)
        finally:
            batches.close()
    return checked_after(database, run, report, None) if run.mode is Mode.REAL else report


def fingerprint(values: Mapping[str, Any]) -> str:
    """Of the parameters' values, in a form that does not tell them to whoever reads over a shoulder."""
    text = json.dumps({name: str(value) for name, value in values.items()}, sort_keys=True)
    return hashlib.sha256(f"backout parameters\n{text}".encode()).hexdigest()


def _begun(
    database: BatchingDatabase, batches: Batches, run: ChangeRun, step: Step, told: Told, resume: int | None
) -> Going:
    assert step.batching is not None
    pace = Pace(step.batching.size, fixed=True) if step.batching.size else Pace()
    if resume is not None:
        batched = batches.take_over(resume)
        return go_on_behind(
            Going(run, step, database, batches, resume, batched.keyset, run.limits, told, pace), batched
        )
    writes = writes_of(step)
    schema, table = place_of(step)
    keyset = batches.survey(
        schema, table, step.batching.by, writes.columns,
        update_only=step.statement.is_single_update and not run.repeated,  # whole images, which can be compared
        writes=writes.operation != "insert",
    )  # fmt: skip
    obstacle = require_way_back(database, run, [keyset.table]) if keyset.writes else None
    if not keyset.writes:
        batches.require_by_rows(step.statement.text, list(parameters_of(step, run.values, run.change.dialect)))
    stale = batches.statistics(keyset, analyze=run.limits.analyze and run.mode is Mode.REAL)
    number = database.journal.begin_run(run.start)
    going = Going(run, step, database, batches, number, keyset, run.limits, told, pace)
    if stale:
        going.notes.append(stale)
    if obstacle:
        going.obstacles.add(obstacle)
    try:
        if going.keeps:
            batches.keep(number, keyset, fingerprint(run.values))
        else:
            batches.ghost(number, keyset)
    except BackoutError:
        database.journal.end_run(number, RunState.ROLLED_BACK, (), {"outcome": "rolled back", "state": "untouched"})
        raise
    return going


def _through(going: Going, reopen: Reopen) -> RunReport:
    try:
        track(going, StepKind.PRE)
        foresee(going)
        checked = _all(going)
        assertions = (*checked, *asked_at_the_end(going))
        track(going, StepKind.POST)
        track_change(going)
    except BackoutError as error:
        if going.run.change.metadata.data.value == PHI:
            keep_back(error)
        raise ended_early(going, reopen, error) from None
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted twice: the batch at hand was rolled back", state=going.state)
        raise ended_early(going, reopen, stopped) from None
    if going.tracking is not None and going.keeps:
        going.notes += going.tracking.keep()
    going.notes += disarmed(going)
    outcome, state = (RunState.COMMITTED, "committed") if going.keeps else (RunState.ROLLED_BACK, "untouched")
    report = replace(with_totals(report_of(going, outcome, state), going), assertions=assertions)
    end(going.database, going.number, report, keeps=going.keeps, finished=True)
    return report


def _all(going: Going) -> tuple[AssertionReport, ...]:
    """One batch after the other, until none is left; what a Python change's own check says behind them."""
    if going.run.change.language == "program":
        run_program(going)
        return ()
    if going.run.change.batching is not None:
        return run_loop(going)
    batching = going.step.batching
    assert batching is not None
    statement = batchable(going.step.statement, batching.table, batching.by)
    going.notes.append(_as_executed(going, statement, batching.by))
    while not going.is_sampled and _one(going, statement):
        pass
    return ()


def _as_executed(going: Going, statement: Restrictable, by: Sequence[str]) -> str:
    """What each batch runs; its bounds are in the journal."""
    key = ", ".join(f"{statement.reference}.{quoted_name(one)}" for one in by)
    text = statement.with_predicate(f"({key}) > (:after) AND ({key}) <= (:upto)")
    return f"each batch runs: {shown_text(going.run.change, text)}"


def _one(going: Going, statement: Restrictable) -> bool:
    """One more batch; False: there was none left."""
    give_way(going)
    record = _attempted(going, statement)
    if record is not None:
        note_settled(going, record)
    return record is not None


def _attempted(going: Going, statement: Restrictable) -> BatchRecord | None:
    attempt = 1
    while True:
        started = monotonic()
        batch: Batch | None = None
        try:
            batch = going.batches.begin(going.keyset, going.done + 1, going.last, going.pace.size)
            if batch is None:
                return None
            return _written(going, statement, batch, started)
        except MoreIsWritten as more:
            assert batch is not None
            batch.rollback()  # nothing of it stays: it is begun anew, now that what it writes will be logged
            follow(going, more.tables)
        except (Busy, DatabaseFailed) as error:
            if batch is not None:
                batch.rollback()
            if attempt == ATTEMPTS or not is_worth_another(error):
                raise
            going.retries += 1
            going.pace = going.pace.smaller()
            sleep(before_attempt(attempt))
            attempt += 1
        except BaseException:
            if batch is not None:
                batch.rollback()
            raise


def _written(going: Going, statement: Restrictable, batch: Batch, started: float) -> BatchRecord:
    """The statement on the batch's rows, captured and proven; committed, or in a ghost run rolled back."""
    step, values = going.step, going.run.values
    locked = monotonic()
    within = batch.within(statement.reference, batch.after, batch.upto)
    affected = batch.execute(
        statement.with_predicate(within), list(parameters_of(step, values, going.run.change.dialect))
    )
    expect(going, step.expectation, affected, f"batch {going.done + 1}")
    return settled(going, batch, started, locked)
