"""The primary dies in the middle of a run, and its replica takes over: `resume` goes on there behind what arrived."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from backout.errors import BackoutError
from integration.postgres.stage import wait_until, yes
from integration.postgres.test_batches_replica import on_replica, replicated, staged
from servers import PASSWORD, PostgresDatabase


def on_the_other(replica: str, query: str) -> list[tuple[object, ...]]:
    """The answer of the replica, as its superuser, in the database of the test."""
    with psycopg.connect(replica.replace("dbname=postgres", "dbname=test"), autocommit=True) as session:
        return session.execute(query.encode()).fetchall()


def kill(database: PostgresDatabase) -> None:
    """The primary's server at once, without a word to its replica (manual 18.5: SIGQUIT, "Immediate Shutdown")."""
    file = database.server.data_directory / "cluster" / "postmaster.pid"
    os.kill(int(file.read_text().splitlines()[0]), signal.SIGQUIT)


def test_a_run_goes_on_on_the_replica_that_took_over(tmp_path: Path) -> None:
    """Replication is asynchronous: what had not arrived is not in the journal there either, and is done once more."""
    with replicated() as (database, replica):
        port = dict(part.split("=", 1) for part in replica.split())["port"]
        here, there = f"127.0.0.1:{database.server.port}", f"127.0.0.1:{port}"
        url = f'"postgresql://login:{quote(PASSWORD)}@{here},{there}/test"'  # the primary of several
        stage = staged(database, tmp_path, url=url)
        (tmp_path / "changes").symlink_to(tmp_path)
        said: list[str] = []

        def watch(line: str) -> None:
            said.append(line)
            if line.startswith("batch 7:"):
                kill(database)

        change = stage.change("-- @batch t by=id size=10\nUPDATE t SET v = v + 1")
        with pytest.raises(BackoutError) as caught:
            stage.project.run(change, "test", ask=yes, progress=watch)
        assert len(said) >= 7, str(caught.value)
        on_replica(replica, "SELECT pg_promote()")
        wait_until(lambda: on_the_other(replica, "SELECT pg_is_in_recovery()") == [(False,)])

        arrived = on_the_other(replica, "SELECT coalesce(max(number), 0) FROM backout.batch")[0][0]
        assert on_the_other(replica, "SELECT sum(v) / 10 FROM t") == [(arrived,)]
        stage.project.resume("test-1", "test", ask=yes)
        assert on_the_other(replica, "SELECT v, count(*) FROM t GROUP BY 1") == [(1, 200)]
        assert on_the_other(replica, "SELECT count(*), max(number) FROM backout.batch") == [(20, 20)]
        stage.undo("test-1")
        assert on_the_other(replica, "SELECT v, count(*) FROM t GROUP BY 1") == [(0, 200)]
