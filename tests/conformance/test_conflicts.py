"""Rows that others changed since: an undo never takes their work away unless it is told to, row by row."""

from __future__ import annotations

import pytest

from backout.errors import Conflicts
from backout.runs.report import RunReport
from conformance.stage import Stage, failure, text_of

PEOPLE = """
CREATE TABLE person (
 id INTEGER PRIMARY KEY, name varchar(60), mail varchar(60) UNIQUE, age INTEGER, lock_version INTEGER DEFAULT 0);
INSERT INTO person VALUES
 (1, 'ann', 'a@x', 30, 0), (2, 'bob', 'b@x', 40, 0), (3, 'cid', 'c@x', 50, 0), (4, 'dot', 'd@x', 60, 0);
"""
CHANGED, DELETED, REUSED = "changed since", "deleted since", "key used again since"
REFERENCED, PARENT_GONE, REFUSED = (
    "other rows refer to it now",
    "the row it refers to is gone",
    "a constraint refuses it",
)


@pytest.fixture
def people(stage: Stage) -> Stage:
    """Four persons."""
    stage.make(PEOPLE)
    return stage


def persons(stage: Stage) -> list[tuple[object, ...]]:
    """What the table holds."""
    return stage.rows("SELECT id, name, mail, age FROM person ORDER BY id")


def ids(stage: Stage) -> list[object]:
    """The keys of the table."""
    return [row[0] for row in persons(stage)]


def test_columns_that_the_run_did_not_touch_keep_what_others_wrote(people: Stage) -> None:
    """Merging by column is no conflict."""
    report = people.run("UPDATE person SET name = upper(name) WHERE id < 3")
    people.elsewhere("UPDATE person SET age = 31 WHERE id = 1")
    assert people.undo(report).conflicts == ()
    assert [(1, "ann", "a@x", 31), (2, "bob", "b@x", 40)] == persons(people)[:2]


def test_columns_that_the_run_touched_in_another_row_only_keep_what_others_wrote(people: Stage) -> None:
    """Touched is meant row by row: the run changed the age of the second row, somebody that of the first."""
    report = people.run("UPDATE person SET name = upper(name) WHERE id = 1; UPDATE person SET age = 1 WHERE id = 2")
    people.elsewhere("UPDATE person SET age = 31 WHERE id = 1")
    assert people.undo(report).conflicts == ()
    assert [(1, "ann", "a@x", 31), (2, "bob", "b@x", 40)] == persons(people)[:2]


def test_a_touched_column_that_others_changed_is_a_conflict(people: Stage) -> None:
    """Named with before, ours and now; nothing is written, the rest is restored with `partial`."""
    report = people.run("UPDATE person SET name = upper(name), age = age + 1 WHERE id < 4")
    people.elsewhere("UPDATE person SET name = 'Robert' WHERE id = 2")
    (found,) = people.conflicts(report)
    assert (1, people.table("person"), CHANGED, {"id": "2"}, ("name",)) == (
        found.number, str(found.table), found.kind.value, found.key, found.columns,
    )  # fmt: skip
    row = {"id": "2", "mail": "b@x", "lock_version": "0"}
    assert {**row, "name": "bob", "age": "40"} == found.before
    assert {**row, "name": "BOB", "age": "41"} == found.ours
    assert {**row, "name": "Robert", "age": "41"} == found.now
    people.undo(report, partial=True)
    assert [(1, "ann", "a@x", 30), (2, "Robert", "b@x", 41), (3, "cid", "c@x", 50)] == persons(people)[:3]


