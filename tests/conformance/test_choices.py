"""What a person may say to conflicts: partial, overwrite, later, again, as a ghost; and what is refused."""

from __future__ import annotations

import pytest

from backout.engines.values import RunState
from backout.errors import Refused, UsageError
from conformance.stage import Stage, failure, text_of, yes
from conformance.test_conflicts import PEOPLE, persons


@pytest.fixture
def people(stage: Stage) -> Stage:
    """Four persons."""
    stage.make(PEOPLE)
    return stage


def names(stage: Stage) -> list[object]:
    """Of all persons."""
    return [row[1] for row in persons(stage)]


def test_conflicts_are_numbered_by_table_and_key(people: Stage) -> None:
    """From 1, over all tables; keys in the order that the database gives them."""
    people.make(
        "CREATE TABLE another (id INTEGER PRIMARY KEY, v varchar(9)); INSERT INTO another VALUES (1, 'a'), (2, 'b')"
    )
    report = people.run("UPDATE person SET age = 1; UPDATE another SET v = 'z'")
    people.elsewhere("UPDATE person SET age = 2 WHERE id IN (2, 4); UPDATE another SET v = 'y' WHERE id = 2")
    assert [(1, "another", "2"), (2, "person", "2"), (3, "person", "4")] == [
        (number, table, key["id"]) for number, table, _, key, _ in people.met(report)
    ]


def test_overwrite_restores_exactly_the_named_rows(people: Stage) -> None:
    """Without `partial` all conflicts must be named; with it the others are left."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id IN (1, 3)")
    assert [1, 2] == [one[0] for one in people.met(report)]
    people.conflicts(report, overwrite=[2])
    undone = people.undo(report, overwrite=[2], partial=True)
    assert [1] == [one.number for one in undone.conflicts]
    assert ["x", "bob", "cid", "dot"] == names(people)


@pytest.mark.parametrize("named", [[1], [2], [3], [1, 2], [2, 3]])
def test_without_partial_all_conflicts_must_be_named(people: Stage, named: list[int]) -> None:
    """Those that are not are listed again, whichever they are; nothing is written."""
    report = people.run("UPDATE person SET name = upper(name) WHERE id < 3; DELETE FROM person WHERE id = 4")
    people.elsewhere(
        "UPDATE person SET name = 'x' WHERE id = 1; DELETE FROM person WHERE id = 2; "
        "INSERT INTO person VALUES (4, 'other', 'o@x', 1, 0)"
    )
    assert [1, 2, 3] == [one[0] for one in people.met(report)]
    left = [one[0] for one in people.met(report, overwrite=named)]
    assert {1, 2, 3} - {*named} <= {*left}
    people.undo(report, overwrite=[1, 2, 3])
    assert ["ann", "bob", "cid", "dot"] == names(people)


def test_overwrite_is_refused_when_the_list_is_no_longer_true(people: Stage) -> None:
    """Somebody changed a row after the conflicts were listed: the numbers may mean other rows now."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id = 3")
    people.conflicts(report)
    people.elsewhere("UPDATE person SET name = 'y' WHERE id = 1")
    assert 2 == len(people.conflicts(report, overwrite=[1]))
    people.undo(report, overwrite=[1, 2])
    assert ["ann", "bob", "cid", "dot"] == names(people)


def test_overwrite_without_a_list_is_refused(people: Stage) -> None:
    """Nobody has seen the conflicts that the numbers mean; a number that there is not is a mistake."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id = 3")
    people.conflicts(report, overwrite=[1])
    error = failure(lambda: people.undo(report, overwrite=[7]))
    assert isinstance(error, UsageError)
    assert ["there is no conflict number 7", "state: untouched", "hint: list them: backout undo RUN"] == text_of(error)


def test_a_number_that_there_is_not_is_a_mistake_beside_one_that_there_is(people: Stage) -> None:
    """Nothing is written, also where the other numbers name every conflict."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id = 3")
    people.conflicts(report)
    now = people.dump()
    error = failure(lambda: people.undo(report, overwrite=[1, 7]))
    assert isinstance(error, UsageError)
    assert now == people.dump()


