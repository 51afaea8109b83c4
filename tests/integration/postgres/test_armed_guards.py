"""Armed tables: what is refused before anything is written, what cannot be forged, and that nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backout.errors import BackoutError, Busy, ProofFailed, Refused
from integration.postgres.stage import (
    Stage,
    failure,
    in_background,
    left_behind,
    stage_for,
    text_of,
    wait_until,
)
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 20) g;
CREATE TABLE audit (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES ('t'); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
"""
UPDATE = "UPDATE t SET v = 0 WHERE id = 1"
ARM_AUDIT = '["public.audit"]'


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Two tables that are too big to scan; a trigger writes to the second, and the environment names it."""
    found = stage_for(postgres, tmp_path, scan_limit="0", arm=ARM_AUDIT)
    found.make(SCHEMA)
    return found


def function(stage: Stage, body: str, *, owner: str = "application") -> str:
    """A change that writes to the table and then does `body` in a function."""
    stage.database.execute(
        f"CREATE FUNCTION public.hidden() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {body}; END $$",
        role=owner,
    )
    return f"{UPDATE}; SELECT hidden();"


# -- before anything is written ----------------------------------------------------------------------------------------


def test_a_table_that_may_not_have_a_trigger_is_refused_with_the_grant(stage: Stage) -> None:
    database = stage.database
    owner = database.create_role("owner")
    database.execute(
        f"ALTER TABLE t DISABLE TRIGGER note; ALTER TABLE t OWNER TO {owner}; GRANT ALL ON t TO {database.application_role}"
    )
    error = stage.refuses(UPDATE)
    assert isinstance(error, Refused)
    assert text_of(error) == [
        f'table "public.t" has 8 kB of rows, too big to scan here, and "{database.login_role}" may not put a trigger on it',
        "state: untouched",
        f'hint: let an administrator run: GRANT "{owner}" TO "{database.login_role}"; or raise `scan_limit` of this '
        "environment, so that the table is scanned",
    ]
    assert left_behind(stage) == []
    stage.options = {**stage.options, "scan_limit": '"1 MB"'}
    assert stage.run(UPDATE).tables[0].captured_by == "two snapshots, quick form"


def test_a_big_table_that_only_a_trigger_reaches_must_be_named(stage: Stage) -> None:
    """Neither scanned for hours, nor left out: rolled back, with the key that arms it."""
    stage.options = {**stage.options, "arm": ""}
    error = stage.refuses(UPDATE)
    assert isinstance(error, Refused)
    assert text_of(error) == [
        'table "public.audit" has 8 kB of rows, too big to scan here, and was not armed for this run: the change does '
        "not name it, and writes to it by a trigger or a function",
        "state: rolled back",
        'hint: write arm = ["public.audit"] into this environment, or raise its `scan_limit`',
    ]
    assert left_behind(stage) == []


def test_big_partitions_that_only_a_trigger_reaches_are_armed_together(stage: Stage) -> None:
    """Each of them is small, but a run that reaches one may reach all: the key names the partitioned table."""
    stage.make("""
        DROP TABLE audit; CREATE TABLE audit (what text) PARTITION BY LIST (what);
        CREATE TABLE audit_t PARTITION OF audit FOR VALUES IN ('t'); CREATE TABLE audit_u PARTITION OF audit DEFAULT;
        INSERT INTO audit SELECT 'u' || g FROM generate_series(1, 3000) g;
    """)
    stage.options = {"scan_limit": '"64 kB"'}
    error = stage.refuses(UPDATE)
    assert error.hint == 'write arm = ["public.audit"] into this environment, or raise its `scan_limit`'
    stage.options = {"scan_limit": '"64 kB"', "arm": '["public.audit"]'}
    report = stage.run(UPDATE)
    assert {table.table: table.captured_by for table in report.tables}["public.audit_t"] == "armed triggers"


def test_a_table_that_somebody_writes_to_all_the_time_is_busy(stage: Stage) -> None:
    other = stage.database.connect("application", autocommit=False)
    other.execute("LOCK TABLE t IN ROW EXCLUSIVE MODE")
    error = failure(lambda: stage.run(UPDATE))
    assert isinstance(error, Busy)
    message, state, _ = text_of(error)
    assert message.startswith('unable to arm table "public.t" with a trigger: a lock was not got in time: ')
    assert f"held by backend {other.info.backend_pid}" in message
    assert state == "state: untouched"
    assert left_behind(stage) == []
    other.rollback()
    assert stage.run(UPDATE).state == "committed"


def test_check_says_which_tables_would_be_armed(stage: Stage) -> None:
    tables = stage.project.check(stage.change(UPDATE), "test").tables
    assert ["it is too big to scan here (8 kB of rows): a run puts a trigger on it for as long as it takes"] == [
        note for table in tables for note in table.notes
    ]


# -- what cannot be forged ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (
            "EXECUTE (SELECT format('ALTER TABLE t DISABLE TRIGGER %I', tgname) FROM pg_trigger "
            "WHERE tgrelid = 't'::regclass AND tgname LIKE 'backout%'); UPDATE t SET v = 5 WHERE id = 5",
            '"public.t" is held with ShareRowExclusiveLock: DDL, TRUNCATE or LOCK TABLE ran in a function',
        ),
        (
            "ALTER TABLE t DISABLE TRIGGER ALL; UPDATE t SET v = 5; ALTER TABLE t ENABLE TRIGGER ALL",
            "ShareRowExclusiveLock",
        ),
    ],
    ids=["disable", "disable and enable"],
)
def test_a_change_that_switches_its_trigger_off_is_rolled_back(stage: Stage, body: str, finding: str) -> None:
    """The application's role owns the table, and so may."""
    error = stage.refuses(function(stage, body))
    assert isinstance(error, ProofFailed)
    assert finding in error.message
    assert left_behind(stage) == []


