"""A command as the work of a run: it connects to the endpoint, and what it writes is one supervised transaction.

Not for: the beginning and the end of the run (`runs/supervise.py`). Invariant: a command that failed, never connected, or
may have written past the endpoint, never leads to a commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from backout.change.model import Change
from backout.endpoint import child
from backout.endpoint.server import HOST, Endpoint
from backout.engines.protocol import Lends, Transaction
from backout.engines.values import Mode
from backout.errors import Refused, RolledBack

USER = "backout"
"""The clients' user: whatever they write, they write as the run's role."""


@dataclass(frozen=True)
class Command:
    """What is run, and how long it may take."""

    words: tuple[str, ...]
    folder: Path
    limit_s: float | None = None


def serve(change: Change, transaction: Transaction, mode: Mode, command: Command) -> tuple[str, ...]:
    """Run the command against the transaction; returns notes for the report. Raises RolledBack or Refused."""
    if not isinstance(transaction, Lends):
        raise Refused(
            "endpoint", "programs of other languages run on PostgreSQL only",
            state="rolled back", hint="write the change as .sql or .py",
        )  # fmt: skip
    began = monotonic()
    with transaction.lend() as loan:
        endpoint = Endpoint(
            loan.socket, user=USER, database=loan.database, parameters=loan.parameters, deferred=loan.deferred,
            cancel=loan.cancel,
        )  # fmt: skip
        with endpoint:
            child.run(
                [word.replace("{file}", str(change.path.resolve())) for word in command.words],
                child.environment(_variables(endpoint, mode), change.metadata.env),
                str(command.folder), command.limit_s, lambda: next(iter(endpoint.record.problems), None),
            )  # fmt: skip
    record = endpoint.record
    if record.problems:
        raise RolledBack(record.problems[0], hint="nothing was changed; run it again")
    if not record.clients:
        raise RolledBack(
            f'"{command.words[0]}" never connected to the endpoint: it may have written outside of the guard',
            hint="let it use DATABASE_URL or the PG* variables, or give it its own names: "
            'env = {DB_HOST = "{host}", DB_PORT = "{port}"} in the change\'s metadata',
        )
    others = transaction.newcomers(monotonic() - began + 1)
    if others:
        raise RolledBack(
            f"another session of this machine appeared meanwhile, and may have written outside of the guard: {others[0]}",
            hint="close other clients on this machine while a change runs, and run it again",
        )
    return (f"{record.statements} statements of {record.clients} connections came through the endpoint",)


def _variables(endpoint: Endpoint, mode: Mode) -> dict[str, str]:
    return {
        "DATABASE_URL": endpoint.url, "PGHOST": HOST, "PGPORT": str(endpoint.port), "PGUSER": endpoint.user,
        "PGPASSWORD": endpoint.password, "PGDATABASE": endpoint.database, "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable", "BACKOUT_MODE": mode.value,
    }  # fmt: skip
