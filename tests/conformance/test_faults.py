"""Statements, expectations, assertions, scripts and other sessions that end a run: nothing is left, and the text says why."""

from __future__ import annotations

import pytest

from backout import Project
from backout.errors import (
    AssertionFailed,
    Busy,
    CheckAfterFailed,
    DatabaseFailed,
    ExpectationFailed,
    ProofFailed,
    Refused,
    RolledBack,
)
from conformance.stage import Stage, failure, in_background, text_of, wait_until, yes

TABLES = """
CREATE TABLE t (id INTEGER PRIMARY KEY, v varchar(60), u INTEGER UNIQUE CHECK (u < 100));
INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
"""


@pytest.fixture
def stage(stage: Stage) -> Stage:
    """Three rows."""
    stage.make(TABLES)
    return stage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE nowhere SET v = 1",
        "UPDATE t SET nothing = 1",
        "INSERT INTO t VALUES (1, 'x', 9)",
        "UPDATE t SET u = 5",
        "UPDATE t SET u = 1000 WHERE id = 3",
    ],
)
def test_a_statement_that_fails_rolls_the_run_back(stage: Stage, statement: str) -> None:
    """With its place in the file, after a statement that had written, and before one that would."""
    error = stage.refuses(f"UPDATE t SET v = 'w';\n{statement};\nUPDATE t SET v = 'x';")
    assert isinstance(error, DatabaseFailed)
    assert (4, "rolled back") == (error.exit_status, error.state)
    assert error.message.startswith(f"{stage.folder}/change-1.sql:5: ")
    assert [(1, "real", "rolled back")] == stage.journal()
    assert [] == stage.target.leftovers()


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "CREATE TABLE x (a INTEGER)", "DROP TABLE t"])
def test_what_would_end_the_transaction_or_change_the_schema_is_refused(stage: Stage, statement: str) -> None:
    """Before anything runs."""
    error = stage.refuses(f"UPDATE t SET v = 'x'; {statement};")
    assert isinstance(error, Refused)
    assert "untouched" == error.state


def test_the_journal_may_not_be_written_by_a_change(stage: Stage) -> None:
    """A change that forges it is refused, or the database denies it."""
    stage.run("UPDATE t SET v = 'x' WHERE id = 1")
    before = stage.dump()
    for name in ("backout.run", "backout_run"):
        error = failure(lambda name=name: stage.run(f"DELETE FROM {name};"))  # type: ignore[misc]
        assert error.exit_status in {3, 4, 6}
    assert before == stage.dump()
    stage.undo("test-1")


def test_an_expectation_that_is_not_met_rolls_the_run_back(stage: Stage) -> None:
    """The whole text."""
    error = stage.refuses("-- @expect 1..2\nUPDATE t SET v = 'x';")
    assert isinstance(error, ExpectationFailed)
    assert [
        f"{stage.folder}/change-1.sql:5: the statement wrote 3 rows, and 1..2 were expected",
        "state: rolled back",
        "hint: look at the rows with `backout ghost`; change the statement or its @expect",
    ] == text_of(error)
    assert 4 == error.exit_status


def test_an_expectation_counts_rows_that_keep_their_values(stage: Stage) -> None:
    """The rows that matched, and none that a cascade wrote."""
    stage.make(
        "CREATE TABLE c (id INTEGER PRIMARY KEY, t INTEGER, FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE);"
        "INSERT INTO c VALUES (1, 3), (2, 3)"
    )
    stage.run("-- @expect 3\nUPDATE t SET v = v;\n-- @expect 1\nDELETE FROM t WHERE id = 3;")
    assert [(0,)] == stage.rows("SELECT count(*) FROM c")


def test_an_assertion_that_is_not_true_rolls_the_run_back(stage: Stage) -> None:
    error = stage.refuses(
        "UPDATE t SET v = 'x' WHERE id = 1;\n-- @assert \"all are x\"\nSELECT count(*) = 3 FROM t WHERE v = 'x';"
    )
    assert isinstance(error, AssertionFailed)
    assert error.message.startswith(
        f'{stage.folder}/change-1.sql:6: the assertion "all are x" is not true: its query said '
    )
    assert ("rolled back", 4) == (error.state, error.exit_status)


def test_a_check_after_the_commit_that_is_not_true_leaves_the_run_committed(stage: Stage) -> None:
    """Exit 9, and the way back is there."""
    error = failure(
        lambda: stage.run("UPDATE t SET v = 'x';\n-- @after \"none is x\"\nSELECT count(*) = 0 FROM t WHERE v = 'x';")
    )
    assert isinstance(error, CheckAfterFailed)
    assert (9, "committed") == (error.exit_status, error.state)
    assert error.message.startswith('the check "none is x" after the commit is not true: its query said ')
    assert "look at the data, then keep it or take it back: backout undo test-1" == error.hint
    stage.undo("test-1")
    assert [("a",), ("b",), ("c",)] == stage.rows("SELECT v FROM t ORDER BY id")


