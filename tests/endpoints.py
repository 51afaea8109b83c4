"""An endpoint on a transaction that has written one row, for clients in the test's own process.

At its end the transaction is asked whether it is still the one that was begun: nothing that a client did has ended it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backout.endpoint.server import Endpoint
from backout.engines.postgres.loan import lend
from backout.engines.postgres.session import Session
from servers import PostgresDatabase


@contextmanager
def supervised(
    database: PostgresDatabase, schema: str = "CREATE TABLE t (id integer)", isolation: str = "READ COMMITTED",
    wait_s: float = 5,
) -> Iterator[tuple[Session, Endpoint]]:  # fmt: skip
    """The session and its endpoint; the one row is `t.id = 0`."""
    database.as_application(schema)
    session = Session(database.application_url, "fuzz")
    session.run(f"BEGIN ISOLATION LEVEL {isolation}")
    session.run("INSERT INTO t VALUES (0)")
    begun = session.value("SELECT pg_current_xact_id()::text")
    try:
        with lend(session) as loan:
            endpoint = Endpoint(loan, user="u", wait_s=wait_s)
            with endpoint:
                yield session, endpoint
        if not session.lost:
            assert session.in_transaction
            assert session.value("SELECT pg_current_xact_id()::text") == begun
            assert session.value("SELECT count(*) FROM t WHERE id = 0") == 1
        assert database.execute("SELECT count(*) FROM t WHERE id = 0") == [(0,)]
    finally:
        session.close()
