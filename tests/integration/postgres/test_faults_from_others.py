"""Locks, deadlocks, second runs, lost sessions and clones: what others do to a run leaves nothing half done."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from backout.engines.values import RunState
from backout.errors import (
    Busy,
    DatabaseFailed,
    Interrupted,
    Refused,
)
from integration.postgres.stage import (
    Stage,
    backends,
    failure,
    in_background,
    place,
    stage_with_two_tables,
    text_of,
    wait_until,
    waits_for_lock,
)
from servers import PostgresDatabase


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Two tables."""
    return stage_with_two_tables(postgres, tmp_path)


@pytest.mark.parametrize("lock", ["row", "table", "queued"])
def test_a_lock_that_somebody_holds_is_busy_and_names_the_holder(stage: Stage, lock: str) -> None:
    """Exit 7; a bystander with locks on another table is not blamed."""
    bystander = stage.database.connect("application", autocommit=False)
    bystander.execute("UPDATE u SET v = 'other'")
    holder = stage.database.connect("application", autocommit=False)
    holder.execute("SET application_name = 'report'")
    holder.execute("UPDATE t SET v = 'h' WHERE id = 2" if lock == "row" else "LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert isinstance(error, Busy)
    assert error.exit_status == 7
    assert (
        f"held by backend {holder.info.backend_pid} (report, role {stage.database.application_role}, idle in "
        "transaction"
    ) in error.message
    assert error.state == ("rolled back" if lock == "row" else "untouched")
    assert error.hint == "wait for that session, end it, or raise `lock_timeout` for this environment"
    holder.rollback()
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("a",), ("b",), ("c",)]


def test_an_undo_that_cannot_lock_a_row_is_busy(stage: Stage) -> None:
    """And can be tried again."""
    report = stage.run("UPDATE t SET v = 'x'")
    holder = stage.database.connect("application", autocommit=False)
    holder.execute("SELECT FROM t WHERE id = 2 FOR UPDATE")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Busy)
    assert f"held by backend {holder.info.backend_pid} " in error.message
    holder.rollback()
    stage.undo(report)
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("a",), ("b",), ("c",)]


def test_a_deadlock_that_the_server_resolves_against_us_rolls_the_run_back(stage: Stage) -> None:
    """Two sessions, two rows, in opposite order."""
    stage.options = {"lock_timeout": '"60 s"'}
    stage.database.execute(f"ALTER ROLE {stage.database.application_role} SET deadlock_timeout = '100 s'")
    stage.database.execute(f"ALTER ROLE {stage.database.login_role} SET deadlock_timeout = '50 ms'")
    other = stage.database.connect("application", autocommit=False)
    other.execute("UPDATE t SET v = 'o' WHERE id = 2")
    script = (
        "import psycopg\n"
        "def apply(db):\n"
        "    db.execute(\"UPDATE t SET v = 'x' WHERE id = 1\")\n"
        "    ready.wait()\n"
        "    db.execute(\"UPDATE t SET v = 'x' WHERE id = 2\")\n"
    ).replace("ready.wait()", f"open({str(stage.folder / 'first')!r}, 'w').close(); wait_for_the_other()")
    script = script.replace(
        "import psycopg\n",
        "import psycopg\n" + _WAIT.format(url=stage.database.superuser_url, pid=other.info.backend_pid),
    )
    thread, raised = in_background(lambda: stage.run(script, suffix=".py"))
    wait_until((stage.folder / "first").exists)
    with suppress(psycopg.errors.DeadlockDetected):
        other.execute("UPDATE t SET v = 'o' WHERE id = 1")
    other.rollback()
    thread.join()
    (error,) = raised
    assert isinstance(error, DatabaseFailed)
    assert text_of(error) == [
        f"{stage.folder}/change-1.py:14: unable to run a statement of the script: deadlock detected",
        "state: rolled back",
        "hint: run it again: the server ended it to resolve a deadlock",
    ]
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("a",), ("b",), ("c",)]


_WAIT = """
def wait_for_the_other():
    with psycopg.connect({url!r}, autocommit=True) as watch:
        while not watch.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)").fetchone()[0]:
            pass
"""


def test_a_serialization_failure_under_repeatable_read_rolls_the_run_back(stage: Stage) -> None:
    """Somebody changed the row after our snapshot was taken."""
    stage.options = {"isolation": '"repeatable read"', "lock_timeout": '"60 s"'}
    other = stage.database.connect("application", autocommit=False)
    other.execute("UPDATE t SET v = 'o' WHERE id = 2")
    thread, raised = in_background(lambda: stage.run("SELECT count(*) FROM t; UPDATE t SET v = 'x';"))
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage.database, "backout: run")))
    other.commit()
    thread.join()
    (error,) = raised
    assert isinstance(error, DatabaseFailed)
    assert text_of(error) == [
        f"{place(stage)}: unable to run the statement: could not serialize access due to concurrent update",
        "state: rolled back",
        "hint: run it again: another session changed the same rows",
    ]
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("a",), ("o",), ("c",)]


