"""A real replica whose replay stands still: the run waits for it, and goes on by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from backout.engines.postgres.account import identity, server_account
from backout.engines.postgres.embedded import EmbeddedServer
from backout.engines.postgres.names import literal
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, wait_until, yes
from servers import PASSWORD, SETTINGS, PostgresDatabase, present

REPLICATING = SETTINGS | {"wal_level": "replica", "max_wal_senders": "4", "wal_keep_size": "256MB"}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresDatabase, str]]:
    """A primary, and the URL of its replica."""
    with replicated() as found:
        yield found


@contextmanager
def replicated() -> Iterator[tuple[PostgresDatabase, str]]:
    """The same, for whoever does not leave them as they were."""
    if not present():
        pytest.skip("no PostgreSQL to test with")
    programs = next(iter(present().values()))
    place = Path(tempfile.mkdtemp(prefix="backout-replica-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o777)
    who = identity(server_account())
    with EmbeddedServer.start(place / "primary", programs=programs, settings=REPLICATING) as primary:
        programs = primary.programs  # where the server's account can reach them
        copy, port = place / "replica", free_port()
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


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
#: In the one database of these tests, which come in any order.
_NO_RUN_OF_BEFORE = "DROP SCHEMA IF EXISTS backout, rescue CASCADE"
CHANGE = "-- @batch t by=id size=50\nUPDATE t SET v = v + 1"


def test_a_lag_that_cannot_be_read_stops_the_run(pair: tuple[PostgresDatabase, str], tmp_path: Path) -> None:
    database, _ = pair
    database.execute(f"REVOKE pg_monitor FROM login; {_NO_RUN_OF_BEFORE}")
    stage = Stage(database, tmp_path)
    stage.make(TABLE)
    error = failure(lambda: stage.project.run(stage.change(CHANGE), "test", ask=yes))
    assert error.message == "the lag of the replicas cannot be read"
    assert stage.rows("SELECT sum(v) FROM t") == [(0,)]


def test_it_waits_for_a_replica_and_goes_on_by_itself(pair: tuple[PostgresDatabase, str], tmp_path: Path) -> None:
    database, replica = pair
    database.execute(f"GRANT pg_monitor TO login; {_NO_RUN_OF_BEFORE}")
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


def staged(database: PostgresDatabase, folder: Path, **options: str) -> Stage:
    """A role that may see the replicas, a table whose batches take a moment, and no run of before."""
    database.execute(f"GRANT pg_monitor TO login; {_NO_RUN_OF_BEFORE}")
    stage = Stage(database, folder, options)
    stage.make(TABLE + SLOW)
    return stage


SLOW = """
CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""
SMALL = "-- @batch t by=id size=2\nUPDATE t SET v = v + 1"


def only_pause(stage: Stage, report: RunReport) -> str:
    """The reason of the run's first pause; nothing was committed within it, by the database's own clock."""
    assert stage.rows("SELECT v, count(*) FROM t GROUP BY 1") == [(1, 200)]
    pause = f"SELECT reason, began_at, ended_at FROM backout.batch_pause WHERE run = {report.run} ORDER BY began_at"
    (reason, began, ended), *_ = stage.rows(pause)
    committed = [
        at for (at,) in stage.rows(f"SELECT committed_at FROM backout.batch WHERE run = {report.run} ORDER BY 1")
    ]
    assert committed[1] < began < ended < committed[-1]
    assert [at for at in committed if began < at < ended] == []
    return str(reason)


def test_a_replica_that_falls_behind_on_the_way_is_waited_for(
    pair: tuple[PostgresDatabase, str], tmp_path: Path
) -> None:
    database, replica = pair
    stage = staged(database, tmp_path, replica_lag='"1 second"')

    def watch(line: str) -> None:
        if line.startswith("batch 2:"):
            on_replica(replica, "SELECT pg_wal_replay_pause()")
        if "waits: replica lag" in line:
            on_replica(replica, "SELECT pg_wal_replay_resume()")

    report = stage.project.run(stage.change(SMALL), "test", ask=yes, progress=watch)
    assert only_pause(stage, report) == "replica lag"


def test_a_replica_that_is_gone_on_the_way_is_waited_for_until_it_is_back(
    pair: tuple[PostgresDatabase, str], tmp_path: Path
) -> None:
    """Its lag cannot be read any more: nobody takes that for no lag."""
    database, replica = pair
    stage = staged(database, tmp_path, replicas='["walreceiver"]')
    with psycopg.connect(replica, autocommit=True) as session:
        (way,) = session.execute("SELECT current_setting('primary_conninfo')").fetchone() or ("",)

    def connect(way: str) -> None:
        on_replica(replica, f"ALTER SYSTEM SET primary_conninfo = {literal(way)}")
        on_replica(replica, "SELECT pg_reload_conf()")

    def watch(line: str) -> None:
        if line.startswith("batch 2:"):
            connect("")
        if 'waits: replica "walreceiver" is gone' in line:
            connect(way)

    try:
        report = stage.project.run(stage.change(SMALL), "test", ask=yes, progress=watch)
    finally:
        connect(way)
    assert only_pause(stage, report) == 'replica "walreceiver" is gone'


def test_a_replica_that_is_named_and_not_there_stops_the_run(
    pair: tuple[PostgresDatabase, str], tmp_path: Path
) -> None:
    database, _ = pair
    stage = staged(database, tmp_path, replicas='["walreceiver", "far away"]')
    error = failure(lambda: stage.project.run(stage.change(CHANGE), "test", ask=yes))
    assert error.message == 'replica "far away" is not connected: its lag cannot be read'
    assert stage.rows("SELECT sum(v) FROM t") == [(0,)]
