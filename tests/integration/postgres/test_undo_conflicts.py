"""Rows that others changed since: an undo never takes their work away unless it is told to, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.values import Conflict
from backout.errors import Refused
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


def described(found: list[Conflict]) -> list[tuple[int, str, str, dict[str, str | None], tuple[str, ...]]]:
    """What makes a conflict, without its rows."""
    return [(c.number, str(c.table), c.kind.value, dict(c.key), c.columns) for c in found]


def test_columns_that_the_run_did_not_touch_keep_what_others_wrote(stage: Stage) -> None:
    """Merging by column is no conflict."""
    report = stage.run("UPDATE person SET name = upper(name) WHERE id < 3")
    stage.elsewhere("UPDATE person SET age = 31 WHERE id = 1")
    undone = stage.undo(report)
    assert undone.conflicts == ()
    assert people(stage)[:2] == [(1, "ann", "a@x", 31), (2, "bob", "b@x", 40)]


def test_columns_that_the_run_touched_in_another_row_only_keep_what_others_wrote(stage: Stage) -> None:
    """Touched is meant row by row: the run changed the age of the second row, somebody that of the first."""
    report = stage.run("UPDATE person SET name = upper(name) WHERE id = 1; UPDATE person SET age = 1 WHERE id = 2")
    stage.elsewhere("UPDATE person SET age = 31 WHERE id = 1")
    assert stage.undo(report).conflicts == ()
    assert people(stage)[:2] == [(1, "ann", "a@x", 31), (2, "bob", "b@x", 40)]


def test_a_touched_column_that_others_changed_is_a_conflict(stage: Stage) -> None:
    """Named with before, ours and now; nothing is written, the rest is restored with `partial`."""
    report = stage.run("UPDATE person SET name = upper(name), age = age + 1 WHERE id < 4")
    stage.elsewhere("UPDATE person SET name = 'Robert' WHERE id = 2")
    (found,) = conflicts(stage, report)
    assert described([found]) == [(1, "public.person", "changed since", {"id": "2"}, ("name",))]
    assert (found.before or {})["name"] == "bob"
    assert (found.ours or {})["name"] == "BOB"
    assert (found.now or {})["name"] == "Robert"
    stage.undo(report, partial=True)
    assert people(stage)[:3] == [(1, "ann", "a@x", 30), (2, "Robert", "b@x", 41), (3, "cid", "c@x", 50)]


def test_the_error_names_the_ways_out(stage: Stage) -> None:
    """The whole text."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'x' WHERE id < 3")
    assert text_of(failure(lambda: stage.undo(report))) == [
        '2 rows were changed by others since run "test-1"',
        "state: untouched",
        "hint: restore all the others: backout undo test-1 --partial; these too, by number: --overwrite 1,2",
    ]
    assert stage.journal() == [(1, "real", "committed"), (2, "undo", "refused")]


def test_a_row_that_others_set_back_already_is_no_conflict(stage: Stage) -> None:
    """What is as it was before needs no undo."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("UPDATE person SET name = 'ann' WHERE id = 1")
    assert stage.undo(report).conflicts == ()
    assert [row[1] for row in people(stage)] == ["ann", "bob", "cid", "dot"]


def test_a_row_that_others_deleted_comes_back_only_when_it_is_named(stage: Stage) -> None:
    """Deleted since: not resurrected by `partial`, brought back by `overwrite`."""
    report = stage.run("UPDATE person SET name = upper(name)")
    stage.elsewhere("DELETE FROM person WHERE id = 2")
    assert described(conflicts(stage, report)) == [(1, "public.person", "deleted since", {"id": "2"}, ())]
    stage.undo(report, partial=True)
    assert [row[0] for row in people(stage)] == [1, 3, 4]
    assert described(conflicts(stage, report)) == [(1, "public.person", "deleted since", {"id": "2"}, ())]
    stage.undo(report, overwrite=[1])
    assert people(stage)[1] == (2, "bob", "b@x", 40)
    assert isinstance(failure(lambda: stage.undo(report)), Refused)


def test_a_key_that_is_used_again_is_a_conflict(stage: Stage) -> None:
    """The row that the run deleted is written over the other's only when it is named."""
    report = stage.run("DELETE FROM person WHERE id < 3")
    stage.elsewhere("INSERT INTO person VALUES (1, 'other', 'o@x', 1)")
    assert described(conflicts(stage, report)) == [(1, "public.person", "key used again since", {"id": "1"}, ())]
    stage.undo(report, partial=True)
    assert people(stage)[:2] == [(1, "other", "o@x", 1), (2, "bob", "b@x", 40)]
    conflicts(stage, report)
    stage.undo(report, overwrite=[1])
    assert people(stage)[:2] == [(1, "ann", "a@x", 30), (2, "bob", "b@x", 40)]


def test_the_children_of_a_row_whose_key_is_used_again_are_not_given_to_the_stranger(stage: Stage) -> None:
    """The foreign key would not object, but they belonged to another row: they stay in the rescue."""
    stage.make("CREATE TABLE visit (id int PRIMARY KEY, person int REFERENCES person ON DELETE CASCADE)")
    stage.make("INSERT INTO visit VALUES (1, 1), (2, 2)")
    report = stage.run("DELETE FROM person WHERE id < 3")
    stage.elsewhere("INSERT INTO person VALUES (2, 'zoe', 'z@x', 20)")
    assert described(conflicts(stage, report)) == [
        (1, "public.person", "key used again since", {"id": "2"}, ()),
        (2, "public.visit", "the row it refers to is gone", {"id": "2"}, ()),
    ]
    stage.undo(report, partial=True)
    assert people(stage)[:2] == [(1, "ann", "a@x", 30), (2, "zoe", "z@x", 20)]
    assert stage.rows("SELECT id, person FROM visit ORDER BY id") == [(1, 1)]