def test_a_run_is_undone_once(people: Stage) -> None:
    """The whole text of the second one's error."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.undo(report)
    assert ['run "test-1" is undone already', "state: untouched", "hint: `backout log` shows by which run"] == text_of(
        failure(lambda: people.undo(report))
    )


def test_a_run_that_wrote_an_append_only_table_too_is_undone_once_and_may_run_again(people: Stage) -> None:
    """What is never put back does not count as left."""
    people.undo_options = '[undo]\nappend_only = ["log"]\n'
    people.make("CREATE TABLE log (id INTEGER PRIMARY KEY, line varchar(20))")
    change = people.change("UPDATE person SET name = upper(name); DELETE FROM log; INSERT INTO log VALUES (1, 'ours')")
    report = people.project.run(change, "test", ask=yes)
    people.undo(report)
    assert 'run "test-1" is undone already' == failure(lambda: people.undo(report)).message
    people.project.run(change, "test", ask=yes)
    assert "ANN" == names(people)[0]


def test_what_was_left_by_a_partial_undo_can_be_undone_later(people: Stage) -> None:
    """Only that: what was restored and changed again since stays."""
    report = people.run(
        "UPDATE person SET name = upper(name); DELETE FROM person WHERE id = 4; "
        "INSERT INTO person VALUES (9, 'i', 'i@x', 9, 0)"
    )
    people.elsewhere(
        "UPDATE person SET name = 'x' WHERE id = 1; UPDATE person SET name = 'z' WHERE id = 9; "
        "INSERT INTO person VALUES (4, 'o', 'o@x', 4, 0)"
    )
    people.undo(report, partial=True)
    assert [(1, "x"), (2, "bob"), (3, "cid"), (4, "o"), (9, "z")] == [row[:2] for row in persons(people)]
    people.elsewhere(
        "UPDATE person SET name = 'BOB' WHERE id = 2; UPDATE person SET name = 'ANN' WHERE id = 1; "
        "DELETE FROM person WHERE id IN (4, 9)"
    )
    assert people.undo(report).conflicts == ()
    assert [(1, "ann"), (2, "BOB"), (3, "cid"), (4, "dot")] == [row[:2] for row in persons(people)]


def test_an_undo_can_be_undone_and_that_again(people: Stage) -> None:
    """Each is a run of its own; the first can be undone again when its undo was."""
    before = people.dump()
    report = people.run(
        "UPDATE person SET name = upper(name); DELETE FROM person WHERE id = 4; "
        "INSERT INTO person VALUES (9, 'i', 'i@x', 9, 0)"
    )
    after = people.dump()
    undone = people.undo(report)
    again = people.undo(undone)
    assert after == people.dump()
    back = people.undo(again)
    assert before == people.dump()
    people.undo(back)
    assert after == people.dump()
    people.undo(report)
    assert before == people.dump()


def test_a_partial_undo_can_be_undone(people: Stage) -> None:
    """Back to what was before it, others' work included."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id = 1")
    before = people.dump()
    people.undo(people.undo(report, partial=True))
    assert before == people.dump()
    people.undo(report, partial=True)
    assert ["x", "bob", "cid", "dot"] == names(people)


def test_a_ghost_undo_changes_nothing(people: Stage) -> None:
    """It says what it would do, and the run can be undone for real after it."""
    report = people.run("UPDATE person SET name = upper(name)")
    before = people.dump()
    ghost = people.undo(report, ghost=True)
    assert (RunState.ROLLED_BACK, "untouched", 4) == (ghost.outcome, ghost.state, ghost.tables[0].updated)
    assert before == people.dump()
    people.undo(report)
    assert ["ann", "bob", "cid", "dot"] == names(people)


def test_a_ghost_undo_lists_conflicts(people: Stage) -> None:
    """As the real one would."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id = 1")
    assert 1 == len(people.conflicts(report, ghost=True))


@pytest.mark.parametrize("what", ["ghost", "refused"])
def test_what_was_not_committed_cannot_be_undone(people: Stage, what: str) -> None:
    """A ghost run, and a run that was rolled back."""
    if what == "ghost":
        people.ghost("UPDATE person SET age = 1")
    else:
        people.refuses("UPDATE person SET mail = 'one for all'")
    error = failure(lambda: people.undo("test-1"))
    assert isinstance(error, Refused)
    assert 'run "test-1" is rolled back: there is nothing to undo' == error.message


def test_more_conflicts_than_are_listed_are_not_overwritten_unseen(stage: Stage) -> None:
    """Only 1000 rows of a table are listed: naming them all is not naming all."""
    stage.make("CREATE TABLE many (id INTEGER PRIMARY KEY, v INTEGER)")
    stage.make(stage.target.dialect.numbers("many", 505, "i, i"))
    stage.make("INSERT INTO many SELECT id + 500, v + 500 FROM many WHERE id > 5 AND id <= 505")
    report = stage.run("UPDATE many SET v = v + 1")
    stage.elsewhere("UPDATE many SET v = v + 1")
    listed = len(stage.conflicts(report))
    assert listed <= 1005
    if listed == 1005:
        stage.undo(report, overwrite=range(1, 1006))
        assert [(0,)] == stage.rows("SELECT count(*) FROM many WHERE v <> id")
        return
    assert 1000 == listed
    assert 1000 == len(stage.conflicts(report, overwrite=range(1, 1001)))
    stage.undo(report, overwrite=range(1, 1001), partial=True)
    assert [(5,)] == stage.rows("SELECT count(*) FROM many WHERE v = id + 2")
