"""What goes wrong on the way: each fault has its exit status, its text, and leaves the database as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from backout.engines.values import RunState
from backout.errors import (
    AssertionFailed,
    BackoutError,
    Busy,
    CheckAfterFailed,
    Conflicts,
    DatabaseFailed,
    ExpectationFailed,
    Interrupted,
    ProofFailed,
    Refused,
    RolledBack,
    UsageError,
)
from backout.runs.as_json import report_as_json
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, stage_for, text_of, wait_until, waits_for_lock, yes
from servers import PASSWORD, PostgresDatabase

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, 'a');
"""


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Two tables."""
    found = stage_for(postgres, tmp_path)
    found.make(SCHEMA)
    return found


def place(stage: Stage) -> str:
    """Where the first statement of the first change stands."""
    return f"{stage.folder}/change-1.sql:5"


def in_background(act: Callable[[], object]) -> tuple[Thread, list[BaseException]]:
    """Start it in a thread; what it raises is in the list."""
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 -- told to the test
            raised.append(error)

    thread = Thread(target=catching)
    thread.start()
    return thread, raised


def backends(stage: Stage, purpose: str) -> list[int]:
    """The processes of our sessions for that purpose."""
    rows = stage.database.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", [purpose]
    )
    return [pid for (pid,) in rows]


# -- connecting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change_url", "hint"),
    [
        (lambda url: url.replace(PASSWORD.replace(" ", "%20"), "wrong"), "check the password: it comes from the url, PGPASSWORD or ~/.pgpass"),
        (lambda url: url + "_gone", "check the name of the database and of the role"),
    ],
    ids=["password", "database"],
)  # fmt: skip
def test_a_connection_that_cannot_be_made_says_why(stage: Stage, change_url: Callable[[str], str], hint: str) -> None:
    """Without the password in the text."""
    stage.options = {"url": f'"{change_url(stage.database.login_url)}"'}
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert isinstance(error, UsageError)
    assert (error.exit_status, error.state, error.hint) == (2, "untouched", hint)
    assert "wrong" not in str(error).replace("password", "")
    assert PASSWORD not in str(error)
    assert PASSWORD.replace(" ", "%20") not in str(error)


def test_a_server_that_is_not_there_is_named(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """Nobody listens on port 1."""
    stage = stage_for(postgres18, tmp_path, url='"postgresql://me:secret@127.0.0.1:1/x"')
    error = failure(lambda: stage.log())
    assert isinstance(error, UsageError)
    assert error.hint == "check host and port, and that the server runs"
    assert "secret" not in str(error)


def test_a_read_only_database_is_refused(stage: Stage) -> None:
    """As a replica is."""
    stage.database.execute(f"ALTER DATABASE {stage.database.name} SET default_transaction_read_only = on")
    assert text_of(failure(lambda: stage.run("UPDATE t SET v = 'x'"))) == [
        '"test" is a read-only server (a replica, or in read-only mode)',
        "state: untouched",
        "hint: point the environment's url at the primary",
    ]


@pytest.mark.parametrize("who", ["login", "role"])
def test_a_superuser_is_refused(stage: Stage, who: str) -> None:
    """As the login role or as the role of the environment."""
    options = {"url": f'"{stage.database.superuser_url}"', "role": ""}
    if who == "role":
        stage.database.execute(f"ALTER ROLE {stage.database.application_role} SUPERUSER")
        options = {}
    stage.options = options
    name = "postgres" if who == "login" else stage.database.application_role
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(error) == [
        f'"{name}" is a superuser: a change runs as an ordinary role',
        "state: untouched",
        'hint: connect as an ordinary role, or say superuser = "allow" for this environment (with a URL: --allow-superuser)',
    ]
    assert error.exit_status == 3


def test_a_superuser_may_be_allowed(stage: Stage) -> None:
    """By policy; triggers are then kept out by the replica role."""
    stage.options = {"url": f'"{stage.database.superuser_url}"', "role": "", "superuser": '"allow"'}
    assert stage.undo(stage.run("UPDATE t SET v = 'x'")).undo_how == "replica role"


def test_a_role_that_does_not_exist_is_named(stage: Stage) -> None:
    """The whole text."""
    stage.options = {"role": '"nobody_at_all"'}
    assert text_of(failure(lambda: stage.run("UPDATE t SET v = 'x'"))) == [
        'the role "nobody_at_all" does not exist', "state: untouched", "hint: check `role` of this environment",
    ]  # fmt: skip


# -- rights --------------------------------------------------------------------------------------------------------------


def test_the_rights_that_are_missing_are_what_must_be_run(stage: Stage) -> None:
    """After an administrator has run the text of the hint, the run works."""
    database = stage.database
    stranger = database.create_role("stranger")
    database.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    stage.options = {"url": f'"{database.url(stranger)}"'}
    role = database.application_role
    first = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(first) == [
        f'"{stranger}" may not act as "{role}"',
        "state: untouched",
        f'hint: let an administrator run: GRANT "{role}" TO "{stranger}"',
    ]
    database.execute(first.hint.removeprefix("let an administrator run: ") if first.hint else "")
    second = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(second) == [
        "the journal cannot be made: rights are missing",
        "state: untouched",
        "hint: let an administrator run:",
        f'  CREATE SCHEMA IF NOT EXISTS "backout" AUTHORIZATION "{stranger}";',
        f'  CREATE SCHEMA IF NOT EXISTS "rescue" AUTHORIZATION "{stranger}";',
        f'  GRANT TEMPORARY ON DATABASE "{database.name}" TO "{stranger}";',
    ]
    database.execute((second.hint or "").removeprefix("let an administrator run:"))
    before = stage.dump()
    stage.undo(stage.run("UPDATE t SET v = 'x'"))
    assert before == stage.dump()


def test_a_role_that_does_not_inherit_is_told_what_to_run(stage: Stage) -> None:
    """SET ROLE alone is not enough: the login role reads the tables itself."""
    database = stage.database
    stranger = database.create_role("stranger", "LOGIN NOINHERIT")
    database.execute(f"GRANT {database.application_role} TO {stranger}; GRANT CREATE ON DATABASE {database.name} TO {stranger}")
    stage.options = {"url": f'"{database.url(stranger)}"'}
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert error.message == f'"{stranger}" may not act as "{database.application_role}" with its rights'
    if database.version < 16:
        assert error.hint == f'let an administrator run: ALTER ROLE "{stranger}" INHERIT'
    database.execute((error.hint or "").removeprefix("let an administrator run: "))
    stage.undo(stage.run("UPDATE t SET v = 'x'"))


def test_the_right_that_an_exact_undo_needs_is_what_must_be_run(stage: Stage) -> None:
    """The tables belong to another role, and have a trigger."""
    database = stage.database
    owner = database.create_role("owner")
    database.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    database.execute(
        "CREATE TABLE o (id int PRIMARY KEY, v text); INSERT INTO o VALUES (1, 'a');"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        f"CREATE TRIGGER tr BEFORE UPDATE ON o FOR EACH ROW EXECUTE FUNCTION f(); GRANT ALL ON o TO {database.application_role}",
        role=owner,
    )
    login = database.login_role
    error = stage.refuses("UPDATE o SET v = 'x'")
    assert text_of(error) == [
        f'the undo of this run would not be exact: trigger "tr" would fire, and "{login}" may not keep it out '
        f'(it needs GRANT SET ON PARAMETER session_replication_role TO "{login}", or to own the table)',
        "state: rolled back",
        "hint: give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`",
    ]
    database.execute(f'GRANT SET ON PARAMETER session_replication_role TO "{login}"')
    stage.proves("UPDATE o SET v = 'x'")


def test_a_right_on_a_table_that_is_missing_is_said(stage: Stage) -> None:
    """The application role may not write here."""
    stage.database.execute("CREATE TABLE closed (id int PRIMARY KEY); INSERT INTO closed VALUES (1)")
    assert text_of(stage.refuses("DELETE FROM closed")) == [
        f"{place(stage)}: unable to run the statement: permission denied for table closed",
        "state: rolled back",
        "hint: grant the right to the role, or name another `role` for this environment",
    ]


def test_a_table_that_cannot_be_read_is_no_silent_miss(stage: Stage) -> None:
    """A function of another owner writes to a table that we may not SELECT: it cannot be captured."""
    stage.database.execute(
        "CREATE TABLE closed (id int PRIMARY KEY, v int); INSERT INTO closed VALUES (1, 1);"
        "CREATE FUNCTION write_it() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE public.closed SET v = 2'"
    )
    assert text_of(stage.refuses("SELECT write_it()")) == [
        'unable to read the images of table "public.closed": permission denied for table closed',
        "state: rolled back",
        "hint: grant the right to the role, or name another `role` for this environment",
    ]


# -- statements ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "said", "hint"),
    [
        ("UPDATE nowhere SET v = 1", 'relation "nowhere" does not exist', "check the name and the schema (search_path)"),
        ("UPDATE t SET nothing = 1", 'column "nothing" of relation "t" does not exist', "check the column's name"),
        ("INSERT INTO t VALUES (1, 'x')", 'duplicate key value violates unique constraint "t_pkey"', None),
        ("UPDATE t SET v = (1 / 0)::text", "division by zero", None),
        ("DO $$ BEGIN COMMIT; END $$", "invalid transaction termination", None),
    ],
)  # fmt: skip
def test_a_statement_that_fails_rolls_the_run_back(stage: Stage, statement: str, said: str, hint: str | None) -> None:
    """With its place in the file."""
    error = stage.refuses(f"{statement}; UPDATE t SET v = 'x';")
    assert isinstance(error, DatabaseFailed)
    lines = [f"{place(stage)}: unable to run the statement: {said}", "state: rolled back"]
    assert text_of(error) == [*lines, *([f"hint: {hint}"] if hint else [])]
    assert stage.journal() == [(1, "real", "rolled back")]


def test_a_statement_timeout_rolls_the_run_back(stage: Stage) -> None:
    """The whole text."""
    stage.options = {"statement_timeout": '"100 ms"'}
    error = stage.refuses("UPDATE t SET v = 'x'; SELECT pg_sleep(60);")
    assert text_of(error) == [
        f"{place(stage)}: unable to run the statement: canceling statement due to statement timeout",
        "state: rolled back",
        "hint: raise `statement_timeout` for this environment, or make the change smaller",
    ]
    assert error.exit_status == 4


def test_an_expectation_that_is_not_met_rolls_the_run_back(stage: Stage) -> None:
    """The whole text."""
    error = stage.refuses("-- @expect 1..2\nUPDATE t SET v = 'x';")
    assert isinstance(error, ExpectationFailed)
    assert text_of(error) == [
        f"{stage.folder}/change-1.sql:6: the statement wrote 3 rows, and 1..2 were expected",
        "state: rolled back",
        "hint: look at the rows with `backout ghost`; change the statement or its @expect",
    ]
    assert error.exit_status == 4


def test_an_assertion_that_is_not_true_rolls_the_run_back(stage: Stage) -> None:
    """The whole text."""
    error = stage.refuses("UPDATE t SET v = 'x' WHERE id = 1;\n-- @assert \"all are x\"\nSELECT bool_and(v = 'x') FROM t;")
    assert isinstance(error, AssertionFailed)
    assert text_of(error) == [
        f'{stage.folder}/change-1.sql:7: the assertion "all are x" is not true: its query said False',
        "state: rolled back",
        "hint: look at the rows with `backout ghost`; change the statements or the assertion",
    ]


def test_a_check_after_the_commit_that_is_not_true_leaves_the_run_committed(stage: Stage) -> None:
    """Exit 9, and the way back is there."""
    error = failure(lambda: stage.run("UPDATE t SET v = 'x';\n-- @after \"none is x\"\nSELECT count(*) = 0 FROM t WHERE v = 'x';"))
    assert isinstance(error, CheckAfterFailed)
    assert (error.exit_status, error.state) == (9, "committed")
    assert text_of(error) == [
        'the check "none is x" after the commit is not true: its query said False',
        "state: committed",
        "hint: look at the data, then keep it or take it back: backout undo test-1",
    ]
    stage.undo("test-1")
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(("least", "statements", "level"), [
    ("exact", "UPDATE t SET v = 'x'; UPDATE t SET v = 'y' WHERE id = 1", "repeated 1"),
    ("repeated", "DO $$ BEGIN DELETE FROM t WHERE id = 1; RAISE 'no'; EXCEPTION WHEN raise_exception THEN "
     "UPDATE t SET v = 'z'; END $$", "bounded"),
])  # fmt: skip
def test_a_proof_that_is_looser_than_asked_for_rolls_the_run_back(stage: Stage, least: str, statements: str, level: str) -> None:
    """Exit 6."""
    stage.options = {"min_proof": f'"{least}"'}
    error = stage.refuses(f"{statements};")
    assert isinstance(error, ProofFailed)
    assert text_of(error) == [
        f'the completeness proof is only "{level}", and this environment asks for "{least}"',
        "state: rolled back",
        "hint: write the change so that no row is touched twice, or lower `min_proof`",
    ]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("db.execute('UPDATE t SET v = %s', [])", "the query has 1 placeholders but 0 parameters were passed"),
        ("db.execute('UPDATE t SET v = %s', [object()])", "cannot adapt type 'object' using placeholder '%t' (format: TEXT)"),
        ("db.execute('UPDATE nowhere SET v = 1')", 'relation "nowhere" does not exist'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_script_is_told_as_one(stage: Stage, call: str, said: str) -> None:
    """Not as a lost connection."""
    error = stage.refuses(f"def apply(db):\n    {call}", suffix=".py")
    assert isinstance(error, DatabaseFailed)
    assert error.message == f"{stage.folder}/change-1.py:6: unable to run a statement of the script: {said}"


def test_a_script_that_raises_rolls_the_run_back(stage: Stage) -> None:
    """With the line."""
    error = stage.refuses("def apply(db):\n    db.execute(\"UPDATE t SET v = 'x'\")\n    raise KeyError('oops')", suffix=".py")
    assert isinstance(error, RolledBack)
    assert text_of(error) == [
        f"{stage.folder}/change-1.py:7: the script raised KeyError: 'oops'",
        "state: rolled back",
        "hint: mend the script; nothing was changed",
    ]


# -- others --------------------------------------------------------------------------------------------------------------


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
    assert f"held by backend {holder.info.backend_pid} (report, role {stage.database.application_role}, idle in transaction" in error.message
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
    script = script.replace("import psycopg\n", "import psycopg\n" + _WAIT.format(url=stage.database.superuser_url, pid=other.info.backend_pid))
    thread, raised = in_background(lambda: stage.run(script, suffix=".py"))
    wait_until(lambda: (stage.folder / "first").exists())
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
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage, "backout: run")))
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
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage, "backout: run")))
    second = failure(lambda: stage.run("UPDATE t SET v = 'second'"))
    (holder,) = backends(stage, "backout: change-2 by %")
    assert isinstance(second, Busy)
    assert second.message.startswith(f"another run holds this database: backend {holder} (backout: change-2 by ")
    assert (second.state, second.hint) == ("untouched", "wait until it has ended; see `backout log`")
    blocker.commit()
    thread.join()
    assert raised == []
    assert stage.rows("SELECT v FROM u") == [("first",)]
    assert stage.journal() == [(1, "ghost", "rolled back"), (2, "real", "committed")]


# -- lost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["backout: run", "backout: before-images", "backout: change-1 by %"])
def test_a_session_that_is_ended_in_the_middle_rolls_the_run_back(stage: Stage, purpose: str) -> None:
    """The changing one, the one that sees the past, or the journal's: nothing is committed, and `log` settles the run."""
    stage.options = {"lock_timeout": '"60 s"'}
    stage.project.init_journal("test")
    before = stage.dump()
    blocker = stage.database.connect("application", autocommit=False)
    blocker.execute("LOCK TABLE u IN SHARE MODE")
    thread, raised = in_background(lambda: stage.run("UPDATE t SET v = 'x'; UPDATE u SET v = 'x';"))
    wait_until(lambda: any(waits_for_lock(stage.database, pid) for pid in backends(stage, "backout: run")))
    (victim,) = backends(stage, purpose)
    stage.database.execute("SELECT pg_terminate_backend(%s)", [victim])
    wait_until(lambda: not backends(stage, purpose))
    blocker.commit()
    thread.join()
    (error,) = raised
    assert isinstance(error, Interrupted)
    assert (error.exit_status, error.state) == (8, "rolled back")
    assert error.hint == "what was open is rolled back by the server; `backout log` settles the record of the run"
    assert before == stage.dump()
    wait_until(lambda: not backends(stage, "backout: %"))
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


