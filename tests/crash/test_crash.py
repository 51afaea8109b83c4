"""Whatever dies on PostgreSQL's side: afterwards the journal and the data tell the same story, and nothing is left over.

The moments are counted in words that the library says to the server, so that each boundary of a run can be hit; `make
hunt` hits every one. What dies on ours is in tests/conformance/test_kills.py, for every engine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backout.engines.postgres.embedded import EmbeddedServer
from backout.engines.values import RunRecord, RunState
from backout.errors import BackoutError
from crash import victim
from crash.victim import Order, yes
from properties.driving import SHORTER, Dump, dump
from servers import PASSWORD, SETTINGS, PostgresDatabase, present

DURABLE = SETTINGS | {"synchronous_commit": "on"}  # fsync stays off: processes die here, the machine does not
LIMIT_S = 30.0  # how long a server may take to see that its client is gone, or to come back: both take well under 1 s

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.parent (id int PRIMARY KEY, v int, pad text);
CREATE TABLE app.child (id int PRIMARY KEY, parent int REFERENCES app.parent ON DELETE CASCADE, v int);
CREATE TABLE app.heap (a int, b text);
CREATE TABLE app.audit (what int);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO app.audit VALUES (OLD.v); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE ON app.parent FOR EACH ROW EXECUTE FUNCTION app.note();
INSERT INTO app.parent SELECT g, g, repeat('x', 50) FROM generate_series(1, 200) g;
INSERT INTO app.child SELECT g, g % 100 + 1, g FROM generate_series(1, 400) g;
INSERT INTO app.heap SELECT g % 7, 'b' || g % 3 FROM generate_series(1, 100) g;
"""
CHANGE = """-- /// change
-- title = "Something of everything"
-- ///
UPDATE app.parent SET v = v + 1 WHERE id <= 50;
UPDATE app.parent SET v = v * 2 WHERE id <= 20;
DELETE FROM app.parent WHERE id BETWEEN 90 AND 100;
INSERT INTO app.child SELECT g, 7, g FROM generate_series(1001, 1050) g;
DELETE FROM app.heap WHERE a = 3;
"""


