"""The project: configuration, changes and databases brought together. What the command line does, as a Python API.

    from backout import Project

    project = Project.find()
    change = project.change("close-outage-referrals")
    report = project.ghost(change, "staging")
    report = project.run(change, "staging")
    project.undo(report.identifier, "staging")

Not for: deciding anything about a run (`runs/supervise.py`) or printing anything (`cli`).
Invariant: every way to a database passes `_opened`, and with it the gates.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from backout.change.bind import bind
from backout.change.model import COMMENTS, Change, DataClass
from backout.change.read import read_change
from backout.change.subset import subset_of
from backout.engines.batches import Batched, Wanted, in_batches
from backout.engines.protocol import Database, Transaction
from backout.engines.values import (
    JournalState,
    Mode,
    Resolution,
    RunRecord,
    RunStart,
    ServerFacts,
    Settings,
    TableFacts,
)
from backout.errors import Refused, UsageError
from backout.gates.judge import (
    Stamp,
    require_journal,
    require_ordinary_role,
    require_primary,
    require_private,
    require_room,
    require_stamp,
)
from backout.gates.policy import Policy
from backout.gates.verdicts import GATES_OF_UNDO
from backout.integrations.deliver import deliver
from backout.lint.model import Level, Review
from backout.lint.private_literal import require_no_private_literals
from backout.lint.review import review
from backout.project.advice import Advice
from backout.project.announcements import Announced, Herald, of_change, of_cleanup, of_emergency, require_channels, told
from backout.project.audit import Audit, audit
from backout.project.backups import Backups, find_backup, require_replaceable, store_of
from backout.project.batches import limits_of, require_resumable, require_same, tell
from backout.project.book import Book
from backout.project.certificates import certificate_of_ghost
from backout.project.ci import Checks, CiReport, check_branch
from backout.project.config import Config, Environment
from backout.project.config_file import load_config
from backout.project.doctor import advise
from backout.project.dossier import Dossier, Sources, dossier_of
from backout.project.engine import dialect_of, open_database
from backout.project.folder import init_folder
from backout.project.own_tests import run_own_tests
from backout.project.permission import Gatekeeper, Place, Wish, operator_asking
from backout.project.permit import Permit
from backout.project.retention import require_expired, require_kept
from backout.project.statements import Spoken, Statements
from backout.project.status import Status, status_of
from backout.project.subject import Subject, subject_of, subject_of_run
from backout.recovery.backups.model import Backup
from backout.recovery.backups.model import as_json as backup_as_json
from backout.recovery.plan import UndoPolicy
from backout.recovery.proof import Tightness
from backout.runs.as_json import PROVEN
from backout.runs.changes import ChangeRun, table_report
from backout.runs.either import run_as_written, undo_as_run
from backout.runs.masking import masked_review, shown_rows
from backout.runs.own_tests import OwnTestsReport
from backout.runs.rehearsal import Pause, Rehearsal, nobody_looks, rehearse
from backout.runs.report import RunReport, TableReport
from backout.runs.supervise import undisturbed
from backout.runs.undos import UndoRun
from backout.sql.model import Dialect

#: Answers a question: (kind, text). Kinds: "create_journal", "run", "undo". False means no.
Ask = Callable[[str, str], bool]
Progress = Callable[[str], None]


def refuse_to_answer(_kind: str, question: str) -> bool:
    """The library's own answer: whoever calls says yes in code."""
    raise UsageError(f"a question needs an answer: {question}", hint="pass `ask=lambda kind, question: True`, or --yes")


def silent(_stage: str) -> None:
    """Show no progress."""


class Intent(Enum):
    """What a database is opened for."""

    LOOK = "look"
    GHOST = "ghost"
    WRITE = "write"

    @property
    def writes(self) -> bool:
        """A ghost run writes too, and rolls back."""
        return self is not Intent.LOOK


@dataclass(frozen=True)
class CheckReport:
    """What is known of a change before anything runs; `tables` where an environment was asked."""

    review: Review
    tables: tuple[TableFacts, ...] = ()
    missing_tables: tuple[str, ...] = ()