def test_the_error_names_the_ways_out(people: Stage) -> None:
    """The whole text."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("UPDATE person SET name = 'x' WHERE id < 3")
    assert [
        '2 rows were changed by others since run "test-1"',
        "state: untouched",
        "hint: restore all the others: backout undo test-1 --partial; these too, by number: --overwrite 1,2",
    ] == text_of(failure(lambda: people.undo(report)))
    assert [(1, "real", "committed"), (2, "undo", "refused")] == people.journal()


def test_rows_that_others_set_back_already_are_no_conflict(people: Stage) -> None:
    """What is as it was before needs no undo: an update, a deletion and an insertion."""
    report = people.run(
        "UPDATE person SET name = upper(name) WHERE id < 3; DELETE FROM person WHERE id = 4; "
        "INSERT INTO person VALUES (9, 'new', NULL, 1, 0)"
    )
    people.elsewhere(
        "UPDATE person SET name = 'ann' WHERE id = 1; INSERT INTO person VALUES (4, 'dot', 'd@x', 60, 0); "
        "DELETE FROM person WHERE id = 9"
    )
    assert people.undo(report).conflicts == ()
    assert [(1, "ann"), (2, "bob"), (3, "cid"), (4, "dot")] == [row[:2] for row in persons(people)]


def test_a_row_that_others_deleted_comes_back_only_when_it_is_named(people: Stage) -> None:
    """Deleted since: not resurrected by `partial`, brought back by `overwrite`; then the run is undone."""
    report = people.run("UPDATE person SET name = upper(name)")
    people.elsewhere("DELETE FROM person WHERE id = 2")
    assert [(1, "person", DELETED, {"id": "2"}, ())] == people.met(report)
    people.undo(report, partial=True)
    assert [1, 3, 4] == ids(people)
    assert [(1, "person", DELETED, {"id": "2"}, ())] == people.met(report)
    people.undo(report, overwrite=[1])
    assert (2, "bob", "b@x", 40) == persons(people)[1]
    assert "refused" == failure(lambda: people.undo(report)).code


def test_a_key_that_is_used_again_is_a_conflict(people: Stage) -> None:
    """The row that the run deleted is written over the other's only when it is named."""
    report = people.run("DELETE FROM person WHERE id < 3")
    people.elsewhere("INSERT INTO person VALUES (1, 'other', 'o@x', 1, 0)")
    assert [(1, "person", REUSED, {"id": "1"})] == [one[:4] for one in people.met(report)]
    people.undo(report, partial=True)
    assert [(1, "other", "o@x", 1), (2, "bob", "b@x", 40)] == persons(people)[:2]
    people.conflicts(report)
    people.undo(report, overwrite=[1])
    assert [(1, "ann", "a@x", 30), (2, "bob", "b@x", 40)] == persons(people)[:2]


PETS = (
    "CREATE TABLE pet (id INTEGER {key}, owner INTEGER, name varchar(20), kind varchar(20), "
    "FOREIGN KEY (owner) REFERENCES person (id) ON DELETE {action});"
)


def pets(stage: Stage, action: str = "NO ACTION", key: str = "PRIMARY KEY") -> None:
    """Two pets of the first two persons."""
    stage.make(PETS.format(key=key, action=action))
    stage.make("INSERT INTO pet VALUES (1, 1, 'rex', 'dog'), (2, 2, 'tom', 'cat')")


def test_the_children_of_a_row_whose_key_is_used_again_are_not_given_to_the_stranger(people: Stage) -> None:
    """The foreign key would not object, but they belonged to another row: they stay in the rescue."""
    pets(people, "CASCADE")
    report = people.run("DELETE FROM person WHERE id < 3")
    people.elsewhere("INSERT INTO person VALUES (2, 'zoe', 'z@x', 20, 0)")
    assert [(1, "person", REUSED, {"id": "2"}), (2, "pet", PARENT_GONE, {"id": "2"})] == [
        one[:4] for one in people.met(report)
    ]
    people.undo(report, partial=True)
    assert [(1, "ann", "a@x", 30), (2, "zoe", "z@x", 20)] == persons(people)[:2]
    assert [(1, 1)] == people.rows("SELECT id, owner FROM pet ORDER BY id")


def test_the_children_come_back_with_their_parent_when_both_are_named(people: Stage) -> None:
    """The stranger is written over, and then the children's parent is the one that they had."""
    pets(people, "CASCADE")
    before = people.dump()
    report = people.run("DELETE FROM person WHERE id < 3")
    people.elsewhere("INSERT INTO person VALUES (2, 'zoe', 'z@x', 20, 0)")
    people.conflicts(report)
    people.undo(report, overwrite=[1, 2])
    assert before == people.dump()


