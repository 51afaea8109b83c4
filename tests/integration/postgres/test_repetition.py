"""A change runs once on an environment, unless it is a task for many times, or somebody says why it runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backout.change.model import Change
from backout.errors import BackoutError, Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, stage_with_two_tables, wait_until, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

CHANGE = "UPDATE t SET v = v || '!';"


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    return stage_with_two_tables(postgres, tmp_path)


def run(stage: Stage, change: Change, **options: str) -> RunReport:
    return stage.project.run(change, "test", ask=yes, **options)  # type: ignore[arg-type]


def refused(act: Callable[[], object]) -> BackoutError:
    error = failure(act)
    assert isinstance(error, Refused)
    assert (error.gate, error.state) == ("repetition", "untouched")
    return error


def values(stage: Stage) -> list[str]:
    return [value for (value,) in stage.rows("SELECT v FROM t ORDER BY id")]


def test_a_change_that_has_run_is_refused_with_the_ways_out(stage: Stage) -> None:
    change = stage.change(CHANGE)
    run(stage, change)
    error = refused(lambda: run(stage, change))
    assert error.message.startswith('change "change-1" has run here already: test-1, ')
    assert error.hint == (
        'take it back first: backout undo test-1; or say why it is to run again: --again "…"; '
        "a task for many times says `repeat = true`"
    )
    assert (values(stage), stage.journal()) == (["a!", "b!", "c!"], [(1, "real", "committed")])


def test_an_edited_change_of_the_same_name_has_run_all_the_same(stage: Stage) -> None:
    change = stage.change(CHANGE)
    run(stage, change)
    change.path.write_text(change.path.read_text().replace("'!'", "'?'"))
    refused(lambda: run(stage, stage.project.change(str(change.path))))


def test_with_a_reason_it_runs_again_and_the_reason_is_kept(stage: Stage) -> None:
    change = stage.change(CHANGE)
    run(stage, change)
    assert run(stage, change, again="two rows were added").again == "two rows were added"
    assert values(stage) == ["a!!", "b!!", "c!!"]
    assert stage.rows("SELECT report->>'again' FROM backout.run ORDER BY number") == [(None,), ("two rows were added",)]
    refused(lambda: run(stage, change, again=" "))


def test_a_task_for_many_times_runs_many_times_each_a_run_of_its_own(stage: Stage) -> None:
    change = stage.change(CHANGE, more="-- repeat = true")
    for _ in range(3):
        run(stage, change)
    assert values(stage) == ["a!!!", "b!!!", "c!!!"]
    assert [(1, "real", "committed"), (2, "real", "committed"), (3, "real", "committed")] == stage.journal()


def test_what_was_undone_can_run_again_and_what_was_brought_back_cannot(stage: Stage) -> None:
    change = stage.change(CHANGE)
    stage.undo(run(stage, change))
    again = run(stage, change)
    undone = stage.undo(again)
    stage.undo(undone)
    refused(lambda: run(stage, change))


def test_ghosts_failures_and_runs_that_wrote_nothing_do_not_count(stage: Stage) -> None:
    change = stage.change(CHANGE + '\n-- @assert "two rows"\nSELECT count(*) = 2 FROM t;')
    stage.project.ghost(stage.change("DELETE FROM t WHERE id = 3;"), "test", ask=yes)
    failure(lambda: run(stage, change))
    stage.elsewhere("DELETE FROM t WHERE id = 3")
    run(stage, change)
    nothing = stage.change("UPDATE t SET v = '' WHERE id > 100;")
    run(stage, nothing)
    run(stage, nothing)


def test_somebody_who_ran_it_while_we_were_asked_has_run_it(stage: Stage) -> None:
    """The question takes its time; what is true behind the lease counts."""
    change = stage.change(CHANGE)

    def slowly(kind: str, _question: str) -> bool:
        if kind == "run":
            run(stage, change)
            lease = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 0 AND granted"
            wait_until(lambda: not stage.rows(lease))  # the server gives it back once the session has ended
        return True

    refused(lambda: stage.project.run(change, "test", ask=slowly))
    assert values(stage) == ["a!", "b!", "c!"]


def test_a_run_in_batches_that_was_stopped_is_resumed_not_begun_anew(stage: Stage) -> None:
    change = stage.change(f"-- @batch t by=id size=1\n-- @expect total 9\n{CHANGE}")
    failure(lambda: run(stage, change))
    assert "go on with it: backout resume test-1" in str(refused(lambda: run(stage, change)).hint)
