"""Prepared statements that only read, which take the short way through the endpoint (`endpoint/fast_path.py`).

Bind, Execute and Sync that arrive together are passed on as they are; cut in two on their way they take the long way. Each
test does both, and what is answered must be the same.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from backout.endpoint.frames import Stream, message
from backout.endpoint.server import Endpoint
from backout.engines.postgres.loan import lend
from backout.engines.postgres.session import Session
from endpoints import supervised
from servers import PostgresDatabase

pytestmark = pytest.mark.either
SYNC, FLUSH = message(b"S"), message(b"H")
DESCRIBE, EXECUTE = message(b"D", b"P\0"), message(b"E", b"\0\0\0\0\0")
SCHEMA = """
CREATE TABLE t (id integer);
CREATE TABLE wide AS SELECT g AS id, repeat('x', 1000) AS value FROM generate_series(1, 3000) g;
CREATE FUNCTION noticed(integer) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''seen %'', $1; RETURN $1; END';
CREATE FUNCTION blind(integer) RETURNS integer LANGUAGE plpgsql AS
    'BEGIN PERFORM set_config(''standard_conforming_strings'', ''off'', false); RETURN $1; END';
CREATE VIEW notices AS SELECT noticed(id) AS id FROM t;
CREATE VIEW blinds AS SELECT blind(id) AS id FROM t;
"""


class Raw:
    """A client that speaks in bytes."""

    def __init__(self, client: psycopg.Connection[object], cut: Callable[[bytes], Sequence[bytes]]) -> None:
        self._cut = cut
        self.socket = socket.socket(fileno=os.dup(client.pgconn.socket))
        self.socket.settimeout(60)
        self.stream = Stream()

    def say(self, *messages: bytes, until: str = "Z") -> list[tuple[str, bytes]]:
        """What is answered, up to as many messages of this type as there were Syncs and queries."""
        said = b"".join(messages)
        spoken = Stream()
        spoken.add(said)
        expected = sum(chr(kind) in "SQ" for kind, _ in spoken.messages())
        for part in self._cut(said):
            self.socket.sendall(part)
            if part is not said:
                time.sleep(0.002)  # so that it arrives alone; where it does not, the test still holds
        found: list[tuple[str, bytes]] = []
        while sum(kind == until for kind, _ in found) < expected:
            received = self.socket.recv(1 << 16)
            assert received, f"it ended behind {found}"
            self.stream.add(received)
            found += [(chr(kind), payload) for kind, payload in self.stream.messages()]
        return found

    def prepare(self, name: str, text: str) -> None:
        """A statement without types."""
        said = self.say(message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0"), SYNC)
        assert [kind for kind, _ in said] == ["1", "Z"], said


def bind(name: str, *values: str) -> bytes:
    parameters = b"".join(len(one).to_bytes(4, "big") + one.encode() for one in values)
    return message(b"B", b"\0" + name.encode() + b"\0\0\0" + len(values).to_bytes(2, "big") + parameters + b"\0\0")


def whole(said: bytes) -> Sequence[bytes]:
    return (said,)


def in_two(said: bytes) -> Sequence[bytes]:
    return said[: len(said) - 3], said[len(said) - 3 :]


WAYS = [whole, in_two]
both_ways = pytest.mark.parametrize("cut", WAYS, ids=["short", "long"])


@contextmanager
def spoken(endpoint: Endpoint, cut: Callable[[bytes], Sequence[bytes]]) -> Iterator[Raw]:
    with psycopg.connect(endpoint.url, autocommit=True) as client:
        raw = Raw(client, cut)
        with raw.socket:
            yield raw


def kinds(said: list[tuple[str, bytes]]) -> str:
    return "".join(kind for kind, _ in said)


@both_ways
def test_rows_and_states_are_those_of_a_server(
    postgres: PostgresDatabase, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    with supervised(postgres, SCHEMA) as (_, endpoint), spoken(endpoint, cut) as raw:
        raw.prepare("one", "SELECT id FROM wide WHERE id < $1::integer ORDER BY id")
        for count in (1, 2, 3):
            said = raw.say(bind("one", str(count)), DESCRIBE, EXECUTE, SYNC)
            assert kinds(said) == "2T" + "D" * (count - 1) + "CZ"
            assert said[-2:] == [("C", b"SELECT %d\0" % (count - 1)), ("Z", b"I")]
        assert kinds(raw.say(bind("one", "2"), EXECUTE, SYNC)) == "2DCZ"
        assert kinds(raw.say(bind("nothing"), EXECUTE, SYNC)) == "EZ"
        assert raw.say(message(b"Q", b"BEGIN\0"))[-1] == ("Z", b"T")
        assert raw.say(bind("one", "2"), DESCRIBE, EXECUTE, SYNC)[-1] == ("Z", b"T")
        assert raw.say(bind("one", "x"), DESCRIBE, EXECUTE, SYNC)[-1] == ("Z", b"E")
        assert kinds(raw.say(bind("one", "2"), DESCRIBE, EXECUTE, SYNC)) == "EZ"
        assert raw.say(message(b"Q", b"ROLLBACK\0"))[-1] == ("Z", b"I")
        assert raw.say(bind("one", "2"), DESCRIBE, EXECUTE, SYNC)[-1] == ("Z", b"I")
    assert endpoint.record.problems == []


@both_ways
def test_what_fails_takes_back_nothing_that_was_written_before(
    postgres: PostgresDatabase, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    with supervised(postgres, SCHEMA) as (_, endpoint), spoken(endpoint, cut) as raw:
        raw.prepare("divide", "SELECT id / $1::integer FROM wide WHERE id = 1")
        raw.prepare("write", "INSERT INTO t VALUES ($1)")
        for number in range(1, 4):
            assert kinds(raw.say(bind("divide", "1"), DESCRIBE, EXECUTE, SYNC)) == "2TDCZ"
            assert kinds(raw.say(bind("write", str(number)), DESCRIBE, EXECUTE, SYNC)) == "2nCZ"
            failed = raw.say(bind("divide", "0"), DESCRIBE, EXECUTE, SYNC)
            assert (kinds(failed).replace("T", ""), failed[-1]) == ("2EZ", ("Z", b"I"))
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            assert other.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (1,), (2,), (3,)]


@both_ways
def test_many_rows_notices_and_what_comes_in_between_arrive(
    postgres: PostgresDatabase, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    with supervised(postgres, SCHEMA) as (_, endpoint), spoken(endpoint, cut) as raw:
        raw.prepare("all", "SELECT id, value FROM wide ORDER BY id")
        raw.prepare("noticed", "SELECT id FROM notices")
        for _ in range(3):
            said = raw.say(bind("all"), DESCRIBE, EXECUTE, SYNC)
            assert kinds(said) == "2T" + "D" * 3000 + "CZ"
            assert sum(len(payload) for _, payload in said) > 3_000_000
            assert kinds(raw.say(bind("noticed"), DESCRIBE, EXECUTE, SYNC)) == "2TNDCZ"


@both_ways
def test_a_view_that_changes_how_text_is_read_ends_the_run(
    postgres18: PostgresDatabase, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    with supervised(postgres18, SCHEMA) as (session, endpoint):
        with spoken(endpoint, cut) as raw:
            raw.prepare("blind", "SELECT id FROM blinds")
            assert raw.say(bind("blind"), DESCRIBE, EXECUTE, SYNC, until="E")[-1][0] == "E"
        endpoint.close()
        assert 'was changed to "off" by a function, unseen' in endpoint.record.problems[0]
        session.close()


@both_ways
def test_each_is_in_the_transcript_with_what_was_bound(
    postgres18: PostgresDatabase, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    lines: list[str] = []
    postgres18.as_application(SCHEMA)
    session = Session(postgres18.application_url, "test")
    session.run("BEGIN")
    keep = lambda kept: lines.extend(line for _, line, _ in kept)  # noqa: E731  as it is told
    with lend(session) as loan, Endpoint(loan, user="u", keep=keep) as endpoint:
        with spoken(endpoint, cut) as raw:
            raw.prepare("some", "SELECT id FROM wide WHERE id <= $1::integer")
            for count in (0, 5):
                raw.say(bind("some", str(count)), DESCRIBE, EXECUTE, SYNC)
            raw.say(bind("some", "x"), DESCRIBE, EXECUTE, SYNC)
        endpoint.close()
        endpoint.transcript.flush()
    session.close()
    told = [json.loads(line) for line in lines]
    assert [(one["outcome"], one["rows"], one["parameters"]) for one in told] == [
        ("SELECT 0", 0, ["0"]),
        ("SELECT 5", 5, ["5"]),
        ("ERROR 22P02", None, ["x"]),
    ]
    assert {one["statement"] for one in told} == {"SELECT id FROM wide WHERE id <= $1::integer"}


ENDLESS = "SELECT count(*) FROM wide a, wide b, wide c, wide d"


def test_a_cancel_reaches_it(postgres: PostgresDatabase) -> None:
    with (
        supervised(postgres, SCHEMA) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True, prepare_threshold=0) as client,
    ):
        client.execute("INSERT INTO t VALUES (1)")
        client.execute("SELECT id FROM wide WHERE id = 1")
        for _ in range(2):  # prepared by the first, which takes the long way
            begun = threading.Timer(0.5, client.cancel_safe)
            begun.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                client.execute(ENDLESS)
            begun.join()
            client.execute("SELECT id FROM wide WHERE id = 1")  # so that nothing stands between it and the short way
        assert client.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (1,)]
    assert endpoint.record.problems == []


def test_a_client_that_is_killed_in_it_leaves_the_session_free(postgres: PostgresDatabase) -> None:
    with supervised(postgres, SCHEMA) as (_, endpoint):
        for _ in range(3):
            client = psycopg.connect(endpoint.url, autocommit=True)
            raw = Raw(client, whole)
            raw.prepare("endless", ENDLESS)
            raw.prepare("first", "SELECT 1")
            raw.say(bind("first"), EXECUTE, SYNC)
            raw.socket.sendall(bind("endless") + EXECUTE + SYNC)
            raw.socket.shutdown(socket.SHUT_RDWR)
            raw.socket.close()
            client.pgconn.finish()
            with psycopg.connect(endpoint.url, autocommit=True) as other:
                assert other.execute("SELECT id FROM t").fetchall() == [(0,)]
    assert endpoint.record.problems == []


def test_a_client_that_does_not_read_holds_up_nobody_else_for_good(postgres18: PostgresDatabase) -> None:
    with supervised(postgres18, SCHEMA) as (_, endpoint):
        client = psycopg.connect(endpoint.url, autocommit=True)
        raw = Raw(client, whole)
        raw.prepare("all", "SELECT a.id, a.value FROM wide a, wide b")  # 9 GB
        raw.prepare("first", "SELECT 1")
        raw.say(bind("first"), EXECUTE, SYNC)
        raw.socket.sendall(bind("all") + EXECUTE + SYNC)
        raw.socket.recv(10)
        raw.socket.close()
        client.pgconn.finish()
        with psycopg.connect(endpoint.url, autocommit=True) as other:
            assert other.execute("SELECT id FROM t").fetchall() == [(0,)]
    assert endpoint.record.problems == []


def mixed(source: random.Random, mine: int) -> list[bytes]:
    """Messages of one kind or another; what they write they delete, so that nobody's answers depend on others."""
    reading = bind("one", str(mine)) + source.choice([DESCRIBE, b""]) + EXECUTE + SYNC
    failing = bind("one", "x") + DESCRIBE + EXECUTE + SYNC
    writing = bind("write", str(mine)) + EXECUTE + bind("gone", str(mine)) + EXECUTE + SYNC
    begun = [message(b"Q", b"BEGIN\0"), reading, writing, source.choice([reading, failing]), message(b"Q", b"COMMIT\0")]
    return source.choice(
        [[reading], [reading], [failing], [writing], [reading + reading], [reading + FLUSH], begun, [SYNC]]
    )


