"""A command that the operator types, in place of the change's own: captured, proven and undone like it.

Not for: what a program may do (`endpoint`). Invariant: no environment where people approve what runs commits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from backout.change.model import Change
from backout.engines.protocol import Transaction
from backout.engines.values import Mode
from backout.project.doors import Ask, Progress, refuse_to_answer, silent
from backout.project.programs import command_of, done_by, require_nobody_approves
from backout.project.running import Running
from backout.runs.recorder import Serve, Served
from backout.runs.report import RunReport


class Commands(Running):
    """What runs a command."""

    def endpoint(
        self, change: Change, on: str, words: Sequence[str], *, ghost: bool = False, rows: int = 10, reveal: bool = False,
        again: str | None = None, ask: Ask = refuse_to_answer, progress: Progress = silent,
    ) -> RunReport:  # fmt: skip
        """Let a command do the change, through the endpoint; with `ghost` it is rolled back.

        The run's digest is of the change and the command. The change's own command is run as `run` and `ghost` do.
        """
        run = partial(self.ghost, ask=ask) if ghost else partial(self.run, again=again, ask=ask)
        if tuple(words) == change.metadata.run:
            return run(change, on, rows=rows, reveal=reveal, progress=progress)
        done = done_by(change, words)
        if not ghost:
            require_nobody_approves(self._policy_of(self.config.environment(on)), on)
        return run(done, on, rows=rows, reveal=reveal, serve=self._typed(done, on), progress=progress)

    def _typed(self, change: Change, on: str) -> Serve:
        from backout.endpoint.serve import serve

        command = replace(command_of(change, self.config.environment(on), self.config.folder), typed=True)

        def typed(change: Change, transaction: Transaction, mode: Mode, number: int) -> Served:
            return serve(change, transaction, mode, number, command)

        return typed
