"""Pipelines, and queries with transactions: what is answered, what is left out, and that the session is free afterwards.

The reference is the server itself: the same messages, told to it directly, with a statement that it cannot read in place of
one that the endpoint refuses.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backout.endpoint.frames import Stream, message
from endpoints import supervised
from servers import PostgresDatabase

pytestmark = pytest.mark.either
SCHEMA = "CREATE TABLE t (id integer); CREATE TABLE direct.t (id integer); INSERT INTO direct.t VALUES (0);"
SYNC, FLUSH = message(b"S"), message(b"H")
#: Messages, and the answers up to which is read: this type, so many times.
Batch = tuple[bytes, str]


def parse(text: str, name: str = "") -> bytes:
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return message(b"B", portal.encode() + b"\0" + name.encode() + b"\0" + b"\0" * 6)


def execute(portal: str = "") -> bytes:
    return message(b"E", portal.encode() + b"\0" + b"\0" * 4)


def run(text: str) -> bytes:
    return parse(text) + bind() + message(b"D", b"P\0") + execute()


def insert(number: int) -> bytes:
    return run(f"INSERT INTO t VALUES ({number})")


#: Of one that the endpoint refuses when it is prepared.
REFUSED = run("TRUNCATE t")
UNREADABLE = run("SELEC")
BEGIN, COMMIT, ROLLBACK = run("BEGIN"), run("COMMIT"), run("ROLLBACK")
BROKEN = run("SELECT 1/0")
SAID: dict[str, Sequence[Batch]] = {
    "refused last": [(insert(1) + REFUSED + SYNC, "Z")],
    "refused first": [(REFUSED + insert(1) + SYNC, "Z")],
    "refused in the middle": [(insert(1) + REFUSED + insert(2) + SYNC, "Z"), (insert(3) + SYNC, "Z")],
    "refused twice": [(insert(1) + REFUSED + insert(2) + REFUSED + SYNC, "Z")],
    "Flush behind the Sync": [(insert(1) + REFUSED + SYNC + FLUSH, "Z")],
    "Flush behind what went well": [(insert(1) + SYNC + FLUSH, "Z")],
    "Flush before the Sync": [(insert(1) + REFUSED + FLUSH, "E"), (insert(2) + FLUSH + SYNC, "Z")],
    "Flush alone, then a statement": [(FLUSH + insert(1) + SYNC, "Z")],
    "Flush, and Sync later": [(insert(1) + FLUSH, "C"), (insert(2) + FLUSH, "C"), (SYNC, "Z")],
    "Flush, then refused": [(insert(1) + FLUSH, "C"), (REFUSED + FLUSH, "E"), (SYNC, "Z")],
    "several Syncs": [(insert(1) + REFUSED + SYNC + SYNC + insert(2) + SYNC, "ZZZ")],
    "Syncs alone": [(SYNC, "Z"), (SYNC + SYNC, "ZZ")],
    "one Sync for each": [(insert(1) + SYNC + REFUSED + SYNC + insert(2) + SYNC, "ZZZ")],
    "error of the server": [(insert(1) + BROKEN + insert(2) + SYNC, "Z")],
    "error of the server, and Flush": [(insert(1) + BROKEN + FLUSH, "E"), (insert(2) + SYNC + FLUSH, "Z")],
    "error, then refused": [(insert(1) + BROKEN + REFUSED + SYNC, "Z")],
    "refused, then error": [(insert(1) + REFUSED + BROKEN + SYNC, "Z")],
    "Bind of what is not there": [(insert(1) + bind("no") + execute() + insert(2) + SYNC, "Z")],
    "Execute of what is not there": [(insert(1) + execute("no") + insert(2) + SYNC, "Z")],
    "refused when it is executed": [(insert(1) + run("SAVEPOINT a") + insert(2) + SYNC, "Z")],
    "name of what was left out": [
        (REFUSED + parse("SELECT 1", "kept") + SYNC, "Z"),
        (bind("kept") + execute() + SYNC, "Z"),
        (parse("SELECT 2", "kept") + bind("kept") + execute() + SYNC, "Z"),
    ],
    "name that was closed behind an error": [
        (parse("SELECT 1", "kept") + SYNC, "Z"),
        (REFUSED + message(b"C", b"Skept\0") + SYNC, "Z"),
        (bind("kept") + execute() + SYNC, "Z"),
    ],
    "in a transaction": [
        (BEGIN + SYNC, "Z"),
        (insert(1) + REFUSED + insert(2) + SYNC + FLUSH, "Z"),
        (insert(3) + SYNC, "Z"),
        (ROLLBACK + SYNC, "Z"),
        (insert(4) + SYNC, "Z"),
    ],
    "BEGIN in it": [(insert(1) + BEGIN + insert(2) + REFUSED + SYNC, "Z"), (COMMIT + SYNC, "Z")],
    "BEGIN behind it": [(REFUSED + BEGIN + insert(1) + SYNC, "Z"), (insert(2) + SYNC, "Z")],
    "COMMIT before it": [(BEGIN + insert(1) + COMMIT + insert(2) + REFUSED + SYNC, "Z")],
    "COMMIT behind it": [(BEGIN + insert(1) + REFUSED + COMMIT + SYNC, "Z"), (ROLLBACK + SYNC, "Z")],
    "ROLLBACK before it": [(BEGIN + insert(1) + ROLLBACK + insert(2) + SYNC + REFUSED + SYNC, "ZZ")],
    "a query behind it": [(insert(1) + REFUSED + SYNC, "Z"), (message(b"Q", b"INSERT INTO t VALUES (2)\0"), "Z")],
}  # fmt: skip


def ask(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def asked(*texts: str) -> Sequence[Batch]:
    """Queries, one after the other."""
    return [(ask(text), "Z") for text in texts]


ONE, TWO, THREE = (f"INSERT INTO t VALUES ({number})" for number in (1, 2, 3))
ROWS, NO_MORE, NO_LESS = message(b"d", b"1\n2\n"), message(b"c"), message(b"f", b"no\0")
#: What is written in queries, where transactions begin and end in the middle of them.
QUERIES: dict[str, Sequence[Batch]] = {
    "all in one": asked(f"BEGIN; {ONE}; COMMIT; {TWO}"),
    "an error undoes all of a query": asked(f"{ONE}; SELECT 1/0; {TWO}", THREE),
    "but not what it has committed": asked(f"{ONE}; COMMIT; {TWO}; SELECT 1/0", THREE),
    "nor what it has rolled back": asked(f"{ONE}; ROLLBACK; {TWO}", f"{THREE}; ROLLBACK; SELECT 1/0"),
    "begun behind a statement": asked(f"{ONE}; BEGIN; {TWO}", "ROLLBACK", THREE),
    "failed": asked("BEGIN", ONE, "SELECT 1/0", TWO, "COMMIT", THREE),
    "failed and rolled back": asked("BEGIN", ONE, "SELECT 1/0", "ROLLBACK", THREE),
    "failed in one": asked(f"BEGIN; {ONE}; SELECT 1/0; COMMIT", TWO, "COMMIT", THREE),
    "and chain": asked("BEGIN", ONE, "COMMIT AND CHAIN", TWO, "ROLLBACK", THREE),
    "rolled back and chain": asked("BEGIN", ONE, "ROLLBACK AND CHAIN", TWO, "COMMIT", THREE),
    "failed and chain": asked("BEGIN", ONE, "SELECT 1/0", "COMMIT AND CHAIN", TWO, "COMMIT", THREE),
    "begun twice": asked("BEGIN", ONE, "BEGIN", TWO, "ROLLBACK", THREE),
    "ended without a beginning": asked("COMMIT", ONE, "ROLLBACK", TWO),
    "chained without a beginning": asked("COMMIT AND CHAIN", ONE),
    "savepoints": asked("BEGIN", "SAVEPOINT a", ONE, "ROLLBACK TO a", TWO, "RELEASE a", "COMMIT"),
    "back from an error": asked("BEGIN", ONE, "SAVEPOINT a", "SELECT 1/0", TWO, "ROLLBACK TO a", THREE, "COMMIT"),
    "no such savepoint": asked("BEGIN", ONE, "ROLLBACK TO b", "COMMIT", TWO),
    "savepoint of an ended transaction": asked("BEGIN", "SAVEPOINT a", "COMMIT", "BEGIN", "ROLLBACK TO a", "ROLLBACK"),
    "savepoints of one name": asked("BEGIN; SAVEPOINT a", ONE, "SAVEPOINT a", TWO, "ROLLBACK TO a; RELEASE a",
                                    "ROLLBACK TO a", THREE, "COMMIT"),
    "savepoint outside": asked("SAVEPOINT a", ONE, "RELEASE a", "ROLLBACK TO a"),
    "nothing": asked("", ";", "-- nothing", ONE),
    "unreadable": asked("SELEC 1", ONE, f"{TWO}; SELEC 1", "BEGIN", "SELEC 1", THREE, "COMMIT"),
    "prepared in text": asked(
        "PREPARE p AS INSERT INTO t VALUES ($1)", "EXECUTE p(1)", "DEALLOCATE p", "EXECUTE p(2)", "PREPARE p AS SELECT 1",
        "DEALLOCATE ALL", "EXECUTE p",
    ),
    "prepared in what is rolled back": asked("BEGIN", "PREPARE p AS SELECT 1", "ROLLBACK", "EXECUTE p"),
    "cursors": asked("BEGIN", "DECLARE c CURSOR FOR SELECT 7", "FETCH c", "FETCH c", "CLOSE c", "FETCH c", "COMMIT"),
    "cursors end": asked("BEGIN; DECLARE c CURSOR FOR SELECT 7", "COMMIT", "FETCH c", "CLOSE c"),
    "cursors held": asked("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 7", "COMMIT", "FETCH c", "CLOSE c"),
    "rows": [(ask("COPY t FROM STDIN"), "G"), (ROWS + NO_MORE, "Z"), *asked(THREE)],
    "rows at once": [(ask("COPY t FROM STDIN") + ROWS + NO_MORE, "Z"), *asked(THREE)],
    "rows, then not": [(ask("COPY t FROM STDIN") + ROWS + NO_LESS, "Z"), *asked(THREE)],
    "rows that are none": [(ask("COPY t FROM STDIN") + message(b"d", b"x\n") + ROWS + NO_MORE, "Z"), *asked(THREE)],
    "rows of two": [(ask("COPY t FROM STDIN; COPY t FROM STDIN") + ROWS + NO_MORE + ROWS + NO_MORE, "Z"), *asked(THREE)],
    "rows in a transaction": [*asked("BEGIN"), (ask("COPY t FROM STDIN") + ROWS + NO_LESS, "Z"), *asked(ONE, "ROLLBACK")],
    "rows prepared": [(run("COPY t FROM STDIN") + SYNC, "G"), (ROWS + NO_MORE + SYNC, "Z"), *asked(THREE)],
    "rows out": asked("COPY t TO STDOUT", "COPY (SELECT 1/0) TO STDOUT", "COPY t TO STDOUT; SELECT 1"),
}  # fmt: skip


def told(said: bytes, raw: socket.socket, stream: Stream, until: str) -> list[str]:
    """What is answered, up to where it ends: types, with tags, SQLSTATEs and states."""
    raw.sendall(said)
    found: list[str] = []
    while sum(one[0] == until[0] for one in found) < len(until):
        received = raw.recv(1 << 16)
        assert received, f"it ended behind {found}"
        stream.add(received)
        found += [_shown(chr(kind), payload) for kind, payload in stream.messages()]
    return [one for one in found if one[0] not in "TN"]


def _shown(kind: str, payload: bytes) -> str:
    if kind in "CZ":
        return f"{kind} {payload.rstrip(bytes(1)).decode()}"
    if kind == "E":
        state = next(field[1:].decode() for field in payload.split(b"\0") if field[:1] == b"C")
        return f"E {state}".replace("0A000", "42601")  # what is refused, and what cannot be read
    return kind


def answers(url: str, batches: Sequence[Batch]) -> tuple[list[list[str]], list[tuple[object, ...]]]:
    """To each batch, and what is in the table when all were said."""
    with psycopg.connect(url, autocommit=True) as client, socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
        raw.settimeout(20)
        stream = Stream()
        found = [told(said, raw, stream, until) for said, until in batches]
    with psycopg.connect(url, autocommit=True) as other:  # the session is free, or the first client never gave it back
        return found, other.execute("SELECT id FROM t ORDER BY id").fetchall()


@pytest.mark.parametrize("name", SAID)
def test_a_pipeline_is_answered_as_by_the_server_itself(postgres: PostgresDatabase, name: str) -> None:
    postgres.execute(f'CREATE SCHEMA direct AUTHORIZATION "{postgres.application_role}"')
    with supervised(postgres, SCHEMA) as (_, endpoint):
        batches = [(said.replace(REFUSED, UNREADABLE), until) for said, until in SAID[name]]
        direct = answers(make_conninfo(postgres.application_url, options="-c search_path=direct"), batches)
        assert answers(endpoint.url, SAID[name]) == direct
        assert endpoint.record.problems == []


@pytest.mark.parametrize("name", QUERIES)
def test_queries_are_answered_as_by_the_server_itself(postgres: PostgresDatabase, name: str) -> None:
    postgres.execute(f'CREATE SCHEMA direct AUTHORIZATION "{postgres.application_role}"')
    with supervised(postgres, SCHEMA) as (_, endpoint):
        direct = answers(make_conninfo(postgres.application_url, options="-c search_path=direct"), QUERIES[name])
        assert answers(endpoint.url, QUERIES[name]) == direct
        assert endpoint.record.problems == []


@pytest.mark.parametrize("name", SAID)
def test_the_session_is_free_after_a_pipeline_though_its_client_stays(postgres18: PostgresDatabase, name: str) -> None:
    """A Flush behind the last Sync took it, and kept it until the client's next message."""
    with supervised(postgres18, wait_s=0.5) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
            raw.settimeout(20)
            stream = Stream()
            last = [told(said, raw, stream, until) for said, until in SAID[name]][-1][-1]
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            if last == "Z I":
                assert other.execute("SELECT 7").fetchone() == (7,)
            else:
                with pytest.raises(psycopg.OperationalError, match="another connection has the session"):
                    other.execute("SELECT 7")
                client.close()