@pytest.mark.parametrize(
    "body",
    [
        "EXECUTE (SELECT format('DELETE FROM rescue.%I', relname) FROM pg_class WHERE relname ~ '^armed_' LIMIT 1)",
        "EXECUTE (SELECT format('DROP FUNCTION backout.%I', proname) FROM pg_proc WHERE proname ~ '^armed_' LIMIT 1)",
        "CREATE TEMP TABLE mine (id int, v int); EXECUTE (SELECT format('CREATE TRIGGER forged AFTER INSERT ON mine "
        "FOR EACH ROW EXECUTE FUNCTION backout.%I()', proname) FROM pg_proc WHERE proname ~ '^armed_' LIMIT 1)",
    ],
    ids=["the log", "the function", "a trigger of its own"],
)
def test_a_change_may_not_touch_what_arms_its_tables(stage: Stage, body: str) -> None:
    error = stage.refuses(function(stage, body))
    assert isinstance(error, BackoutError)
    assert "permission denied for schema" in error.message


def test_a_log_that_something_else_writes_to_is_not_believed(stage: Stage) -> None:
    """Without a `role` the change runs as the login role, which owns the log."""
    stage.options = {**stage.options, "role": ""}
    stage.database.execute(
        "CREATE FUNCTION hidden() RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "EXECUTE (SELECT format('DELETE FROM rescue.%I', relname) FROM pg_class WHERE relname LIKE 'armed_%_' || "
        "'t'::regclass::oid); END $$"
    )
    error = stage.refuses(f"{UPDATE}; SELECT hidden();")
    assert isinstance(error, ProofFailed)
    assert 'the log of table "public.t" was written to by something else than its trigger' in error.message


@pytest.mark.parametrize("statement", ["DISABLE TRIGGER ALL", "ADD COLUMN w int"])
def test_a_table_that_others_alter_before_it_is_written_is_not_believed(stage: Stage, statement: str) -> None:
    """Between the arming and the first write nobody holds a lock that would keep them from it."""
    stage.options = {**stage.options, "lock_timeout": '"10 s"'}
    other = stage.database.connect("application")
    other.execute("SELECT pg_advisory_lock(1)")
    stage.make(
        "CREATE FUNCTION meet() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"
    )
    thread, raised = in_background(lambda: stage.run(f"SELECT meet(); {UPDATE}"))
    wait_until(lambda: bool(stage.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))
    other.execute(f"SET lock_timeout = '5 s'; ALTER TABLE audit {statement}".encode())
    other.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    assert [type(error) for error in raised] == [ProofFailed]
    assert stage.rows("SELECT v FROM t WHERE id = 1") == [(1,)]
    assert left_behind(stage) == []


def test_the_trigger_fires_for_nobody_else(stage: Stage) -> None:
    """Others' writes to an armed table leave nothing in its log, whoever they are."""
    stage.options = {**stage.options, "lock_timeout": '"10 s"'}
    other = stage.database.connect("application")
    other.execute("SELECT pg_advisory_lock(1)")
    stage.make(
        "CREATE FUNCTION meet() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"
    )
    thread, raised = in_background(lambda: stage.run(f"{UPDATE}; SELECT meet();"))
    wait_until(lambda: bool(stage.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))
    other.execute("UPDATE t SET v = 100 WHERE id > 10; DELETE FROM t WHERE id = 20; INSERT INTO t VALUES (50, 50)")
    stage.database.execute("UPDATE t SET v = 101 WHERE id = 19")
    (log,) = next(
        row for row in stage.rows("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^armed_' "
                                  "AND relname LIKE '%' || 't'::regclass::oid")
    )  # fmt: skip
    assert stage.rows(f"SELECT count(*) FROM {log}") == [(0,)]
    other.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    assert raised == []
    assert left_behind(stage) == []


# -- nothing stays behind ----------------------------------------------------------------------------------------------


def test_after_a_failure_nothing_stays(stage: Stage) -> None:
    error = stage.refuses(f"{UPDATE}; UPDATE t SET v = 1 / 0;")
    assert error.state == "rolled back"
    assert left_behind(stage) == []


def test_what_a_reader_keeps_from_being_taken_away_is_told_and_goes_later(stage: Stage) -> None:
    """DROP TRIGGER waits for readers; the run has committed, and does not wait for them."""
    stage.run(UPDATE)
    other = stage.database.connect("application", autocommit=False)
    other.execute("SELECT FROM t")
    report = stage.run("UPDATE t SET v = 7 WHERE id = 2")
    trigger = next(name for name in left_behind(stage) if name.startswith("backout_armed_"))
    left = f'table "public.t" still has the trigger "{trigger}" of a run that has ended'
    assert report.state == "committed"
    assert f"{left}; the next command on this environment takes it away" in report.notes
    assert left in [advice.text for advice in stage.project.doctor("test")]
    told: list[str] = []
    stage.project.log("test", progress=told.append)
    assert told == [left]
    stage.elsewhere("UPDATE t SET v = 8 WHERE id = 2")  # nobody is kept from anything meanwhile
    other.rollback()
    told.clear()
    stage.project.log("test", progress=told.append)
    assert told == []
    assert left_behind(stage) == []


VICTIM = """
import os, signal, sys
from pathlib import Path
from backout import Project
from backout.engines.postgres import armed, arming
from backout.engines.postgres.arming import Arming

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

config, change, moment = sys.argv[1:]
if moment == "while arming":
    patiently = armed.patiently
    def once(*given, **named):
        armed.patiently = die
        patiently(*given, **named)
    armed.patiently = once
if moment == "before the first write":
    begin = Arming.begin
    Arming.begin = lambda *given: (begin(*given), die())
if moment == "before the commit":
    Arming.findings = die
if moment == "after the commit":
    Arming.end = die
project = Project.find(config=Path(config))
project.run(project.change(change), "test", ask=lambda *_: True)
"""


@pytest.mark.parametrize(
    ("moment", "committed"),
    [
        ("while arming", False),
        ("before the first write", False),
        ("before the commit", False),
        ("after the commit", True),
    ],
)
def test_what_a_killed_process_has_left_goes_with_the_next_command(stage: Stage, moment: str, committed: bool) -> None:
    stage.run("UPDATE t SET v = 99 WHERE id = 9")
    change = stage.change(UPDATE)
    program = [sys.executable, "-c", VICTIM, str(stage.folder / "backout.toml"), str(change.path), moment]
    killed = subprocess.run(program, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert left_behind(stage) != []
    wait_until(lambda: not stage.rows("SELECT FROM pg_stat_activity WHERE application_name LIKE 'backout%'"))
    stage.log()
    assert left_behind(stage) == []
    assert stage.rows("SELECT v = 0 FROM t WHERE id = 1") == [(committed,)]
    assert [state for _, _, state in stage.journal()][1:] == ["committed" if committed else "interrupted"]
    if committed:
        stage.undo("test-2")
        assert stage.rows("SELECT v FROM t WHERE id = 1") == [(1,)]
    else:
        assert [name for name in stage.rescue_tables() if name.startswith("run_2")] == []


def test_what_is_armed_for_a_run_that_goes_on_is_left_alone(stage: Stage) -> None:
    """Another command on the environment settles what is over, and nothing else."""
    stage.options = {**stage.options, "lock_timeout": '"10 s"'}
    other = stage.database.connect("application")
    other.execute("SELECT pg_advisory_lock(1)")
    stage.make(
        "CREATE FUNCTION meet() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"
    )
    thread, raised = in_background(lambda: stage.run(f"{UPDATE}; SELECT meet();"))
    wait_until(lambda: bool(stage.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))
    armed = left_behind(stage)
    stage.log()
    assert armed == left_behind(stage) != []
    other.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    assert raised == []
    assert left_behind(stage) == []
