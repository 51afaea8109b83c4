"""How long the way back is kept, who may read it, and what takes it away."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from backout.errors import Busy, Refused
from integration.postgres.stage import Stage, failure, stage_for, text_of
from servers import PostgresDatabase


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """A table, and a rescue that expires at once."""
    found = stage_for(postgres, tmp_path, keep='"1 ms"')
    found.make("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    return found


def test_the_rescue_expires_after_the_time_that_the_environment_says(stage: Stage) -> None:
    """By the database's clock; seven days where nothing is said."""
    stage.options = {"keep": '"36 hours"'}
    stage.run("UPDATE t SET v = 'x'")
    stage.options = {}
    stage.run("UPDATE t SET v = 'y'")
    second, first = stage.log()
    for record, keep in ((first, timedelta(hours=36)), (second, timedelta(days=7))):
        assert record.expires_at is not None
        assert record.finished_at is not None
        kept = record.expires_at - record.finished_at  # the clock is read twice
        assert keep == timedelta(seconds=round(kept.total_seconds()))
    assert stage.project.expired("test") == ()


def test_clean_drops_what_has_expired_and_nothing_else(stage: Stage) -> None:
    """The journal remembers the run; its undo is refused from then on."""
    stage.run("UPDATE t SET v = 'x'")
    stage.options = {}
    kept = stage.run("UPDATE t SET v = 'y'")
    assert [record.number for record in stage.project.expired("test")] == [1]
    assert stage.rescue_tables() == ["run_1_1_after", "run_1_1_before", "run_2_1_after", "run_2_1_before"]
    stage.project.clean("test", [1])
    assert stage.rescue_tables() == ["run_2_1_after", "run_2_1_before"]
    assert stage.project.expired("test") == ()
    error = failure(lambda: stage.undo("test-1"))
    assert error.message.startswith('the rescue of run "test-1" was dropped on 20')
    assert error.hint == "what it changed can only come back from a backup"
    stage.undo(kept)
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("x",), ("x",)]


def test_clean_refuses_what_has_not_expired(stage: Stage) -> None:
    """The whole text; of several, none is dropped."""
    stage.run("UPDATE t SET v = 'x'")
    stage.options = {}
    stage.run("UPDATE t SET v = 'y'")
    assert text_of(failure(lambda: stage.project.clean("test", [2, 1]))) == [
        "the rescue of run 2 has not expired", "state: untouched", "hint: see `backout log`",
    ]  # fmt: skip
    assert len(stage.rescue_tables()) == 4


def test_open_conflicts_hold_the_rescue(stage: Stage) -> None:
    """Until they are resolved, whatever its time; what an undo has left is dropped with it."""
    report = stage.run("UPDATE t SET v = 'x'")
    stage.elsewhere("UPDATE t SET v = 'mine' WHERE id = 1")
    stage.undo(report, partial=True)
    assert [record.number for record in stage.project.expired("test")] == [2]
    assert isinstance(failure(lambda: stage.project.clean("test", [1])), Refused)
    stage.elsewhere("UPDATE t SET v = 'x' WHERE id = 1")
    stage.undo(report)
    assert [record.number for record in stage.project.expired("test")] == [1, 2, 3]
    stage.project.clean("test", [1, 2, 3])
    assert stage.rescue_tables() == []


def test_neither_a_ghost_nor_a_failed_run_leaves_a_rescue(stage: Stage) -> None:
    """Nothing is there to be cleaned."""
    stage.ghost("UPDATE t SET v = 'x'")
    stage.ghost("UPDATE t SET v = 'x'", undo=True)
    stage.refuses("-- @expect 1\nUPDATE t SET v = 'x'")
    assert stage.rescue_tables() == []
    assert stage.project.expired("test") == ()


@pytest.mark.parametrize("table", ["rescue.run_1_1_before", "rescue.run_1_1_after", "backout.run", "backout.run_table"])
def test_the_application_may_not_read_the_rescue_nor_the_journal(stage: Stage, table: str) -> None:
    """Not as itself, and not inside of a change."""
    stage.run("UPDATE t SET v = 'x'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stage.database.as_application(f"TABLE {table}")
    inside = failure(lambda: stage.run(f"UPDATE t SET v = (SELECT count(*)::text FROM {table})"))
    assert "permission denied for schema" in inside.message


def test_nobody_else_may_read_the_rescue(stage: Stage) -> None:
    """Whatever default privileges somebody has set."""
    database = stage.database
    curious = database.create_role("curious")
    database.execute(f"ALTER DEFAULT PRIVILEGES FOR ROLE {database.login_role} GRANT ALL ON TABLES TO PUBLIC")
    stage.run("UPDATE t SET v = 'x'")
    database.execute(f"GRANT CONNECT ON DATABASE {database.name} TO {curious}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute("TABLE rescue.run_1_1_before", role=curious)


def test_a_rescue_that_somebody_reads_is_not_waited_for(stage: Stage) -> None:
    """Exit 7 after lock_timeout, and it is still there."""
    stage.run("UPDATE t SET v = 'x'")
    reader = stage.database.connect("login", autocommit=False)
    reader.execute("TABLE rescue.run_1_1_before")
    error = failure(lambda: stage.project.clean("test", [1]))
    assert isinstance(error, Busy)
    reader.rollback()
    assert stage.rescue_tables() == ["run_1_1_after", "run_1_1_before"]
    stage.project.clean("test", [1])
    assert stage.rescue_tables() == []


def test_another_rescue_schema_can_be_named(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """With a name that has to be quoted."""
    stage = stage_for(postgres, tmp_path, rescue_schema="'Way \"back\"'", keep='"1 ms"')
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    stage.proves("UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2")
    stage.project.clean("test", [record.number for record in stage.project.expired("test")])
    rows = stage.rows('SELECT count(*) FROM pg_class WHERE relnamespace = \'"Way ""back"""\'::regnamespace')
    assert rows == [(0,)]
