"""Whatever a client sends, the endpoint neither falls over nor lets the supervised transaction end."""

from __future__ import annotations

import os
import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.endpoint.frames import Malformed, Stream, message
from endpoints import supervised
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
    hold_out(postgres18, int(os.environ.get("HUNT_EXAMPLES", "5000")), SEED)


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


def take_turns(url: str, client: int, rounds: int) -> None:
    """One of several clients: it asks, writes, copies, fails and rolls back, and each answer must be its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT set_config('my.client', %s, false)", (str(client),))
        for number in range(rounds):
            mine = client * 100_000 + number * 10
            asked = connection.execute("SELECT %s::int, current_setting('my.client')", (mine,)).fetchone()
            assert asked == (mine, str(client))
            connection.execute("INSERT INTO t VALUES (%s)", (mine,))
            with connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
                copy.write_row((mine + 1,))
            with suppress(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute("INSERT INTO t VALUES (%s)", (mine + 2,))
                connection.execute("SELECT 1/0")
            with connection.transaction(), connection.pipeline():
                connection.execute("INSERT INTO t VALUES (%s)", (mine + 3,))
                connection.execute("INSERT INTO t VALUES (%s)", (mine + 4,))


def test_clients_that_take_turns_get_their_own_answers(postgres18: PostgresDatabase) -> None:
    clients, rounds = 6, 25
    with supervised(postgres18) as (session, endpoint):
        with ThreadPoolExecutor(clients) as threads:
            for done in [threads.submit(take_turns, endpoint.url, one, rounds) for one in range(1, clients + 1)]:
                done.result()
        endpoint.close()
        assert endpoint.record.problems == []
        kept = {row[0] for row in session.run("SELECT id FROM t").rows}
    mine = {client * 100_000 + number * 10 for client in range(1, clients + 1) for number in range(rounds)}
    assert kept == {0} | {one + more for one in mine for more in (0, 1, 3, 4)}


def test_a_server_that_ends_the_session_ends_the_run(postgres18: PostgresDatabase) -> None:
    with supervised(postgres18) as (session, endpoint):
        client, waiting = psycopg.connect(endpoint.url, autocommit=True), psycopg.connect(endpoint.url)
        client.execute("INSERT INTO t VALUES (1)")
        postgres18.execute("SELECT pg_terminate_backend(%s)", [session.pid])
        for one in (client, waiting):
            with pytest.raises(psycopg.OperationalError):
                one.execute("INSERT INTO t VALUES (2)")
        endpoint.close()
        assert "the session was lost" in endpoint.record.problems[0]
        session.close()


def test_a_client_that_sends_more_than_the_server_takes_costs_no_memory(postgres18: PostgresDatabase) -> None:
    """The client is not read on while the server does not take what is there, nor is its COPY kept as a whole."""
    import resource

    with supervised(postgres18) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        client.execute("CREATE TEMP TABLE wide (text text)")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        block = ("x" * 999 + "\n") * 1000
        with client.cursor() as cursor, cursor.copy("COPY wide FROM STDIN") as copy:
            for _ in range(200):  # 200 MB
                copy.write(block)
        assert client.execute("SELECT count(*) FROM wide").fetchone() == (200_000,)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
        endpoint.transcript.flush()
