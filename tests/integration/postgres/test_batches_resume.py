"""A run in batches that is told to stop, or loses its session: it ends between two batches, and goes on behind the last."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from backout.errors import BackoutError, Busy, Interrupted, Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, backends, failure, in_background, stage_for, wait_until, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.either

CHANGE = "-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1"


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    made = stage_for(postgres, tmp_path)
    made.make("""
        CREATE TABLE referral (id bigint PRIMARY KEY, visits int NOT NULL DEFAULT 0);
        INSERT INTO referral SELECT g FROM generate_series(1, 1000) g;
    """)
    return made


def run_until(stage: Stage, batch: int, blow: Callable[[], object], statements: str = CHANGE) -> BackoutError:
    """Run it; once that batch is committed, something happens."""
    change = stage.change(statements)

    def watch(said: str) -> None:
        if said.startswith(f"batch {batch}:"):
            blow()

    return failure(lambda: stage.project.run(change, "test", ask=yes, progress=watch))


def resume(stage: Stage, number: int = 1) -> RunReport:
    return stage.project.resume(str(number), "test", ask=yes)


def visits(stage: Stage) -> list[tuple[int, int]]:
    """(visits, how many rows have so many)."""
    return stage.database.execute("SELECT visits, count(*)::int FROM referral GROUP BY 1 ORDER BY 1")


@pytest.fixture
def known(stage: Stage) -> None:
    """A run is resumed by its change's name: the project's folder of changes is where the tests write theirs."""
    (stage.folder / "changes").symlink_to(stage.folder)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_at_hand_and_it_goes_on(stage: Stage, number: signal.Signals) -> None:
    before = stage.dump()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    error = run_until(stage, 3, lambda: os.kill(os.getpid(), number))
    assert isinstance(error, Interrupted)
    assert (error.exit_status, error.state, error.hint) == (8, "committed up to batch 3", "backout resume test-1")
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert visits(stage) == [(0, 700), (1, 300)]
    report = resume(stage)
    assert (report.outcome.value, visits(stage)) == ("committed", [(1, 1000)])
    stage.undo(report)
    assert before == stage.dump()


@pytest.mark.usefixtures("known")
def test_it_is_paused_and_resumed(stage: Stage) -> None:
    error = run_until(stage, 4, lambda: stage.project.pause("1", "test"))
    assert isinstance(error, Interrupted)
    assert (error.message, error.state) == ("paused", "committed up to batch 4")
    assert visits(stage) == [(0, 600), (1, 400)]
    resume(stage)
    assert visits(stage) == [(1, 1000)]
    assert isinstance(failure(lambda: resume(stage)), Refused)


@pytest.mark.usefixtures("known")
def test_what_is_cancelled_can_be_undone_and_not_resumed(stage: Stage) -> None:
    before = stage.dump()
    error = run_until(stage, 4, lambda: stage.project.cancel("1", "test"))
    assert (error.message, error.state, error.exit_status) == ("cancelled", "committed up to batch 4", 8)
    assert stage.journal() == [(1, "real", "partial")]
    assert isinstance(failure(lambda: resume(stage)), Refused)
    stage.undo("test-1")
    assert before == stage.dump()


@pytest.mark.usefixtures("known")
def test_a_paused_run_can_be_cancelled(stage: Stage) -> None:
    run_until(stage, 2, lambda: stage.project.pause("1", "test"))
    assert stage.project.cancel("1", "test") == "test-1: cancelled, committed up to batch 2"
    assert isinstance(failure(lambda: resume(stage)), Refused)
    assert isinstance(failure(lambda: stage.project.pause("1", "test")), Refused)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("purpose", ["backout: run", "backout: before-images", "backout: %by%"])
def test_a_lost_session_loses_no_batch(stage: Stage, purpose: str) -> None:
    def end_the_session() -> None:
        for pid in backends(stage.database, purpose):
            stage.database.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    before = stage.dump()
    error = run_until(stage, 5, end_the_session)
    assert isinstance(error, Interrupted)
    stage.log()
    assert stage.journal() == [(1, "real", "interrupted")]
    assert visits(stage) == [(0, 500), (1, 500)]
    report = resume(stage)
    assert visits(stage) == [(1, 1000)]
    stage.undo(report)
    assert before == stage.dump()


@pytest.mark.usefixtures("known")
def test_whoever_lost_the_run_commits_no_batch(stage: Stage) -> None:
    """The fencing number is looked at in the batch's own transaction."""
    error = run_until(stage, 2, lambda: stage.database.execute("UPDATE backout.batched SET fence = fence + 1"))
    assert isinstance(error, Interrupted)
    assert "somebody else has taken run 1 over" in error.message
    assert visits(stage) == [(0, 800), (1, 200)]


