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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from backout.change.bind import bind
from backout.change.model import Change
from backout.change.read import read_change
from backout.engines.protocol import Database
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
    require_room,
    require_stamp,
)
from backout.lint.model import Level, Review
from backout.lint.review import review
from backout.project.config import Config, Environment
from backout.project.config_file import load_config
from backout.project.doctor import Advice, advise
from backout.project.engine import dialect_of, open_database
from backout.project.folder import init_folder
from backout.recovery.plan import UndoPolicy
from backout.recovery.proof import Tightness
from backout.runs.changes import ChangeRun, run_change, shown_rows, table_report
from backout.runs.report import RunReport, TableReport
from backout.runs.undos import UndoRun, run_undo
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

    def __init__(self, config: Config, *, allow_superuser: bool = False) -> None:
        self.config = config
        self._allow_superuser = allow_superuser

    @classmethod
    def find(cls, config: Path | None = None, start: Path | None = None, *, allow_superuser: bool = False) -> Project:
        """The project of this folder or one above it; without a `backout.toml`, one that knows only URLs."""
        return cls(load_config(config, start), allow_superuser=allow_superuser)

    # -- before anything runs ------------------------------------------------------------------------------------------

    def change(self, name: str) -> Change:
        """A change by path, or by id among the project's changes. Raises InvalidFile or UsageError."""
        return read_change(self._path_of(name), default_dialect=self._default_dialect())

    def _path_of(self, name: str) -> Path:
        path = Path(name)
        if path.suffix or path.exists():
            return path
        for suffix in (".sql", ".py"):
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
        found = review(change)
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

    # -- runs ----------------------------------------------------------------------------------------------------------

    def ghost(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        undo: bool = False,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """All of it, then rolled back. With `undo` the way back is taken too, and the end compared with the start."""
        change = self._fitting(change, on)
        _require_readable(change)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.GHOST, parameters, rows, progress)
        with self._opened(on, Intent.GHOST, ask) as (database, _, _):
            return run_change(database, lambda: self.open(environment), replace(run, prove_way_back=undo))

    def run(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """The change, committed when all of it is captured and proven; else rolled back, with an error saying why."""
        change = self._fitting(change, on)
        _require_readable(change)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
        with self._opened(on, Intent.WRITE, ask) as (database, _, facts):
            require_room(_needed_bytes(database, change), facts)
            if not ask("run", f'run "{change.identifier}" on {environment.name} ({facts.product} {facts.database})?'):
                raise Refused("operator", "not run: you said no")
            database.lease(change.identifier, _operator())
            return run_change(database, lambda: self.open(environment), run)

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
        )  # fmt: skip

    def _policy(self) -> UndoPolicy:
        return UndoPolicy(self.config.append_only, self.config.bookkeeping, self.config.tables)

    def undo(
        self,
        run: str,
        on: str | None = None,
        *,
        partial: bool = False,
        overwrite: Collection[int] = (),
        ghost: bool = False,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """Put back what a run changed. Raises Conflicts where others changed rows since and nothing says what to do.

        `overwrite` takes the numbers of the last list of conflicts, and only while that list is still true.
        """
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.GHOST if ghost else Intent.WRITE, ask) as (database, environment, _):
            record = _found(database, number, environment)
            if not ghost and not ask("undo", f'undo "{record.identifier}" ({record.start.title})?'):
                raise Refused("operator", "not undone: you said no")
            database.lease(f"undo of {record.identifier}", _operator())
            start = replace(
                record.start, mode=Mode.UNDO, operator=_operator(), undo_of=number, keep_days=environment.keep_days
            )
            seen = _last_seen(database, number) if overwrite else None
            resolution = Resolution(partial, frozenset(overwrite), seen)
            work = UndoRun(record, resolution, start, self._policy(), progress, rows, ghost)
            return run_undo(database, lambda: self.open(environment), work)

    # -- looking and keeping -------------------------------------------------------------------------------------------

    def show(self, run: str, on: str | None = None, *, rows: int = 10) -> tuple[RunRecord, tuple[TableReport, ...]]:
        """A run as the journal has it, and its rows from the rescue tables."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = _found(database, number, environment)
            kept = record.rescue_dropped_at is None and shown_rows(str(record.report.get("data")), rows)
            tables = tuple(
                table_report(one, frozenset(), database.journal.sample(record, one, rows) if kept else ())
                for one in record.tables
            )
            return record, tables

    def log(self, on: str, *, limit: int = 20) -> tuple[RunRecord, ...]:
        """The newest runs first; runs whose process has gone are settled on the way. Without a journal: none."""
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return tuple(database.journal.runs(limit)) if _has_journal(database) else ()

    def expired(self, on: str) -> tuple[RunRecord, ...]:
        """Runs whose rescue has had its time. Without a journal: none."""
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return tuple(database.journal.expired()) if _has_journal(database) else ()

    def clean(self, on: str, runs: Sequence[int]) -> None:
        """Drop the rescue of these runs, each of which must have expired."""
        with self._opened(on, Intent.WRITE) as (database, _, _):
            expired = {record.number for record in database.journal.expired()}
            for number in runs:
                if number not in expired:
                    raise Refused("retention", f"the rescue of run {number} has not expired", hint="see `backout log`")
                database.journal.drop_rescue(number)

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


def _require_readable(change: Change) -> None:
    """No run of what `check` finds not undoable."""
    for verdict in review(change).verdicts:
        for finding in verdict.findings:
            if finding.level is Level.NOT_UNDOABLE:
                raise Refused(
                    "undoable", f"{change.path}:{finding.line}: not undoable: {finding.message}", hint=finding.hint
                )


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
        if record.start.digest == change.digest and record.start.mode is Mode.GHOST:
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
