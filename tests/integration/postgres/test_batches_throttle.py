"""What a run in batches gives way to: it waits, says why, and goes on by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.batches import Pressure
from backout.runs.batches_pace import LEAST, MOST, Pace, Progress, before_attempt, too_much
from integration.postgres.stage import Rights, Stage, failure, in_background, stage_for, wait_until, waits_for_lock, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

CHANGE = "-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1"


def made(postgres: PostgresDatabase, folder: Path, **options: str) -> Stage:
    stage = stage_for(postgres, folder, Rights.OWNER, **options)
    stage.make("""
        CREATE TABLE referral (id bigint PRIMARY KEY, visits int NOT NULL DEFAULT 0);
        INSERT INTO referral SELECT g FROM generate_series(1, 300) g;
    """)
    return stage


def pauses(stage: Stage) -> list[tuple[str, float, float, bool]]:
    """(reason, value, limit, whether it has ended) of each pause in the journal."""
    return stage.database.execute(
        "SELECT reason, value, threshold, ended_at IS NOT NULL FROM backout.batch_pause ORDER BY began_at"
    )


def test_it_waits_as_long_as_the_flag_file_is_there(postgres: PostgresDatabase, tmp_path: Path) -> None:
    flag = tmp_path / "pause"
    flag.touch()
    stage = made(postgres, tmp_path, pause_file=f'"{flag}"')
    said: list[str] = []

    def watch(line: str) -> None:
        said.append(line)
        if "waits: " in line:
            flag.unlink(missing_ok=True)

    report = stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch)
    assert report.tables[0].updated == 300
    assert pauses(stage) == [(f'flag file "{flag}"', 1, 0, True)]
    assert any(f'waits: flag file "{flag}": 1, and 0 is the limit' in line for line in said)
    assert any(note.endswith(f's: flag file "{flag}"') for note in report.notes)


def test_it_waits_for_a_long_transaction_to_end(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """Where the role may see it: the transaction keeps VACUUM from taking away what the batches leave behind."""
    stage = made(postgres, tmp_path, long_transaction='"100 ms"')
    postgres.execute(f'GRANT pg_read_all_stats TO "{postgres.login_role}"')
    other = postgres.connect("application", autocommit=False)
    other.execute("SELECT pg_sleep(0.2)")
    said: list[str] = []

    def watch(line: str) -> None:
        said.append(line)
        if "waits: oldest transaction" in line:
            other.rollback()

    stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch)
    assert [(reason, ended) for reason, _, _, ended in pauses(stage)] == [("oldest transaction", True)]


def test_transactions_that_are_to_be_watched_and_cannot_be_seen_stop_it(
    postgres: PostgresDatabase, tmp_path: Path
) -> None:
    stage = made(postgres, tmp_path, long_transaction='"1 minute"')
    postgres.execute(f'REVOKE pg_read_all_stats FROM "{postgres.login_role}"')
    error = failure(lambda: stage.run(CHANGE))
    assert (error.message, error.exit_status) == ("the transactions of others cannot be read", 3)
    assert stage.rows("SELECT sum(visits) FROM referral") == [(0,)]


def test_a_flag_file_that_cannot_be_looked_for_stops_it(postgres: PostgresDatabase, tmp_path: Path) -> None:
    name = tmp_path / ("f" * 300)  # longer than a file's name can be
    stage = made(postgres, tmp_path, pause_file=f'"{name}"')
    error = failure(lambda: stage.run(CHANGE))
    assert (error.message, error.exit_status) == (f'flag file "{name}" cannot be looked for: File name too long', 3)
    assert stage.rows("SELECT sum(visits) FROM referral") == [(0,)]


def test_while_it_waits_it_holds_no_snapshot(postgres: PostgresDatabase, tmp_path: Path) -> None:
    flag = tmp_path / "pause"
    stage = made(postgres, tmp_path, pause_file=f'"{flag}"')
    stage.make("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NULL; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON referral FOR EACH STATEMENT EXECUTE FUNCTION slow();
    """)
    held = (
        "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity "
        "WHERE application_name = 'backout: before-images' AND datname = current_database()"
    )
    seen: list[tuple[str, bool]] = []

    def watch(line: str) -> None:
        if line.startswith("batch 1:"):
            seen.append(("waits" if "waits: " in line else "between", stage.rows(held)[0][0]))
            if "waits: " in line:
                flag.unlink()
            else:
                flag.touch()

    stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch)
    assert seen == [("between", True), ("waits", False)]


