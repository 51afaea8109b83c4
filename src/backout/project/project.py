"""The project: configuration, changes and databases brought together. What the command line does, as a Python API.

    from backout import Project

    project = Project.find()
    change = project.change("close-outage-referrals")
    report = project.ghost(change, "staging")
    report = project.run(change, "staging")
    project.undo(report.identifier, "staging")

Not for: deciding anything about a run (`runs/supervise.py`) or printing anything (`cli`).
Its verbs are in `reading.py`, `running.py`, `looking.py`, `commands.py`, `sessions.py` and `keeping.py`; what they share
is in `doors.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backout.change.model import Change
from backout.project.commands import Commands
from backout.project.config_file import load_config
from backout.project.doors import Progress, silent
from backout.project.keeping import Keeping
from backout.project.sessions import Sessions

if TYPE_CHECKING:
    from backout.project.ci import CiReport
    from backout.runs.own_tests import OwnTestsReport


class Project(Sessions, Commands, Keeping):
    """A configuration and what can be done with it."""

    @classmethod
    def find(
        cls, config: Path | None = None, start: Path | None = None, *, allow_superuser: bool = False,
        key: Path | None = None,
    ) -> Project:  # fmt: skip
        """The project of this folder or one above it; without a `backout.toml`, one that knows only URLs."""
        return cls(load_config(config, start), allow_superuser=allow_superuser, key=key)

    def test(self, change: Change, *, progress: Progress = silent) -> OwnTestsReport:
        """The change's own tests (`[test]`), on a database made for them: run, asked, undone, compared."""
        from backout.project.own_tests import run_own_tests

        return run_own_tests(self.config, change, Project, progress)

    def ci(self, base: str | None = None, *, tests: bool = True, progress: Progress = silent) -> CiReport:
        """All changes that this branch adds or edits: verdicts, documents, their own tests; and none that was merged."""
        from backout.project.ci import Checks, check_branch

        test = (lambda change: self.test(change, progress=progress)) if tests else None
        checks = Checks(self.config, self.change, lambda change: self.check(change).review, test)
        return check_branch(checks, base, progress)