def test_whatever_is_mixed_is_answered_alike_both_ways(postgres: PostgresDatabase) -> None:
    """And by several clients at once, so that others have the session in between."""
    found: dict[str, list[str]] = {}

    def talk(endpoint: Endpoint, name: str, seed: int) -> None:
        cut = whole if name.startswith("short") else in_two
        source, answers = random.Random(seed), list[str]()
        with spoken(endpoint, cut) as raw:
            raw.prepare("one", "SELECT $1::integer FROM t WHERE id = 0")
            raw.prepare("write", "INSERT INTO t VALUES ($1)")
            raw.prepare("gone", "DELETE FROM t WHERE id = $1")
            for _ in range(60):
                for said in mixed(source, seed + 1000):
                    answers += [kind + ("" if kind == "E" else payload.hex()) for kind, payload in raw.say(said)]
        found[name] = answers

    with supervised(postgres, SCHEMA) as (_, endpoint):
        names = [(f"{way} {seed}", seed) for seed in range(3) for way in ("short", "long")]
        with ThreadPoolExecutor(len(names)) as threads:
            for done in [threads.submit(talk, endpoint, name, seed) for name, seed in names]:
                done.result()
        assert endpoint.record.problems == []
    for number in range(3):
        assert found[f"short {number}"] == found[f"long {number}"]
