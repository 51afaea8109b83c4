"""Conflict-aware undo: each kind of conflict, what a resolution does about it, and what is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import Conflict, Resolution, RunRecord, TableName, UndoOutcome
from integration.sqlite.driving import change, dump, elsewhere, make, opened, undo

SCHEMA = """
CREATE TABLE p (id INTEGER PRIMARY KEY, u UNIQUE, t NOT NULL, stamp DEFAULT 0);
CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);
INSERT INTO p VALUES (1, 1, 'a', 0), (2, 2, 'b', 0), (3, 3, 'c', 0);
INSERT INTO c VALUES (10, 1), (11, 3);
"""


def changed(tmp_path: Path, statements: str, theirs: str) -> tuple[SqliteDatabase, Path, RunRecord]:
    """A database with our change and then theirs."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = opened(path)
    record, _ = change(database, *statements.split(";"))
    elsewhere(path, theirs)
    return database, path, record


def again(database: SqliteDatabase, record: RunRecord) -> RunRecord:
    """The record as the journal has it now."""
    found = database.journal.run(record.number)
    assert found is not None
    return found


def kinds(outcome: UndoOutcome) -> list[tuple[int, str, str, str | None]]:
    """Number, table, kind's name and key of each conflict."""
    return [(c.number, c.table.name, c.kind.name, c.key["id"]) for c in outcome.conflicts]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("UPDATE p SET t = 'x' WHERE id < 3", "UPDATE p SET t = 'y' WHERE id = 2", [(1, "p", "CHANGED", "2")]),
        ("UPDATE p SET t = 'x'", "DELETE FROM p WHERE id = 2", [(1, "p", "DELETED", "2")]),
        ("DELETE FROM p WHERE id = 2", "INSERT INTO p VALUES (2, 9, 'y', 0)", [(1, "p", "KEY_REUSED", "2")]),
        ("INSERT INTO p VALUES (4, 4, 'd', 0)", "INSERT INTO c VALUES (12, 4)", [(1, "p", "REFERENCED", "4")]),
        ("DELETE FROM c", "DELETE FROM p WHERE id = 3", [(1, "c", "PARENT_GONE", "11")]),
        ("UPDATE c SET p = 2 WHERE id = 11", "DELETE FROM p WHERE id = 3", [(1, "c", "PARENT_GONE", "11")]),
        ("DELETE FROM p WHERE id = 2", "INSERT INTO p VALUES (9, 2, 'y', 0)", [(1, "p", "CONSTRAINT", "2")]),
        ("INSERT INTO p VALUES (4, 4, 'd', 0)", "UPDATE p SET t = 'y' WHERE id = 4", [(1, "p", "CHANGED", "4")]),
        (
            "DELETE FROM p WHERE id = 1",
            "INSERT INTO p VALUES (1, 1, 'y', 0)",
            [(1, "c", "PARENT_GONE", "10"), (2, "p", "KEY_REUSED", "1")],
        ),
    ],
)
def test_each_kind_of_conflict_is_reported_and_nothing_is_written(
    ours: str, theirs: str, expected: list[tuple[int, str, str, str | None]], tmp_path: Path
) -> None:
    """Without a resolution the undo is refused; with `partial` it leaves exactly those rows."""
    database, path, record = changed(tmp_path, ours, theirs)
    now = dump(path)
    outcome, _ = undo(database, record)
    assert outcome.refused
    assert expected == kinds(outcome)
    assert now == dump(path)
    outcome, _ = undo(database, record, Resolution(partial=True))
    assert not outcome.refused
    assert expected == kinds(outcome)
    assert len(expected) == again(database, record).open_conflicts


def test_a_conflict_shows_the_row_before_ours_and_now(tmp_path: Path) -> None:
    """All values as text, the columns in conflict by name."""
    database, _, record = changed(
        tmp_path, "UPDATE p SET t = 'x', u = 1.5 WHERE id = 2", "UPDATE p SET t = 'y', stamp = 7 WHERE id = 2"
    )
    outcome, _ = undo(database, record)
    assert outcome.conflicts == (
        Conflict(
            number=1,
            table=TableName("main", "p"),
            kind=outcome.conflicts[0].kind,
            key={"id": "2"},
            columns=("t",),
            before={"id": "2", "u": "2", "t": "b", "stamp": "0"},
            ours={"id": "2", "u": "1.5", "t": "x", "stamp": "0"},
            now={"id": "2", "u": "1.5", "t": "y", "stamp": "7"},
        ),
    )


