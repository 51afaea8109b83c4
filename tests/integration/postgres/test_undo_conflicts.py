"""Rows that others changed since: an undo never takes their work away unless it is told to, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.values import Conflict
from integration.postgres.stage import (
    Rights,
    Stage,
    conflicts,
    people,
    stage_with_people,
)
from servers import PostgresDatabase

pytestmark = pytest.mark.either


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Four persons, under both ways past triggers and foreign keys."""
    return stage_with_people(postgres, tmp_path, request.param)


def described(found: list[Conflict]) -> list[tuple[int, str, str, dict[str, str | None], tuple[str, ...]]]:
    """What makes a conflict, without its rows."""
    return [(c.number, str(c.table), c.kind.value, dict(c.key), c.columns) for c in found]


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_a_row_of_the_run_that_others_made_refer_to_another_row_of_it_is_not_lost(
    stage: Stage, action: str, key: str
) -> None:
    """The run changed the pet's name and made a person; others then gave the pet to that person."""
    stage.make(
        f"CREATE TABLE pet (id int {key}, owner int REFERENCES person ON DELETE {action}, name text, kind text);"
        "INSERT INTO pet VALUES (1, 1, 'rex', 'dog'), (2, 2, 'tom', 'cat')"
    )
    report = stage.run(
        "INSERT INTO person VALUES (8, 'new', 'n@x', 1); UPDATE pet SET name = upper(name); UPDATE pet SET kind = kind"
    )
    stage.elsewhere("UPDATE pet SET owner = 8 WHERE id = 1")
    conflicts(stage, report)
    stage.undo(report, partial=True)
    assert [row[0] for row in people(stage)] == [1, 2, 3, 4, 8]
    assert stage.rows("SELECT id, owner FROM pet ORDER BY id") == [(1, 8), (2, 2)]


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
@pytest.mark.parametrize("timing", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_row_whose_parent_is_gone_is_a_conflict(stage: Stage, key: str, timing: str) -> None:
    """With a key or without, checked at once or at the end."""
    stage.make(
        f"CREATE TABLE pet (id int {key}, owner int REFERENCES person {timing}, name text);"
        "INSERT INTO pet VALUES (1, 1, 'rex'), (2, 2, 'tom')"
    )
    report = stage.run("DELETE FROM pet")
    stage.elsewhere("DELETE FROM person WHERE id = 1")
    found = conflicts(stage, report)
    assert {str(one.table) for one in found} == {"public.pet"}
    assert {one.kind.value for one in found} <= {"the row it refers to is gone", "a constraint refuses it"}
    stage.undo(report, partial=True)
    assert stage.rows("SELECT id FROM pet") == ([(2,)] if key else [])
    stage.elsewhere("INSERT INTO person VALUES (1, 'back', 'a@x', 1)")
    stage.undo(report)
    assert stage.rows("SELECT id FROM pet ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("key", ["id int PRIMARY KEY", "id int"])
def test_a_constraint_that_was_added_since_and_refuses_a_row_is_a_conflict(stage: Stage, key: str) -> None:
    """Check and NOT NULL constraints, in tables with and without a key."""
    stage.make(
        f"CREATE TABLE desk ({key}, place text, seat int); INSERT INTO desk VALUES (1, 'a', 1), (2, NULL, 2), "
        "(3, 'c', -3)"
    )
    report = stage.run("UPDATE desk SET place = 'x', seat = 5")
    stage.elsewhere("ALTER TABLE desk ADD CHECK (seat > 0), ALTER place SET NOT NULL")
    found = conflicts(stage, report)
    assert {one.kind.value for one in found} == {"a constraint refuses it"}
    stage.undo(report, partial=True)
    rows = stage.rows("SELECT id, place, seat FROM desk ORDER BY id")
    assert rows == (
        [(1, "a", 1), (2, "x", 5), (3, "x", 5)] if key.endswith("KEY") else [(1, "x", 5), (2, "x", 5), (3, "x", 5)]
    )


def test_a_table_without_a_key_is_put_back_whole_or_not_at_all(stage: Stage) -> None:
    """Which row became which is not known."""
    stage.make("CREATE TABLE tally (a int, b text); INSERT INTO tally VALUES (1, 'x'), (1, 'x'), (2, 'y')")
    report = stage.run("UPDATE tally SET b = 'z'; UPDATE person SET age = 9 WHERE id = 1")
    stage.elsewhere("UPDATE tally SET b = 'mine' WHERE a = 2; INSERT INTO tally VALUES (7, 'new')")
    assert [(str(one.table), one.kind.value) for one in conflicts(stage, report)] == [("public.tally", "changed since")]
    stage.undo(report, partial=True)
    assert stage.rows("SELECT * FROM tally ORDER BY 1") == [(1, "z"), (1, "z"), (2, "mine"), (7, "new")]
    assert people(stage)[0] == (1, "ann", "a@x", 30)
    stage.elsewhere("UPDATE tally SET b = 'z' WHERE a = 2")
    stage.undo(report)
    assert stage.rows("SELECT * FROM tally ORDER BY 1") == [(1, "x"), (1, "x"), (2, "y"), (7, "new")]