# -- private values ------------------------------------------------------------------------------------------------------


def everything_said(outcome: RunReport | BackoutError) -> str:
    """All that is shown or printed of a run or an error."""
    if isinstance(outcome, RunReport):
        return json.dumps(report_as_json(outcome), ensure_ascii=False)
    report = outcome.report
    parts: list[Any] = [str(outcome), repr(outcome)]
    if isinstance(report, RunReport):
        parts.append(json.dumps(report_as_json(report), ensure_ascii=False))
    if isinstance(outcome, Conflicts):
        parts.append(repr(outcome.conflicts))
    return "\n".join(map(str, parts))


PATIENTS = """
CREATE TABLE patient (id int PRIMARY KEY, name text, born date); CREATE TABLE note (who text, text text);
INSERT INTO patient VALUES (1, 'Secretname', '1971-03-04'), (2, 'Hiddenname', '1982-05-06'), (3, '33', NULL);
INSERT INTO note VALUES ('Secretname', 'Confidential');
"""
PRIVATE = ("Secretname", "Hiddenname", "Confidential", "1971-03-04", "1982-05-06", "Changedname")


def test_of_phi_no_value_of_a_row_is_shown(stage: Stage) -> None:
    """Neither in a report, nor in a conflict, nor in the journal."""
    stage.make(PATIENTS)
    change = "UPDATE patient SET name = name || '!', born = NULL; DELETE FROM note;"
    said = [everything_said(stage.ghost(change, data="phi")), everything_said(stage.ghost(change, data="phi", undo=True))]
    report = stage.run("UPDATE patient SET name = name || '!', born = NULL; UPDATE note SET text = text || '!';", data="phi")
    said.append(everything_said(report))
    stage.elsewhere("UPDATE patient SET name = 'Changedname' WHERE id = 1; UPDATE note SET who = 'Changedname'")
    said.append(everything_said(failure(lambda: stage.undo(report))))
    said.append(everything_said(stage.undo(report, partial=True)))
    said.append(str(stage.project.show("test-3", "test")))
    said += [str(row) for row in stage.rows("SELECT report::text FROM backout.run")]
    for text in said:
        assert [value for value in PRIVATE if value in text] == []


