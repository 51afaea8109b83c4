"""A real replica whose replay stands still: the run waits for it, and goes on by itself."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backout.engines.postgres.account import identity, server_account
from backout.engines.postgres.embedded import EmbeddedServer
from integration.postgres.stage import Stage, failure, wait_until, yes
from servers import PASSWORD, SETTINGS, PostgresDatabase, present

REPLICATING = SETTINGS | {"wal_level": "replica", "max_wal_senders": "4", "wal_keep_size": "256MB"}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresDatabase, str]]:
    """A primary, and the URL of its replica."""
    if not present():
        pytest.skip("no PostgreSQL to test with")
    programs = next(iter(present().values()))
    place = Path(tempfile.mkdtemp(prefix="backout-replica-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o777)
    who = identity(server_account())
    with EmbeddedServer.start(place / "primary", programs=programs, settings=REPLICATING) as primary:
        programs = primary.programs  # where the server's account can reach them
        copy, port = place / "replica", 20_000 + os.getpid() % 10_000
        subprocess.run(
            [programs.path("pg_basebackup"), "-D", copy, "-R", "-c", "fast", "-d", primary.url()],
            check=True,
            cwd="/",
            **who,
        )
        replica = subprocess.Popen(
            [programs.path("postgres"), "-D", copy, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
             "-c", f"unix_socket_directories={place}", "-c", "wal_receiver_status_interval=1s", "-c", "hot_standby=on",
             "-c", f"max_prepared_transactions={REPLICATING['max_prepared_transactions']}", "-c", "fsync=off"],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who,
        )  # fmt: skip
        try:
            url = f"host=127.0.0.1 port={port} user=postgres dbname=postgres password={primary.password}"
            wait_until(lambda: _answers(url))
            with psycopg.connect(primary.url(), autocommit=True) as session:
                streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
                wait_until(lambda: session.execute(streaming).fetchone() == (1,))
                session.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
                session.execute(f"CREATE ROLE login LOGIN PASSWORD '{PASSWORD}' IN ROLE app")
                session.execute("CREATE DATABASE test")
                session.execute("GRANT CREATE ON DATABASE test TO app, login")
            database = PostgresDatabase(primary, "test", "login", "app")
            database.execute("GRANT CREATE ON SCHEMA public TO app")
            yield database, url
        finally:
            replica.terminate()
            replica.wait()


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as session:
            return bool(session.execute("SELECT pg_is_in_recovery()").fetchone())
    except psycopg.OperationalError:
        return False


def on_replica(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(statement.encode())


TABLE = """
DROP TABLE IF EXISTS t;
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT g, 0 FROM generate_series(1, 200) g;
"""
CHANGE = "-- @batch t by=id size=50\nUPDATE t SET v = v + 1"


def test_a_lag_that_cannot_be_read_stops_the_run(pair: tuple[PostgresDatabase, str], tmp_path: Path) -> None:
    database, _ = pair
    database.execute("REVOKE pg_monitor FROM login")
    stage = Stage(database, tmp_path)
    stage.make(TABLE)
    error = failure(lambda: stage.project.run(stage.change(CHANGE), "test", ask=yes))
    assert error.message == "the lag of the replicas cannot be read"
    assert stage.rows("SELECT sum(v) FROM t") == [(0,)]


def test_it_waits_for_a_replica_and_goes_on_by_itself(pair: tuple[PostgresDatabase, str], tmp_path: Path) -> None:
    database, replica = pair
    database.execute("GRANT pg_monitor TO login")
    stage = Stage(database, tmp_path, {"replica_lag": '"1 second"'})
    stage.make(TABLE)
    before = stage.dump()
    on_replica(replica, "SELECT pg_wal_replay_pause()")
    database.execute("UPDATE t SET v = 0 WHERE id = 1")  # the replica has not replayed that
    wait_until(
        lambda: database.execute("SELECT extract(epoch FROM replay_lag) > 2 FROM pg_stat_replication") == [(True,)]
    )
    said: list[str] = []

    def watch(line: str) -> None:
        said.append(line)
        if "waits: replica lag" in line:
            assert stage.rows("SELECT sum(v) FROM t") == [(0,)]
            on_replica(replica, "SELECT pg_wal_replay_resume()")

    report = stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch)
    assert any("waits: replica lag" in line for line in said), said
    assert stage.rows("SELECT v, count(*) FROM t GROUP BY 1") == [(1, 200)]
    assert stage.rows("SELECT DISTINCT reason FROM backout.batch_pause") == [("replica lag",)]
    stage.undo(report)
    assert before == stage.dump()