@pytest.mark.usefixtures("known")
def test_two_cannot_be_on_one_run(stage: Stage) -> None:
    met: list[BackoutError] = []
    run = stage.change(CHANGE)

    def watch(said: str) -> None:
        if said.startswith("batch 2:"):
            met.append(failure(lambda: resume(stage)))

    stage.project.run(run, "test", ask=yes, progress=watch)
    assert [type(one) for one in met] == [Busy]
    assert visits(stage) == [(1, 1000)]


@pytest.mark.usefixtures("known")
def test_another_text_is_not_resumed(stage: Stage) -> None:
    run_until(stage, 2, lambda: stage.project.pause("1", "test"))
    path = next(stage.folder.glob("change-*.sql"))
    path.write_text(path.read_text().replace("+ 1", "+ 2"))
    error = failure(lambda: resume(stage))
    assert isinstance(error, Refused)
    assert error.gate == "digest"


@pytest.mark.usefixtures("known")
def test_rows_inserted_behind_the_end_are_left_and_it_ends(stage: Stage) -> None:
    change = stage.change(CHANGE)

    def watch(said: str) -> None:
        if said.startswith("batch "):
            stage.elsewhere("INSERT INTO referral SELECT max(id) + 1 FROM referral")

    report = stage.project.run(change, "test", ask=yes, progress=watch)
    assert report.tables[0].updated == 1000
    assert visits(stage) == [(0, 10), (1, 1000)]


@pytest.mark.usefixtures("known")
def test_a_batch_that_meets_a_lock_is_begun_anew(stage: Stage) -> None:
    holder = stage.database.connect("application", autocommit=False)
    holder.execute("UPDATE referral SET visits = 40 WHERE id = 450")
    said: list[str] = []

    def watch(line: str) -> None:
        said.append(line)

    change = stage.change(CHANGE)
    error = failure(lambda: stage.project.run(change, "test", ask=yes, progress=watch))
    assert (error.exit_status, error.state) == (10, "committed up to batch 4")
    assert "a lock was not got in time" in error.message
    holder.rollback()
    resume(stage)
    assert visits(stage) == [(1, 1000)]


@pytest.mark.usefixtures("known")
def test_a_table_that_is_altered_meanwhile_stops_the_run(stage: Stage) -> None:
    error = run_until(stage, 2, lambda: stage.elsewhere("ALTER TABLE referral ADD COLUMN extra int"))
    assert (error.exit_status, error.state) == (10, "committed up to batch 2")
    assert error.message == 'table "public.referral" was altered since the run began'
    stage.undo("test-1")
    assert visits(stage) == [(0, 1000)]


@pytest.mark.usefixtures("known")
def test_a_second_signal_ends_the_batch_at_hand(stage: Stage) -> None:
    """The first comes between two batches, the second while the statement of the next one runs."""
    stage.make("""
        CREATE FUNCTION signalled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.id = 350 THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
        CREATE TRIGGER signalled BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION signalled();
    """)

    def twice() -> None:
        asleep = (
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
        wait_until(lambda: stage.rows(asleep) == [(True,)])
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(40):  # two signals at the same time would be one: the first is heard within a tenth of a second
            assert stage.rows(asleep) == [(True,)]
        os.kill(os.getpid(), signal.SIGINT)

    thread, raised = in_background(twice)
    error = failure(lambda: stage.run(CHANGE))
    thread.join()
    assert raised == []
    assert (error.exit_status, error.state, error.hint) == (8, "committed up to batch 3", "backout resume test-1")
    assert visits(stage) == [(0, 700), (1, 300)]
    stage.undo("test-1")
    assert visits(stage) == [(0, 1000)]