def test_under_repeatable_read_a_run_is_committed_proven_and_undone(stage: Stage) -> None:
    """The journal's own writes do not get in the way."""
    stage.options = {"isolation": '"repeatable read"'}
    stage.proves("UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (9, 'i')")


def test_a_second_run_is_busy_while_one_holds_the_database(stage: Stage) -> None:
    """Exit 7, naming who; and the first is not disturbed."""
    stage.options = {"lock_timeout": '"60 s"'}
    stage.ghost("UPDATE t SET v = 'x'")
    blocker = stage.database.connect("application", autocommit=False)
    blocker.execute("LOCK TABLE u IN SHARE MODE")
    thread, raised = in_background(lambda: stage.run("UPDATE u SET v = 'first'"))
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage.database, "backout: run")))
    second = failure(lambda: stage.run("UPDATE t SET v = 'second'"))
    (holder,) = backends(stage.database, "backout: change-2 by %")
    assert isinstance(second, Busy)
    assert second.message.startswith(f"another run holds this database: backend {holder} (backout: change-2 by ")
    assert (second.state, second.hint) == ("untouched", "wait until it has ended; see `backout log`")
    blocker.commit()
    thread.join()
    assert raised == []
    assert stage.rows("SELECT v FROM u") == [("first",)]
    assert stage.journal() == [(1, "ghost", "rolled back"), (2, "real", "committed")]


@pytest.mark.parametrize("purpose", ["backout: run", "backout: before-images", "backout: change-1 by %"])
def test_a_session_that_is_ended_in_the_middle_rolls_the_run_back(stage: Stage, purpose: str) -> None:
    """The changing one, the one that sees the past, or the journal's: nothing is committed, `log` settles the run."""
    stage.options = {"lock_timeout": '"60 s"'}
    stage.project.init_journal("test")
    before = stage.dump()
    blocker = stage.database.connect("application", autocommit=False)
    blocker.execute("LOCK TABLE u IN SHARE MODE")
    thread, raised = in_background(lambda: stage.run("UPDATE t SET v = 'x'; UPDATE u SET v = 'x';"))
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage.database, "backout: run")))
    (victim,) = backends(stage.database, purpose)
    stage.database.execute("SELECT pg_terminate_backend(%s)", [victim])
    wait_until(lambda: not backends(stage.database, purpose))
    blocker.commit()
    thread.join()
    (error,) = raised
    assert isinstance(error, Interrupted)
    assert (error.exit_status, error.state) == (8, "rolled back")
    assert error.hint == "what was open is rolled back by the server; `backout log` settles the record of the run"
    assert before == stage.dump()
    wait_until(lambda: not backends(stage.database, "backout: %"))
    (record,) = stage.log()
    assert record.state is RunState.INTERRUPTED
    assert stage.rescue_tables() == []
    stage.undo(stage.run("UPDATE t SET v = 'x'"))
    assert before == stage.dump()


def test_a_database_that_was_cloned_is_refused_until_it_is_stamped(stage: Stage) -> None:
    """Its stamp names the other one; the whole texts."""
    stage.run("UPDATE t SET v = 'x'")
    database = stage.database
    clone = f"{database.name}_clone"
    with psycopg.connect(database.server.url(), autocommit=True) as administrator:
        administrator.execute(f'CREATE DATABASE "{clone}" TEMPLATE "{database.name}"')
        administrator.execute(f'GRANT CREATE ON DATABASE "{clone}" TO {database.login_role}')
    try:
        stage.options = {"url": f'"{database.login_url.replace(database.name, clone)}"'}
        error = failure(lambda: stage.undo("test-1"))
        assert isinstance(error, Refused)
        assert text_of(error) == [
            'this database is not the one that was stamped "test": it is a copy',
            "state: untouched",
            "hint: check the url; after a restore or a clone: `backout init --on ENV --restamp`",
        ]
        stage.project.init_journal("test", restamp=True)
        stage.undo("test-1")
    finally:
        with psycopg.connect(database.server.url(), autocommit=True) as administrator:
            administrator.execute(f'DROP DATABASE "{clone}" WITH (FORCE)')
    assert stage.rows("SELECT v FROM t WHERE id = 1") == [("x",)]


def test_a_database_of_another_environment_is_refused(stage: Stage) -> None:
    """The whole text."""
    stage.run("UPDATE t SET v = 'x'")
    stage.database.execute("UPDATE backout.journal SET environment = 'production'")
    assert text_of(failure(lambda: stage.undo("test-1"))) == [
        'this database says that it is "production", not "test"',
        "state: untouched",
        "hint: check the url; after a restore or a clone: `backout init --on ENV --restamp`",
    ]
