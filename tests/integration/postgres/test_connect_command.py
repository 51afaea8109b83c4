"""The `connect` command of an environment: a real TCP forwarder, which is started, waited for, watched and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

import proxy
from backout.engines.values import RunState
from backout.errors import BackoutError, UsageError
from backout.project import Project
from backout.project.doors import Intent
from integration.postgres.stage import Stage, stage_for, wait_until, yes
from servers import PostgresDatabase

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)"
CHANGE = "UPDATE t SET v = v + 1"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class Forwarded:
    """A stage whose database is behind a forwarder; `port` is the one that the forwarder opens."""

    def __init__(self, database: PostgresDatabase, folder: Path) -> None:
        parts = urlsplit(database.login_url)
        self.port = free_port()
        self.account, self.database_port = parts.netloc.rpartition("@")[0], parts.port
        self.url = f"postgresql://{self.account}@127.0.0.1:{self.port}{parts.path}"
        self.stage: Stage = stage_for(database, folder)
        self.stage.make(TABLE)

    def project(self, command: list[str] | None = None, *, more: str = "", **options: str) -> Project:
        words = command or [sys.executable, str(Path(proxy.__file__)), str(self.port), str(self.database_port)]
        connect = f"{{command = {json.dumps(words)}{more}}}"
        return Project.find(config=self.stage.write_config(url=f'"{self.url}"', connect=connect, **options))

    def failure(self, project: Project) -> BackoutError:
        with pytest.raises(BackoutError) as caught:
            project.run(self.stage.change(CHANGE), "test", ask=yes)
        assert not accepts(self.port)
        return caught.value


@pytest.fixture
def forwarded(postgres18: PostgresDatabase, tmp_path: Path) -> Forwarded:
    return Forwarded(postgres18, tmp_path)


def values(forwarded: Forwarded) -> list[tuple[int, ...]]:
    return [tuple(row) for row in forwarded.stage.rows("SELECT id, v FROM t ORDER BY id")]


def test_a_run_goes_through_it_and_it_is_gone_afterwards(forwarded: Forwarded) -> None:
    project = forwarded.project(more=', ready = "Forwarding from"')
    report = project.run(forwarded.stage.change(CHANGE), "test", ask=yes)
    assert (report.outcome, values(forwarded)) == (RunState.COMMITTED, [(1, 1), (2, 1)])
    assert not accepts(forwarded.port)
    project.undo(report.identifier, "test", ask=yes)
    assert values(forwarded) == [(1, 0), (2, 0)]
    assert not [one for one in project.doctor("test") if one.level == "wrong"]
    assert not accepts(forwarded.port)


def test_a_port_that_something_else_listens_on_is_not_taken_for_ours(forwarded: Forwarded) -> None:
    """It may be a forward to another cluster, left behind by somebody."""
    with socket.create_server(("127.0.0.1", forwarded.port)), pytest.raises(UsageError) as caught:
        forwarded.project().run(forwarded.stage.change(CHANGE), "test", ask=yes)
    assert str(caught.value) == (
        f"something listens on 127.0.0.1:{forwarded.port} already, and it is not our connect command\n"
        "state: untouched\n"
        "hint: end it, or give this environment another port, in its url and in its connect command"
    )


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        (["/nowhere/kubectl", "secret"], "", 'unable to start the connect command "/nowhere/kubectl": no such file'),
        (
            ["sh", "-c", "echo 'error: pod not found'; exit 7"], "",
            'the connect command "sh" ended with status 7: error: pod not found, before 127.0.0.1:',
        ),
        (
            ["sleep", "60"], ', timeout = "200 ms"',
            'the connect command "sleep" is not ready after 0.2 s: 127.0.0.1:',
        ),
        (
            ["sh", "-c", "echo waiting for the pod; sleep 60"], ', timeout = "300 ms", ready = "Forwarding from"',
            'it has not said "Forwarding from"; it said "waiting for the pod"',
        ),
    ],
    ids=["not there", "it fails", "it opens nothing", "it is not ready"],
)  # fmt: skip
def test_one_that_does_not_open_the_way_says_why(
    forwarded: Forwarded, command: list[str], more: str, words: str
) -> None:
    error = forwarded.failure(forwarded.project(command, more=more))
    assert isinstance(error, UsageError)
    assert words in error.message
    assert (error.state, error.hint is not None) == ("untouched", True)
    assert values(forwarded) == [(1, 0), (2, 0)]


def test_what_it_has_started_ends_with_it(forwarded: Forwarded) -> None:
    """A wrapper in a shell that leaves the forwarder to a child of its own."""
    program = f"{sys.executable} {proxy.__file__} {forwarded.port} {forwarded.database_port}"
    project = forwarded.project(["sh", "-c", f"{program} & wait"])
    assert project.run(forwarded.stage.change(CHANGE), "test", ask=yes).outcome is RunState.COMMITTED
    assert not accepts(forwarded.port)


def test_its_death_fails_the_run_and_the_error_says_so(forwarded: Forwarded) -> None:
    project = forwarded.project(lock_timeout='"30 seconds"')
    project.init_journal("test")
    database = forwarded.stage.database

    def kill_it_when_the_run_waits(blocker: psycopg.Connection[object]) -> None:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backout: run' AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: database.execute(waiting) == [(1,)])
        process = project._tunnels["test"]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        project._tunnels["test"]._ended.wait()
        blocker.rollback()

    with database.connect(autocommit=False) as blocker:
        blocker.execute("SELECT * FROM t FOR UPDATE")
        thread = threading.Thread(target=kill_it_when_the_run_waits, args=(blocker,))
        thread.start()
        error = forwarded.failure(project)
        thread.join()
    assert f'the connect command "{sys.executable}" ended with status -9' in error.message
    wait_until(lambda: not database.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'backout: run'"))
    assert values(forwarded) == [(1, 0), (2, 0)]
    (record,) = project.log("test")
    assert record.state is not RunState.COMMITTED


def test_ctrl_c_is_for_the_run_and_not_for_it(forwarded: Forwarded) -> None:
    """In a process group of its own: the terminal's signal would else cut the way back before the roll-back."""
    project = forwarded.project()
    with project._opened("test", Intent.LOOK):
        process = project._tunnels["test"]._process
        assert process is not None
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert project._tunnels == {}


def test_the_hosts_of_the_policy_are_those_of_the_url(forwarded: Forwarded) -> None:
    error = forwarded.failure(forwarded.project(hosts='["db.example.org"]'))
    assert error.message == 'the URL has host "127.0.0.1", which is not in `hosts`'