@pytest.mark.parametrize("error", ["TRUNCATE t", "SELECT 1/0"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pipeline_of_psycopg_gives_the_session_back(
    postgres: PostgresDatabase, error: str, *, autocommit: bool
) -> None:
    with supervised(postgres) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=autocommit) as client:
        with pytest.raises((psycopg.errors.FeatureNotSupported, psycopg.errors.DivisionByZero)), client.pipeline():
            client.execute("INSERT INTO t VALUES (1)")
            client.execute(error)
        client.rollback()
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            assert other.execute("SELECT id FROM t").fetchall() == [(0,)]
        client.execute("INSERT INTO t VALUES (2)")
        client.commit()
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            assert other.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (2,)]
    assert endpoint.record.problems == []


CUT_OFF = {
    "refused": insert(1) + REFUSED,
    "refused and flushed": insert(1) + REFUSED + FLUSH,
    "refused alone": REFUSED,
    "failed": insert(1) + BROKEN + insert(2),
    "flushed": insert(1) + FLUSH,
    "refused in a transaction": BEGIN + insert(1) + REFUSED + SYNC,
    "before its COMMIT is whole": BEGIN + insert(1) + COMMIT[:30],
    "prepared": parse("SELECT 1", "kept") + FLUSH,
}


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_client_that_closes_in_a_pipeline_leaves_nothing(postgres: PostgresDatabase, name: str) -> None:
    with supervised(postgres) as (_, endpoint):
        client = psycopg.connect(endpoint.url, autocommit=True)
        with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
            raw.settimeout(20)
            raw.sendall(CUT_OFF[name])
            client.pgconn.finish()
            raw.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while raw.recv(1 << 16):
                    pass
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            assert other.execute("SELECT id FROM t").fetchall() == [(0,)]
    assert endpoint.record.problems == []


