"""The twenty cases on which row-undo tools lose data, first part: statements that write more than they show."""

from __future__ import annotations

import pytest

from conformance.stage import Stage

ORDERS = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name varchar(60), note varchar(60), visits INTEGER DEFAULT 0);
CREATE TABLE orders (
 id INTEGER PRIMARY KEY, customer INTEGER, total INTEGER,
 FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE line (
 id INTEGER PRIMARY KEY, orders INTEGER, item varchar(60),
 FOREIGN KEY (orders) REFERENCES orders (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE letter (
 id INTEGER PRIMARY KEY, customer INTEGER, body varchar(60),
 FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE SET NULL ON UPDATE SET NULL);
INSERT INTO customer (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (9, 'nobody');
INSERT INTO orders VALUES (10, 1, 150), (11, 1, 250), (12, 2, 350);
INSERT INTO line VALUES (100, 10, 'x'), (101, 11, 'y'), (102, 12, 'z');
INSERT INTO letter VALUES (1, 1, 'hello'), (2, 2, 'dear');
"""


@pytest.fixture
def shop(stage: Stage) -> Stage:
    """Customers and what hangs on them."""
    stage.make(ORDERS)
    return stage


def written(report: object) -> set[str]:
    """The tables of a report, without their schema."""
    return {table.table.rpartition(".")[2] for table in report.tables}  # type: ignore[attr-defined]


@pytest.mark.needs("writing_ctes")
def test_case_01_a_delete_inside_a_cte_is_captured_with_the_update_around_it(shop: Stage) -> None:
    report = shop.proves(
        "WITH d AS (DELETE FROM orders WHERE customer = 1 RETURNING *) UPDATE customer SET note = "
        "(SELECT string_agg(d.total::text, ',') FROM d) WHERE id IN (SELECT customer FROM d);"
    )
    assert {"customer", "line", "orders"} == written(report)


def test_case_02_two_updates_of_different_columns_are_both_undone(shop: Stage) -> None:
    shop.proves("UPDATE customer SET name = 'x' WHERE id < 3; UPDATE customer SET note = 'n', visits = visits + 1;")


def test_case_03_rows_that_match_only_after_an_earlier_statement_are_captured(shop: Stage) -> None:
    report = shop.proves(
        "INSERT INTO customer (id, name) VALUES (50, 'new'); UPDATE customer SET name = 'same' WHERE id = 2;"
        "UPDATE customer SET note = 'both' WHERE name IN ('new', 'same');"
        "DELETE FROM orders WHERE customer IN (SELECT id FROM customer WHERE note = 'both');"
    )
    assert {"customer", "line", "orders"} == written(report)


def test_case_04_a_deleted_parent_comes_back_with_all_that_hung_on_it(shop: Stage) -> None:
    """Cascades over two levels, and SET NULL."""
    report = shop.proves("DELETE FROM customer WHERE id = 1;")

    assert [
        (shop.table("customer"), 1, 0, True),
        (shop.table("letter"), 0, 1, False),
        (shop.table("line"), 2, 0, False),
        (shop.table("orders"), 2, 0, False),
    ] == [(table.table, table.deleted, table.updated, table.named_in_change) for table in report.tables]


def test_case_04_a_changed_key_goes_back_with_the_rows_that_followed_it(shop: Stage) -> None:
    """ON UPDATE CASCADE over two levels, and ON UPDATE SET NULL."""
    report = shop.proves("UPDATE customer SET id = id + 100 WHERE id < 3; UPDATE orders SET id = id + 1000;")

    assert {"customer", "letter", "line", "orders"} == written(report)


@pytest.mark.needs("set_default_actions")
def test_case_04_set_default_is_undone(shop: Stage) -> None:
    """On delete and on update."""
    shop.make(
        "CREATE TABLE visit (id INTEGER PRIMARY KEY, customer INTEGER DEFAULT 9, FOREIGN KEY (customer) REFERENCES "
        "customer (id) ON DELETE SET DEFAULT ON UPDATE SET DEFAULT); INSERT INTO visit VALUES (1, 1), (2, 2), (3, 3);"
    )
    shop.proves("DELETE FROM customer WHERE id = 1; UPDATE customer SET id = 20 WHERE id = 2;")


def test_case_04_a_composite_key_of_which_one_column_changes_is_followed(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE a (x INTEGER NOT NULL, y INTEGER NOT NULL, PRIMARY KEY (x, y));"
        "CREATE TABLE b (id INTEGER PRIMARY KEY, x INTEGER, y INTEGER, FOREIGN KEY (x, y) REFERENCES a (x, y) "
        "ON DELETE SET NULL ON UPDATE CASCADE);"
        "INSERT INTO a VALUES (1, 1), (1, 2), (5, 5); INSERT INTO b VALUES (1, 1, 1), (2, 1, 2), (3, NULL, 2);"
    )
    stage.proves("DELETE FROM a WHERE x = 1 AND y = 1; UPDATE a SET x = 7 WHERE x = 1 AND y = 2;")


def test_case_04_a_cascade_within_one_table_is_undone(stage: Stage) -> None:
    """A tree whose rows refer to each other."""
    stage.make(
        "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent INTEGER, name varchar(20), "
        "FOREIGN KEY (parent) REFERENCES tree (id) ON DELETE CASCADE);"
        "INSERT INTO tree VALUES (1, NULL, 'root'), (2, 1, 'a'), (3, 2, 'b'), (4, 1, 'c'), (5, NULL, 'other');"
    )
    stage.proves("DELETE FROM tree WHERE id = 2; UPDATE tree SET name = 'x' WHERE id = 1;")


@pytest.mark.needs("keyless_tables")
def test_case_05_several_matches_per_row_make_no_more_rows_than_there_were(shop: Stage) -> None:
    """DELETE with a join, in a table without a key."""
    shop.make(
        "CREATE TABLE tally (a INTEGER, b varchar(9)); INSERT INTO tally VALUES (1, 'x'), (1, 'x'), (2, NULL), (12, 'z')"
    )
    shop.proves(
        shop.target.dialect.delete_using.format(table="tally", other="orders", where="tally.a = orders.customer") + ";"
    )


def test_case_06_an_update_from_several_matches_is_undone(shop: Stage) -> None:
    shop.proves(
        shop.target.dialect.update_from.format(
            table="customer", sets="visits = orders.total", other="orders", where="orders.customer = customer.id"
        )
        + ";"
    )


def test_case_07_children_and_then_their_parent_come_back_in_an_order_that_works(shop: Stage) -> None:
    shop.proves(
        "DELETE FROM line WHERE orders = 12; DELETE FROM orders WHERE id = 12; DELETE FROM letter WHERE customer = 2;"
        "DELETE FROM customer WHERE id = 2;"
    )


@pytest.mark.needs("deferrable_foreign_keys")
def test_case_07_rows_that_refer_to_each_other_come_back_together(stage: Stage) -> None:
    """A circle of foreign keys, checked at the end."""
    stage.make(
        "CREATE TABLE egg (id INTEGER PRIMARY KEY, laid_by INTEGER NOT NULL);"
        "CREATE TABLE hen (id INTEGER PRIMARY KEY, hatched_from INTEGER NOT NULL "
        "REFERENCES egg (id) DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO egg VALUES (1, 1), (2, 2); INSERT INTO hen VALUES (1, 1), (2, 2);"
        "CREATE TABLE pair_of (id INTEGER PRIMARY KEY, other INTEGER NOT NULL "
        "REFERENCES pair_of (id) DEFERRABLE INITIALLY DEFERRED);"
        "BEGIN; INSERT INTO pair_of VALUES (1, 2), (2, 1), (3, 4), (4, 3); COMMIT;"
    )
    stage.proves("DELETE FROM pair_of WHERE id < 3; DELETE FROM egg WHERE id = 1; DELETE FROM hen WHERE id = 1;")


def test_case_08_generated_columns_are_put_back(stage: Stage) -> None:
    stage.make(
        f"CREATE TABLE item (id INTEGER PRIMARY KEY, a INTEGER, twice {stage.target.dialect.doubled});"
        "INSERT INTO item (id, a) VALUES (1, 1), (2, 2), (3, 3);"
    )
    stage.proves(
        "UPDATE item SET a = a + 10 WHERE id < 3; DELETE FROM item WHERE id = 2; INSERT INTO item (id, a) VALUES (7, 7);"
    )


@pytest.mark.needs("identity_always")
def test_case_08_identity_columns_are_put_back(stage: Stage) -> None:
    """A key GENERATED ALWAYS AS IDENTITY, and an identity column that is no key and can be set to DEFAULT only."""
    stage.make(
        "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int);"
        "CREATE TABLE ticket (code text PRIMARY KEY, place bigint GENERATED ALWAYS AS IDENTITY, seat text);"
        "INSERT INTO item (a) VALUES (1), (2), (3); INSERT INTO ticket (code, seat) VALUES ('x', 'A'), ('y', 'B'), "
        "('z', 'C'), ('q', 'Q');"
    )
    stage.proves(
        "UPDATE item SET a = a + 10 WHERE id < 3; DELETE FROM item WHERE id = 2; INSERT INTO item (a) VALUES (7);"
        "DELETE FROM ticket WHERE code = 'x'; UPDATE ticket SET seat = 'D' WHERE code = 'y'; "
        "UPDATE ticket SET place = DEFAULT, seat = 'Z' WHERE code = 'z';"
    )


def test_case_12_an_upsert_is_captured(shop: Stage) -> None:
    """Rows that are new, and rows that were there."""
    upsert = shop.target.dialect.upsert.format(key="id", column="name")
    shop.proves(f"INSERT INTO customer (id, name) VALUES (1, 'anna'), (4, 'dora') {upsert};")


def test_case_12_an_insert_that_leaves_rows_out_is_captured(shop: Stage) -> None:
    into = "customer (id, name) VALUES (1, 'other'), (5, 'eve')"
    shop.proves(f"{shop.target.dialect.ignore.format(into=into)};")


@pytest.mark.needs("replace")
def test_case_12_a_replace_is_captured_with_the_rows_that_were_in_its_way(stage: Stage) -> None:
    """One that has its key, and another that has its unique value."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u INTEGER UNIQUE, v varchar(9)); "
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd')"
    )
    stage.proves("REPLACE INTO t VALUES (2, 3, 'y'); REPLACE INTO t VALUES (9, 1, 'z'), (8, 8, 'n');")


@pytest.mark.needs("merge")
def test_case_12_a_merge_is_captured(shop: Stage) -> None:
    shop.proves(
        "MERGE INTO line s USING (VALUES (100, 'q'), (101, 'gone'), (7, 'n')) n (id, item) ON s.id = n.id "
        "WHEN MATCHED AND n.item = 'gone' THEN DELETE WHEN MATCHED THEN UPDATE SET item = n.item "
        "WHEN NOT MATCHED THEN INSERT VALUES (n.id, 10, n.item);"
    )


STOCK = """
CREATE TABLE stock (id INTEGER PRIMARY KEY, item varchar(60) UNIQUE, amount INTEGER);
INSERT INTO stock VALUES (1, 'pen', 5), (2, 'ink', 7), (3, 'cup', 0);
"""


@pytest.mark.needs("writing_functions")
def test_case_12_what_functions_and_procedures_write_is_captured(stage: Stage) -> None:
    """Each way to call one; also what an exception has taken back."""
    stage.make(STOCK)
    stage.make(stage.target.dialect.routines)
    for call in stage.target.dialect.calls:
        stage.proves(call)


@pytest.mark.needs("writable_views")
def test_case_12_what_is_written_through_a_view_is_captured(shop: Stage) -> None:
    for statement in shop.target.dialect.view:
        shop.make(statement.format(view="names", table="customer", column="name"))
    shop.proves("UPDATE names SET name = upper(name) WHERE id < 3;")


def test_case_12_truncate_is_refused_before_it_runs(shop: Stage) -> None:
    """Or there is no such statement: nothing is written either way."""
    error = shop.refuses("TRUNCATE TABLE line;")
    assert error.exit_status in {2, 3, 4}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE many SET v = i + 1000 WHERE {coin}",
        "UPDATE many SET v = -1 WHERE id IN (SELECT id FROM (SELECT id FROM many LIMIT 77) AS some_of_them)",
        "DELETE FROM many WHERE {coin}",
        "DELETE FROM many WHERE id IN (SELECT id FROM (SELECT id FROM many LIMIT 77) AS some_of_them)",
    ],
)
def test_case_16_a_volatile_predicate_is_captured_as_it_fell(stage: Stage, statement: str) -> None:
    stage.make("CREATE TABLE many (id INTEGER PRIMARY KEY, i INTEGER, v INTEGER)")
    stage.make(stage.target.dialect.numbers("many", 500, "i, i, 0"))
    before = stage.dump()
    stage.undo(stage.run(f"{statement.format(coin=stage.target.dialect.coin)};"))
    assert before == stage.dump()
