"""A change in batches, typed: begun, stopped by a supervisor, watched, resumed, undone."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from acceptance.program import PROGRAM, backout, environment, told
from integration.postgres.stage import wait_until
from servers import PostgresDatabase

CHANGE = """-- /// change
-- title = "Backfill"
-- ///
-- @batch referral by=id size=20
UPDATE referral SET visits = visits + 1;
"""
SLOW = """
CREATE TABLE referral (id int PRIMARY KEY, visits int NOT NULL DEFAULT 0);
INSERT INTO referral SELECT g FROM generate_series(1, 200) g;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.fixture
def folder(tmp_path: Path, postgres18: PostgresDatabase) -> Path:
    postgres18.as_application(SLOW)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "backfill.sql").write_text(CHANGE)
    url, role = postgres18.login_url, postgres18.application_role
    (tmp_path / "backout.toml").write_text(f'[environments.test]\nurl = "{url}"\nrole = "{role}"\n')
    assert backout(tmp_path, "init", "--on", "test").status == 0
    return tmp_path


def started(folder: Path, database: PostgresDatabase, *arguments: str) -> subprocess.Popen[str]:
    """The command, once two batches are committed."""
    process = subprocess.Popen(
        [str(PROGRAM), *arguments, "--yes"], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(
        lambda: (
            database.execute("SELECT to_regclass('backout.batch') IS NOT NULL") == [(True,)]
            and database.execute("SELECT count(*) >= 2 FROM backout.batch") == [(True,)]
        )
    )
    return process


def test_a_run_is_stopped_watched_resumed_and_undone(folder: Path, postgres18: PostgresDatabase) -> None:
    process = started(folder, postgres18, "run", "backfill", "--on", "test")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 8, (out, err)
    assert "state: committed up to batch" in err
    assert "hint: backout resume test-1" in err
    watched = backout(folder, "show", "test-1", "--watch", "--json")
    assert json.loads(watched.out)["outcome"] == "interrupted"
    assert "way back" in backout(folder, "show", "test-1").out
    status = backout(folder, "status", "backfill", "--on", "test").out
    assert "ran: test-1, interrupted, way back kept until it is resumed or cancelled\n" in status
    assert "next: backout resume test-1\n" in status
    postgres18.as_application("DROP TRIGGER slow ON referral")
    altered = backout(folder, "resume", "test-1", "--yes")
    assert (altered.status, "was altered since the run began" in altered.err) == (10, True)
    postgres18.as_application("CREATE TRIGGER slow BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION slow()")
    report = told(folder, "run", "resume", "test-1", "--yes")
    assert report["outcome"] == "committed"
    assert postgres18.execute("SELECT visits, count(*) FROM referral GROUP BY 1") == [(1, 200)]
    postgres18.as_application("ALTER TABLE referral DISABLE TRIGGER slow")
    one = told(folder, "run", "undo", "test-1", "--batch", "3", "--yes")
    assert one["tables"][0]["updated"] == 20
    told(folder, "run", "undo", "test-1", "--yes")
    assert postgres18.execute("SELECT visits, count(*) FROM referral GROUP BY 1") == [(0, 200)]


def test_a_running_one_is_paused_and_cancelled_from_elsewhere(folder: Path, postgres18: PostgresDatabase) -> None:
    process = started(folder, postgres18, "run", "backfill", "--on", "test")
    assert backout(folder, "pause", "test-1").out == "test-1: to be paused after the batch at hand\n"
    assert process.communicate()[1].startswith("error: paused\nstate: committed up to batch ")
    assert process.returncode == 8
    said = backout(folder, "cancel", "test-1").out
    assert said.startswith("test-1: cancelled, committed up to batch ")
    assert backout(folder, "resume", "test-1", "--yes").status == 3
    assert "next: backout undo test-1\n" in backout(folder, "status", "backfill", "--on", "test").out


def test_a_second_run_is_refused_and_runs_with_a_reason(folder: Path, postgres18: PostgresDatabase) -> None:
    postgres18.as_application("DROP TRIGGER slow ON referral")
    told(folder, "run", "run", "backfill", "--on", "test", "--yes")
    refused = backout(folder, "run", "backfill", "--on", "test", "--yes")
    assert refused.status == 3
    assert refused.err.startswith('error: change "backfill" has run here already: test-1, ')
    again = told(folder, "run", "run", "backfill", "--on", "test", "--yes", "--again", "twice as many visits")
    assert again["again"] == "twice as many visits"
    assert postgres18.execute("SELECT visits, count(*) FROM referral GROUP BY 1") == [(2, 200)]
