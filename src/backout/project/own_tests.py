"""A change's own tests: a database made for them, the change run there in earnest, asked, and taken back.

Not for: what the answers mean (`runs/own_tests.py`). Invariant: no database of the project is opened, and nothing of
what is made here is left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from backout.change.model import Change, OwnTests
from backout.engines.protocol import Database
from backout.engines.throwaway import Throwaway
from backout.engines.values import Contents, TableName
from backout.errors import BackoutError, CheckAfterFailed, UsageError
from backout.gates.people import People
from backout.gates.policy import Policy
from backout.project.config import Config, Environment
from backout.recovery.plan import UndoPolicy
from backout.runs.own_tests import OwnTestsReport, Problem, judge, problem_of, problems_of, uses_pgtap
from backout.runs.report import RunReport
from backout.sql.model import Dialect
from backout.sql.read import read_script

ENVIRONMENT = "test"
_TRANSACTION = ("begin", "start", "commit", "rollback", "end")  # of a pgTAP file: it runs in a transaction of ours


Progress = Callable[[str], None]


class Runs(Protocol):
    """What a project does here: run a change, undo it, and open the database."""

    @property
    def config(self) -> Config: ...

    def run(self, change: Change, on: str, *, ask: Any, progress: Progress) -> RunReport: ...

    def undo(self, run: str, on: str, *, ask: Any, progress: Progress) -> RunReport: ...

    def open(self, environment: Environment) -> Database: ...


def run_own_tests(
    config: Config, change: Change, project_of: Callable[[Config], Runs], progress: Progress
) -> OwnTestsReport:
    """Run them. Whatever they find is in the report; raises UsageError where they cannot be run at all.

    `project_of` makes the project of a configuration.
    """
    tests = change.metadata.tests
    if change.is_private:
        raise UsageError(
            f'the tests of private change "{change.identifier}" would write it to this machine\'s disk',
            hint="let its author run them before it is submitted: backout check FILE --test",
        )
    if tests is None:
        raise UsageError(
            f'change "{change.identifier}" has no tests',
            hint='write into its metadata: [test], schema = "schema.sql", file = "test.sql"; see docs/how-to/test-a-change.md',
        )
    text = _read(change, tests.file) if tests.file else ""
    with (
        _throwaway(change, tap=uses_pgtap(text), progress=progress) as database,
        tempfile.TemporaryDirectory() as folder,
    ):
        own = project_of(_config(config, database.url, tests, Path(folder)))
        return _Trial(own, change, tests, database, progress).report(text)


@contextmanager
def _throwaway(change: Change, *, tap: bool, progress: Progress) -> Iterator[Throwaway]:
    progress("making a database for the tests")
    made = _made(change.dialect, tap=tap)
    try:
        yield made
    finally:
        made.close()


def _made(dialect: Dialect, *, tap: bool) -> Throwaway:
    if dialect is Dialect.POSTGRES:
        from backout.engines.postgres.throwaway import PostgresThrowaway

        return PostgresThrowaway(tap=tap)
    if dialect is Dialect.SQLITE:
        from backout.engines.sqlite.throwaway import SqliteThrowaway

        return SqliteThrowaway()
    raise UsageError(
        f"a throw-away database of {dialect.value} cannot be made in this version",
        hint="rehearse the change on an environment of its own: backout rehearse … --on test",
    )


def _config(config: Config, url: str, tests: OwnTests, folder: Path) -> Config:
    """The project with the one environment "test", which asks nothing of people; rules of undo and of PHI stay."""
    environment = Environment(ENVIRONMENT, url=url, parameters=tests.parameters, given_policy=Policy())
    return replace(
        config, path=None, folder=folder, environments={ENVIRONMENT: environment}, people=People(), ledger=None,
        channels={}, statements="ledger", allowed_signers=None,
    )  # fmt: skip


class _Trial:
    """One throw-away database and what is done there."""

    def __init__(self, project: Runs, change: Change, tests: OwnTests, database: Throwaway, progress: Progress) -> None:
        self._project, self._change, self._tests = project, change, tests
        self._database, self._progress = database, progress

    def report(self, text: str) -> OwnTestsReport:
        """Load, run, ask, undo, compare. The first of these that fails ends it."""
        found = OwnTestsReport(self._change.identifier, self._product())
        try:
            for name in (self._tests.schema, self._tests.seed):
                if name is not None:
                    self._progress(f"loading {name}")
                    self._database.load(_read(self._change, name), str(self._change.path.parent / name))
                    found = replace(found, loaded=(*found.loaded, name))
            start = self._contents()
            found = replace(found, run=self._run())
            found = self._asked(found, text)
            assert found.run is not None
            undo = self._project.undo(found.run.identifier, ENVIRONMENT, ask=_yes, progress=self._progress)
            return self._compared(replace(found, undo=undo), start, self._contents())
        except BackoutError as error:
            ran = error.report if isinstance(error.report, RunReport) and found.run is None else found.run
            problem = problem_of(error, str(self._change.path))
            if isinstance(error, CheckAfterFailed):
                problem = replace(problem, hint="the check is asked of the throw-away database, after the commit")
            return replace(found, run=ran, problems=(*found.problems, problem))

    def _run(self) -> RunReport:
        return self._project.run(self._change, ENVIRONMENT, ask=_yes, progress=self._progress)

    def _asked(self, found: OwnTestsReport, text: str) -> OwnTestsReport:
        """The test file's verdicts. A test that fails does not keep the undo from being tried."""
        if self._tests.file is None:
            return found
        self._progress("asking the tests")
        file = str(self._change.path.parent / self._tests.file)
        statements = [
            one for one in read_script(self._change.dialect, text, (), file).statements
            if one.text.split(None, 1)[0].lower() not in _TRANSACTION
        ]  # fmt: skip
        answers = self._database.ask([one.text for one in statements], tap=uses_pgtap(text))
        checks = judge(statements, answers)
        problems = problems_of(checks, file)
        if not checks:
            problems = (Problem("the test file asks nothing", file, hint="write queries whose single value is true"),)
        return replace(found, checks=checks, problems=(*found.problems, *problems))

    def _compared(
        self, found: OwnTestsReport, start: Mapping[TableName, Contents], end: Mapping[TableName, Contents]
    ) -> OwnTestsReport:
        different = sorted(str(name) for name in {*start, *end} if start.get(name) != end.get(name))
        if different:
            message = f"after the undo these tables are not as they were: {', '.join(different)}"
            hint = "look at triggers, and at append_only tables, which an undo leaves alone"
            problem = Problem(message, str(self._change.path), hint=hint)
            return replace(found, problems=(*found.problems, problem))
        return replace(found, compared={str(name): one.rows for name, one in end.items()})

    def _contents(self) -> Mapping[TableName, Contents]:
        """Every table row by row, but the append-only ones."""
        policy = UndoPolicy(self._project.config.append_only)
        database = self._project.open(self._project.config.environment(ENVIRONMENT))
        try:
            names = [name for name in database.contents(()) if not policy.is_append_only(name)]
            found = database.contents(names)
            return {name: found[name] for name in names}
        finally:
            database.close()

    def _product(self) -> str:
        database = self._project.open(self._project.config.environment(ENVIRONMENT))
        try:
            facts = database.facts()
            return f"{facts.product} {facts.version}"
        finally:
            database.close()


def _read(change: Change, name: str) -> str:
    path = change.path.parent / name
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        hint = f"it is named in [test] of {change.path}; paths there are relative to the change"
        raise UsageError(f'unable to read "{path}": {reason}', hint=hint) from None
    except UnicodeDecodeError:
        raise UsageError(f'"{path}" is not UTF-8', hint="save the file as UTF-8") from None


def _yes(_kind: str, _question: str) -> bool:
    return True
