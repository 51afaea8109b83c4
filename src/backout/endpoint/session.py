"""A person at a prompt as the work of a run: psql through the endpoint, or the built-in prompt.

Not for: who must agree to it (`project/waiting.py`). Invariant: a prompt that is ended by anything but the person's own
goodbye never leads to a commit.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from backout.endpoint import child
from backout.endpoint.limits import Limits, exceeded
from backout.endpoint.prompt import Terminal, converse
from backout.endpoint.serve import USER, lending, variables
from backout.endpoint.server import Endpoint
from backout.endpoint.simple import Look
from backout.endpoint.statements import DIFF
from backout.engines.protocol import Lends, Transaction
from backout.engines.values import Mode
from backout.errors import RolledBack
from backout.runs.recorder import Served

_LOOK_S = 0.2
PSQL = "psql"


@dataclass(frozen=True)
class Prompt:
    """How a person is talked to; `psql` runs where there is one, and a terminal that it can have."""

    environment: str
    role: str
    folder: Path
    terminal: Terminal
    psql: bool
    limits: Limits = field(default_factory=Limits)
    keeps_history: bool = True  # False: what is typed may hold PHI


def has_psql() -> bool:
    """Whether it is installed."""
    return shutil.which(PSQL) is not None


def serve_session(
    transaction: Transaction, run: int, prompt: Prompt, ended: Callable[[], str | None], look: Look
) -> Served:
    """Let the person work. Raises RolledBack; `ended` says why the session has to end, None while it need not.

    `look` says what was changed so far, and shows it to whoever watches.
    """
    lends = lending(transaction)
    with lends.lend() as loan:
        endpoint = Endpoint(loan, user=USER, keep=lambda lines: lends.transcribe(run, lines), look=look)
        watch = _Watch(endpoint, prompt.limits, ended)
        with endpoint:
            try:
                if prompt.psql:
                    _psql(endpoint, prompt, watch, lends)
                else:
                    head = f"{prompt.environment} {prompt.role}"
                    converse(endpoint, prompt.terminal, head, watch.trouble)
            finally:
                endpoint.close()
                endpoint.transcript.flush()
    if endpoint.record.problems:
        raise RolledBack(endpoint.record.problems[0], hint="nothing was changed; begin again")
    transcript = endpoint.transcript
    with_what = PSQL if prompt.psql else "the built-in prompt"
    note = f"{transcript.statements} statements were typed at {with_what}"
    return Served((note, *_openness(prompt)), {"statements": transcript.statements, "sha256": transcript.head})


def _openness(prompt: Prompt) -> tuple[str, ...]:
    """What psql could do beside the endpoint, in words."""
    if not prompt.psql:
        return ()
    problem = child.why_not_closed()
    if problem is not None:
        return (f"psql's network was open, since it cannot be given one of its own here: {problem}",)
    return ("psql reached nothing but the endpoint over the network; what \\! does to files is not seen",)


class _Watch:
    """What may end a session while somebody types."""

    def __init__(self, endpoint: Endpoint, limits: Limits, ended: Callable[[], str | None]) -> None:
        self._endpoint, self._limits, self._ended = endpoint, limits, ended
        self.began = monotonic()

    def trouble(self) -> str | None:
        """In words; None: nothing. Keeps the transcript, so that it can be watched."""
        endpoint = self._endpoint
        endpoint.transcript.flush()
        if endpoint.record.problems:
            return endpoint.record.problems[0]
        too_long = exceeded(self._limits, monotonic() - self.began, endpoint.activity)
        return f"the session was ended: {too_long}" if too_long is not None else self._ended()


def _psql(endpoint: Endpoint, prompt: Prompt, watch: _Watch, lends: Lends) -> None:
    """psql at our own terminal, with nothing of the person's psqlrc, which may connect elsewhere."""
    head = re.sub(r"[^\w.-]", "_", f"{prompt.environment}") + " " + re.sub(r"[^\w.-]", "_", prompt.role)
    words = [PSQL, "--no-psqlrc", "--set", f"PROMPT1={head} %x> ", "--set", f"PROMPT2={head} %R> "]
    words += ["--set", f'diff=SHOW "{DIFF}";']  # typed as :diff; psql has no commands of others
    given = child.environment(
        variables(endpoint, Mode.REAL), {} if prompt.keeps_history else {"PSQL_HISTORY": "/dev/null"}
    )
    with _its_interrupts(), _as_it_was():
        if child.why_not_closed() is None:
            where = str(prompt.folder)
            psql = child.start_closed(words, given, where, endpoint.port, endpoint.listen, stdout=sys.__stderr__)
        else:
            psql = subprocess.Popen(words, env=given, cwd=prompt.folder, stdout=sys.__stderr__)
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    psql.wait(_LOOK_S)
                if psql.returncode is not None:
                    break
                problem = watch.trouble() or _beside(lends, watch)
                if problem is not None:
                    raise RolledBack(problem, hint="nothing was changed; begin again")
        finally:
            _end(psql)
    if psql.returncode:
        raise RolledBack(f"psql ended with exit status {psql.returncode}", hint="nothing was changed; end it with \\q")


def _beside(lends: Lends, watch: _Watch) -> str | None:
    others = lends.newcomers(monotonic() - watch.began + 1)
    return f"another session of this machine appeared meanwhile: {others[0]}" if others else None


def _end(psql: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if psql.poll() is not None:
            return
        psql.send_signal(kind)
        with suppress(subprocess.TimeoutExpired):
            psql.wait(2)


@contextmanager
def _its_interrupts() -> Iterator[None]:
    """Ctrl-C is psql's, which cancels the statement; a handler is not inherited as an ignored signal would be."""
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """The terminal's settings, which psql cannot put back when it is ended."""
    import termios

    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
