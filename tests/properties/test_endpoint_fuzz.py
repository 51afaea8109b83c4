"""Whatever a client sends, the endpoint neither falls over nor lets the supervised transaction end."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.endpoint.frames import Malformed, Stream, message
from backout.endpoint.server import Endpoint
from backout.engines.postgres.loan import lend
from backout.engines.postgres.session import Session
from properties.driving import SEED
from servers import PostgresDatabase

TYPES = b"QPBDECSHFdcfpX"
WORDS = (
    b"SELECT 1", b"BEGIN", b"COMMIT", b"ROLLBACK", b"INSERT INTO t VALUES (1)", b"SELECT 1/0", b"SAVEPOINT a",
    b"ROLLBACK TO a", b"RELEASE a", b"COPY t FROM STDIN", b"COPY t TO STDOUT", b"TRUNCATE t", b"", b";", b"\xff",
    b"BEGIN; SELECT 1; COMMIT; SELECT", b"DEALLOCATE ALL", b"PREPARE TRANSACTION 'x'", b"ROLLBACK AND CHAIN",
    b"RELEASE _backout_guard", b"COMMIT PREPARED 'x'", b"END", b"ABORT", b"DECLARE c CURSOR FOR SELECT 1", b"FETCH c",
)  # fmt: skip


@given(st.binary(max_size=400), st.integers(1, 40))
def test_any_bytes_are_cut_into_messages_or_are_an_error(data: bytes, step: int) -> None:
    stream, taken = Stream(longest=1000), 0
    try:
        for start in range(0, len(data), step):
            stream.add(data[start : start + step])
            taken += sum(len(payload) + 5 for _, payload in stream.messages())
    except Malformed:
        return
    assert taken + stream.waiting == len(data)
    assert stream.waiting <= 1005


@contextmanager
def supervised(database: PostgresDatabase) -> Iterator[tuple[Session, Endpoint]]:
    """An endpoint on a transaction that has written one row."""
    database.as_application("CREATE TABLE t (id integer)")
    session = Session(database.application_url, "fuzz")
    session.run("BEGIN")
    session.run("INSERT INTO t VALUES (0)")
    try:
        with lend(session) as loan:
            endpoint = Endpoint(
                loan.socket, user="u", database=loan.database, parameters=loan.parameters, deferred=loan.deferred,
                cancel=loan.cancel, wait_s=5,
            )  # fmt: skip
            with endpoint:
                yield session, endpoint
        assert session.in_transaction
        assert session.value("SELECT count(*) FROM t WHERE id = 0") == 1
        assert database.execute("SELECT count(*) FROM t") == [(0,)]
    finally:
        session.close()


def scribble(source: random.Random) -> bytes:
    """A few messages: most of a known type and half sensible, some nonsense."""
    parts = []
    for _ in range(source.randint(1, 6)):
        kind = bytes((source.choice(TYPES),))
        word = source.choice(WORDS) + b"\0"
        payload = source.choice([
            word, b"\0" + word + b"\0\0", b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0", b"S\0", b"P\0", b"", source.randbytes(9),
        ])  # fmt: skip
        parts.append(source.choice([message(kind, payload)] * 6 + [source.randbytes(source.randint(1, 30))]))
        if source.random() < 0.4:
            parts.append(message(b"S"))
    return b"".join(parts)


def hold_out(database: PostgresDatabase, rounds: int, seed: int) -> None:
    source = random.Random(seed)
    with supervised(database) as (_, endpoint):
        for number in range(rounds):
            with psycopg.connect(endpoint.url) as client:
                raw = socket.socket(fileno=os.dup(client.pgconn.socket))
                with raw:
                    raw.setblocking(True)
                    raw.settimeout(source.choice([0.001, 0.02]))
                    raw.sendall(scribble(source))
                    with suppress(TimeoutError, ConnectionError):
                        while raw.recv(1 << 16):
                            pass
                client.pgconn.finish()
            assert endpoint.record.problems == [], f"round {number} of seed {seed}"
            if number % 20 == 0:
                with psycopg.connect(endpoint.url, autocommit=True) as client:
                    assert client.execute("SELECT 7").fetchone() == (7,)


def test_a_client_that_scribbles_ends_alone(postgres18: PostgresDatabase) -> None:
    hold_out(postgres18, 120, 5)


@pytest.mark.hunt
def test_a_client_that_scribbles_ends_alone_hunted(postgres18: PostgresDatabase) -> None:
    hold_out(postgres18, 5_000, SEED)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\0",
        b"\0\0\0\x08",
        struct.pack("!II", 8, 80877103) * 50,
        struct.pack("!II", 9999, 196608),
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_nonsense_before_the_log_in_is_turned_away(postgres18: PostgresDatabase, start: bytes) -> None:
    with supervised(postgres18) as (_, endpoint):
        with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
            client.sendall(start)
        with psycopg.connect(endpoint.url, autocommit=True) as client_after:
            assert client_after.execute("SELECT 7").fetchone() == (7,)


def test_a_client_that_dies_leaves_what_it_had_committed(postgres18: PostgresDatabase) -> None:
    with supervised(postgres18) as (_session, endpoint):
        client = psycopg.connect(endpoint.url)
        client.execute("INSERT INTO t VALUES (1)")
        client.commit()
        client.execute("INSERT INTO t VALUES (2)")
        client.pgconn.finish()  # in the middle of its transaction
        client = psycopg.connect(endpoint.url, autocommit=True)
        with client.cursor() as cursor, suppress(psycopg.Error), cursor.copy("COPY t FROM STDIN") as copy:
            copy.write_row((3,))
            client.pgconn.finish()  # in the middle of its COPY
        slow = psycopg.connect(endpoint.url)
        slow.pgconn.send_query(b"INSERT INTO t SELECT 4 FROM pg_sleep(30)")
        slow.pgconn.flush()
        slow.pgconn.finish()  # in the middle of its statement, which is cancelled
        with psycopg.connect(endpoint.url, autocommit=True) as client:
            assert client.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (1,)]
    assert endpoint.record.problems == []


def test_a_client_that_reads_slowly_costs_no_memory(postgres18: PostgresDatabase) -> None:
    """The server is not read on while the client does not take what is there."""
    import resource

    with supervised(postgres18) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client.pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 200000)")  # 200 MB
        client.pgconn.flush()
        with suppress(TimeoutError):
            import time

            time.sleep(1)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
        client.pgconn.finish()
