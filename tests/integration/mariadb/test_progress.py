"""DDL commits by itself: what was applied of it is written down statement by statement, and a kill leaves a true record.

The process that is killed is a real one; it says each word before it acts, and its parent says when it dies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backout.engines.mariadb.progress import StepState
from backout.engines.values import RunState
from integration.mariadb.driving import make, opened, start
from servers_mariadb import MariaDatabase

STATEMENTS = ("CREATE TABLE one (id INT)", "CREATE TABLE two (id INT)", "CREATE TABLE three (id INT)")

#: Argument: the URL. Each word is said before it is done; nothing goes on until the parent answers.
VICTIM = f"""
import sys
from backout.engines import mariadb
from backout.engines.values import Settings
from integration.mariadb.driving import start

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

engine = mariadb.connect(Settings(sys.argv[1], "test"))
run = engine.journal.begin_run(start())
print(run, flush=True)
for place, statement in enumerate({STATEMENTS!r}, 1):
    say(f"begin {{place}}")
    engine.journal.progress.begin_step(run, place, statement)
    say(f"run {{place}}")
    engine._control.run(statement)
    say(f"end {{place}}")
    engine.journal.progress.end_step(run, place)
say("over")
"""

BEGUN, APPLIED = StepState.BEGUN, StepState.APPLIED
#: What was about to be done -> the statements that the journal has by then, and the tables that are there.
MOMENTS = {
    "begin 1": ([], 0),
    "run 1": ([BEGUN], 0),
    "end 1": ([BEGUN], 1),
    "begin 2": ([APPLIED], 1),
    "run 2": ([APPLIED, BEGUN], 1),
    "end 2": ([APPLIED, BEGUN], 2),
    "begin 3": ([APPLIED, APPLIED], 2),
    "over": ([APPLIED, APPLIED, APPLIED], 3),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_between_two_statements_leaves_a_journal_that_says_which_was_the_last(
    mariadb: MariaDatabase, moment: str
) -> None:
    """The last one is `applied`, or `begun`: then, and only then, the schema has to be asked."""
    with opened(mariadb):
        pass  # the journal is there
    run = killed(mariadb.login_url, moment)

    expected, tables = MOMENTS[moment]
    with opened(mariadb) as engine:
        steps = engine.journal.progress.steps(run)
        assert expected == [step.state for step in steps]
        assert list(STATEMENTS[: len(expected)]) == [step.statement for step in steps]
        assert all((step.ended_at is None) == (step.state is BEGUN) for step in steps)
        assert ["one", "two", "three"][:tables] == [
            name for name in ("one", "two", "three") if mariadb.execute(f"SHOW TABLES LIKE '{name}'")
        ]
        record = engine.journal.run(run)
        assert record is not None
        assert record.state in {RunState.RUNNING, RunState.INTERRUPTED}


def killed(url: str, moment: str) -> int:
    """Let the victim work until it is about to do that; the number of its run."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as victim:  # fmt: skip
        assert victim.stdin is not None
        assert victim.stdout is not None
        run = int(victim.stdout.readline())
        while (word := victim.stdout.readline().strip()) != moment:
            assert word, "it ended before"
            victim.stdin.write("\n")
            victim.stdin.flush()
        victim.kill()
    return run


def test_a_statement_that_fails_is_written_down_with_its_reason(mariadb: MariaDatabase) -> None:
    make(mariadb, "CREATE TABLE one (id INT)")
    with opened(mariadb) as engine:
        number = engine.journal.begin_run(start())
        engine.journal.progress.begin_step(number, 1, STATEMENTS[0])
        engine.journal.progress.end_step(number, 1, "table 'one' already exists")
        (step,) = engine.journal.progress.steps(number)
        assert (StepState.FAILED, "table 'one' already exists") == (step.state, step.error)
        assert step.ended_at is not None