def test_a_row_that_the_run_made_and_others_changed_stays_unless_it_is_named(stage: Stage) -> None:
    """Somebody works with it already."""
    report = stage.run("INSERT INTO person VALUES (8, 'new', 'n@x', 1), (9, 'own', 'm@x', 2)")
    stage.elsewhere("UPDATE person SET age = 77 WHERE id = 8")
    assert described(conflicts(stage, report)) == [(1, "public.person", "changed since", {"id": "8"}, ())]
    stage.undo(report, partial=True)
    assert [row[0] for row in people(stage)] == [1, 2, 3, 4, 8]
    conflicts(stage, report)
    stage.undo(report, overwrite=[1])
    assert [row[0] for row in people(stage)] == [1, 2, 3, 4]


def test_a_row_that_the_run_made_and_others_deleted_is_no_conflict(stage: Stage) -> None:
    """It is gone, as the undo would have it."""
    report = stage.run("INSERT INTO person VALUES (8, 'new', 'n@x', 1), (9, 'own', 'm@x', 2)")
    stage.elsewhere("DELETE FROM person WHERE id = 8")
    assert stage.undo(report).conflicts == ()
    assert [row[0] for row in people(stage)] == [1, 2, 3, 4]


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"])
def test_others_rows_that_refer_to_a_row_of_the_run_are_never_touched(stage: Stage, action: str) -> None:
    """The row that the run made stays, whatever the foreign key would do to those that refer to it."""
    stage.make(
        f"CREATE TABLE pet (id int PRIMARY KEY, owner int DEFAULT 1 REFERENCES person ON DELETE {action}, name text)"
    )
    report = stage.run(
        "INSERT INTO person VALUES (8, 'new', 'n@x', 1), (9, 'own', 'm@x', 2); INSERT INTO pet VALUES (5, 9, 'ours')"
    )
    stage.elsewhere("INSERT INTO pet VALUES (1, 8, 'rex')")
    (found,) = described(conflicts(stage, report))
    assert found[1:4:2] == ("public.person", {"id": "8"})
    stage.undo(report, partial=True)
    assert [row[0] for row in people(stage)] == [1, 2, 3, 4, 8]
    assert stage.rows("SELECT * FROM pet") == [(1, 8, "rex")]


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


@pytest.mark.parametrize("timing", ["", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_unique_value_that_others_took_is_a_conflict(stage: Stage, timing: str) -> None:
    """Unique constraints of each timing, with the constraint's name as detail; nothing becomes a duplicate."""
    stage.make(f"CREATE TABLE desk (id int PRIMARY KEY, place text, CONSTRAINT one_each UNIQUE (place) {timing})")
    stage.make("INSERT INTO desk VALUES (1, 'a'), (2, 'b')")
    report = stage.run("UPDATE desk SET place = upper(place); DELETE FROM desk WHERE id = 2")
    stage.elsewhere("INSERT INTO desk VALUES (7, 'a'), (8, 'b')")
    found = conflicts(stage, report)
    assert [(one.kind.value, dict(one.key)) for one in found] == [
        ("a constraint refuses it", {"id": "1"}),
        ("a constraint refuses it", {"id": "2"}),
    ]
    assert all('"one_each"' in one.detail for one in found)


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


@pytest.mark.parametrize(
    "where", ['[undo]\nbookkeeping = ["lock_version"]', '[tables.person]\nbookkeeping = ["lock_version"]']
)
def test_a_bookkeeping_column_is_no_conflict_and_keeps_the_value_of_now(
    postgres: PostgresDatabase, tmp_path: Path, where: str
) -> None:
    """Named for the project or for the table."""
    for number, rights in enumerate(Rights):
        stage = stage_for(postgres, tmp_path, rights, undo_options=f"{where}\n")
        if not number:
            stage.make(SCHEMA)
        report = stage.run("UPDATE person SET name = upper(name), lock_version = lock_version + 1 WHERE id < 3")
        stage.elsewhere("UPDATE person SET lock_version = 90 WHERE id = 1")
        assert stage.undo(report).conflicts == ()
        assert stage.rows("SELECT id, name, lock_version FROM person WHERE id < 3 ORDER BY id") == [
            (1, "ann", 90),
            (2, "bob", 0),
        ]


def test_an_append_only_table_is_left_alone(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """Captured, and never undone, whatever others did there since."""
    stage = stage_for(postgres, tmp_path, undo_options='[undo]\nappend_only = ["log"]\n')
    stage.make(f"{SCHEMA} CREATE TABLE log (line text)")
    report = stage.run("UPDATE person SET age = 1; INSERT INTO log VALUES ('ours')")
    stage.elsewhere("UPDATE log SET line = 'changed'; INSERT INTO log VALUES ('theirs')")
    undone = stage.undo(report)
    assert '"public.log" is append-only: its rows stay as they are' in undone.notes
    assert stage.rows("SELECT * FROM log ORDER BY 1") == [("changed",), ("theirs",)]
    assert people(stage)[0] == (1, "ann", "a@x", 30)
