"""Further signals that a run in batches gives way to, and what it says of stale statistics."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from backout.engines.postgres.embedded import EmbeddedServer
from backout.errors import Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Rights, Stage, backends, failure, in_background, stage_for, wait_until, yes
from servers import PASSWORD, SETTINGS, PostgresDatabase, present

pytestmark = pytest.mark.ends

CHANGE = "-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1"
#: A batch takes longer than the time after which signals are read anew.
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON referral FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""


def made(postgres: PostgresDatabase, folder: Path, more: str = "", **options: str) -> Stage:
    stage = stage_for(postgres, folder, Rights.OWNER, **options)
    stage.make(
        "CREATE TABLE referral (id bigint PRIMARY KEY, visits int NOT NULL DEFAULT 0);"
        f"INSERT INTO referral SELECT g FROM generate_series(1, 300) g; {more}"
    )
    return stage


def run(stage: Stage, watch: Callable[[str], None] = lambda _: None) -> RunReport:
    return stage.project.run(stage.change(CHANGE), "test", ask=yes, progress=watch)


def pauses(stage: Stage) -> set[tuple[str, bool]]:
    """(reason, whether it has ended) of the pauses in the journal."""
    return set(
        stage.database.execute("SELECT reason, ended_at IS NOT NULL AND value > threshold FROM backout.batch_pause")
    )


def test_it_waits_as_long_as_the_server_writes_too_much_log(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path, SLOW, wal_rate='"1 B"')
    report = run(stage)
    assert pauses(stage) == {("WAL rate", True)}
    assert any("s: WAL rate" in note for note in report.notes)
    assert report.tables[0].updated == 300


def test_it_waits_as_long_as_commits_are_slow(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """Somebody holds the journal's row, so that its small commit takes long."""
    stage = made(postgres, tmp_path, SLOW, commit_latency='"50 ms"')
    other = psycopg.connect(postgres.superuser_url)

    def let_go() -> None:
        (journal,) = backends(postgres, "backout: %by%")
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
        wait_until(lambda: postgres.execute(waits, [journal]) == [(True,)])
        began = monotonic()
        wait_until(lambda: monotonic() - began > 0.1)
        other.rollback()

    threads = []

    def watch(said: str) -> None:
        if said.startswith("batch 1:"):
            other.execute("SELECT 1 FROM backout.batched FOR UPDATE")
            threads.append(in_background(let_go))

    report = run(stage, watch)
    (thread, raised) = threads[0]
    thread.join()
    other.close()
    assert raised == []
    assert ("commit latency", True) in pauses(stage)
    assert report.tables[0].updated == 300


def test_it_waits_inside_of_the_quiet_hours(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path, quiet_hours='["00:00-12:00", "12:00-00:00"]')

    def watch(said: str) -> None:
        if "waits: quiet hours" in said:
            stage.project.pause("1", "test")

    error = failure(lambda: run(stage, watch))
    assert (error.message, error.state) == ("paused", "untouched")
    assert {reason for reason, _ in pauses(stage)} <= {'quiet hours "00:00-12:00"', 'quiet hours "12:00-00:00"'}


# -- the archive -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archiving() -> Iterator[tuple[PostgresDatabase, Path]]:
    """A server whose archive does not take anything before that file is there."""
    if not present():
        pytest.skip("no PostgreSQL to test with")
    programs = next(iter(present().values()))
    place = Path(tempfile.mkdtemp(prefix="backout-archive-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o711)
    is_open = place / "open"
    settings = {"wal_level": "replica", "archive_mode": "on", "archive_command": f"test -f {is_open}"}
    with EmbeddedServer.start(place / "server", programs=programs, settings=SETTINGS | settings) as server:
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
            session.execute(f"CREATE ROLE login LOGIN PASSWORD '{PASSWORD}' IN ROLE app")
            session.execute("CREATE DATABASE test")
            session.execute("GRANT CREATE ON DATABASE test TO app, login")
        database = PostgresDatabase(server, "test", "login", "app")
        database.execute("GRANT CREATE ON SCHEMA public TO app")
        yield database, is_open


def test_it_waits_for_the_archive_and_stops_where_it_cannot_see_it(
    archiving: tuple[PostgresDatabase, Path], tmp_path: Path
) -> None:
    database, is_open = archiving
    stage = made(database, tmp_path, archive_backlog='"1 B"')
    database.execute("SELECT pg_switch_wal()")
    error = failure(lambda: run(stage))
    assert isinstance(error, Refused)
    assert error.message == "the archive's backlog cannot be read"
    assert stage.rows("SELECT sum(visits) FROM referral") == [(0,)]
    database.execute("GRANT pg_monitor TO login")

    def watch(line: str) -> None:
        if "waits: archive backlog" in line:
            is_open.touch()
            database.execute("SELECT pg_reload_conf()")  # the archiver looks again

    report = run(stage, watch)
    assert report.tables[0].updated == 300
    assert pauses(stage) == {("archive backlog", True)}


# -- statistics --------------------------------------------------------------------------------------------------------

LARGE = """
CREATE TABLE large (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO large SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g;
"""
TOUCH = "-- @batch large by=id\nUPDATE large SET v = 'y' WHERE id <= 100"


def about_statistics(report: RunReport) -> list[str]:
    return [note for note in report.notes if "statistics" in note]


def test_stale_statistics_are_said(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path, LARGE)
    stale = 'the statistics of "public.large" are stale: '
    way_out = '; batches may be planned badly: ANALYZE "public"."large", or set `analyze = true`'
    assert about_statistics(stage.run(TOUCH)) == [f"{stale}it was never analysed{way_out}"]
    stage.elsewhere("ANALYZE large")
    assert about_statistics(stage.run(TOUCH)) == []
    stage.elsewhere("UPDATE large SET v = 'z' WHERE id > 10000")
    wait_until(lambda: postgres.execute("SELECT n_mod_since_analyze > 9000 FROM pg_stat_all_tables WHERE relname = 'large'")
               == [(True,)])  # fmt: skip
    (note,) = about_statistics(stage.ghost(TOUCH))
    assert note.startswith(f"{stale}10,")
    assert note.endswith(f"rows were written since it was analysed, when it had 20,000{way_out}")


def test_stale_statistics_are_made_anew_where_that_is_configured(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path, LARGE, analyze="true")
    assert about_statistics(stage.run(TOUCH)) == [
        'the statistics of "public.large" are stale: it was never analysed: analysed'
    ]
    assert stage.rows("SELECT reltuples FROM pg_class WHERE relname = 'large'") == [(20000,)]
    assert about_statistics(stage.run(TOUCH)) == []


def test_statistics_of_others_tables_are_left_alone(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = made(postgres, tmp_path, LARGE, analyze="true")
    postgres.execute("ALTER TABLE large OWNER TO postgres")
    postgres.execute(f'GRANT ALL ON large TO "{postgres.application_role}", "{postgres.login_role}"')
    postgres.execute(f'GRANT SET ON PARAMETER session_replication_role TO "{postgres.login_role}"')
    assert about_statistics(stage.run(TOUCH)) == [
        'the statistics of "public.large" are stale: it was never analysed, and this role may not ANALYZE it: '
        "let its owner do so"
    ]
