"""The twenty cases on which row-undo tools lose data, first part: statements that write more than they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.postgres.stage import Rights, Stage, stage_for
from servers import PostgresDatabase

ORDERS = """
CREATE TABLE customer (id int PRIMARY KEY, name text, note text, updated_at timestamptz DEFAULT '2020-01-01');
CREATE TABLE orders (
 id int PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE, total numeric);
CREATE TABLE line (id int PRIMARY KEY, orders int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE, item text);
CREATE TABLE letter (id int PRIMARY KEY, customer int REFERENCES customer ON DELETE SET NULL, text text);
CREATE TABLE visit (id int PRIMARY KEY, customer int DEFAULT 9 REFERENCES customer ON DELETE SET DEFAULT, day date);
INSERT INTO customer (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (9, 'nobody');
INSERT INTO orders VALUES (10, 1, 1.50), (11, 1, 2.5), (12, 2, 3.5);
INSERT INTO line VALUES (100, 10, 'x'), (101, 11, 'y'), (102, 12, 'z');
INSERT INTO letter VALUES (1, 1, 'hello'), (2, 2, 'dear');
INSERT INTO visit VALUES (1, 1, '2026-01-01'), (2, 2, '2026-01-02');
"""


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Customers and what hangs on them, under both ways past triggers and foreign keys."""
    found = stage_for(postgres, tmp_path, request.param)
    found.make(ORDERS)
    return found


def test_a_deleted_parent_comes_back_with_all_that_hung_on_it(stage: Stage) -> None:
    """Case 4: cascades over two levels, SET NULL and SET DEFAULT."""
    report = stage.proves("DELETE FROM customer WHERE id = 1;")
    assert [(table.table, table.deleted, table.updated) for table in report.tables] == [
        ("public.customer", 1, 0),
        ("public.letter", 0, 1),
        ("public.line", 2, 0),
        ("public.orders", 2, 0),
        ("public.visit", 0, 1),
    ]
    assert [table.table for table in report.tables if not table.named_in_change] == [
        "public.letter", "public.line", "public.orders", "public.visit",
    ]  # fmt: skip


def test_set_null_and_set_default_on_update_are_undone(stage: Stage) -> None:
    """Case 4: ON UPDATE SET NULL and SET DEFAULT, and a composite key of which only one column is set to null."""
    stage.make(
        "CREATE TABLE a (x int, y int, PRIMARY KEY (x, y)); INSERT INTO a VALUES (1, 1), (1, 2), (0, 0);"
        "CREATE TABLE b (id int PRIMARY KEY, x int, y int, FOREIGN KEY (x, y) REFERENCES a ON DELETE SET NULL (y));"
        "CREATE TABLE c (id int PRIMARY KEY, x int DEFAULT 0, y int DEFAULT 0,"
        " FOREIGN KEY (x, y) REFERENCES a ON UPDATE SET DEFAULT);"
        "CREATE TABLE d (id int PRIMARY KEY, x int, y int, FOREIGN KEY (x, y) REFERENCES a ON UPDATE SET NULL);"
        "INSERT INTO b VALUES (1, 1, 1); INSERT INTO c VALUES (1, 1, 2); INSERT INTO d VALUES (1, 1, 2);"
    )
    stage.proves("DELETE FROM a WHERE (x, y) = (1, 1); UPDATE a SET x = 7 WHERE (x, y) = (1, 2);")


def test_a_cascade_within_one_table_is_undone(stage: Stage) -> None:
    """Case 4: a tree whose rows refer to each other."""
    stage.make(
        "CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE, "
        "name text);"
        "INSERT INTO tree VALUES (1, NULL, 'root'), (2, 1, 'a'), (3, 2, 'b'), (4, 1, 'c'), (5, NULL, 'other');"
    )
    stage.proves("DELETE FROM tree WHERE id = 2; UPDATE tree SET id = 10 WHERE id = 1;")


def test_rows_that_refer_to_each_other_come_back_together(stage: Stage) -> None:
    """Case 7: a circle of foreign keys, checked at once or at the end."""
    stage.make(
        "CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL);"
        "CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED);"
        "ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE;"
        "BEGIN; INSERT INTO egg VALUES (1, 1), (2, 2); INSERT INTO hen VALUES (1, 1), (2, 2); COMMIT;"
    )
    stage.proves("SET CONSTRAINTS ALL DEFERRED; DELETE FROM hen WHERE id = 1; DELETE FROM egg WHERE id = 1;")


def test_identity_and_generated_columns_are_put_back(stage: Stage) -> None:
    """Case 8: a key GENERATED ALWAYS AS IDENTITY, an identity column that is no key, and a generated column."""
    stage.make(
        "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS "
        "AS (a * 2) STORED);"
        "CREATE TABLE ticket (code text PRIMARY KEY, place bigint GENERATED ALWAYS AS IDENTITY, seat text, row_no int);"
        "INSERT INTO item (a) VALUES (1), (2), (3); INSERT INTO ticket (code, seat) VALUES ('x', 'A'), ('y', "
        "'B'), ('z', 'C');"
    )
    stage.proves(
        "UPDATE item SET a = a + 10 WHERE id < 3; DELETE FROM item WHERE id = 2; INSERT INTO item (a) VALUES (7);"
        "DELETE FROM ticket WHERE code = 'x'; UPDATE ticket SET seat = 'D' WHERE code = 'y'; "
        "UPDATE ticket SET row_no = 1;"
    )
