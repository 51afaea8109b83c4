"""A process that is killed in the middle of a statement, and a disk that is full: rolled back, said, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backout.engines.postgres.account import server_account
from backout.errors import DatabaseFailed
from integration.postgres.stage import Stage, backends, stage_for, text_of, wait_until
from servers import PostgresDatabase

RUN = """
import sys
from pathlib import Path
from backout import Project

project = Project.find(config=Path(sys.argv[1]))
project.run(project.change(sys.argv[2]), "test", ask=lambda *_: True)
"""


def test_the_statement_of_a_killed_process_ends_soon(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The server looks whether its client is still there; else it would work, and hold its locks, to the end."""
    stage = stage_for(postgres, tmp_path)
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    change = stage.change("UPDATE t SET v = 2; SELECT pg_sleep(3600);")
    program = [sys.executable, "-c", RUN, str(stage.folder / "backout.toml"), str(change.path)]
    with subprocess.Popen(program) as process:
        wait_until(lambda: bool(stage.rows("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")))
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: backends(postgres, "backout: run%") == [])
    stage.elsewhere("UPDATE t SET v = 3")
    stage.log()
    assert stage.journal() == [(1, "real", "interrupted")]


# -- a full disk -------------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """A small file system of its own, with a tablespace on it."""

    folder: Path
    owner: str

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)


@pytest.fixture
def disk(postgres: PostgresDatabase) -> Iterator[Disk]:
    """4 MB on which the tables of the test are, and what the login role makes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    account = server_account()
    assert account is not None
    folder = Path(tempfile.mkdtemp(prefix="backout-disk-", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=4m,uid={account.uid},gid={account.gid},mode=700", "tmpfs", str(folder)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"this machine lets nobody mount a file system: {mounted.stderr.strip()}")
    name = f"small_{postgres.name}"
    try:
        postgres.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        postgres.execute(f"GRANT CREATE ON TABLESPACE {name} TO {postgres.login_role}, {postgres.application_role}")
        yield Disk(folder, name)
        postgres.execute("DROP TABLE IF EXISTS t; DROP SCHEMA IF EXISTS backout, rescue CASCADE")
        postgres.execute(f"DROP TABLESPACE {name}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


TABLE = """
CREATE TABLE t (id int PRIMARY KEY, v int, pad text){where};
INSERT INTO t SELECT g, 0, repeat('x', 900) FROM generate_series(1, 2500) g;
"""


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    return stage_for(postgres, tmp_path)


@pytest.mark.parametrize("where", ["the table", "the rescue", "the log of an armed table"])
def test_a_disk_that_is_full_takes_nothing(stage: Stage, disk: Disk, where: str) -> None:
    """The change, or what keeps the rows as they were, does not fit; with room it does."""
    database = stage.database
    stage.make(TABLE.format(where=f" TABLESPACE {disk.owner}" if where == "the table" else ""))
    if where != "the table":
        # 2.5 MB of rows: the pre-images fit, the post-images beside them do not.
        database.execute(f"ALTER ROLE {database.login_role} SET default_tablespace = {disk.owner}")
    if where == "the log of an armed table":
        stage.options = {**stage.options, "scan_limit": "0"}
    change = "UPDATE t SET v = v + 1, pad = pad || 'y'"
    error = stage.refuses(change)
    assert isinstance(error, DatabaseFailed)
    message, state, hint = text_of(error)
    # Then "No space left on device", or "wrote only 4096 of 8192 bytes" where a block fitted in part (mdextend in md.c).
    assert "could not extend file" in message
    assert state == "state: rolled back"
    assert hint == "hint: make room on the server's disk, then run it again"
    disk.resize("64m")
    before = stage.dump()
    stage.undo(stage.run(change))
    assert before == stage.dump()
    assert [state for _, _, state in stage.journal()] == ["rolled back", "committed", "committed"]
