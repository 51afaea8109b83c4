"""What a change does inside of its transaction: statements in the order of the file, each with its directives.

It knows nothing of beginnings and ends (`supervise.py`); whatever it raises, the caller rolls back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from backout.change.bind import bounds
from backout.change.model import Change, DataClass, Step, StepKind
from backout.engines.protocol import Transaction
from backout.engines.values import Mode, UpdateHint
from backout.errors import AssertionFailed, BackoutError, DatabaseFailed, ExpectationFailed
from backout.runs.masking import shown_text
from backout.runs.report import AssertionReport, StatementReport, shown
from backout.runs.script import run_script
from backout.runs.subsetting import Subsetting
from backout.runs.tracking import Tracking
from backout.sql.model import Dialect, Kind

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """What a program did through the endpoint: notes, and the transcript's length and last hash."""

    notes: Sequence[str] = ()
    transcript: Mapping[str, Any] | None = None
    tables: frozenset[tuple[str | None, str]] = frozenset()  # that its statements named


#: Lets a program of another language do the change, in the run of this number.
Serve = Callable[[Change, Transaction, Mode, int], Served]

#: Lets a program do a change in batches: the change, the engine's loan of the session, the turns, mode and run.
ServeTurns = Callable[[Change, Any, Any, Mode, int], Served]


@dataclass
class Recorder:
    """Applies one change to one transaction and remembers what was done."""

    change: Change
    values: Mapping[str, Any]
    mode: Mode
    progress: Progress
    repeated: bool = False  # the second run of a rehearsal: what @expect says is reported only
    statements: list[StatementReport] = field(default_factory=list)
    assertions: list[AssertionReport] = field(default_factory=list)
    tracked: list[str] = field(default_factory=list)
    hints: list[UpdateHint] = field(default_factory=list)
    serve: Serve | None = None
    transcript: Mapping[str, Any] | None = None  # of a program
    named: frozenset[tuple[str | None, str]] = frozenset()  # tables that a program's statements named
    tracking: Tracking | None = None
    subsetting: Subsetting | None = None  # of `--subset`: fewer rows than @expect says are reported only

    def apply(self, transaction: Transaction, run: int) -> None:
        """Run the change. Raises ExpectationFailed, AssertionFailed, or what the database says."""
        with told_mode(self.mode):
            if self.change.language == "python":
                run_script(self.change, transaction, self.mode, self.values, self.assertions)
                return
            if self.change.language == "program":
                assert self.serve is not None, "whoever runs a program has an endpoint for it"
                served = self.serve(self.change, transaction, self.mode, run)
                self.tracked.extend(served.notes)
                self.transcript, self.named = served.transcript, served.tables
            self._track(transaction, StepKind.PRE)
            steps = [step for step in self.change.steps if step.kind in {StepKind.APPLY, StepKind.ASSERT}]
            for number, step in enumerate(steps, 1):
                self.progress(f"running statement {number} of {len(steps)} (line {step.statement.line})")
                with _placed(self.change, step):
                    if step.kind is StepKind.APPLY:
                        self._statement(transaction, step)
                    else:
                        self._assertion(transaction, self._limited(transaction, step))
            self._track(transaction, StepKind.POST)

    def _statement(self, transaction: Transaction, step: Step) -> None:
        statement = self._limited(transaction, step).statement
        recorded = self.subsetting.recorded(step) if self.subsetting else statement.text
        started = monotonic()
        result = transaction.execute(statement.text, parameters_of(step, self.values, self.change.dialect))
        affected = result.affected if statement.kind is Kind.WRITE else 0
        text = shown_text(self.change, recorded)
        self.statements.append(StatementReport(statement.line, text, affected, monotonic() - started))
        if statement.is_single_update and len(statement.targets) == 1:
            target = statement.targets[0]
            self.hints.append(UpdateHint(target.schema, target.table, target.columns, affected))
        if step.expectation is not None:
            low, high = bounds(step.expectation, self.values)
            if not low <= affected <= high:
                wanted = f"{low}" if low == high else f"{low}..{high}"
                if self.subsetting is not None and affected < low:
                    self.tracked.append(
                        f"line {statement.line} wrote {affected} rows of a subset, and {wanted} are expected of the whole"
                    )
                    return
                if self.repeated:
                    self.tracked.append(
                        f"line {statement.line} wrote {affected} rows, and {wanted} are expected of a first run"
                    )
                    return
                raise ExpectationFailed(
                    f"the statement wrote {affected} rows, and {wanted} were expected",
                    hint="look at the rows with `backout ghost`; change the statement or its @expect",
                )

    def _limited(self, transaction: Transaction, step: Step) -> Step:
        return step if self.subsetting is None else self.subsetting.limited(step, transaction)

    def _assertion(self, transaction: Transaction, step: Step) -> None:
        result = transaction.check(step.statement.text, parameters_of(step, self.values, self.change.dialect))
        self.assertions.append(judged(step, result.rows, private=self.change.metadata.data is DataClass.PHI))
        if not self.assertions[-1].passed:
            raise AssertionFailed(
                f'the assertion "{step.title}" is not true: its query said {self.assertions[-1].value}',
                hint="look at the rows with `backout ghost`; change the statements or the assertion",
            )

    def _track(self, transaction: Transaction, kind: StepKind) -> None:
        for step in self.change.steps:
            if step.kind is kind:
                with _placed(self.change, step):
                    values = parameters_of(step, self.values, self.change.dialect)
                    if self.tracking is not None and self.tracking.active:
                        rows = self.tracking.query(step, values, transaction)
                    else:
                        rows = len(transaction.check(step.statement.text, values).rows)
                self.tracked.append(f'{kind.value} "{step.title}": {rows} rows')


def judged(step: Step, rows: Sequence[tuple[Any, ...]], *, private: bool) -> AssertionReport:
    """An assertion's verdict: exactly one row of one column, and it is true (SQLite: not 0). See `shown` for `private`."""
    title = step.title or ""
    if len(rows) != 1 or len(rows[0]) != 1:
        return AssertionReport(title, passed=False, value=f"{len(rows)} rows, where a single value was asked for")
    value = rows[0][0]
    passed = value is True or (not isinstance(value, bool) and isinstance(value, int) and value != 0)
    return AssertionReport(title, passed, "NULL" if value is None else shown(value, private=private))


def parameters_of(step: Step, values: Mapping[str, Any], dialect: Dialect) -> Sequence[Any] | Mapping[str, Any]:
    """The step's parameters, in the way that its dialect takes them."""
    if dialect is Dialect.POSTGRES:
        return [values[name] for name in step.statement.parameters]
    return {name: values[name] for name in step.statement.parameters}


@contextmanager
def _placed(change: Change, step: Step) -> Iterator[None]:
    """Put the statement's place in front of what went wrong with it."""
    try:
        yield
    except (DatabaseFailed, ExpectationFailed, AssertionFailed) as error:
        error.message = f"{change.path}:{step.statement.line}: {error.message}"
        error.args = (error.message,)
        raise
    except BackoutError as error:
        error.message = f"{error.message} ({change.path}:{step.statement.line})"
        error.args = (error.message,)
        raise


@contextmanager
def told_mode(mode: Mode) -> Iterator[None]:
    """Scripts can ask whether this is a ghost run, and hold back what a rollback does not take back."""
    before = os.environ.get("BACKOUT_MODE")
    os.environ["BACKOUT_MODE"] = mode.value
    try:
        yield
    finally:
        if before is None:
            del os.environ["BACKOUT_MODE"]
        else:
            os.environ["BACKOUT_MODE"] = before