class Project:
    """A configuration and what can be done with it."""

    def __init__(self, config: Config, *, allow_superuser: bool = False, key: Path | None = None) -> None:
        """`key` is the SSH key that statements are signed with; None: the one that git or the agent has."""
        self.config = config
        self._allow_superuser = allow_superuser
        self._key = key
        self._book = Book(config)

    @classmethod
    def find(
        cls, config: Path | None = None, start: Path | None = None, *, allow_superuser: bool = False,
        key: Path | None = None,
    ) -> Project:  # fmt: skip
        """The project of this folder or one above it; without a `backout.toml`, one that knows only URLs."""
        return cls(load_config(config, start), allow_superuser=allow_superuser, key=key)

    @property
    def statements(self) -> Statements:
        """What people say: submit, approve, object, claim, …"""
        return Statements(self._book, self._key)

    # -- before anything runs ------------------------------------------------------------------------------------------

    def change(self, name: str) -> Change:
        """A change by path, or by id among the project's changes. Raises InvalidFile or UsageError."""
        return read_change(self._path_of(name), default_dialect=self._default_dialect())

    def _path_of(self, name: str) -> Path:
        path = Path(name)
        if path.suffix or path.exists():
            return path
        for suffix in COMMENTS:
            candidate = self.config.changes / f"{name}{suffix}"
            if candidate.exists():
                return candidate
        raise UsageError(
            f'no change "{name}": there is no such file, nor one in "{self.config.changes}"',
            hint=f'write it: backout new "{name}"',
        )

    def _default_dialect(self) -> Dialect:
        dialects = {dialect_of(one.url) for one in self.config.environments.values() if one.url}
        return dialects.pop() if len(dialects) == 1 else Dialect.POSTGRES

    def check(self, change: Change, on: str | None = None) -> CheckReport:
        """The verdict on each statement; with `on` also what the catalogue says of the tables."""
        require_no_private_literals(change, self.config.phi)
        found = masked_review(review(change))
        if on is None:
            return CheckReport(found)
        names = sorted(
            {name for step in change.steps for name in step.statement.tables}, key=lambda n: (n[0] or "", n[1])
        )
        with self._opened(on, Intent.LOOK) as (database, _, _):
            facts = [(schema, name, database.table_facts(schema, name)) for schema, name in names]
        present = tuple(fact for _, _, fact in facts if fact is not None)
        missing = tuple(f"{schema}.{name}" if schema else name for schema, name, fact in facts if fact is None)
        return CheckReport(found, present, missing)

    def test(self, change: Change, *, progress: Progress = silent) -> OwnTestsReport:
        """The change's own tests (`[test]`), on a database made for them: run, asked, undone, compared."""
        return run_own_tests(self.config, change, Project, progress)

    def ci(self, base: str | None = None, *, tests: bool = True, progress: Progress = silent) -> CiReport:
        """All changes that this branch adds or edits: verdicts, documents, their own tests; and none that was merged."""
        test = (lambda change: self.test(change, progress=progress)) if tests else None
        checks = Checks(self.config, self.change, lambda change: self.check(change).review, test)
        return check_branch(checks, base, progress)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def ghost(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        undo: bool = False,
        subset: str | None = None,
        rows: int = 10,
        reveal: bool = False,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """All of it, then rolled back. With `undo` the way back is taken too, and the end compared with the start.

        `reveal` shows rows that are PHI as they are; the run's record says so. Else they are masked.
        `subset` ("50 rows", "id <= 100") limits the statements that declare `@subset` to some values of its key.
        """
        change = self._fitting(change, on)
        _require_readable(change, self.config)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.GHOST, parameters, rows, progress)
        run = replace(run, subset=subset_of(change, subset) if subset is not None else None)
        with self._opened(on, Intent.GHOST, ask) as (database, _, facts):
            _require_private(change.metadata.data.value, facts)
            run = replace(run, prove_way_back=undo, reveal=reveal)
            report = run_as_written(database, lambda: self.open(environment), run)
            is_proof = report.way_back == PROVEN and report.subset is None  # of a subset it says nothing of the whole
            if is_proof and self._policy_of(environment).accept_ghost_undo:
                self.statements.certify(change, certificate_of_ghost(database, report, _operator()))
            return report

    def run(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        subset: str | None = None,
        rows: int = 10,
        reveal: bool = False,
        emergency: str | None = None,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """The change, committed when all of it is captured and proven; else rolled back, with an error saying why.

        `emergency` is why it cannot wait for people: the policy names who may say that, and it owes a review.
        """
        change = self._as_written(self._fitting(change, on), on)
        _require_readable(change, self.config)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
        run = replace(run, subset=subset_of(change, subset) if subset is not None else None)
        with (
            self._opened(on, Intent.WRITE, ask) as (database, _, facts),
            self._permitted(database, environment, facts, change, run.values, emergency) as permit,
        ):
            _require_private(change.metadata.data.value, facts)
            require_room(_needed_bytes(database, change), facts)
            if not ask("run", f'run "{change.identifier}" on {environment.name} ({facts.product} {facts.database})?'):
                raise Refused("operator", "not run: you said no")
            permit.claim()
            database.lease(change.identifier, _operator())
            progress("looking for the backup")
            backup = self._backups(environment).required(
                _operator(), private=change.metadata.data is DataClass.PHI, of_any_age=emergency is not None
            )
            start = replace(run.start, authority=permit.authority)
            run = replace(run, start=start, backup=backup_as_json(backup) if backup else None, reveal=reveal)
            herald = self._herald(environment, subject_of(change, self.config))
            with herald.crying(of_emergency(change, environment.name, _operator()) if emergency else None):
                report = permit.ended(run_as_written(database, lambda: self.open(environment), run))
            return herald.done(report, _operator())

    def rehearse(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        reapply: bool = False,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        pause: Pause = nobody_looks,
        progress: Progress = silent,
    ) -> Rehearsal:
        """The whole way there and back, compared; put back at the end, or with `reapply` applied once more."""
        change = self._as_written(self._fitting(change, on), on)
        _require_readable(change, self.config)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
        with (
            self._opened(on, Intent.WRITE, ask) as (database, _, facts),
            self._permitted(database, environment, facts, change, run.values, None) as permit,
        ):
            _require_private(change.metadata.data.value, facts)
            require_room(_needed_bytes(database, change), facts)
            if not ask("rehearse", f'rehearse "{change.identifier}" on {environment.name} ({facts.database})?'):
                raise Refused("operator", "not rehearsed: you said no")
            permit.claim()
            database.lease(f"rehearsal of {change.identifier}", _operator())
            progress("looking for the backup")
            backup = self._backups(environment).required(_operator(), private=change.metadata.data is DataClass.PHI)
            start = replace(run.start, authority=permit.authority)
            run = replace(run, start=start, backup=backup_as_json(backup) if backup else None)
            rehearsal = rehearse(database, lambda: self.open(environment), run, reapply=reapply, pause=pause)
            permit.ended(rehearsal.run)
            if rehearsal.certificate is not None and self._certifies(environment):
                self.statements.certify(change, rehearsal.certificate)
            return rehearsal

    def _as_written(self, change: Change, on: str) -> Change:
        """The change read anew from its file, where people approve texts: whoever calls may have made another value."""
        if not self._policy_of(self.config.environment(on)).needs_people:
            return change
        written = read_change(change.path, default_dialect=change.dialect)
        if written.digest != change.digest:
            raise Refused(
                "digest", f'"{change.path}" is not what it was when it was read', hint="read it again, and run that"
            )
        return written

    def _policy_of(self, environment: Environment) -> Policy:
        """What this environment asks of people, by whatever URL it is reached: its stamp must be its name."""
        return self.config.policy_for(environment.name)

    def _certifies(self, environment: Environment) -> bool:
        """Whether a certificate of this environment is of use to another one, or to this one."""
        return any(
            environment.name in one.policy.after or (one.policy.accept_ghost_undo and one.name == environment.name)
            for one in self.config.environments.values()
        )

    @contextmanager
    def _permitted(
        self, database: Database, environment: Environment, facts: ServerFacts, change: Change,
        values: Mapping[str, Any], emergency: str | None,
    ) -> Iterator[Permit]:  # fmt: skip
        """The gates that are about people, and what the ledger keeps of the run; see `project/permission.py`."""
        place = self._place(database, environment, facts)
        with_people = place.policy.needs_people
        subject = subject_of(change, self.config, values) if with_people else Subject(change.identifier, change.digest)
        with Gatekeeper(self._book, self._key).permitted(place, Wish(subject, emergency)) as permit:
            yield permit

    def _place(self, database: Database, environment: Environment, facts: ServerFacts) -> Place:
        return Place(database, environment.name, facts, self._policy_of(environment), database.settings.url)

    def _fitting(self, change: Change, on: str) -> Change:
        """The change read in the language of the database that it is to run on."""
        dialect = dialect_of(self.config.environment(on).resolved_url())
        if change.dialect is dialect:
            return change
        if change.metadata.dialect is not None:
            raise UsageError(
                f'change "{change.identifier}" is written for {change.dialect.value}, and "{on}" is {dialect.value}',
                hint="take out `dialect` of its metadata if its statements fit both",
            )
        return read_change(change.path, default_dialect=dialect)

    def _change_run(
        self, change: Change, environment: Environment, mode: Mode, parameters: Mapping[str, Any] | None, rows: int,
        progress: Progress,
    ) -> ChangeRun:  # fmt: skip
        known = {name: value for name, value in environment.parameters.items() if name in change.metadata.declarations}
        values = bind(change, {**known, **(parameters or {})}, environment.name)
        start = RunStart(
            change.identifier, change.digest, change.metadata.title, mode, environment.name, _operator(),
            keep_days=environment.keep_days,
        )  # fmt: skip
        return ChangeRun(
            change, values, mode, start, self._policy(), progress, rows,
            Tightness[environment.min_proof.upper()], snapshot=environment.isolation == "repeatable read",
            limits=limits_of(environment),
            serve=self._serve if change.language == "program" else None,
        )  # fmt: skip

    def _serve(self, change: Change, transaction: Transaction, mode: Mode) -> tuple[str, ...]:
        """Let the change's own program do it, through the endpoint, in the project's folder."""
        from backout.endpoint.serve import Command, serve

        command = Command(change.metadata.run, self.config.folder)
        return serve(change, transaction, mode, command)

    def _policy(self) -> UndoPolicy:
        return UndoPolicy(self.config.append_only, self.config.bookkeeping, self.config.tables)

    def undo(
        self,
        run: str,
        on: str | None = None,
        *,
        partial: bool = False,
        overwrite: Collection[int] = (),
        batch: int | None = None,
        ghost: bool = False,
        rows: int = 10,
        emergency: str | None = None,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """Put back what a run changed. Raises Conflicts where others changed rows since and nothing says what to do.

        `overwrite` takes the numbers of the last list of conflicts, and only while that list is still true. `batch` is
        the one batch to put back, of a run in batches.
        """
        on, number = self._run_named(run, on)
        with (
            self._opened(on, Intent.GHOST if ghost else Intent.WRITE, ask) as (database, environment, facts),
            ExitStack() as stack,
        ):
            record = _found(database, number, environment)
            _require_private(str(record.report.get("data")), facts)
            permit = Permit()
            if not ghost:
                wants_more = bool(overwrite) or record.start.mode is Mode.UNDO
                wish = Wish(
                    subject_of_run(record, self.config), emergency, record.identifier if wants_more else None,
                    GATES_OF_UNDO,
                )  # fmt: skip
                place = self._place(database, environment, facts)
                permit = stack.enter_context(Gatekeeper(self._book, self._key).permitted(place, wish))
            if not ghost and not ask("undo", f'undo "{record.identifier}" ({record.start.title})?'):
                raise Refused("operator", "not undone: you said no")
            permit.claim()
            database.lease(f"undo of {record.identifier}", _operator())
            start = replace(
                record.start, mode=Mode.UNDO, operator=_operator(), undo_of=number, keep_days=environment.keep_days,
                authority=permit.authority,
            )  # fmt: skip
            seen = _last_seen(database, number) if overwrite else None
            resolution = Resolution(partial, frozenset(overwrite), seen)
            work = UndoRun(record, resolution, start, self._policy(), progress, rows, ghost)
            report = permit.ended(undo_as_run(database, lambda: self.open(environment), work, batch))
            if ghost:
                return report
            return self._herald(environment, subject_of_run(record, self.config)).done(report, _operator())

    def resume(
        self,
        run: str,
        on: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """Go on with a run in batches, behind the last one that is committed; the change must be what it was."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE, ask) as (database, environment, facts):
            record = _found(database, number, environment)
            batched = require_resumable(database, record)
            change = self._as_written(self._fitting(self.change(record.start.change), on), on)
            going = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
            require_same(record, going, batched)
            _require_private(change.metadata.data.value, facts)
            with self._permitted(database, environment, facts, change, going.values, None) as permit:
                if not ask("resume", f'resume "{record.identifier}" ({record.start.title})?'):
                    raise Refused("operator", "not resumed: you said no")
                permit.claim()
                database.lease(f"resumed {record.identifier}", _operator())
                start = replace(record.start, authority=permit.authority)
                going = replace(going, start=start)
                report = permit.ended(run_as_written(database, lambda: self.open(environment), going, resume=number))
            return self._herald(environment, subject_of(change, self.config)).done(report, _operator())

    def batched(self, run: str, on: str | None = None) -> tuple[RunRecord, Batched | None]:
        """A run, and how far its batches are; None: it was one transaction."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = _found(database, number, environment)
            return record, in_batches(database).batch_journal.batched(number) if database.capabilities.batches else None

    def pause(self, run: str, on: str | None = None) -> str:
        """Have a run in batches end after the batch at hand; it can be resumed. Returns what that means, in words."""
        return self._tell(run, on, Wanted.PAUSE)

    def cancel(self, run: str, on: str | None = None) -> str:
        """Have a run in batches end after the batch at hand, for good. Returns what that means, in words."""
        return self._tell(run, on, Wanted.CANCEL)

    def _tell(self, run: str, on: str | None, wanted: Wanted) -> str:
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            return tell(database, _found(database, number, environment), wanted)

    # -- people --------------------------------------------------------------------------------------------------------

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
            return status_of(evidence, place.policy, verdicts)

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
            record = _found(database, number, environment)
            return record.identifier, environment.name, subject_of_run(record, self.config)

    def audit(self, on: str | None = None, *, signatures: bool = True) -> Audit:
        """Recompute the whole ledger; with `on` also hold it against that database's journal."""
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
            record = _found(database, number, environment)
            kept, data = record.rescue_dropped_at is None and rows, str(record.report.get("data"))
            if reveal and data == DataClass.PHI.value:
                self.statements.reveal(record.identifier, subject_of_run(record, self.config), environment.name)
            tables = tuple(
                table_report(
                    one,
                    frozenset(),
                    shown_rows(data, database.journal.sample(record, one, rows) if kept else (), reveal=reveal),
                )
                for one in record.tables
            )
            return record, tables

    def dossier(self, change: Change, on: Sequence[str] = (), *, rows: int = 10) -> Dossier:
        """All that is known of a change, for its pull request or ticket; `on` names environments, else it is all of them."""
        sources = Sources(
            self.config, self._book, lambda name: self._opened(name, Intent.LOOK),
            lambda name: self.status(change, name),
        )  # fmt: skip
        return dossier_of(change, on, sources, rows=rows, now=datetime.now(UTC), person=_operator())

    def log(self, on: str, *, limit: int = 20, progress: Progress = silent) -> tuple[RunRecord, ...]:
        """The newest runs first; runs whose process has gone are settled on the way. Without a journal: none.

        What could not be taken away yet of runs that have ended is told to `progress`.
        """
        with self._opened(on, Intent.LOOK) as (database, _, _):
            if not _has_journal(database):
                return ()
            for left in database.journal.left_behind():
                progress(left)
            return tuple(database.journal.runs(limit))

    def expired(self, on: str) -> tuple[RunRecord, ...]:
        """Runs whose rescue has had its time. Without a journal: none."""
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return tuple(database.journal.expired()) if _has_journal(database) else ()

    def clean(self, on: str, runs: Sequence[int], backups: Sequence[str] = ()) -> tuple[str, ...]:
        """Tell people, then drop the rescue of these runs and these backups, each of which must have expired.

        Returns notes. Refused, with nothing dropped, for one that has not, and where nobody at all could be told.
        """
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            keep = self._backups(environment)
            due = {one.identifier: one for one in keep.expired()} if backups else {}
            records = {one.number: one for one in database.journal.expired()} if runs else {}
            require_expired(runs, records, backups, due)
            names = [records[number].identifier for number in runs]
            message = of_cleanup(environment.name, names, backups, _operator())
            notes = self._herald(environment, Subject("cleanup", "")).before_cleanup(message)
            for number in runs:
                database.journal.drop_rescue(number)
            for identifier in backups:
                keep.delete(due[identifier])
            return notes

    def expired_backups(self, on: str) -> tuple[Backup, ...]:
        """Backups that have had their time, by the database's clock."""
        with self._opened(on, Intent.LOOK) as (_, environment, _):
            return self._backups(environment).expired()

    def retain(self, run: str, until: datetime, why: str, on: str | None = None) -> tuple[RunRecord, Backup | None]:
        """Keep the rescue of a run until then, and the backup that preceded it; why is in the ledger.

        Refused for a time that is not later than what is kept anyway, and where there is nothing left to keep.
        """
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            record = _found(database, number, environment)
            require_kept(record, until, database.clock())
            self.statements.retain(record.identifier, subject_of_run(record, self.config), environment.name, until, why)
            database.journal.retain(number, until)
            backup = record.report.get("backup") or {}
            kept = self._backups(environment).retain(str(backup.get("id")), until)
            return _found(database, number, environment), kept

    # -- telling people ------------------------------------------------------------------------------------------------

    def announce(self, change: Change, on: str) -> Announced:
        """Tell those whom the policy names that the change is to run; the receipt is in the ledger.

        A channel counts as told when at least one of its recipients has it; nobody reached at all is no announcement.
        """
        change = self._fitting(change, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            policy = self._policy_of(environment)
            channels = require_channels(self.config, policy, environment.name)
            at = database.clock()
            earliest = at + policy.announce.before if policy.announce else None
            receipts = deliver(of_change(change, environment.name, _operator(), earliest), channels)
            names = told(receipts)
            if names:
                self.statements.announced(change, environment.name, names, at, [one.as_json() for one in receipts])
            return Announced(receipts, names, at, earliest if names else None, bool(names))

    def _herald(self, environment: Environment, subject: Subject) -> Herald:
        return Herald(self.config, self._policy_of(environment), self.statements, environment.name, subject)

    # -- backups -------------------------------------------------------------------------------------------------------

    def backup(self, on: str, *, progress: Progress = silent) -> Backup:
        """Make a backup by the environment's provider, and record it. Refused, with the database as it was, otherwise."""
        with self._opened(on, Intent.LOOK) as (_, environment, _):
            progress("making the backup")
            return self._backups(environment).take(_operator())

    def backups(self, on: str) -> tuple[Backup, ...]:
        """The recorded backups of an environment, the newest first; dropped ones too. Asks no database."""
        environment = self.config.environment(on)
        return store_of(self.config, environment).all(environment.name)

    def restore(
        self,
        backup: str,
        to: str,
        *,
        identity: Path | None = None,
        replace_all: bool = False,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> tuple[Backup, str | None]:
        """Make the database of environment `to` what it was when that backup was made; with a note, if there is one.

        A database that has a journal keeps it; see `engines.dump.Arrival`. Refused into a production database unless its
        policy says otherwise, and over tables unless `replace_all`.
        """
        found = find_backup(self.config, backup)
        with self._opened(to, Intent.LOOK) as (database, environment, facts):
            stamp = database.journal.stamp()[0] if _has_journal(database) else None
            require_replaceable(stamp, environment, environment.policy)
            require_primary(facts, environment.name)
            if not ask("restore", f'replace what is in "{environment.name}" ({facts.database}) by {found.identifier}?'):
                raise Refused("operator", "not restored: you said no")
            database.lease(f"restore of {found.identifier}", _operator())
            progress("restoring")
            return found, self._backups(environment, identity).restore(found, replace_all=replace_all)

    def _backups(self, environment: Environment, identity: Path | None = None) -> Backups:
        return Backups(self.config, environment, self.config.settings(environment), identity)

    def doctor(self, on: str | None = None) -> tuple[Advice, ...]:
        """What is wrong or weak in the configuration and, with `on`, in that database."""
        environment = self.config.environment(on) if on is not None else None
        return advise(self.config, environment, self.open)

    # -- setting up ----------------------------------------------------------------------------------------------------

    def init_folder(self, folder: Path) -> tuple[Path, ...]:
        """Write `backout.toml` and `changes/`; what is there already stays. Returns what was written."""
        return init_folder(folder)

    def init_journal(self, on: str, *, restamp: bool = False, dry_run: bool = False) -> tuple[str, ...]:
        """Make the journal, or with `restamp` tell a restored or cloned database which environment it is now."""
        environment = self.config.environment(on)
        database = self.open(environment)
        try:
            require_primary(database.facts(), environment.name)
            require_ordinary_role(database.facts(), database.settings)
            state = database.journal.state()
            require_journal(state)
            if state is JournalState.PRESENT:
                if not restamp:
                    return (f'the journal is there, stamped "{database.journal.stamp()[0]}"',)
                if not dry_run:
                    database.journal.restamp()
                return (f'stamped "{environment.name}"',)
            _require_rights(database)
            if not dry_run:
                database.journal.create()
            return (f'made the journal, stamped "{environment.name}"',)
        finally:
            database.close()

    # -- opening -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(
        self, on: str, intent: Intent, ask: Ask = refuse_to_answer
    ) -> Iterator[tuple[Database, Environment, ServerFacts]]:
        """The database behind its gates; closed at the end, whatever happens."""
        environment = self.config.environment(on)
        database = self.open(environment)
        try:
            facts = database.facts()
            if intent.writes:
                require_primary(facts, environment.name)
                require_ordinary_role(facts, database.settings)
            self._require_journal(database, environment, facts, intent, ask)
            yield database, environment, facts
        finally:
            # The work has ended: who says stop now comes too late, and must not be told that nothing was changed.
            with suppress(KeyboardInterrupt), undisturbed():
                database.close()

    def open(self, environment: Environment) -> Database:
        """Connect, past no gate: for `doctor` and for settling a run whose answer was lost."""
        settings: Settings = self.config.settings(environment)
        return open_database(replace(settings, superuser_allowed=settings.superuser_allowed or self._allow_superuser))

    def _require_journal(
        self, database: Database, environment: Environment, facts: ServerFacts, intent: Intent, ask: Ask
    ) -> None:
        state = database.journal.state()
        require_journal(state)
        if state is JournalState.ABSENT:
            if not intent.writes:
                return
            _require_rights(database)
            if not ask(
                "create_journal", f'make the journal (schema "backout") in {facts.database} as "{environment.name}"?'
            ):
                raise Refused(
                    "journal", "there is no journal in this database", hint=f"backout init --on {environment.name}"
                )
            database.journal.create()
            facts = database.facts()  # an engine without an identity of its own has one from now on
        stamp = Stamp(*database.journal.stamp())
        require_stamp(stamp, facts, database.settings)
        if intent.writes or facts.is_primary:
            database.journal.settle()

    def _run_named(self, run: str, on: str | None) -> tuple[str, int]:
        """`41` with an environment, or `production-41`."""
        name, _, number = run.rpartition("-")
        if not number.isdigit():
            raise UsageError(
                f'"{run}" is not a run', hint="name it by number, like 41 or production-41; see `backout log`"
            )
        if on is None and not name:
            raise UsageError(f'on which environment is run "{run}"?', hint=f"add --on ENV, or write ENV-{number}")
        return on or name, int(number)


def _require_readable(change: Change, config: Config) -> None:
    """No run of what `check` finds not undoable, nor of what it would put PHI into texts that people keep."""
    require_no_private_literals(change, config.phi)
    for verdict in review(change).verdicts:
        for finding in verdict.findings:
            if finding.level is Level.NOT_UNDOABLE:
                raise Refused(
                    "undoable", f"{change.path}:{finding.line}: not undoable: {finding.message}", hint=finding.hint
                )


def _require_private(data: str, facts: ServerFacts) -> None:
    """PHI may be kept where nothing would carry it elsewhere."""
    if data == DataClass.PHI.value:
        require_private(facts)


def _require_rights(database: Database) -> None:
    missing = database.journal.missing_rights()
    if missing:
        raise Refused(
            "rights", "the journal cannot be made: rights are missing",
            hint="let an administrator run:\n  " + "\n  ".join(missing),
        )  # fmt: skip


def _has_journal(database: Database) -> bool:
    return database.journal.state() is JournalState.PRESENT


def _found(database: Database, number: int, environment: Environment) -> RunRecord:
    record = database.journal.run(number) if _has_journal(database) else None
    if record is None:
        raise UsageError(
            f'there is no run {number} on "{environment.name}"', hint=f"list them: backout log --on {environment.name}"
        )
    return record


def _needed_bytes(database: Database, change: Change) -> int:
    """What the last ghost run of this very change took; 0 where there was none."""
    for record in database.journal.runs(100):
        is_whole = record.start.mode is Mode.GHOST and not record.report.get("subset")
        if record.start.digest == change.digest and is_whole:
            rescue, log = record.report.get("rescue_bytes"), record.report.get("log_bytes")
            return int(rescue or 0) + int(log or 0)
    return 0


def _last_seen(database: Database, number: int) -> str | None:
    """The fingerprint of the conflicts that the last undo of this run listed."""
    for record in database.journal.runs(1000):
        if record.start.undo_of == number and record.report.get("conflicts_seen"):
            return str(record.report["conflicts_seen"])
    return None


def _operator() -> str:
    return getpass.getuser()
