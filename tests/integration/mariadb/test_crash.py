"""Whatever dies on MariaDB's side: afterwards the journal and the data tell the same story, and nothing is left over.

What dies on ours is in tests/conformance/test_kills.py, for every engine; its rounds are played here as well, with an
administrator who ends a session, and with a server that is killed and comes back.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conformance.mariadb_target import MariadbTarget
from conformance.stage import Stage
from conformance.striking import Scene, each, every, set_up
from conformance.victim import Order
from servers_mariadb import MariaDatabase, MariaServer, MariaServers, present

#: A commit is written to the file before it is answered; processes die here, the machine does not.
DURABLE = ["--innodb-flush-log-at-trx-commit=2"]


@dataclass
class Struck(Scene):
    """A scene whose server can die: it is started again where it was, at the same port, which is part of its identity."""

    @property
    def database(self) -> MariaDatabase:
        assert isinstance(self.target, MariadbTarget)
        return self.target.database

    @property
    def order(self) -> Order:
        return replace(super().order, server=self.database.server.process.pid)

    def come_back(self) -> None:
        dead = self.database.server
        if dead.process.poll() is None and not _has_ended(dead.process):
            return
        dead.process.wait()
        self.database.server = MariaServer.start([*DURABLE, f"--port={dead.port}"], dead.place)
        self.database.server.port = dead.port


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """A process that was sent SIGKILL ends soon, and not at once."""
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.fixture
def struck(tmp_path: Path) -> Iterator[Struck]:
    """A server of its own."""
    if not present():
        pytest.skip("MariaDB is not tested")
    servers = MariaServers("crash", DURABLE)
    database = servers.create_database()
    try:
        with set_up(Stage(MariadbTarget(database), tmp_path), Struck) as found:
            yield found
    finally:
        database.server.stop()
        servers.stop()


@pytest.mark.parametrize("action", ["run", "undo"])
def test_a_session_that_is_ended_takes_its_run_with_it(struck: Struck, action: str) -> None:
    """Whichever of the three it is."""
    each(struck, action, "session", lambda count: [count // 3, count - 2])


@pytest.mark.parametrize("blow", ["server", "server sent"])
def test_a_server_that_dies_comes_back_with_all_or_nothing(struck: Struck, blow: str) -> None:
    each(struck, "run", blow, lambda count: [count // 2, count - 3])


@pytest.mark.hunt
@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
def test_every_boundary_at_which_a_session_ends_hunted(struck: Struck, action: str) -> None:
    """Each word that a run says to the server."""
    each(struck, action, "session", every)


@pytest.mark.hunt
@pytest.mark.parametrize("action", ["run", "undo"])
@pytest.mark.parametrize("blow", ["server", "server sent"])
def test_a_server_that_dies_hunted(struck: Struck, action: str, blow: str) -> None:
    each(struck, action, blow, lambda count: every(count)[::3])
