"""The twenty cases on which row-undo tools lose data, as far as SQLite has them (see docs: the twenty cases)."""

# ruff: noqa: E501  schemas and data are read more easily in one line

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from backout.engines.values import Resolution
from backout.errors import DatabaseFailed, Refused
from integration.sqlite.driving import change, dump, elsewhere, make, opened, plan_of, start, supervise, undo

ORDERS = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, updated_at TEXT DEFAULT 'then');
CREATE TABLE "order" (id INTEGER PRIMARY KEY, customer INT REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE, total REAL);
CREATE TABLE line (id INTEGER PRIMARY KEY, "order" INT REFERENCES "order" ON DELETE CASCADE, item TEXT);
CREATE TABLE note (id INTEGER PRIMARY KEY, customer INT REFERENCES customer ON DELETE SET NULL, text TEXT);
CREATE TABLE visit (id INTEGER PRIMARY KEY, customer INT DEFAULT 9 REFERENCES customer ON DELETE SET DEFAULT);
INSERT INTO customer (id, name) VALUES (1, 'a'), (2, 'b'), (9, 'nobody');
INSERT INTO "order" VALUES (10, 1, 1.5), (11, 1, 2.5), (12, 2, 3.5);
INSERT INTO line VALUES (100, 10, 'x'), (101, 11, 'y'), (102, 12, 'z');
INSERT INTO note VALUES (1, 1, 'hello');
INSERT INTO visit VALUES (1, 1), (2, 2);
"""

EXACT = {
    "case 2, two updates of different columns": (
        ORDERS,
        ["UPDATE customer SET name = 'x'", "UPDATE customer SET updated_at = 'now' WHERE id = 1"],
    ),
    "case 3, the second statement matches what the first made": (
        ORDERS,
        [
            "INSERT INTO customer (id, name) VALUES (3, 'new')",
            "UPDATE customer SET name = 'newer' WHERE name = 'new' OR id = 1",
        ],
    ),
    "case 4, cascades over two levels, set null and set default": (ORDERS, ["DELETE FROM customer WHERE id = 1"]),
    "case 4, on update cascade": (
        ORDERS,
        ["DELETE FROM note", "DELETE FROM visit", "UPDATE customer SET id = 7 WHERE id = 1"],
    ),
    "case 5, several matches per row without a key": (
        "CREATE TABLE t (a, b); CREATE TABLE k (a); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2); INSERT INTO k VALUES (1), (1)",
        ["DELETE FROM t WHERE a IN (SELECT a FROM k)"],
    ),
    "case 6, update from with several matches": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, b); CREATE TABLE k (a, v); INSERT INTO t VALUES (1, 0);"
        "INSERT INTO k VALUES (1, 5), (1, 6)",
        ["UPDATE t SET b = k.v FROM k WHERE k.a = t.id"],
    ),
    "case 7, children deleted, then their parent": (
        ORDERS,
        [
            'DELETE FROM line WHERE "order" = 12',
            'DELETE FROM "order" WHERE id = 12',
            "DELETE FROM customer WHERE id = 2",
        ],
    ),
    "case 8, generated columns": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a, v AS (a * 2), s AS (a * 3) STORED UNIQUE);"
        "INSERT INTO t (a) VALUES (1), (2), (3)",
        ["UPDATE t SET a = a + 10", "DELETE FROM t WHERE a = 11", "INSERT INTO t (a) VALUES (1)"],
    ),
    "case 9, blobs, json and numbers that print alike": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, x'00'), (2, '{\"a\": 1}'), (3, 1), (4, 0.1), (5, NULL)",
        ["UPDATE t SET v = CASE id WHEN 3 THEN 1.0 WHEN 4 THEN '0.1' ELSE zeroblob(4) END"],
    ),
    "case 10, quoted names and names that shadow a CTE": (
        'CREATE TABLE "T ""x"".y" ("select" INTEGER PRIMARY KEY, "a b" TEXT, backout_row, "B", n0, "row"); '
        'INSERT INTO "T ""x"".y" VALUES (1, \'a\', 5, 6, 7, 8), (2, \'b\', 1, 2, 3, 4)',
        [
            'WITH d AS (SELECT 1 AS id) UPDATE "T ""x"".y" AS d SET "a b" = \'c\', backout_row = n0, "row" = 1',
            'DELETE FROM main."T ""x"".y" WHERE "select" = 2',
        ],
    ),
    "case 12, upsert, replace and delete of all rows": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE, v); INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')",
        [
            "INSERT INTO t VALUES (1, 1, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v",
            "REPLACE INTO t VALUES (2, 3, 'y')",
            "INSERT OR REPLACE INTO t VALUES (9, 1, 'z')",
            "DELETE FROM t",
        ],
    ),
    "case 14, a unique index instead of a key, partial and on an expression": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX u ON t (a); CREATE UNIQUE INDEX p ON t (b) WHERE b > 0;"
        "CREATE UNIQUE INDEX e ON t (lower(a)); INSERT INTO t VALUES ('x', 1), ('y', 2)",
        [
            "UPDATE t SET a = 'q' WHERE a = 'x'",
            "UPDATE t SET a = 'X', b = -b WHERE a = 'y'",
            "UPDATE t SET b = 2 WHERE b = 1",
        ],
    ),
    "case 16, volatile predicate and limit without order": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t SELECT i, i FROM n",
        [
            "UPDATE t SET v = random() WHERE random() % 2",
            "DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY random() LIMIT 50)",
        ],
    ),
    "case 18, two long names with one beginning": (
        f"CREATE TABLE {'x' * 70}a (id INTEGER PRIMARY KEY, v); CREATE TABLE {'x' * 70}b (id INTEGER PRIMARY KEY, v);"
        f"INSERT INTO {'x' * 70}a VALUES (1, 1); INSERT INTO {'x' * 70}b VALUES (1, 2)",
        [f"UPDATE {'x' * 70}a SET v = 5", f"DELETE FROM {'x' * 70}b"],
    ),
    "case 19, duplicates without any key": (
        "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 1), (1, 1), (1, 1), (2, NULL), (2, NULL)",
        ["UPDATE t SET b = 9 WHERE rowid = 2", "DELETE FROM t WHERE rowid = 4", "INSERT INTO t VALUES (1, 1)"],
    ),
    "case 19, a change of the key and a swap of two keys": (
        "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v UNIQUE); INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)",
        [
            "UPDATE t SET k = CASE k WHEN 'a' THEN '-' ELSE k END",
            "UPDATE t SET k = 'a' WHERE k = 'b'",
            "UPDATE t SET k = 'b' WHERE k = '-'",
            "UPDATE t SET k = 'd' WHERE k = 'c'",
        ],
    ),
    "unique values shifted by one": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE) ; INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
        ["UPDATE t SET u = -u", "UPDATE t SET u = 1 - u"],
    ),
    "keys that are equal but not the same": (
        "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY COLLATE NOCASE, v); INSERT INTO t VALUES ('a', 1), ('b', 2);"
        "CREATE TABLE u (k PRIMARY KEY NOT NULL, v); INSERT INTO u VALUES (1, 1)",
        ["UPDATE t SET k = 'A' WHERE k = 'a'", "REPLACE INTO t VALUES ('B', 5)", "UPDATE u SET k = 1.0"],
    ),
    "without rowid and a composite key": (
        "CREATE TABLE t (a, b, v, PRIMARY KEY (b, a)) WITHOUT ROWID; INSERT INTO t VALUES (1, 2, 'x'), (2, 1, 'y')",
        ["UPDATE t SET v = 'z' WHERE a = 1", "UPDATE t SET a = 7 WHERE a = 2"],
    ),
    "a strict table": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a ANY, b BLOB) STRICT; INSERT INTO t VALUES (1, 1.5, x'00'), (2, 'x', NULL)",
        ["UPDATE t SET a = 3", "DELETE FROM t WHERE id = 2"],
    ),
    "a full-text index and an R-tree": (
        "CREATE VIRTUAL TABLE f USING fts5 (body); INSERT INTO f VALUES ('hello world'), ('good bye');"
        "CREATE VIRTUAL TABLE r USING rtree (id, a, b); INSERT INTO r VALUES (1, 0, 5), (2, 3, 4)",
        [
            "UPDATE f SET body = 'changed' WHERE rowid = 1",
            "INSERT INTO f VALUES ('third')",
            "DELETE FROM r WHERE id = 1",
        ],
    ),
    "a table whose name begins like one of ours": (
        "CREATE TABLE rescue_dogs (id INTEGER PRIMARY KEY, v); CREATE TABLE backout_plans (v); INSERT INTO rescue_dogs VALUES (1, 1)",
        ["UPDATE rescue_dogs SET v = 2", "INSERT INTO backout_plans VALUES (1)"],
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_undo_restores_exactly(case: str, tmp_path: Path) -> None:
    """Run, undo, compare every row; undo the undo, compare again; a ghost with undo in between leaves nothing."""
    schema, statements = EXACT[case]
    path = make(tmp_path / "a.db", schema)
    before = dump(path)
    database = opened(path)
    ghost = database.transaction(())
    for text in statements:
        ghost.execute(text, ())
    seen = ghost.capture(1, (), keep=False)
    assert ghost.revert(plan_of(database, 1, seen.tables), Resolution()).conflicts == ()
    assert ghost.capture(1, (), keep=False).tables == ()
    ghost.rollback()
    assert before == {k: v for k, v in dump(path).items() if k in before}
    record, capture = change(database, *statements)
    assert capture.tripwires == ()
    assert capture.tables
    after = dump(path)
    assert before != after
    outcome, undone = undo(database, record)
    assert outcome.conflicts == ()
    assert before == dump(path)
    assert undone is not None
    undo(database, undone)
    assert after == dump(path)
    database.close()


def test_case_1_a_deleting_cte_is_not_sqlite_and_is_reported_as_such(tmp_path: Path) -> None:
    """SQLite has no writing CTE: a syntax error, and nothing is written."""
    path = make(tmp_path / "a.db", ORDERS)
    before = dump(path)
    database = opened(path)
    with pytest.raises(DatabaseFailed):
        change(database, "WITH d AS (DELETE FROM line RETURNING *) UPDATE note SET text = 'x'")
    assert before == dump(path)


def test_case_13_an_append_only_table_is_left_out_by_name(tmp_path: Path) -> None:
    """A plan without the audit table leaves its rows where they are."""
    schema = ORDERS + (
        "CREATE TABLE audit (what);"
        "CREATE TRIGGER t AFTER UPDATE ON customer BEGIN INSERT INTO audit VALUES ('u' || new.id); END;"
    )
    path = make(tmp_path / "a.db", schema)
    before = dump(path)
    database = opened(path)
    ghost = database.transaction(())
    ghost.execute("UPDATE customer SET name = 'x'", ())
    tables = [entry for entry in ghost.capture(1, (), keep=False).tables if entry.table.name.name != "audit"]
    ghost.revert(plan_of(database, 1, tables), Resolution())
    assert ["audit"] == [entry.table.name.name for entry in ghost.capture(1, (), keep=False).tables]
    ghost.rollback()
    assert before == {k: v for k, v in dump(path).items() if k in before}


def test_case_15_columns_added_dropped_or_renamed_since(tmp_path: Path) -> None:
    """An added column keeps its value, a dropped one is no error, a renamed one is found where the plan says so."""
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c); INSERT INTO t VALUES (1, 1, 1, 1), (2, 2, 2, 2)",
    )
    database = opened(path)
    record, _ = change(database, "UPDATE t SET a = 9, b = 9, c = 9 WHERE id = 1", "DELETE FROM t WHERE id = 2")
    elsewhere(
        path,
        "ALTER TABLE t ADD COLUMN d DEFAULT 'new'; ALTER TABLE t DROP COLUMN b; ALTER TABLE t RENAME COLUMN c TO e;"
        "UPDATE t SET d = 'theirs'",
    )
    plan = plan_of(database, record.number, record.tables)
    columns = plan.tables[0].columns
    assert isinstance(columns, dict)
    columns["c"] = "e"
    _, capture = supervise(database, start(), lambda transaction: transaction.revert(plan, Resolution()))
    assert ["(1, 1, 1, 'theirs')", "(2, 2, 2, 'new')"] == dump(path)["t"]
    assert capture.tripwires == ()


def test_case_17_nobody_writes_between_capture_and_change(tmp_path: Path) -> None:
    """The transaction holds SQLite's only write lock from its beginning."""
    path = make(tmp_path / "a.db", ORDERS)
    database = opened(path)
    transaction = database.transaction(())
    with pytest.raises(apsw.BusyError):
        elsewhere(path, "DELETE FROM line")
    transaction.rollback()


