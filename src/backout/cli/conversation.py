"""Asking the person at the terminal, and telling what goes on meanwhile.

Not for: deciding what an answer means. Invariant: without a terminal nothing is asked: what no flag answers is an
error, before anything else happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING

from backout.cli.screen import console, is_terminal, plain
from backout.errors import UNTOUCHED, Interrupted, UsageError

if TYPE_CHECKING:
    from rich.status import Status

_LINE_EVERY_S = 10.0  # without a terminal: a sign of life that does not fill a log
_PATIENCE_S = 1.0  # what takes longer says what it is doing; what is shorter would only flicker


class Conversation:
    """One command's talk with its user; `ask` and `progress` are given to the project."""

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes
        self._assumed: set[str] = set()
        self._waiting = False
        self._stage = ""
        self._status: Status | None = None
        self._timer: Timer | None = None
        self._said_at = monotonic()

    def assume(self, kind: str) -> None:
        """Take yes for the answer to this kind of question, since the person has just said so."""
        self._assumed.add(kind)

    def ask(self, kind: str, question: str) -> bool:
        """Return the answer; every kind of confirmation is answered by `--yes`."""
        if self._yes or kind in self._assumed:
            return True
        if not is_terminal():
            raise UsageError(f"no answer, and nobody to ask: {question}", hint="answer it with --yes")
        try:
            return self.confirm(question)
        except KeyboardInterrupt:
            raise Interrupted("interrupted at a question: nothing had begun", state=UNTOUCHED) from None

    def confirm(self, question: str) -> bool:
        """Ask at the terminal; anything but a clear yes is a no."""
        self._pause()
        print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        self._resume()
        return answer.strip().lower() in ("y", "yes")

    def progress(self, stage: str) -> None:
        """Show what goes on, where it takes longer than a second; without a terminal as a line now and then."""
        self._stage = plain(stage)
        if self._status is not None:
            self._status.update(self._stage)
        elif not sys.stderr.isatty() and monotonic() - self._said_at >= _LINE_EVERY_S:
            self._said_at = monotonic()
            print(self._stage, file=sys.stderr, flush=True)

    @contextmanager
    def waiting(self) -> Iterator[Conversation]:
        """Show progress as long as this lasts."""
        try:
            self._waiting = True
            self._resume()
            yield self
        finally:
            self._waiting = False
            self._pause()

    def _resume(self) -> None:
        if self._waiting and sys.stderr.isatty():
            self._timer = Timer(_PATIENCE_S, self._show)
            self._timer.daemon = True
            self._timer.start()

    def _show(self) -> None:
        self._status = console(sys.stderr).status(self._stage or "working")
        self._status.start()

    def _pause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # it may be showing the status right now
        if self._status is not None:
            self._status.stop()
        self._timer = self._status = None
