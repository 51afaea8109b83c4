"""A project around one target: its backout.toml, its change files, and the claims that tests make about runs.

Not for: knowing how backout works; it is driven through `Project` alone, as a user's program would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from backout import Project
from backout.change.model import Change
from backout.engines.values import Conflict, RunRecord, RunState
from backout.errors import BackoutError, Conflicts
from backout.runs.report import RunReport
from conformance.target import Dump, Rows, Target

PROMPT = {"lock_timeout": '"300 ms"'}


def yes(_kind: str, _question: str) -> bool:
    """Answer every question with yes."""
    return True


@dataclass
class Stage:
    """One target, and the project that changes it."""

    target: Target
    folder: Path
    options: Mapping[str, str] = field(default_factory=lambda: PROMPT)  # more keys of the environment, as TOML
    undo_options: str = ""  # the [undo] section and what follows it
    changes_made: int = 0

    @property
    def project(self) -> Project:
        """Read anew from backout.toml, so that each verb begins as a new process does."""
        return Project.find(config=self.write_config())

    def write_config(self) -> Path:
        """Write backout.toml with the environment "test"."""
        path = self.folder / "backout.toml"
        lines = [f"{key} = {value}" for key, value in {**self.target.options, **self.options}.items()]
        path.write_text("\n".join([self.undo_options, "[environments.test]", *lines, ""]), encoding="utf-8")
        return path

    # -- the database ------------------------------------------------------------------------------------------------

    def make(self, statements: str) -> None:
        """Tables and rows, made by the application."""
        self.target.execute(statements)

    elsewhere = make  # what the application does meanwhile, in a session of its own

    def rows(self, query: str) -> Rows:
        """The answer to a query."""
        return self.target.rows(query)

    def dump(self) -> Dump:
        """See `Target.dump`."""
        return self.target.dump()

    def table(self, name: str) -> str:
        """A table's name as reports print it, where it needs no quotes."""
        return f"{self.target.schema}.{name}"

    # -- the verbs -----------------------------------------------------------------------------------------------------

    def change(self, statements: str, *, suffix: str = ".sql", more: str = "") -> Change:
        """A change file with these statements, read as the project reads it; `more` is metadata."""
        self.changes_made += 1
        path = self.folder / f"change-{self.changes_made}{suffix}"
        mark = "#" if suffix == ".py" else "--"
        head = [f"{mark} /// change", f'{mark} title = "A change"', *(f"{mark} {line}" for line in more.splitlines())]
        path.write_text("\n".join([*head, f"{mark} ///", statements, ""]), encoding="utf-8")
        return self.project.change(str(path))

    def run(self, statements: str, *, parameters: Mapping[str, Any] | None = None, **options: str) -> RunReport:
        """Run, for real."""
        return self.project.run(self.change(statements, **options), "test", parameters=parameters, ask=yes)

    def ghost(
        self, statements: str, *, undo: bool = False, parameters: Mapping[str, Any] | None = None, **options: str
    ) -> RunReport:
        """A ghost run."""
        change = self.change(statements, **options)
        return self.project.ghost(change, "test", undo=undo, parameters=parameters, ask=yes)

    def undo(
        self, run: RunReport | str, *, partial: bool = False, overwrite: Collection[int] = (), ghost: bool = False
    ) -> RunReport:
        """Undo a run."""
        name = run if isinstance(run, str) else run.identifier
        return self.project.undo(name, "test", partial=partial, overwrite=overwrite, ghost=ghost, ask=yes)

    def log(self) -> tuple[RunRecord, ...]:
        """The newest runs first; settles what a dead process has left."""
        return self.project.log("test")

    def journal(self) -> list[tuple[int, str, str]]:
        """(number, mode, state) of every run, the oldest first."""
        return [(one.number, one.start.mode.value, one.state.value) for one in reversed(self.log())]

    # -- the claims ----------------------------------------------------------------------------------------------------

    def proves(
        self, statements: str, *, suffix: str = ".sql", parameters: Mapping[str, Any] | None = None
    ) -> RunReport:
        """Assert that ghosts change nothing, that run and undo restore exactly, and that the undo can be undone.

        Returns the run's report.
        """
        before, triggers = self.dump(), self.target.triggers()
        ghost = self.ghost(statements, suffix=suffix, parameters=parameters)
        assert (ghost.outcome, ghost.state) == (RunState.ROLLED_BACK, "untouched")
        assert before == self.dump()
        assert "proven" == self.ghost(statements, undo=True, suffix=suffix, parameters=parameters).way_back
        assert before == self.dump()
        report = self.run(statements, suffix=suffix, parameters=parameters)
        assert report.proof is not None
        assert report.proof.complete
        after = self.dump()
        assert before != after, "the change changed nothing: this scenario shows nothing"
        undone = self.undo(report)
        assert undone.conflicts == ()
        assert before == self.dump()
        again = self.undo(undone)
        assert after == self.dump()
        self.undo(again)
        assert before == self.dump()
        assert triggers == self.target.triggers()
        return report

    def refuses(self, statements: str, **options: Any) -> BackoutError:
        """The run is refused or rolled back, and nothing is left of it; the error."""
        before = self.dump()
        error = failure(lambda: self.run(statements, **options))
        assert error.state in {"untouched", "rolled back"}
        assert before == self.dump()
        assert [] == self.target.rescue_tables()
        return error

    def conflicts(self, run: RunReport | str, **options: Any) -> list[Conflict]:
        """The conflicts that the undo meets; it writes nothing."""
        before = self.dump()
        error = failure(lambda: self.undo(run, **options))
        assert isinstance(error, Conflicts), error
        assert (error.exit_status, error.state) == (5, "untouched")
        assert before == self.dump()
        return [one for one in error.conflicts if isinstance(one, Conflict)]

    def met(
        self, run: RunReport | str, **options: Any
    ) -> list[tuple[int, str, str, dict[str, str | None], tuple[str, ...]]]:
        """The same without the rows: (number, table, kind, key, columns)."""
        return [(c.number, c.table.name, c.kind.value, dict(c.key), c.columns) for c in self.conflicts(run, **options)]


def failure(act: Callable[[], object]) -> BackoutError:
    """The error that it raises, which is ours."""
    try:
        act()
    except BackoutError as error:
        return error
    raise AssertionError("nothing was raised")


def text_of(error: BackoutError) -> list[str]:
    """The whole text that a user is shown, line by line."""
    return str(error).split("\n")


def in_background(act: Callable[[], object]) -> tuple[Thread, list[BaseException]]:
    """Start it in a thread; what it raises is in the list."""
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 -- told to the test
            raised.append(error)

    thread = Thread(target=catching)
    thread.start()
    return thread, raised


def wait_until(is_true: Callable[[], bool], *, seconds: float = 30) -> None:
    """Ask until it is true; an error after that long."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)  # polled with a deadline