NULL_KEY = "CREATE TABLE t (k TEXT PRIMARY KEY, v); INSERT INTO t VALUES (NULL, 1), ('a', 2);"


def test_rows_with_a_null_key_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A session does not record them: the table is refused, whether the change names it or only a trigger writes it."""
    path = make(
        tmp_path / "a.db",
        NULL_KEY + "CREATE TABLE u (a); CREATE TRIGGER x AFTER INSERT ON u BEGIN UPDATE t SET v = v + 1; END;",
    )
    before = dump(path)
    database = opened(path)
    with pytest.raises(Refused) as named:
        change(database, "UPDATE t SET v = 5", known=[(None, "T")])
    assert str(named.value) == (
        'table "T" has rows with NULL in column "k" of its primary key\nstate: untouched\n'
        "hint: give its rows a key, then change them"
    )
    with pytest.raises(Refused) as hidden:
        change(database, "INSERT INTO u VALUES (1)")
    assert hidden.value.message == (
        'the change writes table "t", which has rows with NULL in column "k" of its primary key'
    )
    assert hidden.value.state == "untouched"
    assert before == dump(path)


def test_a_null_key_made_by_the_change_is_a_tripwire(tmp_path: Path) -> None:
    """Seen just before COMMIT."""
    path = make(tmp_path / "a.db", "CREATE TABLE t (k TEXT PRIMARY KEY, v)")
    database = opened(path)
    transaction = database.transaction(())
    transaction.execute("INSERT INTO t VALUES (NULL, 1)", ())
    capture = transaction.capture(1, (), keep=False)
    transaction.rollback()
    assert capture.tripwires == ('table "t" has rows with NULL in column "k" of its primary key since the run',)


def test_an_exchange_of_equal_keys_that_a_session_cannot_tell_is_a_tripwire(tmp_path: Path) -> None:
    """'a' to 'A' and back: the session reports an insert that was none."""
    path = make(
        tmp_path / "a.db", "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY COLLATE NOCASE); INSERT INTO t VALUES ('a')"
    )
    database = opened(path)
    transaction = database.transaction(())
    transaction.execute("UPDATE t SET k = 'A'", ())
    transaction.execute("UPDATE t SET k = 'a'", ())
    capture = transaction.capture(1, (), keep=False)
    transaction.rollback()
    assert capture.tripwires == (
        'table "t": keys that are equal but not the same were exchanged, which a session cannot tell apart',
    )


def test_a_column_called_rowid_in_a_table_without_key_is_refused(tmp_path: Path) -> None:
    """The session would mistake its values for the identity of the rows."""
    path = make(tmp_path / "a.db", 'CREATE TABLE t ("_rowid_", b); INSERT INTO t VALUES (1, 1)')
    database = opened(path)
    with pytest.raises(Refused):
        change(database, "DELETE FROM t")


def test_vacuum_between_change_and_undo_does_not_matter(tmp_path: Path) -> None:
    """VACUUM renumbers rowids of tables without a key; rows are found by their values."""
    path = make(tmp_path / "a.db", "CREATE TABLE t (a); INSERT INTO t VALUES ('w'), ('x'), ('y'), ('z')")
    before = dump(path)
    database = opened(path)
    record, _ = change(database, "DELETE FROM t WHERE a = 'w'", "UPDATE t SET a = 'q' WHERE a = 'y'")
    elsewhere(path, "VACUUM")
    undo(database, record)
    assert before == dump(path)
