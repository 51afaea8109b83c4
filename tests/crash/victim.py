"""A process whose children do one thing with backout each, and die of it at a chosen moment.

Run as a program. It reads orders, one JSON object a line, forks a child for each (importing everything anew would take
half a second), and answers with how the child ended. The moment is the n-th time that the library talks to the server,
before it says a word or when the word is on its way (`sent`), or an instant that a clock chooses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from backout import Project
from backout.engines.postgres import session as session_module
from backout.engines.postgres.session import Answer, Session
from backout.errors import BackoutError
from backout.project.config import Config, Environment

NOT_OURS = 70  # exit status for an exception that no user should ever see


@dataclass(frozen=True)
class Order:
    """What to do, and when to be hit by what."""

    url: str
    role: str
    folder: str
    action: str  # "run", "ghost", "undo", "resume"
    change: str
    run: str = ""
    moment: int = 0  # the n-th word to the server; 0: none
    blow: str = "none"  # what happens then: see `Moments._strike`
    server_pid: int = 0
    after_s: float = 0.0  # with "kill": not at a moment, but after that time
    answer: str = ""  # where the child says how it went

    def project(self) -> Project:
        """The project that the child works with."""
        folder = Path(self.folder)
        environment = Environment("test", self.url, role=self.role)
        return Project(Config(folder=folder, changes=folder, environments={"test": environment}))


class Moments:
    """Counts the words to the server, and strikes at one of them."""

    def __init__(self, order: Order) -> None:
        self._order, self._count = order, 0
        self._said = Session.run
        self.last = ""

    def watch(self) -> None:
        """From now on."""
        moments = self
        plain = psycopg.Connection.execute

        def run(session: Session, text: str, parameters: Sequence[Any] = (), **named: Any) -> Answer:
            moments.step(session, text)
            return moments._said(session, text, parameters, **named)

        def execute(connection: Any, query: Any, *more: Any, **named: Any) -> Any:
            if query == b"COMMIT":  # the one word that does not go through `Session.run`
                moments.step(connection, "COMMIT")
            return plain(connection, query, *more, **named)

        setattr(session_module.Session, "run", run)  # noqa: B010 -- mypy would have it differ by `self`
        setattr(psycopg.Connection, "execute", execute)  # noqa: B010 -- it is overloaded

    def step(self, session: Any, text: str) -> None:
        self._count += 1
        if self._count == self._order.moment:
            self.last = text
            self._strike(session, text)

    @property
    def count(self) -> int:
        return self._count

    def _strike(self, session: Any, text: str) -> None:
        connection = getattr(session, "connection", session)
        blow = self._order.blow
        if blow == "kill sent":
            connection.pgconn.nonblocking = 1
            connection.pgconn.send_query(text.encode())  # with parameters left out: then it is an error, and harmless
            connection.pgconn.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if blow == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if blow == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if blow == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        if blow == "end the backend":
            os.kill(connection.info.backend_pid, signal.SIGTERM)
        if blow == "kill the backend":
            os.kill(connection.info.backend_pid, signal.SIGKILL)
        if blow == "kill the server":
            os.kill(self._order.server_pid, signal.SIGKILL)


def yes(_kind: str, _question: str) -> bool:
    """Whoever runs this has decided."""
    return True


def obey(order: Order) -> int:
    """Do it; returns the exit status that the command line would have."""
    moments = Moments(order)
    moments.watch()
    status, said = 0, ""
    try:
        project = order.project()
        if order.action == "undo":
            project.undo(order.run, ask=yes)
        elif order.action == "resume":
            project.resume(order.run, ask=yes)
        else:
            change = project.change(order.change)
            if order.action == "ghost":
                project.ghost(change, "test", undo=True, ask=yes)
            else:
                project.run(change, "test", ask=yes)
    except BackoutError as error:
        status, said = error.exit_status, str(error)
    except KeyboardInterrupt:
        status, said = 8, "interrupted"
    except BaseException as error:  # noqa: BLE001 -- told to the test, which fails
        status, said = NOT_OURS, f"{type(error).__name__}: {error}"
    whole = Path(order.answer).with_suffix(".part")  # a kill may come while it is written
    whole.write_text(json.dumps({"said": said, "words": moments.count, "last": moments.last}))
    whole.replace(order.answer)
    return status


def _raise(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt  # as cli/main.py does


def fork(order: Order) -> int:
    """Run the order in a child; returns how it ended, as `os.waitstatus_to_exitcode` says it."""
    with suppress(FileNotFoundError):
        Path(order.answer).unlink()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, _raise)
        status = NOT_OURS
        with suppress(BaseException):
            status = obey(order)
        os._exit(status)
    if order.after_s:
        time.sleep(order.after_s)  # the instant is what is tested
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Obey until the orders end."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        started = time.monotonic()
        status = fork(order)
        answer = Path(order.answer)
        details = json.loads(answer.read_text()) if answer.exists() else {}
        print(json.dumps({"status": status, "seconds": time.monotonic() - started, **details}), flush=True)


def as_line(order: Order) -> str:
    """The order, as `main` reads it."""
    return json.dumps(asdict(order)) + "\n"


if __name__ == "__main__":
    main()