def test_a_row_that_the_run_made_and_others_changed_stays_unless_it_is_named(people: Stage) -> None:
    """Somebody works with it already."""
    report = people.run("INSERT INTO person VALUES (8, 'new', 'n@x', 1, 0), (9, 'own', 'm@x', 2, 0)")
    people.elsewhere("UPDATE person SET age = 77 WHERE id = 8")
    assert [(1, "person", CHANGED, {"id": "8"})] == [one[:4] for one in people.met(report)]
    people.undo(report, partial=True)
    assert [1, 2, 3, 4, 8] == ids(people)
    people.conflicts(report)
    people.undo(report, overwrite=[1])
    assert [1, 2, 3, 4] == ids(people)


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL"])
def test_others_rows_that_refer_to_a_row_of_the_run_are_never_touched(people: Stage, action: str) -> None:
    """The row that the run made stays, whatever the foreign key would do to those that refer to it."""
    pets(people, action)
    report = people.run(
        "INSERT INTO person VALUES (8, 'new', 'n@x', 1, 0), (9, 'own', 'm@x', 2, 0); "
        "INSERT INTO pet VALUES (5, 9, 'ours', 'x')"
    )
    people.elsewhere("INSERT INTO pet VALUES (6, 8, 'theirs', 'y')")
    assert [(1, "person", REFERENCED, {"id": "8"}, ())] == people.met(report)
    people.undo(report, partial=True)
    assert [1, 2, 3, 4, 8] == ids(people)
    assert [(1, 1), (2, 2), (6, 8)] == people.rows("SELECT id, owner FROM pet ORDER BY id")


@pytest.mark.needs("set_default_actions")
def test_others_rows_that_would_get_their_default_are_never_touched(people: Stage) -> None:
    people.make(
        "CREATE TABLE pet (id INTEGER PRIMARY KEY, owner INTEGER DEFAULT 1, "
        "FOREIGN KEY (owner) REFERENCES person (id) ON DELETE SET DEFAULT)"
    )
    report = people.run("INSERT INTO person VALUES (8, 'new', 'n@x', 1, 0)")
    people.elsewhere("INSERT INTO pet VALUES (6, 8)")
    assert [(1, "person", REFERENCED, {"id": "8"}, ())] == people.met(report)
    people.undo(report, partial=True)
    assert [(6, 8)] == people.rows("SELECT id, owner FROM pet")


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_a_row_of_the_run_that_others_made_refer_to_another_row_of_it_is_not_lost(people: Stage, action: str) -> None:
    """The run changed the pet's name and made a person; others then gave the pet to that person."""
    pets(people, action)
    report = people.run("INSERT INTO person VALUES (8, 'new', 'n@x', 1, 0); UPDATE pet SET name = upper(name)")
    people.elsewhere("UPDATE pet SET owner = 8 WHERE id = 1")
    assert [("person", REFERENCED, {"id": "8"})] == [one[1:4] for one in people.met(report)]
    people.undo(report, partial=True)
    assert [1, 2, 3, 4, 8] == ids(people)
    assert [(1, 8, "rex"), (2, 2, "tom")] == people.rows("SELECT id, owner, name FROM pet ORDER BY id")


def test_a_row_whose_parent_is_gone_is_a_conflict_until_the_parent_is_back(people: Stage) -> None:
    pets(people)
    report = people.run("DELETE FROM pet")
    people.elsewhere("DELETE FROM person WHERE id = 1")
    assert [(1, "pet", PARENT_GONE, {"id": "1"}, ())] == people.met(report)
    people.undo(report, partial=True)
    assert [(2,)] == people.rows("SELECT id FROM pet")
    people.elsewhere("INSERT INTO person VALUES (1, 'back', 'a@x', 1, 0)")
    people.undo(report)
    assert [(1,), (2,)] == people.rows("SELECT id FROM pet ORDER BY id")


def test_a_reference_that_is_put_back_to_a_row_that_is_gone_is_a_conflict(people: Stage) -> None:
    """The run gave the pet to another person, and the first owner was deleted since."""
    pets(people)
    report = people.run("UPDATE pet SET owner = 3 WHERE id = 1")
    people.elsewhere("DELETE FROM person WHERE id = 1")
    assert [(1, "pet", PARENT_GONE, {"id": "1"})] == [one[:4] for one in people.met(report)]
    people.undo(report, partial=True)
    assert [(1, 3), (2, 2)] == people.rows("SELECT id, owner FROM pet ORDER BY id")


def test_what_would_break_a_foreign_key_is_not_overwritten(people: Stage) -> None:
    """A reference to nothing is not made, whoever asks for it."""
    pets(people)
    report = people.run("DELETE FROM pet")
    people.elsewhere("DELETE FROM person WHERE id = 1")
    people.conflicts(report)
    now = people.dump()
    error = failure(lambda: people.undo(report, overwrite=[1]))
    assert isinstance(error, Conflicts)
    assert isinstance(error.report, RunReport)
    assert any("conflict 1 cannot be overwritten" in note for note in error.report.notes), error.report.notes
    assert now == people.dump()
    people.undo(report, overwrite=[1], partial=True)
    assert [(2,)] == people.rows("SELECT id FROM pet ORDER BY id")