@pytest.mark.needs("counts_per_table")
def test_a_proof_that_is_looser_than_asked_for_rolls_the_run_back(stage: Stage) -> None:
    """Exit 6."""
    stage.options = {"min_proof": '"exact"'}
    error = stage.refuses("UPDATE t SET v = 'x'; UPDATE t SET v = 'y' WHERE id = 1;")
    assert isinstance(error, ProofFailed)
    assert [
        'the completeness proof is only "repeated 1", and this environment asks for "exact"',
        "state: rolled back",
        "hint: write the change so that no row is touched twice, or lower `min_proof`",
    ] == text_of(error)


@pytest.mark.parametrize(
    ("statements", "level"),
    [
        ("UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2;", "exact"),
        ("INSERT INTO t VALUES (4, 'd', 4), (5, 'e', 5);", "exact"),
        ("UPDATE t SET v = 'x'; UPDATE t SET v = 'y' WHERE id = 1;", "repeated 1|bounded"),
        ("INSERT INTO t VALUES (9, 'i', 9); DELETE FROM t WHERE id = 9; UPDATE t SET v = 'z';", "repeated 1|bounded"),
        ("UPDATE t SET id = 7 WHERE id = 1;", "exact|bounded"),
    ],
)
def test_the_proof_is_as_tight_as_the_counts_allow(stage: Stage, statements: str, level: str) -> None:
    """Without counts per table only the loosest level is left where a row was touched twice."""
    report = stage.run(statements)
    assert report.proof is not None
    exact, _, loose = level.partition("|")
    assert report.proof.level in {exact} | ({loose} if loose else set())


def test_a_script_that_raises_rolls_the_run_back(stage: Stage) -> None:
    """With the line."""
    error = stage.refuses(
        "def apply(db):\n    db.execute(\"UPDATE t SET v = 'x'\")\n    raise KeyError('oops')", suffix=".py"
    )
    assert isinstance(error, RolledBack)
    assert [
        f"{stage.folder}/change-1.py:6: the script raised KeyError: 'oops'",
        "state: rolled back",
        "hint: mend the script; nothing was changed",
    ] == text_of(error)


def test_a_script_is_captured_with_what_it_takes_back(stage: Stage) -> None:
    """Savepoints, parameters, rows that are read; what is taken back inside is not there."""
    mark = stage.target.dialect.mark
    stage.proves(
        "def apply(db):\n"
        f"    db.execute('UPDATE t SET v = {mark} WHERE id = {mark}', ['fifty', 1])\n"
        "    try:\n"
        "        with db.savepoint():\n"
        "            db.execute('DELETE FROM t')\n"
        "            raise ValueError('taken back')\n"
        "    except ValueError:\n"
        "        pass\n"
        "    with db.savepoint():\n"
        "        (one,) = db.execute('SELECT id FROM t WHERE id = 2').fetchall()\n"
        f"        db.execute('DELETE FROM t WHERE id = {mark}', list(one))\n"
        "def check(db):\n"
        "    return db.execute('SELECT count(*) FROM t').fetchone()[0] == 2\n",
        suffix=".py",
    )


def test_a_script_whose_check_is_false_is_rolled_back(stage: Stage) -> None:
    error = stage.refuses(
        "def apply(db):\n    db.execute('DELETE FROM t')\ndef check(db):\n    return False", suffix=".py"
    )
    assert isinstance(error, AssertionFailed)


@pytest.mark.needs("sqlalchemy")
def test_a_script_may_use_sqlalchemy(stage: Stage) -> None:
    stage.proves(
        "from sqlalchemy import text\n"
        "def apply(db):\n"
        "    db.sqlalchemy().execute(text('UPDATE t SET v = :v WHERE id < :id'), {'v': 'x', 'id': 3})\n",
        suffix=".py",
    )


# -- others ------------------------------------------------------------------------------------------------------------


def test_a_row_that_somebody_else_holds_makes_the_run_busy(stage: Stage) -> None:
    """Exit 7 after `lock_timeout`; the undo as well, and then both can go on."""
    with stage.target.session() as other:
        other.execute("UPDATE t SET u = 50 WHERE id = 1")
        error = failure(lambda: stage.run("UPDATE t SET v = 'x' WHERE id = 1;"))
        assert isinstance(error, Busy)
        assert 7 == error.exit_status
        assert error.state in {"untouched", "rolled back"}
    report = stage.run("UPDATE t SET v = 'x' WHERE id = 1;")
    with stage.target.session() as other:
        other.execute("UPDATE t SET u = 50 WHERE id = 1")
        assert isinstance(failure(lambda: stage.undo(report)), Busy)
    stage.undo(report)
    assert [("a", 1)] == stage.rows("SELECT v, u FROM t WHERE id = 1")


