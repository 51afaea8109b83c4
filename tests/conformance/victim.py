"""A process whose children do one thing with backout each, and die of it at a chosen moment; on any engine.

Run as a program. It reads orders, one JSON object a line, forks a child for each (importing everything anew would take
half a second), and answers with how the child ended. The moment is the n-th time that the library talks to the
database, before it says the word or when the word is on its way (`sent`), or an instant that a clock chooses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backout import Project
from backout.errors import BackoutError

NOT_OURS = 70  # exit status for an exception that no user should ever see


@dataclass(frozen=True)
class Order:
    """What to do, and when to be hit by what."""

    engine: str
    folder: str
    action: str  # "run", "ghost", "undo"
    run: str = ""
    moment: int = 0  # the n-th word to the database; 0: none
    blow: str = "none"  # "kill", "kill sent", "interrupt", "terminate"; on MariaDB also those of `Moments.step`
    after_s: float = 0.0  # with "kill": not at a moment, but after that time
    server: int = 0  # the server's process id, with "server" and "server sent"

    @property
    def answer(self) -> Path:
        """Where the child says how it went."""
        return Path(self.folder) / "answer.json"

    def project(self) -> Project:
        """The project that the child works with."""
        return Project.find(config=Path(self.folder) / "backout.toml")


class Moments:
    """Counts the words to the database, and strikes at one of them."""

    def __init__(self, order: Order) -> None:
        self._order, self.count, self.last = order, 0, ""

    def step(
        self, word: str, send: Callable[[], object] | None = None, end: Callable[[], object] | None = None
    ) -> None:
        """A word is about to be said; `send` puts it on its way without waiting for the answer, `end` ends the session.

        "session" is its end by an administrator, "server" the death of the server's process.
        """
        self.count += 1
        if self.count != self._order.moment:
            return
        self.last = word
        blow = self._order.blow
        if blow.endswith(" sent"):
            assert send is not None
            send()
        if blow == "session":
            assert end is not None
            end()
            return
        signals = {
            "kill": signal.SIGKILL,
            "interrupt": signal.SIGINT,
            "terminate": signal.SIGTERM,
            "server": signal.SIGKILL,
        }
        name = blow.removesuffix(" sent")
        os.kill(self._order.server if name == "server" else os.getpid(), signals[name])


def _watch_postgres(moments: Moments) -> None:
    import psycopg

    from backout.engines.postgres.session import Session

    said, plain = Session.run, psycopg.Connection.execute

    def on_its_way(connection: Any, text: str) -> Callable[[], object]:
        def send() -> None:
            connection.pgconn.nonblocking = 1
            connection.pgconn.send_query(text.encode())  # with parameters left out: then it is an error, and harmless
            connection.pgconn.flush()

        return send

    def run(session: Any, text: str, *more: Any, **named: Any) -> Any:
        moments.step(text, on_its_way(session.connection, text))
        return said(session, text, *more, **named)

    def execute(connection: Any, query: Any, *more: Any, **named: Any) -> Any:
        if query == b"COMMIT":  # the one word that does not go through `Session.run`
            moments.step("COMMIT", on_its_way(connection, "COMMIT"))
        return plain(connection, query, *more, **named)

    setattr(Session, "run", run)  # noqa: B010 -- mypy would have it differ by `self`
    setattr(psycopg.Connection, "execute", execute)  # noqa: B010 -- it is overloaded


def _watch_sqlite(moments: Moments) -> None:
    import apsw

    def listen(connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: moments.step(str(event.get("sql"))))

    apsw.connection_hooks.append(listen)


def _watch_mariadb(moments: Moments) -> None:
    from pymysql.connections import Connection
    from pymysql.constants import COMMAND

    plain = Connection.query

    def end(connection: Any) -> None:
        place = {"unix_socket": connection.unix_socket} if connection.unix_socket else {}
        other: Connection[Any] = Connection(
            host=connection.host, port=connection.port, user=connection.user, password=connection.password, **place
        )
        plain(other, f"KILL CONNECTION {connection.thread_id()}")
        other.close()

    def query(connection: Any, sql: Any, *more: Any, **named: Any) -> Any:
        text = sql if isinstance(sql, str) else bytes(sql).decode(errors="replace")
        send = partial(connection._execute_command, COMMAND.COM_QUERY, sql)
        moments.step(text, send, partial(end, connection))
        return plain(connection, sql, *more, **named)

    setattr(Connection, "query", query)  # noqa: B010 -- as above


_WATCH = {"postgres": _watch_postgres, "sqlite": _watch_sqlite, "mariadb": _watch_mariadb}


def yes(_kind: str, _question: str) -> bool:
    """Whoever runs this has decided."""
    return True


def obey(order: Order) -> int:
    """Do it; returns the exit status that the command line would have."""
    moments = Moments(order)
    _WATCH[order.engine](moments)
    status, said = 0, ""
    try:
        project = order.project()
        if order.action == "undo":
            project.undo(order.run, ask=yes)
        else:
            change = project.change(str(Path(order.folder) / "change.sql"))
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
    whole = order.answer.with_suffix(".part")  # a kill may come while it is written
    whole.write_text(json.dumps({"said": said, "words": moments.count, "last": moments.last}), encoding="utf-8")
    whole.replace(order.answer)
    return status


def _raise(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt  # as cli/main.py does


def fork(order: Order) -> int:
    """Run the order in a child; returns how it ended, as `os.waitstatus_to_exitcode` says it."""
    order.answer.unlink(missing_ok=True)
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
        details = json.loads(order.answer.read_text(encoding="utf-8")) if order.answer.exists() else {}
        print(json.dumps({"status": status, "seconds": time.monotonic() - started, **details}), flush=True)


def as_line(order: Order) -> str:
    """The order, as `main` reads it."""
    return json.dumps(asdict(order)) + "\n"


if __name__ == "__main__":
    main()