@pytest.mark.needs("keyless_tables")
def test_a_row_without_a_key_whose_parent_is_gone_is_a_conflict(people: Stage) -> None:
    pets(people, key="")
    report = people.run("DELETE FROM pet")
    people.elsewhere("DELETE FROM person WHERE id = 1")
    assert {"pet"} == {table for _, table, *_ in people.met(report)}
    people.undo(report, partial=True)
    people.elsewhere("INSERT INTO person VALUES (1, 'back', 'a@x', 1, 0)")
    people.undo(report)
    assert [(1,), (2,)] == people.rows("SELECT id FROM pet ORDER BY id")


def test_a_unique_value_that_others_took_is_a_conflict(people: Stage) -> None:
    """With the constraint's words as detail; nothing becomes a duplicate."""
    report = people.run("UPDATE person SET mail = 'moved@x' WHERE id = 1; DELETE FROM person WHERE id = 2")
    people.elsewhere("INSERT INTO person VALUES (7, 'x', 'a@x', 1, 0), (8, 'y', 'b@x', 1, 0)")
    found = people.conflicts(report)
    assert [(REFUSED, {"id": "1"}), (REFUSED, {"id": "2"})] == [(one.kind.value, one.key) for one in found]
    assert all("mail" in one.detail for one in found)