WAITING = """
import pathlib, time
def apply(db):
    db.execute("UPDATE t SET v = 'x' WHERE id = 1")
    here = pathlib.Path(__file__).parent
    (here / "began").touch()
    while not (here / "go on").exists():
        time.sleep(0.01)
"""


def test_a_second_run_is_busy_while_one_is_at_work(stage: Stage) -> None:
    """Exit 7, and nothing of it is written; when the first has ended, the next may run."""
    stage.run("UPDATE t SET v = v")
    first, second = stage.change(WAITING, suffix=".py"), stage.change("UPDATE t SET v = 'y';")
    thread, raised = in_background(lambda: stage.project.run(first, "test", ask=yes))
    try:
        wait_until((stage.folder / "began").exists)
        error = failure(lambda: stage.project.run(second, "test", ask=yes))
        assert isinstance(error, Busy)
        assert (7, "untouched") == (error.exit_status, error.state)
    finally:
        (stage.folder / "go on").touch()
        thread.join()
    assert [] == raised
    assert [("x",), ("b",), ("c",)] == stage.rows("SELECT v FROM t ORDER BY id")
    stage.project.run(second, "test", ask=yes)
    assert [] == stage.target.leftovers()


@pytest.mark.needs("concurrent_writers")
def test_what_others_commit_while_a_run_is_open_is_neither_captured_nor_undone(stage: Stage) -> None:
    """Other rows of the same table, after the run has written to it."""
    stage.run("UPDATE t SET v = v")
    change = stage.change(WAITING, suffix=".py")
    thread, raised = in_background(lambda: stage.project.run(change, "test", ask=yes))
    try:
        wait_until((stage.folder / "began").exists)
        stage.elsewhere(
            "UPDATE t SET v = 'theirs' WHERE id = 2; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (8, 'h', 8)"
        )
    finally:
        (stage.folder / "go on").touch()
        thread.join()
    assert [] == raised
    assert [1] == [one.updated for one in stage.project.show("test-2")[1]]
    stage.undo("test-2")
    assert [(1, "a"), (2, "theirs"), (8, "h")] == stage.rows("SELECT id, v FROM t ORDER BY id")


@pytest.mark.needs("isolation_levels")
def test_under_repeatable_read_a_run_is_proven_and_undone(stage: Stage) -> None:
    stage.options = {"isolation": '"repeatable read"'}
    stage.proves("UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (9, 'i', 9);")


@pytest.mark.needs("has_roles")
def test_a_change_can_neither_read_nor_write_the_journal_and_the_rescue(stage: Stage) -> None:
    """It runs under a role that has no right there."""
    stage.run("UPDATE t SET v = 'x'")
    for name in ("backout.run", f"rescue.{stage.target.rescue_tables()[0]}"):
        error = failure(lambda name=name: stage.run(f"UPDATE t SET u = (SELECT count(*) FROM {name})"))  # type: ignore[misc]
        assert isinstance(error, DatabaseFailed)
        assert "permission denied" in error.message


@pytest.mark.needs("has_sequences")
def test_a_sequence_that_a_run_advances_is_reported_and_stays_advanced(stage: Stage) -> None:
    """A ghost run as well."""
    stage.make(f"CREATE TABLE counted ({stage.target.dialect.counted}, v INTEGER); INSERT INTO counted (v) VALUES (1)")
    report = stage.ghost("INSERT INTO counted (v) VALUES (2), (3);")
    assert [(1, 3)] == [(one.before, one.after) for one in report.sequences]


def test_a_database_of_another_environment_is_refused(stage: Stage) -> None:
    """By its stamp, until it is stamped anew."""
    stage.run("UPDATE t SET v = 'x'")
    config = stage.write_config()
    config.write_text(config.read_text().replace("environments.test", "environments.staging"), encoding="utf-8")
    project = Project.find(config=config)
    change = project.change(str(stage.folder / "change-1.sql"))
    error = failure(lambda: project.ghost(change, "staging", ask=yes))
    assert isinstance(error, Refused)
    assert "untouched" == error.state
    project.init_journal("staging", restamp=True)
    project.ghost(change, "staging", ask=yes)
    assert isinstance(failure(lambda: stage.ghost("UPDATE t SET v = 'y'")), Refused)
