"""How long the way back is kept, who may read it, and what takes it away."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from backout.errors import Busy
from integration.postgres.stage import Stage, failure, stage_for
from servers import PostgresDatabase


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """A table, and a rescue that expires at once."""
    found = stage_for(postgres, tmp_path, keep='"1 ms"')
    found.make("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    return found


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
