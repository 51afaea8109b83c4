"""Of a change that says `data = "phi"`, no value of any row is shown, printed, recorded or raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backout.errors import (
    BackoutError,
    Conflicts,
)
from backout.runs.as_json import report_as_json
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, stage_for, yes
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
    said = [
        everything_said(stage.ghost(change, data="phi")),
        everything_said(stage.ghost(change, data="phi", undo=True)),
    ]
    report = stage.run(
        "UPDATE patient SET name = name || '!', born = NULL; UPDATE note SET text = text || '!';", data="phi"
    )
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
        (
            "UPDATE patient SET name = name || '!';\n-- @pre \"who\"\nSELECT name FROM patient;\n-- @assert "
            "\"x\"\nSELECT false;"
        ),
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


def test_of_phi_no_value_is_in_a_check_after_the_commit(stage: Stage) -> None:
    """Neither in its answer nor in why it could not be made."""
    stage.make(PATIENTS)
    for query in ("SELECT name FROM patient WHERE id = 1", "SELECT name::int FROM patient"):
        error = failure(lambda text=query: stage.run(f'DELETE FROM note;\n-- @after "x"\n{text};', data="phi"))  # type: ignore[misc]
        assert error.exit_status == 9
        assert [value for value in PRIVATE if value in everything_said(error)] == []


def test_of_phi_no_value_that_a_script_answers_is_shown(stage: Stage) -> None:
    """What check(db) returns may be a row."""
    stage.make(PATIENTS)
    script = (
        "def apply(db):\n    db.execute('DELETE FROM note')\n"
        "def check(db):\n    return db.execute('SELECT * FROM patient').fetchall()"
    )
    assert [value for value in PRIVATE if value in everything_said(stage.run(script, suffix=".py", data="phi"))] == []
