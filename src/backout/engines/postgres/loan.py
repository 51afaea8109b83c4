"""The run's session, lent to whoever speaks the wire protocol on it while the change works.

psycopg has logged in and begun the transaction; for the time of the loan its socket is read and written by another, who
gives it back at rest: nothing owed, the transaction open and not failed. libpq keeps no state between two queries that
this could spoil [measured with psycopg 3.3 and libpq 17: it goes on as if nothing had happened].
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg

from backout.engines.postgres.names import quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.errors import Refused

_TOLD = (
    "server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
    "standard_conforming_strings", "is_superuser", "session_authorization", "in_hot_standby", "application_name",
    "default_transaction_read_only",
)  # fmt: skip


@dataclass(frozen=True)
class Loan:
    """`deferred` are the names of constraints that are checked at a client's COMMIT, quoted."""

    socket: socket.socket
    database: str
    parameters: Mapping[str, str]
    deferred: tuple[str, ...]
    isolation: str
    session: Session

    def cancel(self) -> None:
        """Ask the server to end the statement that it is at. One that does not arrive is no error: it ends by itself."""
        with suppress(psycopg.Error):
            self.session.connection.cancel_safe(timeout=5)


@contextmanager
def lend(session: Session) -> Iterator[Loan]:
    """Lend the session's socket. Raises Refused, with nothing written, where its bytes are encrypted."""
    connection = session.connection
    if connection.pgconn.ssl_in_use:
        raise Refused(
            "endpoint",
            "the connection to the server is encrypted, and the endpoint of this version works on one in clear",
            state="rolled back",
            hint="reach the server through a tunnel or a socket (ssh -L, kubectl port-forward) with sslmode=disable",
        )
    deferred = tuple(
        f"{quoted(schema)}.{quoted(name)}" for schema, name in session.run(query("deferred_constraints")).rows
    )
    told = {name: connection.info.parameter_status(name) for name in _TOLD}
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as lent:
        lent.settimeout(0)
        database, isolation = session.one("SELECT current_database(), current_setting('transaction_isolation')")
        known = {name: value for name, value in told.items() if value is not None}
        yield Loan(lent, database, known, deferred, isolation, session)


def newcomers(control: Session, own: list[int], since: float) -> tuple[str, ...]:
    """Sessions of this machine in this database that began within the last `since` seconds, and are none of ours.

    Of other users' sessions only those with the right pg_read_all_stats show where they come from (manual 27.2.3).
    """
    rows = control.run(query("newcomers"), [own, since]).rows
    return tuple(f"backend {pid} ({name}, user {user})" for pid, name, user in rows)