@dataclass
class Scene:
    """A server, a database, and a process that is about to be hit."""

    server: EmbeddedServer
    database: PostgresDatabase
    place: Path
    process: subprocess.Popen[str]
    before: Dump = field(default_factory=dict)
    after: Dump = field(default_factory=dict)

    @property
    def order(self) -> Order:
        folder = str(self.place)
        return Order(
            self.database.login_url, self.database.application_role, folder, "run", "change",
            server_pid=int(self._pid_file.read_text().split()[0]), answer=str(self.place / "answer.json"),
        )  # fmt: skip

    @property
    def _pid_file(self) -> Path:
        return self.server.data_directory / "cluster" / "postmaster.pid"

    def send(self, order: Order) -> dict[str, Any]:
        """Have the order obeyed; returns how the child ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(victim.as_line(order))
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert found["status"] != victim.NOT_OURS, found
        return found

    def come_back(self) -> None:
        """Wait until the server takes connections again; where it is gone, start it again."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                self.database.execute("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "the server does not come back"
                if not self._alive():
                    self.server.stop()
                    self.server = start_server(self.place / "server")
                    self.database.server = self.server
                time.sleep(0.02)  # polled with a deadline
            else:
                return

    def _alive(self) -> bool:
        keeper = self.server._keeper
        return keeper is not None and keeper.poll() is None

    def settled(self, since: int) -> RunRecord | None:
        """The run that came after `since`, once the log has settled it."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            records = [one for one in self.order.project().log("test") if one.number > since]
            if all(one.state is not RunState.RUNNING for one in records):
                assert len(records) <= 1
                return records[0] if records else None
            assert time.monotonic() < deadline, "a run whose process is dead is still running"
            time.sleep(0.02)  # polled with a deadline

    def last_run(self) -> int:
        return int(self.database.execute("SELECT coalesce(max(number), 0) FROM backout.run")[0][0])

    def dump(self) -> Dump:
        return dump(self.database, "app")

    def rescue_tables(self) -> set[str]:
        rows = self.database.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'rescue'::regnamespace AND relkind = 'r'"
        )
        return {row[0] for row in rows}

    def nothing_left(self) -> None:
        """Each rescue table belongs to a run that committed, nobody holds the lease, nobody of ours is connected."""
        deadline = time.monotonic() + LIMIT_S
        while self.database.execute("SELECT FROM pg_stat_activity WHERE application_name LIKE 'backout:%'"):
            assert time.monotonic() < deadline, "a session of a dead process is still there"
            time.sleep(0.02)  # polled with a deadline
        kept = {
            name
            for row in self.database.execute("SELECT before_rescue, after_rescue, left_rescue FROM backout.run_table")
            for name in row
            if name
        }
        there = self.rescue_tables()
        pairs = {
            name for name in there if f"{name.removesuffix('moved')}before" in kept
        }  # of rows whose key has changed
        assert kept | pairs == there
        assert [] == self.database.execute(
            "SELECT FROM backout.run_table t JOIN backout.run r ON r.number = t.run WHERE r.state <> 'committed'"
        )
        assert [] == self.database.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'")

    def forget(self) -> None:
        """Take back what a run has left behind, journal and data, so that the next round begins as the first."""
        for record in self.order.project().log("test"):
            names = [name for name in self.rescue_tables() if name.startswith(f"run_{record.number}_")]
            for name in names:
                self.database.execute(f"DROP TABLE rescue.{name}")
        self.database.execute("TRUNCATE backout.run, backout.run_table")


def start_server(place: Path) -> EmbeddedServer:
    return EmbeddedServer.start(place, programs=next(iter(present().values())), settings=DURABLE)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """One server for all tests of this module, since each round leaves it as it was."""
    if not present():
        pytest.skip("no PostgreSQL to test with")
    place = Path(tempfile.mkdtemp(prefix="backout-crash-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o711)
    server = start_server(place / "server")
    database = PostgresDatabase(server, "test", "login", "app")
    process = subprocess.Popen(
        [sys.executable, victim.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = Scene(server, database, place, process)
    try:
        _set_up(found)
        yield found
    finally:
        process.communicate()
        found.server.stop()
        shutil.rmtree(place, ignore_errors=True)


def _set_up(scene: Scene) -> None:
    with psycopg.connect(scene.server.url(), autocommit=True) as session:
        session.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        session.execute(f"CREATE ROLE login LOGIN PASSWORD '{PASSWORD}' IN ROLE app")
        session.execute("CREATE DATABASE test")
        session.execute("GRANT CREATE ON DATABASE test TO app, login")
    scene.database.as_application(SCHEMA)
    (scene.place / "change.sql").write_text(CHANGE)
    project = scene.order.project()
    scene.before = scene.dump()
    report = project.run(project.change("change"), "test", ask=yes)
    scene.after = scene.dump()
    assert scene.before != scene.after
    project.undo(report.identifier, ask=yes)
    assert scene.before == scene.dump()
    scene.forget()


# -- what must be true afterwards --------------------------------------------------------------------------------------


def strike(scene: Scene, order: Order) -> tuple[dict[str, Any], RunRecord | None]:
    """One round: from a known state, be hit, come back, and compare the journal with the data."""
    undoing = order.action == "undo"
    project = scene.order.project()
    if undoing:
        order = replace(order, run=project.run(project.change("change"), "test", ask=yes).identifier)
    start, since = scene.dump(), scene.last_run()
    told = scene.send(order)
    scene.come_back()
    project = scene.order.project()  # a server that was started anew has another port
    record = scene.settled(since)
    scene.nothing_left()
    committed = record is not None and record.state is RunState.COMMITTED
    if committed:
        assert record is not None
        assert order.action != "ghost"
        assert (scene.before if undoing else scene.after) == scene.dump()
        assert any(name.startswith(f"run_{record.number}_") for name in scene.rescue_tables())
        if not undoing:
            project.undo(record.identifier, ask=yes)
    else:
        assert record is None or record.state in {RunState.INTERRUPTED, RunState.ROLLED_BACK}, record
        assert start == scene.dump()
        if undoing:
            project.undo(order.run, ask=yes)
        else:
            with project._opened("test", _write()) as (opened, _, _):
                opened.lease("next", "tester")
    assert scene.before == scene.dump()
    _told_the_truth(told, order, committed=committed)
    scene.forget()
    return told, record


def _write() -> Any:
    from backout.project.doors import Intent

    return Intent.WRITE


def _told_the_truth(told: dict[str, Any], order: Order, *, committed: bool) -> None:
    """Where the child could still speak, its exit status fits what is true."""
    if told["status"] == 0 and order.action != "ghost":
        assert committed, told
    if told["status"] in {2, 3, 4, 5, 6, 7, 8}:
        assert not committed, told


def words(scene: Scene, action: str) -> int:
    """How many words an undisturbed run says to the server."""
    told, _ = strike(scene, replace(scene.order, action=action))
    assert told["status"] == 0, told
    return int(told["words"])


def each(scene: Scene, action: str, blow: str, moments: Callable[[int], list[int]]) -> None:
    for moment in moments(words(scene, action)):
        order = replace(scene.order, action=action, blow=blow, moment=moment)
        try:
            strike(scene, order)
        except (AssertionError, BackoutError):
            print(f"{action}: {blow} at word {moment}")
            raise


def some(step: int) -> Callable[[int], list[int]]:
    """Every `step`-th moment, and the last ones, in which the run becomes true."""
    return lambda count: sorted({*range(2, count + 1, step * SHORTER), *range(max(1, count - 4), count + 1)})


def every(count: int) -> list[int]:
    return list(range(1, count + 1))


# -- the rounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blow", ["end the backend", "kill the backend"])
def test_a_backend_that_dies_takes_its_run_with_it(scene: Scene, blow: str) -> None:
    """An administrator ends the session, or the kernel kills it, upon which the server starts all over."""
    each(scene, "run", blow, some(50))


def test_a_server_that_dies_comes_back_with_all_or_nothing(scene: Scene) -> None:
    each(scene, "run", "kill the server", lambda count: [count // 2, count - 3])


@pytest.mark.hunt
@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
@pytest.mark.parametrize("blow", ["end the backend", "kill the backend"])
def test_every_boundary_hunted(scene: Scene, action: str, blow: str) -> None:
    """Each word that a run says to the server."""
    each(scene, action, blow, every)


@pytest.mark.hunt
@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
def test_a_server_that_dies_hunted(scene: Scene, action: str) -> None:
    each(scene, action, "kill the server", some(3))
