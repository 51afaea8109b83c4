"""What a person may say to conflicts: partial, overwrite, later, again, as a ghost; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.values import RunState
from backout.errors import Refused, UsageError
from integration.postgres.stage import Rights, Stage, conflicts, failure, stage_for, text_of
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE person (
 id int PRIMARY KEY, name text, mail text UNIQUE, age int CHECK (age < 150), lock_version int DEFAULT 0);
INSERT INTO person VALUES (1, 'ann', 'a@x', 30), (2, 'bob', 'b@x', 40), (3, 'cid', 'c@x', 50), (4, 'dot', 'd@x', 60);
"""


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Four persons, under both ways past triggers and foreign keys."""
    found = stage_for(postgres, tmp_path, request.param)
    found.make(SCHEMA)
    return found


def people(stage: Stage) -> list[tuple[object, ...]]:
    """What the table holds."""
    return stage.rows("SELECT id, name, mail, age FROM person ORDER BY id")


def test_conflicts_are_numbered_by_table_and_key(stage: Stage) -> None:
    """From 1, over all tables."""
    stage.make("CREATE TABLE another (id int PRIMARY KEY, v text); INSERT INTO another VALUES (1, 'a'), (2, 'b')")
    report = stage.run("UPDATE person SET age = 1; UPDATE another SET v = 'z'")
    stage.elsewhere("UPDATE person SET age = 2 WHERE id IN (2, 4); UPDATE another SET v = 'y' WHERE id = 2")
    assert [(c.number, str(c.table), c.key["id"]) for c in conflicts(stage, report)] == [
        (1, "public.another", "2"), (2, "public.person", "2"), (3, "public.person", "4"),
    ]  # fmt: skip


def test_overwrite_restores_exactly_the_named_rows(stage: Stage) -> None:
    """Without `partial` all conflicts must be named; with it the others are left."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id IN (1, 3)")
    conflicts(stage, report)
    conflicts(stage, report, overwrite=[2])
    undone = stage.undo(report, overwrite=[2], partial=True)
    assert [one.number for one in undone.conflicts] == [1]
    assert [row[1] for row in people(stage)] == ["x", "bob", "cid", "dot"]


def test_overwrite_is_refused_when_the_list_is_no_longer_true(stage: Stage) -> None:
    """Somebody changed a row after the conflicts were listed: the numbers may mean other rows now."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id = 3")
    conflicts(stage, report)
    stage.elsewhere("UPDATE person SET name = 'y' WHERE id = 1")
    assert len(conflicts(stage, report, overwrite=[1])) == 2
    stage.undo(report, overwrite=[1, 2])
    assert [row[1] for row in people(stage)] == ["ann", "bob", "cid", "dot"]


def test_overwrite_without_a_list_is_refused(stage: Stage) -> None:
    """Nobody has seen the conflicts that the numbers mean; a number that there is not is a mistake."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id = 3")
    conflicts(stage, report, overwrite=[1])
    error = failure(lambda: stage.undo(report, overwrite=[7]))
    assert isinstance(error, UsageError)
    assert text_of(error) == ["there is no conflict number 7", "state: untouched", "hint: list them: backout undo RUN"]


