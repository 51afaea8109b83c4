"""The run's session, lent to whoever speaks the wire protocol on it while the change works.

psycopg has logged in and begun the transaction; for the time of the loan its socket is read and written by another, who
gives it back at rest: nothing owed, the transaction open and not failed. libpq keeps no state between two queries that
this could spoil [measured with psycopg 3.3 and libpq 17: it goes on as if nothing had happened].
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import psycopg
from psycopg import pq

from backout.engines.postgres import tls
from backout.engines.postgres.names import quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.relay import Relay
from backout.engines.postgres.session import Session
from backout.engines.postgres.tls import Server
from backout.errors import Refused

_TOLD = (
    "server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
    "standard_conforming_strings", "is_superuser", "session_authorization", "in_hot_standby", "application_name",
    "default_transaction_read_only",
)  # fmt: skip


#: PQcancelStart. The older PQcancel waits for the relay, which is in this process, and lets no other thread run.
_CANCELS_ASIDE = 170000


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

    def at_home(self) -> AbstractContextManager[None]:
        """See the protocol."""
        return self.session.relay.at_home() if self.session.relay is not None else nullcontext()


def session_to_lend(like: Session, url: str, purpose: str) -> Session:
    """A session on the server where `like` is, whose bytes can be lent: through a relay where that one has TLS.

    Raises Refused, with nothing written, where the same safety cannot be had; UsageError where we are not let in.
    """
    if not like.connection.pgconn.ssl_in_use:
        return Session(url, purpose)
    server = _server_of(like)
    problem = tls.objection(server)
    if problem is None and pq.version() < _CANCELS_ASIDE:
        problem = (
            f"it needs libpq 17, and psycopg has {pq.version() // 10000}",
            "pip install --upgrade 'psycopg[binary]'",
        )
    if problem is None and like.connection.pgconn.used_gssapi:
        problem = "Kerberos is for libpq alone", "let the role have a password or a certificate"
    if problem is not None:
        raise Refused("endpoint", f"no TLS connection for the program's session: {problem[0]}", hint=problem[1])
    relay = Relay(server)
    try:
        return Session(url, purpose, relay)
    except BaseException:
        relay.close()
        raise


def _server_of(like: Session) -> Server:
    """Where it is connected to, with what libpq has found in the URL, the environment and its files (manual 32.2)."""
    libpq = like.connection.pgconn
    settings = {one.keyword.decode(): one.val.decode() for one in libpq.info if one.val is not None}
    settings["password"] = libpq.password.decode()  # also where it was in the password file
    return Server(libpq.hostaddr.decode(), int(libpq.port), settings)


@contextmanager
def lend(session: Session) -> Iterator[Loan]:
    """Lend the session's bytes. Raises Refused, with nothing written, where libpq itself has encrypted them."""
    connection = session.connection
    if connection.pgconn.ssl_in_use or session.value(query("is_encrypted_by_gss")):
        raise Refused(
            "endpoint",
            "the connection to the server is encrypted by libpq, which keeps the keys",
            state="rolled back",
            hint="say sslmode=require and gssencmode=disable in the environment's url",
        )
    deferred = tuple(
        f"{quoted(schema)}.{quoted(name)}" for schema, name in session.run(query("deferred_constraints")).rows
    )
    told = {name: connection.info.parameter_status(name) for name in _TOLD}
    database, isolation = session.one("SELECT current_database(), current_setting('transaction_isolation')")
    known = {name: value for name, value in told.items() if value is not None}
    with _bytes_of(session) as lent:
        yield Loan(lent, database, known, deferred, isolation, session)


@contextmanager
def _bytes_of(session: Session) -> Iterator[socket.socket]:
    """A socket that does not block, on which the protocol is spoken."""
    if session.relay is not None:
        with session.relay.lent() as secured:
            yield secured
        return
    with socket.socket(fileno=os.dup(session.connection.pgconn.socket)) as lent:
        lent.settimeout(0)
        yield lent


def newcomers(control: Session, own: list[int], since: float) -> tuple[str, ...]:
    """Sessions of this machine in this database that began within the last `since` seconds, and are none of ours.

    Of other users' sessions only those with the right pg_read_all_stats show where they come from (manual 27.2.3).
    """
    rows = control.run(query("newcomers"), [own, since]).rows
    return tuple(f"backend {pid} ({name}, user {user})" for pid, name, user in rows)
