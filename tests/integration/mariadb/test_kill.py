"""Killed at random instants: afterwards the journal and the data tell the same story, and nothing is left over."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backout import Project
from backout.engines.values import RunRecord, RunState
from integration.mariadb.driving import Dump, dump, make
from integration.mariadb.test_faults import project
from servers_mariadb import MariaDatabase

SEED = int(os.environ.get("HUNT_SEED") or random.SystemRandom().randrange(2**32))
LIMIT_S = 30.0
SCHEMA = (
    "CREATE TABLE p (id INT PRIMARY KEY, a INT); CREATE TABLE c (id INT PRIMARY KEY, p INT, "
    "FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE); CREATE TABLE heap (a INT);"
    "INSERT INTO p SELECT seq, seq FROM seq_1_to_2000; INSERT INTO c SELECT seq, seq FROM seq_1_to_2000;"
    "INSERT INTO heap SELECT seq MOD 9 FROM seq_1_to_200"
)
#: One plain statement of many rows: the quick form, whose undo copies its images while it is at work.
QUICK_SCHEMA = (
    "CREATE TABLE q (id INT PRIMARY KEY, a INT, b VARCHAR(90));"
    "INSERT INTO q SELECT seq, 1, REPEAT('x', 80) FROM seq_1_to_8000"
)
QUICK = "UPDATE q SET a = a + 1 WHERE id > 1000;"
CHANGE = "UPDATE p SET a = a + 1 WHERE id < 1000;\nDELETE FROM p WHERE id > 1500;\nDELETE FROM heap WHERE a = 3;"


def settled(found: Project, since: int) -> RunRecord | None:
    """The run that came after `since`, once the log has settled it."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        records = [one for one in found.log("shop") if one.number > since]
        if all(one.state is not RunState.RUNNING for one in records):
            return records[0] if records else None
        assert time.monotonic() < deadline, "the run is not settled"
        time.sleep(0.05)


def killed(folder: Path, after_s: float, *arguments: str) -> None:
    """Start the victim, and kill it that long after it has begun."""
    command = [sys.executable, "-m", "integration.mariadb.victim", *arguments[:1], str(folder), *arguments[1:]]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "begun\n"
        time.sleep(after_s)
        victim.kill()


def rescue_tables(mariadb: MariaDatabase, run: int) -> list[object]:
    return mariadb.execute(f"SHOW TABLES FROM rescue LIKE 'run\\_{run}\\_%'")


def story(mariadb: MariaDatabase, tmp_path: Path, moments: int, *, quick: bool = False) -> None:
    """Kill runs and undos, one after the other, and compare the journal with the data each time."""
    make(mariadb, QUICK_SCHEMA if quick else SCHEMA)
    found = project(tmp_path, mariadb.login_url, QUICK if quick else CHANGE)
    found.init_journal("shop")
    chance = random.Random(SEED)
    before, after, last = dump(mariadb), _changed(mariadb, found, tmp_path), 0
    last = found.log("shop")[0].number
    for _ in range(moments):
        killed(tmp_path, chance.uniform(0, 1.5), "run")
        record = settled(found, last)
        committed = record is not None and record.state is RunState.COMMITTED
        assert (after if committed else before) == dump(mariadb), f"HUNT_SEED={SEED}"
        if record is None:
            continue
        last = record.number
        assert bool(rescue_tables(mariadb, record.number)) == committed
        assert not mariadb.execute("SHOW TABLES FROM rescue LIKE '%stage'")
        if not committed:
            continue
        killed(tmp_path, chance.uniform(0, 1.5), "undo", record.identifier)
        undone = settled(found, last)
        if undone is not None and undone.state is RunState.COMMITTED:
            assert before == dump(mariadb), f"HUNT_SEED={SEED}"
            last = undone.number
        else:
            assert after == dump(mariadb), f"HUNT_SEED={SEED}"
            last = found.undo(record.identifier, "shop", ask=lambda _kind, _question: True).run
        found.log("shop")  # drops what no record names: tables for images that there turned out to be none of
        assert _recorded(mariadb) == {str(row[0]) for row in mariadb.execute("SHOW TABLES FROM rescue")}, (
            f"HUNT_SEED={SEED}"
        )
        assert before == dump(mariadb), f"HUNT_SEED={SEED}"


def _recorded(mariadb: MariaDatabase) -> set[str]:
    """The rescue tables that the journal names; there are no others."""
    rows = mariadb.execute("SELECT before_rescue, after_rescue FROM backout.run_table")
    return {str(name) for row in rows for name in row if name is not None}


def _changed(mariadb: MariaDatabase, found: Project, folder: Path) -> Dump:
    """What the data is after the change; it is undone at once."""
    report = found.run(found.change(str(folder / "change.sql")), "shop", ask=lambda _kind, _question: True)
    after = dump(mariadb)
    found.undo(report.identifier, "shop", ask=lambda _kind, _question: True)
    return after


@pytest.mark.parametrize("quick", [False, True], ids=["general", "quick"])
def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path: Path, mariadb: MariaDatabase, *, quick: bool) -> None:
    story(mariadb, tmp_path, 5, quick=quick)


@pytest.mark.hunt
@pytest.mark.parametrize("quick", [False, True], ids=["general", "quick"])
def test_many_kills_leave_all_or_nothing(tmp_path: Path, mariadb: MariaDatabase, *, quick: bool) -> None:
    story(mariadb, tmp_path, 200, quick=quick)
