"""Statements, expectations, assertions and scripts that fail: the run is rolled back, and the text says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import (
    AssertionFailed,
    CheckAfterFailed,
    DatabaseFailed,
    ProofFailed,
)
from integration.postgres.stage import Stage, failure, place, stage_with_two_tables, text_of
from servers import PostgresDatabase


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Two tables."""
    return stage_with_two_tables(postgres, tmp_path)


@pytest.mark.parametrize(
    ("statement", "said", "hint"),
    [
        (
            "UPDATE nowhere SET v = 1",
            'relation "nowhere" does not exist',
            "check the name and the schema (search_path)",
        ),
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


def test_an_assertion_that_is_not_true_rolls_the_run_back(stage: Stage) -> None:
    """The whole text."""
    error = stage.refuses(
        "UPDATE t SET v = 'x' WHERE id = 1;\n-- @assert \"all are x\"\nSELECT bool_and(v = 'x') FROM t;"
    )
    assert isinstance(error, AssertionFailed)
    assert text_of(error) == [
        f'{stage.folder}/change-1.sql:7: the assertion "all are x" is not true: its query said False',
        "state: rolled back",
        "hint: look at the rows with `backout ghost`; change the statements or the assertion",
    ]


def test_a_check_after_the_commit_that_is_not_true_leaves_the_run_committed(stage: Stage) -> None:
    """Exit 9, and the way back is there."""
    error = failure(
        lambda: stage.run("UPDATE t SET v = 'x';\n-- @after \"none is x\"\nSELECT count(*) = 0 FROM t WHERE v = 'x';")
    )
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
    ("repeated", ("DO $$ BEGIN DELETE FROM t WHERE id = 1; RAISE 'no'; EXCEPTION WHEN raise_exception THEN "
     "UPDATE t SET v = 'z'; END $$"), "bounded"),
])  # fmt: skip
def test_a_proof_that_is_looser_than_asked_for_rolls_the_run_back(
    stage: Stage, least: str, statements: str, level: str
) -> None:
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
        (
            "db.execute('UPDATE t SET v = %s', [object()])",
            "cannot adapt type 'object' using placeholder '%t' (format: TEXT)",
        ),
        ("db.execute('UPDATE nowhere SET v = 1')", 'relation "nowhere" does not exist'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_script_is_told_as_one(stage: Stage, call: str, said: str) -> None:
    """Not as a lost connection."""
    error = stage.refuses(f"def apply(db):\n    {call}", suffix=".py")
    assert isinstance(error, DatabaseFailed)
    assert error.message == f"{stage.folder}/change-1.py:6: unable to run a statement of the script: {said}"