@pytest.mark.parametrize(
    "statements",
    [
        "UPDATE patient SET id = name::int;",
        "UPDATE patient SET born = name::date;",
        "DO $$ BEGIN RAISE 'no %', (SELECT name FROM patient WHERE id = 1); END $$;",
        "INSERT INTO patient SELECT id, name FROM patient;",
        "UPDATE patient SET name = name || '!';\n-- @assert \"nobody\"\nSELECT name FROM patient WHERE id = 1;",
        "UPDATE patient SET name = name || '!';\n-- @pre \"who\"\nSELECT name FROM patient;\n-- @assert \"x\"\nSELECT false;",
    ],
    ids=["cast", "date", "raise", "key", "assert", "pre"],
)  # fmt: skip
def test_of_phi_no_value_is_in_an_error(stage: Stage, statements: str) -> None:
    """The server quotes values in its messages, and an assertion may answer one."""
    stage.make(PATIENTS)
    error = stage.refuses(statements, data="phi")
    assert [value for value in PRIVATE if value in everything_said(error)] == []
    assert [value for value in PRIVATE if value in str(stage.rows("SELECT report::text FROM backout.run"))] == []


def test_of_phi_no_value_is_in_the_error_of_a_script(stage: Stage) -> None:
    """Whatever it raises."""
    stage.make(PATIENTS)
    script = "def apply(db):\n    raise ValueError(db.execute('SELECT name FROM patient WHERE id = 1').fetchone())"
    error = stage.refuses(script, suffix=".py", data="phi")
    assert "ValueError" in error.message
    assert "Secretname" not in everything_said(error)


def test_the_password_is_in_no_report(stage: Stage) -> None:
    """Nor in a refusal."""
    report = stage.project.run(stage.change("UPDATE t SET v = 'x'"), "test", ask=yes)
    assert PASSWORD not in everything_said(report)
    assert PASSWORD not in str(stage.project.doctor("test"))
