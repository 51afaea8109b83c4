"""A command as the work of a run: it connects to the endpoint, and what it writes is one supervised transaction.

Not for: the beginning and the end of the run (`runs/supervise.py`). Invariant: a command that failed, never connected, or
may have written past the endpoint, never leads to a commit.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from backout.change.model import Change, DataClass
from backout.endpoint import child
from backout.endpoint.limits import Limits, exceeded
from backout.endpoint.server import HOST, Endpoint
from backout.engines.protocol import Lends, Transaction
from backout.engines.values import Mode
from backout.errors import Refused, RolledBack
from backout.runs.recorder import Served

FILE = "{file}"  # in a command: the path of the change
USER = "backout"
"""The clients' user: whatever they write, they write as the run's role."""

_LOOK_S = 0.25  # how often the server is asked for other sessions: one that is shorter is not seen


@dataclass(frozen=True)
class Command:
    """What is run and where, how long it may take, and whether it gets a network of its own: None: where that works."""

    words: tuple[str, ...]
    folder: Path
    limits: Limits = field(default_factory=Limits)
    closed: bool | None = None
    typed: bool = False  # by the operator, in place of the change's own: the run's record has its words


def lending(transaction: Transaction) -> Lends:
    """The transaction, if its session can be lent. Raises Refused."""
    if not isinstance(transaction, Lends):
        raise Refused(
            "endpoint", "programs of other languages run on PostgreSQL only",
            state="rolled back", hint="write the change as .sql or .py",
        )  # fmt: skip
    return transaction


def serve(change: Change, transaction: Transaction, mode: Mode, run: int, command: Command) -> Served:
    """Run the command against the transaction. Raises RolledBack or Refused; the transcript is kept all the same."""
    lends = lending(transaction)
    words = words_of(change, command)
    is_closed, notes = network(command)
    with lends.lend() as loan:
        endpoint = Endpoint(loan, user=USER, keep=lambda lines: lends.transcribe(run, lines))
        watch = Watch(words[0], endpoint, lends, command.limits)
        with endpoint:
            try:
                given = child.environment(variables(endpoint, mode), change.metadata.env)
                if is_closed:
                    child.run_closed(words, given, str(command.folder), watch.trouble, endpoint.port, endpoint.listen)
                else:
                    child.run(words, given, str(command.folder), watch.trouble)
                require_clean(watch.last_look())
                require_as_read(change, command)
            finally:
                endpoint.close()
                endpoint.transcript.flush()
    if endpoint.record.problems:
        raise RolledBack(endpoint.record.problems[0], hint="nothing was changed; run it again")
    if not endpoint.record.clients:
        raise RolledBack(
            f'"{words[0]}" never connected to the endpoint: it may have written outside of the guard',
            hint="let it use DATABASE_URL or the PG* variables, or give it its own names: "
            'env = {DB_HOST = "{host}", DB_PORT = "{port}"} in the change\'s metadata',
        )
    transcript = endpoint.transcript
    came = f"{transcript.statements} statements of {endpoint.record.clients} connections came through the endpoint"
    head: dict[str, object] = {"statements": transcript.statements, "sha256": transcript.head}
    if command.typed:
        notes = (*notes, _typed(change, command))
        head["command"] = None if change.metadata.data is DataClass.PHI else list(command.words)
    return Served((*notes, came), head, frozenset(transcript.tables))


def words_of(change: Change, command: Command) -> list[str]:
    """The command with the change's file in its place. Raises RolledBack where that is not the text of the digest."""
    require_as_read(change, command)
    return [word.replace(FILE, str(change.path.resolve())) for word in command.words]


def require_as_read(change: Change, command: Command) -> None:
    """A program reads its file itself, later than the digest was made, and with its own line ends: byte for byte that text.

    It was there for hours when people approved it, and for minutes while somebody answered a question.
    """
    if not any(FILE in word for word in command.words):
        return
    try:
        is_same = change.path.read_bytes() == change.text.encode()
    except OSError:
        is_same = False
    if not is_same:
        raise RolledBack(
            f'"{change.path}" is not, byte for byte, the text that was read and that the digest is of',
            hint="save it with LF line ends, let nobody edit it while it runs, and begin again",
        )


def _typed(change: Change, command: Command) -> str:
    if change.metadata.data is DataClass.PHI:
        return "another command than the change's own was run; its words are kept back, since they may hold PHI"
    return f"in place of the change's own command this was run: {shlex.join(command.words)}"


def network(command: Command) -> tuple[bool, tuple[str, ...]]:
    """Whether it gets a network of its own, and what is to be said of that. Raises Refused."""
    if command.closed is False:
        return False, ("the program's network was open, as the change says",)
    problem = child.why_not_closed()
    if problem is None:
        return True, ()
    if command.closed:
        raise Refused(
            "endpoint", f"the program cannot be given a network of its own here: {problem}",
            state="rolled back", hint='run it as root on Linux, allow user namespaces, or say network = "open"',
        )  # fmt: skip
    return False, (f"the program's network was open, since it cannot be given one of its own here: {problem}",)


class Watch:
    """What may be wrong while the command runs: the endpoint's own problems, limits, and sessions beside it."""

    def __init__(self, name: str, endpoint: Endpoint, transaction: Lends, limits: Limits) -> None:
        self._name, self._endpoint, self._transaction, self._limits = name, endpoint, transaction, limits
        self._began = self._looked = monotonic()

    def trouble(self) -> str | None:
        """In words; None: nothing."""
        endpoint = self._endpoint
        if endpoint.record.problems:
            return endpoint.record.problems[0]
        too_long = exceeded(self._limits, monotonic() - self._began, endpoint.activity)
        if too_long is not None:
            return f'"{self._name}" was ended: {too_long}'
        endpoint.transcript.flush()
        if monotonic() - self._looked < _LOOK_S:
            return None
        return self.last_look()

    def problem(self) -> str | None:
        """What forbids to commit, in words."""
        return self._endpoint.record.problems[0] if self._endpoint.record.problems else self.last_look()

    def last_look(self) -> str | None:
        """Another session of this machine, in words."""
        self._looked = monotonic()
        others = self._transaction.newcomers(monotonic() - self._began + 1)
        if not others:
            return None
        return f"another session of this machine appeared meanwhile, and may have written outside of the guard: {others[0]}"


def require_clean(problem: str | None) -> None:
    """Raise RolledBack where there is one."""
    if problem is not None:
        raise RolledBack(problem, hint="close other clients on this machine while a change runs, and run it again")


def variables(endpoint: Endpoint, mode: Mode) -> dict[str, str]:
    """By which clients find the endpoint."""
    return {
        "DATABASE_URL": endpoint.url, "PGHOST": HOST, "PGPORT": str(endpoint.port), "PGUSER": endpoint.user,
        "PGPASSWORD": endpoint.password, "PGDATABASE": endpoint.database, "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable", "PGCLIENTENCODING": "UTF8", "BACKOUT_MODE": mode.value,
    }  # fmt: skip