@pytest.mark.needs("deferrable_unique")
@pytest.mark.parametrize("timing", ["DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_unique_value_that_is_checked_at_the_end_is_a_conflict_all_the_same(stage: Stage, timing: str) -> None:
    stage.make(f"CREATE TABLE desk (id int PRIMARY KEY, place text, CONSTRAINT one_each UNIQUE (place) {timing})")
    stage.make("INSERT INTO desk VALUES (1, 'a'), (2, 'b')")
    report = stage.run("UPDATE desk SET place = upper(place); DELETE FROM desk WHERE id = 2")
    stage.elsewhere("INSERT INTO desk VALUES (7, 'a'), (8, 'b')")
    found = stage.conflicts(report)
    assert [(REFUSED, {"id": "1"}), (REFUSED, {"id": "2"})] == [(one.kind.value, one.key) for one in found]
    assert all('"one_each"' in one.detail for one in found)


@pytest.mark.needs("changes_constraints")
def test_a_constraint_that_was_added_since_and_refuses_a_row_is_a_conflict(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE desk (id INTEGER PRIMARY KEY, seat INTEGER); INSERT INTO desk VALUES (1, 1), (2, 2), (3, -3)"
    )
    report = stage.run("UPDATE desk SET seat = 5")
    stage.elsewhere("ALTER TABLE desk ADD CONSTRAINT seats CHECK (seat > 0)")
    assert [(1, "desk", REFUSED, {"id": "3"}, ())] == stage.met(report)
    stage.undo(report, partial=True)
    assert [(1, 1), (2, 2), (3, 5)] == stage.rows("SELECT id, seat FROM desk ORDER BY id")


@pytest.mark.needs("keyless_tables")
def test_in_a_table_without_a_key_nothing_that_others_wrote_is_lost(people: Stage) -> None:
    """The rows of the run that are no longer there are reported; the other tables are restored all the same."""
    people.make("CREATE TABLE tally (a INTEGER, b varchar(9)); INSERT INTO tally VALUES (1, 'x'), (1, 'x'), (2, 'y')")
    report = people.run("UPDATE tally SET b = 'z'; UPDATE person SET age = 9 WHERE id = 1")
    people.elsewhere("UPDATE tally SET b = 'mine' WHERE a = 2; INSERT INTO tally VALUES (7, 'new')")
    assert {("tally", CHANGED)} == {one[1:3] for one in people.met(report)}
    people.undo(report, partial=True)
    assert [(2, "mine"), (7, "new")] == people.rows("SELECT a, b FROM tally WHERE a > 1 ORDER BY a")
    assert (1, "ann", "a@x", 30) == persons(people)[0]
    people.elsewhere("UPDATE tally SET b = 'z' WHERE a = 2")
    people.undo(report)
    assert [(1, "x"), (1, "x"), (2, "y"), (7, "new")] == people.rows("SELECT a, b FROM tally ORDER BY a")


@pytest.mark.needs("keyless_tables", "pairs_keyless_rows")
def test_without_a_key_the_rows_that_nobody_else_changed_are_restored(stage: Stage) -> None:
    stage.make("CREATE TABLE tally (a INTEGER, b varchar(9)); INSERT INTO tally VALUES (1, 'x'), (1, 'x'), (2, 'y')")
    report = stage.run("UPDATE tally SET b = 'z'")
    stage.elsewhere("UPDATE tally SET b = 'mine' WHERE a = 2")
    assert 1 == len(stage.conflicts(report))
    stage.undo(report, partial=True)
    assert [(1, "x"), (1, "x"), (2, "mine")] == stage.rows("SELECT a, b FROM tally ORDER BY a")


@pytest.mark.parametrize(
    "where", ['[undo]\nbookkeeping = ["lock_version"]', '[tables.person]\nbookkeeping = ["lock_version"]']
)
def test_a_bookkeeping_column_is_no_conflict_and_keeps_the_value_of_now(people: Stage, where: str) -> None:
    """Named for the project or for the table; where nobody wrote since, it goes back."""
    people.undo_options = f"{where}\n"
    report = people.run("UPDATE person SET name = upper(name), lock_version = lock_version + 1 WHERE id < 3")
    people.elsewhere("UPDATE person SET lock_version = 90 WHERE id = 1")
    assert people.undo(report).conflicts == ()
    assert [(1, "ann", 90), (2, "bob", 0)] == people.rows(
        "SELECT id, name, lock_version FROM person WHERE id < 3 ORDER BY id"
    )


def test_an_append_only_table_is_left_alone(people: Stage) -> None:
    """Captured, and never undone, whatever others did there since."""
    people.undo_options = '[undo]\nappend_only = ["log"]\n'
    people.make("CREATE TABLE log (id INTEGER PRIMARY KEY, line varchar(20))")
    report = people.run("UPDATE person SET age = 1; INSERT INTO log VALUES (1, 'ours')")
    people.elsewhere("UPDATE log SET line = 'changed'; INSERT INTO log VALUES (2, 'theirs')")
    undone = people.undo(report)
    assert f'"{people.table("log")}" is append-only: its rows stay as they are' in undone.notes
    assert [(1, "changed"), (2, "theirs")] == people.rows("SELECT id, line FROM log ORDER BY id")
    assert (1, "ann", "a@x", 30) == persons(people)[0]


def test_rows_that_referred_to_nothing_before_come_back(stage: Stage) -> None:
    """Cleaning up is a change like any other: what the run deleted is put back with its parent, and without it."""
    stage.make(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER, "
        "FOREIGN KEY (parent) REFERENCES parent (id)); INSERT INTO parent VALUES (1); "
        "INSERT INTO child VALUES (1, 1), (2, NULL)"
    )
    stage.proves(
        "DELETE FROM child; DELETE FROM parent; INSERT INTO parent VALUES (5); INSERT INTO child VALUES (9, 5);"
    )


def test_a_row_whose_key_the_run_changed_is_put_back_whole_or_left_whole(people: Stage) -> None:
    """It is one row: with half of it put back it would be there twice."""
    report = people.run("UPDATE person SET id = id + 100, age = age + 1 WHERE id < 4")
    people.elsewhere("UPDATE person SET age = 77 WHERE id = 102")
    people.undo(report, partial=True)
    assert (102, "bob", "b@x", 77) in persons(people)
    assert 2 not in ids(people)
    assert len(persons(people)) == 4


def test_a_row_whose_old_key_others_use_keeps_its_new_one(people: Stage) -> None:
    """Neither is the usurper overwritten, nor the row deleted that had the key."""
    report = people.run("UPDATE person SET id = id + 100 WHERE id < 4")
    people.elsewhere("INSERT INTO person VALUES (2, 'usurper', 'u@x', 1, 0)")
    people.undo(report, partial=True)
    assert {(2, "usurper", "u@x", 1), (102, "bob", "b@x", 40)} <= set(persons(people))
    assert len(persons(people)) == 5


def test_moved_rows_that_were_left_are_put_back_when_their_conflicts_are_overwritten(people: Stage) -> None:
    """Once nothing of the table is in conflict any more, all of it can be put back."""
    report = people.run("UPDATE person SET id = id + 100 WHERE id < 4")
    people.elsewhere("UPDATE person SET age = 77, mail = 'new@x' WHERE id = 102")
    people.undo(report, partial=True)
    people.undo(report, overwrite=[one.number for one in people.conflicts(report)])
    assert ids(people) == [1, 2, 3, 4]