def test_what_would_break_a_constraint_cannot_be_overwritten(tmp_path: Path) -> None:
    """A reference to nothing is not made, whoever asks."""
    database, path, record = changed(tmp_path, "DELETE FROM c", "DELETE FROM p WHERE id = 3")
    seen, _ = undo(database, record)
    outcome, _ = undo(database, record, Resolution(overwrite=frozenset({1}), seen=seen.fingerprint))
    assert outcome.refused
    assert ("conflict 1 cannot be overwritten: the row it refers to is gone",) == outcome.notes
    assert [] == dump(path)["c"]


def test_deleting_rows_that_referred_to_nothing_can_be_undone(tmp_path: Path) -> None:
    """Cleaning up orphans is a change like any other: they were orphans before."""
    path = make(tmp_path / "a.db", SCHEMA + "PRAGMA foreign_keys = OFF; INSERT INTO c VALUES (99, 77)")
    before = dump(path)
    database = opened(path)
    record, _ = change(database, "DELETE FROM c WHERE p NOT IN (SELECT id FROM p)")
    outcome, _ = undo(database, record)
    assert outcome.conflicts == ()
    assert before == dump(path)


def test_a_full_text_index_that_others_wrote_is_left_as_a_whole(tmp_path: Path) -> None:
    """Its shadow rows are parts of one tree: none is put back, all are reported, the index still works."""
    path = make(
        tmp_path / "a.db",
        "CREATE VIRTUAL TABLE f USING fts5 (body); INSERT INTO f VALUES ('one'); CREATE TABLE t (id INTEGER PRIMARY KEY);",
    )
    database = opened(path)
    record, _ = change(database, "INSERT INTO f VALUES ('two')", "INSERT INTO t VALUES (1)")
    elsewhere(path, "INSERT INTO f VALUES ('three')")
    outcome, _ = undo(database, record, Resolution(partial=True))
    assert {'part of virtual table "f", which was written since'} == {c.detail for c in outcome.conflicts}
    assert [] == dump(path)["t"]
    assert [("two",)] == database.query("SELECT body FROM f WHERE f MATCH 'two'").rows
    elsewhere(path, "INSERT INTO f(f) VALUES ('integrity-check')")


def test_a_keyless_row_that_others_edited_is_a_conflict(tmp_path: Path) -> None:
    """Without a key nothing tells which row it was: reported, the others are restored."""
    path = make(tmp_path / "a.db", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)")
    database = opened(path)
    record, _ = change(database, "UPDATE t SET b = b + 10")
    elsewhere(path, "UPDATE t SET b = 99 WHERE a = 2")
    outcome, _ = undo(database, record, Resolution(partial=True))
    assert [("CHANGED", "no row is equal to what the run left")] == [(c.kind.name, c.detail) for c in outcome.conflicts]
    assert ["(1, 1)", "(1, 1)", "(2, 99)"] == dump(path)["t"]


def test_no_cascade_of_the_undo_reaches_other_peoples_rows(tmp_path: Path) -> None:
    """Putting back a row whose key others refer to deletes nothing of theirs."""
    database, path, record = changed(tmp_path, "UPDATE p SET t = 'x', u = u + 10", "INSERT INTO c VALUES (50, 2)")
    undo(database, record)
    assert ["(10, 1)", "(11, 3)", "(50, 2)"] == dump(path)["c"]


def test_hidden_rowids_survive_an_undo(tmp_path: Path) -> None:
    """A search index may refer to them."""
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v); INSERT INTO t (rowid, k, v) VALUES (77, 'a', 1)",
    )
    database = opened(path)
    record, _ = change(database, "UPDATE t SET v = 2")
    undo(database, record)
    assert [(77, "a", 1)] == database.query("SELECT rowid, k, v FROM t").rows