def test_a_client_that_leaves_while_another_has_the_session_fails_nothing(postgres18: PostgresDatabase) -> None:
    """It has prepared statements there, waited to close them, and was turned away: that failed the run."""
    with supervised(postgres18, wait_s=0.2) as (_, endpoint):
        left = psycopg.connect(endpoint.url, autocommit=True)
        left.execute("SELECT %s::integer", (1,), prepare=True)
        with psycopg.connect(endpoint.url) as holder:
            holder.execute("INSERT INTO t VALUES (1)")
            left.close()
            for _ in range(2):  # longer than the other one was patient
                with psycopg.connect(endpoint.url) as waits, pytest.raises(psycopg.OperationalError, match="another"):
                    waits.execute("SELECT 1")
        with psycopg.connect(endpoint.url, autocommit=True) as after:
            assert after.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (1,)]
            assert after.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'c1%'").fetchone() == (0,)
    assert endpoint.record.problems == []


def test_messages_larger_than_what_is_read_at_once_arrive_whole(postgres: PostgresDatabase) -> None:
    """Reading on stopped behind a megabyte, of whatever was not complete."""
    large = "x" * 5_000_000
    with (
        supervised(postgres, "CREATE TABLE t (id integer); CREATE TABLE wide (value text)") as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True) as client,
    ):
        assert client.execute("SELECT length(%s::text)", (large,)).fetchone() == (5_000_000,)
        assert client.pgconn.exec_(f"SELECT length('{large}')".encode()).get_value(0, 0) == b"5000000"
        with client.cursor() as cursor, cursor.copy("COPY wide FROM STDIN") as copy:
            copy.write(large + "\n" + large + "\n")
        assert client.execute("SELECT sum(length(value)) FROM wide").fetchone() == (10_000_000,)
        with client.pipeline():
            lengths = [client.execute("SELECT length(%s::text)", (large,)) for _ in range(3)]
            assert [one.fetchone() for one in lengths] == [(5_000_000,)] * 3


def test_a_message_that_says_to_be_longer_than_any_is_not_waited_for(postgres18: PostgresDatabase) -> None:
    with supervised(postgres18) as (_, endpoint):
        client = psycopg.connect(endpoint.url)
        with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
            raw.setblocking(True)
            raw.sendall(b"Q" + struct.pack("!I", 0x7FFFFFFF))
            assert b"C08P01\0" in raw.recv(1 << 16)
        client.pgconn.finish()
    assert endpoint.record.problems == []