def test_it_can_be_paused_while_it_waits(postgres: PostgresDatabase, tmp_path: Path) -> None:
    flag = tmp_path / "pause"
    flag.touch()
    stage = made(postgres, tmp_path, pause_file=f'"{flag}"')

    def watch(line: str) -> None:
        if "waits: " in line:
            stage.project.pause("1", "test")

    error = failure(lambda: stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch))
    assert (error.message, error.exit_status, error.state) == ("paused", 8, "untouched")
    assert stage.rescue_tables() == []
    assert failure(lambda: stage.project.resume("1", "test", ask=yes)).message == 'run "test-1" has committed no batch'
    assert stage.rows("SELECT sum(visits) FROM referral") == [(0,)]


def test_sessions_that_wait_for_a_batch_make_it_give_way(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path)
    stage.make("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.id = 150 THEN
            FOR i IN 1..2000 LOOP
              EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_blocking_pids(pid) && ARRAY[pg_backend_pid()]);
              PERFORM pg_sleep(0.01);
            END LOOP;
          END IF; RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION slow();
    """)
    other = postgres.connect("application")
    pid = other.info.backend_pid

    def elsewhere() -> None:
        wait_until(
            lambda: bool(
                stage.rows(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'backout: run' AND wait_event = 'PgSleep'"
                )
            )
        )
        other.execute("UPDATE referral SET visits = visits WHERE id = 101")

    thread, raised = in_background(elsewhere)
    report = stage.project.run(stage.change(CHANGE), "test", ask=yes)
    thread.join()
    assert raised == []
    assert not waits_for_lock(postgres, pid)
    assert [(reason, value, limit, ended) for reason, value, limit, ended in pauses(stage)] == [
        ("sessions waiting for a batch", 1, 0, True)
    ]
    assert report.tables[0].updated == 300


def test_a_deadlock_is_met_with_another_attempt(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The trigger raises what a deadlock raises, once."""
    stage = made(postgres, tmp_path)
    stage.make("""
        CREATE SEQUENCE tries;
        CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.id = 150 AND nextval('tries') < 3 THEN RAISE EXCEPTION 'no luck' USING ERRCODE = '40P01'; END IF;
          RETURN NEW; END $$;
        CREATE TRIGGER once BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION once();
    """)
    report = stage.project.run(stage.change(CHANGE), "test", ask=yes)
    assert "2 times a batch met a lock or a deadlock, and was begun anew" in report.notes
    assert stage.rows("SELECT visits, count(*) FROM referral GROUP BY 1") == [(1, 300)]


# -- computed ----------------------------------------------------------------------------------------------------------


def test_the_size_grows_by_steps_and_shrinks_by_as_much_as_it_took_too_long() -> None:
    pace = Pace(3000, found=True)
    assert Pace(4000, found=True) == pace.after(0.05, 0.1, in_the_way=False)
    assert Pace(2160, found=True) == pace.after(0.125, 0.1, in_the_way=False)
    assert Pace(1500, found=True) == pace.after(0.5, 0.1, in_the_way=False)
    assert Pace(1500, found=True) == pace.after(0.05, 0.1, in_the_way=True)
    assert Pace(LEAST, found=True) == Pace(LEAST).after(9, 0.1, in_the_way=True)
    assert Pace(MOST) == Pace(MOST).after(0.0, 0.1, in_the_way=False)
    assert Pace(7, fixed=True) == Pace(7, fixed=True).after(9, 0.1, in_the_way=True).smaller()


def test_in_the_beginning_it_doubles_as_long_as_twice_as_many_rows_would_be_in_time() -> None:
    assert Pace(6000) == Pace(3000).after(0.05, 0.1, in_the_way=False)
    assert Pace(4000, found=True) == Pace(3000).after(0.06, 0.1, in_the_way=False)


def test_the_first_pressure_that_is_too_much_is_what_it_waits_for() -> None:
    fine, much = Pressure("replica lag", 1, 5, "s"), Pressure("oldest transaction", 9, 5, "s")
    assert too_much([fine]) is None
    assert much == too_much([fine, much])
    assert str(much) == "oldest transaction: 9 s, and 5 s is the limit"


def test_each_attempt_waits_longer() -> None:
    assert before_attempt(1) < 0.1 < before_attempt(4) < before_attempt(7)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (
            Progress(3, 250_000, 1_000_000, 1_000, 10.0, 250_000),
            "batch 3: 1,000 rows written, 250,000 of about 1,000,000 looked at (25.0%), about 30 s left, 25,000 rows/s",
        ),
        (Progress(1, 10, 0, 10, 2.0, 10, "a flag"), "batch 1: 10 rows written, 5 rows/s; waits: a flag"),
    ],
)
def test_progress_says_how_far_how_fast_and_how_long(progress: Progress, expected: str) -> None:
    assert expected == str(progress)
