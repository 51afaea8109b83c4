"""What is known: runs, rows, where a change stands, what people have said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backout.change.model import Change, DataClass
from backout.engines.batches import Batched, in_batches
from backout.engines.protocol import Transaction
from backout.engines.values import (
    Mode,
    RunRecord,
)
from backout.gates.attestation import Validation
from backout.gates.repetition import standing
from backout.project.attestations import is_looked_at, validation, validations
from backout.project.doors import (
    Ask,
    Intent,
    Progress,
    found,
    has_journal,
    operator,
    refuse_to_answer,
    silent,
)
from backout.project.emitted import Story, story_of
from backout.project.free_text import require_no_value
from backout.project.permission import Gatekeeper, Wish, operator_asking
from backout.project.replaying import change_of, require_nobody_to_ask
from backout.project.run_entries import newest
from backout.project.running import ALL, Running
from backout.project.statements import Spoken
from backout.project.status import Status, status_of
from backout.project.subject import Subject, subject_of, subject_of_run
from backout.runs.changes import recorded_tables
from backout.runs.masking import shown_rows
from backout.runs.recorder import Served
from backout.runs.report import RunReport, TableReport

if TYPE_CHECKING:
    from backout.project.advice import Advice
    from backout.project.audit import Audit
    from backout.project.dossier import Dossier


class Looking(Running):
    """What only looks, and what people say after they have looked."""

    def batched(self, run: str, on: str | None = None) -> tuple[RunRecord, Batched | None]:
        """A run, and how far its batches are; None: it was one transaction."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            return record, in_batches(database).batch_journal.batched(number) if database.capabilities.batches else None

    def status(self, change: Change, on: str, *, parameters: Mapping[str, Any] | None = None) -> Status:
        """Where a change stands there: what each gate says, the next command, who may type it, and when."""
        change = self._fitting(change, on)
        environment = self.config.environment(on)
        values = self._change_run(change, environment, Mode.GHOST, parameters, 0, silent).values
        with self._opened(on, Intent.LOOK) as (database, _, facts):
            place = self._place(database, environment, facts)
            operator = operator_asking(self.config, place.policy, self._key)
            wish = Wish(subject_of(change, self.config, values))
            evidence, verdicts = Gatekeeper(self._book, self._key).verdicts(place, wish, operator)
            ours = (one for one in newest(database) if is_looked_at(one) and one.start.digest == change.digest)
            last = next(ours, None)
            seen = validation(self.config, last, evidence.said) if last is not None else None
            records = database.journal.runs(ALL, change.identifier) if has_journal(database) else ()
            ran = standing(change, records)
            return status_of(evidence, place.policy, verdicts, last, seen, ran)

    def approve(
        self, change: Change, on: str, approval: str | None = None, *, ticked: Collection[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Spoken:  # fmt: skip
        """Approve a change with the values that its parameters have there; see `Statements.approve`."""
        change = self._fitting(change, on)
        values = self._change_run(change, self.config.environment(on), Mode.GHOST, parameters, 0, silent).values
        return self.statements.approve(change, on, approval, ticked=ticked, values=values)

    def announced(self, change: Change, on: str, to: Sequence[str]) -> Spoken:
        """Keep the receipt of an announcement to these channels, with the target database's time of now."""
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return self.statements.announced(change, on, to, database.clock())

    def about_run(self, run: str, on: str | None = None) -> tuple[str, str, Subject]:
        """(the run's identifier, its environment, its change): for statements that are about a run."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            return record.identifier, environment.name, subject_of_run(record, self.config)

    def attest(self, run: str, saw: str, on: str | None = None) -> Spoken:
        """Say what one saw in the application after a run. Refused where that holds a value of a row that is PHI."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            require_no_value(database.journal, record, saw, self.config.phi)
            return self.statements.attest(record.identifier, subject_of_run(record, self.config), environment.name, saw)

    def audit(self, on: str | None = None, *, signatures: bool = True) -> Audit:
        """Recompute the whole ledger; with `on` also hold it against that database's journal."""
        from backout.project.audit import audit

        if on is None:
            return audit(self._book, signatures=signatures)
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return audit(self._book, database, signatures=signatures)

    # -- looking and keeping -------------------------------------------------------------------------------------------

    def show(
        self, run: str, on: str | None = None, *, rows: int = 10, reveal: bool = False
    ) -> tuple[RunRecord, tuple[TableReport, ...]]:
        """A run as the journal has it, and its rows from the rescue tables.

        Rows that are PHI are masked, unless `reveal`: then the ledger first says who asked to see them.
        """
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            kept, data = record.rescue_dropped_at is None and rows, str(record.report.get("data"))
            if reveal and data == DataClass.PHI.value:
                self.statements.reveal(record.identifier, subject_of_run(record, self.config), environment.name)
            samples = {
                one.table.name: shown_rows(
                    data, database.journal.sample(record, one, rows) if kept else (), reveal=reveal
                )
                for one in record.tables
            }
            return record, recorded_tables(record, samples)

    def emitted(self, run: str, on: str | None = None) -> tuple[RunRecord, Story]:
        """The statements that a program's run sent, as its transcript has them. Raises UsageError where there are none."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            return record, story_of(database, record)

    def replay(
        self, run: str, on: str, *, of: str | None = None, exact: bool = False, rows: int = 10,
        ask: Ask = refuse_to_answer, progress: Progress = silent,
    ) -> RunReport:  # fmt: skip
        """Run the very statements of a program's run on another environment, as a change of its own.

        What does something else than it did when it was recorded is reported; with `exact` it is rolled back. `of` is
        the environment of the recorded run, where its name does not say it.
        """
        from backout.endpoint.replay import replay, require_replayable

        record, story = self.emitted(run, of)
        require_replayable(story.lines)
        require_nobody_to_ask(self._policy_of(self.config.environment(on)), on)
        change = change_of(record, story)

        def serve(_change: Change, transaction: Transaction, _mode: Mode, number: int) -> Served:
            return replay(transaction, number, story.lines, exact=exact)

        return self.run(change, on, serve=serve, rows=rows, ask=ask, progress=progress)

    def dossier(self, change: Change, on: Sequence[str] = (), *, rows: int = 10) -> Dossier:
        """All that is known of a change, for its pull request or ticket; `on` names environments, else it is all of them."""
        from backout.project.dossier import Sources, dossier_of

        sources = Sources(
            self.config, self._book, lambda name: self._opened(name, Intent.LOOK),
            lambda name: self.status(change, name),
        )  # fmt: skip
        return dossier_of(change, on, sources, rows=rows, now=datetime.now(UTC), person=operator())

    def log(self, on: str, *, limit: int = 20, progress: Progress = silent) -> tuple[RunRecord, ...]:
        """The newest runs first; runs whose process has gone are settled on the way. Without a journal: none.

        What could not be taken away yet of runs that have ended is told to `progress`.
        """
        with self._opened(on, Intent.LOOK) as (database, _, _):
            if not has_journal(database):
                return ()
            for left in database.journal.left_behind():
                progress(left)
            return tuple(database.journal.runs(limit))

    def validations(self, records: Sequence[RunRecord]) -> Mapping[int, Validation]:
        """How far these runs of one environment are validated, by their numbers; those that nobody must look at: none."""
        return validations(self._book, records, datetime.now(UTC))

    def doctor(self, on: str | None = None) -> tuple[Advice, ...]:
        """What is wrong or weak in the configuration and, with `on`, in that database."""
        from backout.project.doctor import advise

        environment = self.config.environment(on) if on is not None else None
        with ExitStack() as stack:
            if environment is not None:
                stack.enter_context(self._way_to(environment))
            return advise(self.config, environment, self.open)