def test_a_run_is_undone_once(stage: Stage) -> None:
    """The whole text of the second one's error."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.undo(report)
    assert text_of(failure(lambda: stage.undo(report))) == [
        'run "test-1" is undone already', "state: untouched", "hint: `backout log` shows by which run",
    ]  # fmt: skip


def test_what_was_left_by_a_partial_undo_can_be_undone_later(stage: Stage) -> None:
    """Only that: what was restored and changed again since stays."""
    report = stage.run(
        "UPDATE person SET name = upper(name); DELETE FROM person WHERE id = 4; "
        "INSERT INTO person VALUES (9, 'i', 'i@x', 9)"
    )
    stage.elsewhere(
        "UPDATE person SET name = 'x' WHERE id = 1; UPDATE person SET name = 'z' WHERE id = 9; "
        "INSERT INTO person VALUES (4, 'o', 'o@x', 4)"
    )
    stage.undo(report, partial=True)
    assert people(stage) == [
        (1, "x", "a@x", 30),
        (2, "bob", "b@x", 40),
        (3, "cid", "c@x", 50),
        (4, "o", "o@x", 4),
        (9, "z", "i@x", 9),
    ]
    stage.elsewhere(
        "UPDATE person SET name = 'BOB' WHERE id = 2; UPDATE person SET name = 'ANN' WHERE id = 1; "
        "DELETE FROM person WHERE id IN (4, 9)"
    )
    assert stage.undo(report).conflicts == ()
    assert people(stage) == [(1, "ann", "a@x", 30), (2, "BOB", "b@x", 40), (3, "cid", "c@x", 50), (4, "dot", "d@x", 60)]


def test_an_undo_can_be_undone_and_that_again(stage: Stage) -> None:
    """Each is a run of its own; the first can be undone again when its undo was."""
    before = stage.dump()
    report = stage.run(
        "UPDATE person SET name = upper(name); DELETE FROM person WHERE id = 4; "
        "INSERT INTO person VALUES (9, 'i', 'i@x', 9)"
    )
    after = stage.dump()
    undone = stage.undo(report)
    again = stage.undo(undone)
    assert after == stage.dump()
    back = stage.undo(again)
    assert before == stage.dump()
    stage.undo(back)
    assert after == stage.dump()
    stage.undo(report)
    assert before == stage.dump()


def test_a_partial_undo_can_be_undone(stage: Stage) -> None:
    """Back to what was before it, others' work included."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id = 1")
    before = stage.dump()
    stage.undo(stage.undo(report, partial=True))
    assert before == stage.dump()
    stage.undo(report, partial=True)
    assert [row[1] for row in people(stage)] == ["x", "bob", "cid", "dot"]


def test_a_ghost_undo_changes_nothing(stage: Stage) -> None:
    """It says what it would do, and the run can be undone for real after it."""
    report = stage.run("UPDATE person SET name = upper(name)")
    before = stage.dump()
    ghost = stage.undo(report, ghost=True)
    assert (ghost.outcome, ghost.state, ghost.tables[0].updated) == (RunState.ROLLED_BACK, "untouched", 4)
    assert before == stage.dump()
    stage.undo(report)
    assert [row[1] for row in people(stage)] == ["ann", "bob", "cid", "dot"]


def test_a_ghost_undo_lists_conflicts(stage: Stage) -> None:
    """As the real one would."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id = 1")
    assert len(conflicts(stage, report, ghost=True)) == 1


@pytest.mark.parametrize("what", ["ghost", "refused"])
def test_what_was_not_committed_cannot_be_undone(stage: Stage, what: str) -> None:
    """A ghost run, and a run that was rolled back."""
    if what == "ghost":
        stage.ghost("UPDATE person SET age = 1")
    else:
        stage.refuses("UPDATE person SET age = 1000")
    error = failure(lambda: stage.undo("test-1"))
    assert isinstance(error, Refused)
    assert error.message == 'run "test-1" is rolled back: there is nothing to undo'


def test_more_conflicts_than_are_listed_are_not_overwritten_unseen(
    postgres18: PostgresDatabase, tmp_path: Path
) -> None:
    """Only 1000 rows of a table are listed: naming them all is not naming all."""
    stage = stage_for(postgres18, tmp_path)
    stage.make(
        "CREATE TABLE many (id int PRIMARY KEY, v int); INSERT INTO many SELECT i, i FROM generate_series(1, 1005) i"
    )
    report = stage.run("UPDATE many SET v = v + 1")
    stage.elsewhere("UPDATE many SET v = v + 1")
    assert len(conflicts(stage, report)) == 1000
    assert len(conflicts(stage, report, overwrite=range(1, 1001))) == 1000
    stage.undo(report, overwrite=range(1, 1001), partial=True)
    assert stage.rows("SELECT count(*) FROM many WHERE v = id + 2") == [(5,)]
