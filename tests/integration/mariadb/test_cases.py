"""The twenty cases on which row-undo tools lose data, as far as MariaDB has them (see docs: the twenty cases)."""

# ruff: noqa: E501  schemas and data are read more easily in one line

from __future__ import annotations

import pytest

from backout.engines.values import Resolution
from backout.errors import DatabaseFailed, Refused
from backout.recovery.plan import UndoPolicy
from integration.mariadb.driving import change, dump, make, opened, supervise, undo
from servers_mariadb import MariaDatabase

ORDERS = """
CREATE TABLE customer (id INT PRIMARY KEY, name TEXT, updated_at VARCHAR(20) DEFAULT 'then');
CREATE TABLE `order` (id INT PRIMARY KEY, customer INT, total DOUBLE, FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE line (id INT PRIMARY KEY, `order` INT, item TEXT, FOREIGN KEY (`order`) REFERENCES `order` (id) ON DELETE CASCADE);
CREATE TABLE note (id INT PRIMARY KEY, customer INT, text TEXT, FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE SET NULL);
INSERT INTO customer (id, name) VALUES (1, 'a'), (2, 'b'), (9, 'nobody');
INSERT INTO `order` VALUES (10, 1, 1.5), (11, 1, 2.5), (12, 2, 3.5);
INSERT INTO line VALUES (100, 10, 'x'), (101, 11, 'y'), (102, 12, 'z');
INSERT INTO note VALUES (1, 1, 'hello');
"""
PLAIN = (
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20)); INSERT INTO t SELECT seq, seq, 'x' FROM seq_1_to_20;"
)

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
    "case 4, cascades over two levels, and set null": (ORDERS, ["DELETE FROM customer WHERE id = 1"]),
    "case 4, on update cascade": (
        ORDERS,
        ["DELETE FROM note", "UPDATE customer SET id = 7 WHERE id = 1"],
    ),
    "case 5, several matches per row without a key": (
        "CREATE TABLE t (a INT, b INT); CREATE TABLE k (a INT); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2); INSERT INTO k VALUES (1), (1)",
        ["DELETE FROM t USING t JOIN k ON t.a = k.a"],
    ),
    "case 6, update of a join with several matches": (
        "CREATE TABLE t (id INT PRIMARY KEY, b INT); CREATE TABLE k (a INT, v INT); INSERT INTO t VALUES (1, 0);"
        "INSERT INTO k VALUES (1, 5), (1, 6)",
        ["UPDATE t JOIN k ON k.a = t.id SET t.b = k.v"],
    ),
    "case 6, several tables in one update and one delete": (
        ORDERS,
        [
            "UPDATE customer c JOIN `order` o ON o.customer = c.id SET c.name = 'both', o.total = o.total + 1",
            "DELETE l, n FROM line l JOIN `order` o ON o.id = l.`order` JOIN note n ON n.customer = o.customer",
        ],
    ),
    "case 7, children deleted, then their parent": (
        ORDERS,
        [
            "DELETE FROM line WHERE `order` = 12",
            "DELETE FROM `order` WHERE id = 12",
            "DELETE FROM customer WHERE id = 2",
        ],
    ),
    "case 8, generated columns and AUTO_INCREMENT": (
        "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, a INT, v INT AS (a * 2), s INT AS (a * 3) STORED UNIQUE);"
        "INSERT INTO t (a) VALUES (1), (2), (3)",
        ["UPDATE t SET a = a + 10", "DELETE FROM t WHERE a = 11", "INSERT INTO t (a) VALUES (1)"],
    ),
    "case 9, types of every kind": (
        "CREATE TABLE t (id INT PRIMARY KEY, j JSON, g POINT, bi BIT(9), u BIGINT UNSIGNED, e ENUM('a', 'B', ''), s SET('x', 'y'), bl BLOB,"
        " f FLOAT, d DOUBLE, n DECIMAL(20, 5), ti TIME(3), dt DATETIME(6), ts TIMESTAMP NULL, y YEAR, vb VARBINARY(9), l TEXT CHARACTER SET latin1, w TEXT CHARACTER SET utf8mb4, ii INET6, uu UUID);"
        "INSERT INTO t VALUES (1, '{\"a\": 1.0}', POINT(1, 2), b'101010101', 18446744073709551615, 'B', 'x,y', x'00FF00',"
        " 1.1, 0.1, 1.50000, '-12:00:00.123', '2020-02-29 12:00:00.123456', '2020-10-25 02:30:00', 1999, x'FF00', 'é', '𝄞 ''q'' \\\\', '::1', '123e4567-e89b-12d3-a456-426614174000');"
        "INSERT INTO t (id) VALUES (2)",
        [
            "UPDATE t SET j = '{\"a\": 1}', g = POINT(2, 1), bi = 1, u = 0, e = '', s = '', bl = x'00', f = 1.2, d = d + 1, n = 2, ti = '00:00:01', dt = NULL, ts = NULL, y = 2000, vb = NULL, l = 'e', w = 'z', ii = NULL, uu = NULL",
            "DELETE FROM t WHERE id = 2",
        ],
    ),
    "case 10, quoted names, reserved words, names that shadow a CTE": (
        "CREATE TABLE `T ``x``.y` (`select` INT PRIMARY KEY, `a b` VARCHAR(9), backout_row INT, `row` INT, B INT, `100%s` INT); "
        "INSERT INTO `T ``x``.y` VALUES (1, 'a', 5, 6, 7, 1), (2, 'b', 1, 2, 3, 2)",
        [
            "UPDATE `T ``x``.y` AS d SET `a b` = 'c', backout_row = B, `row` = 1, `100%s` = 3",
            "DELETE FROM `T ``x``.y` WHERE `select` = 2",
        ],
    ),
    "case 12, upsert, insert ignore, replace and delete of all rows": (
        ORDERS,
        [
            "INSERT INTO customer (id, name) VALUES (1, 'up'), (5, 'new') ON DUPLICATE KEY UPDATE name = VALUES(name)",
            "INSERT IGNORE INTO customer (id, name) VALUES (2, 'not'), (6, 'yes')",
            "DELETE FROM line",
        ],
    ),
    "case 12, replace with cascades": (ORDERS, ["REPLACE INTO customer (id, name) VALUES (1, 'again')"]),
    "case 12, a procedure and a function that write": (
        PLAIN + "CREATE PROCEDURE p(x INT) BEGIN UPDATE t SET a = a + x WHERE id < 5; DELETE FROM t WHERE id = 9; END;"
        "CREATE FUNCTION f(x INT) RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN UPDATE t SET b = 'f' WHERE id = x; RETURN 1; END",
        ["CALL p(100)", "SELECT f(11)"],
    ),
    "case 14, unique keys beside the primary one, and instead of it": (
        "CREATE TABLE t (a INT NOT NULL, b VARCHAR(9) NOT NULL, c INT, UNIQUE (a, b), UNIQUE (c)); INSERT INTO t VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', NULL)",
        ["UPDATE t SET c = 5 WHERE b = 'y'", "DELETE FROM t WHERE a = 2", "UPDATE t SET c = 2 WHERE c = 1"],
    ),
    "case 14, unique values that go round": (
        "CREATE TABLE t (id INT PRIMARY KEY, u INT NOT NULL UNIQUE); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
        ["UPDATE t SET u = u + 10", "UPDATE t SET u = CASE u WHEN 11 THEN 2 WHEN 12 THEN 3 ELSE 1 END"],
    ),
    "case 16, volatile predicates and LIMIT": (
        PLAIN,
        ["UPDATE t SET a = 0 WHERE RAND() < 0.5", "DELETE FROM t LIMIT 3", "UPDATE t SET b = LEFT(UUID(), 8) LIMIT 4"],
    ),
    "case 18, long and odd names": (
        "CREATE TABLE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1 (id INT PRIMARY KEY); CREATE TABLE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa2 (id INT PRIMARY KEY);"
        "CREATE TABLE `Ärger.x` (id INT PRIMARY KEY); CREATE TABLE `UPPER` (id INT PRIMARY KEY); CREATE TABLE `upper` (id INT PRIMARY KEY)",
        [
            "INSERT INTO aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1 VALUES (1)",
            "INSERT INTO aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa2 VALUES (2)",
            "INSERT INTO `Ärger.x` VALUES (3)",
            "INSERT INTO `UPPER` VALUES (4)",
            "INSERT INTO `upper` VALUES (5)",
        ],
    ),
    "case 19, no key at all, duplicates": (
        "CREATE TABLE t (a INT, b VARCHAR(9)); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, 'y'), (NULL, NULL), (NULL, NULL)",
        [
            "UPDATE t SET b = 'z' WHERE a = 1 LIMIT 2",
            "DELETE FROM t WHERE a IS NULL LIMIT 1",
            "INSERT INTO t VALUES (1, 'x')",
        ],
    ),
    "case 19, changes of the primary key, a swap of two": (
        PLAIN,
        [
            "UPDATE t SET id = 100 WHERE id = 1",
            "UPDATE t SET id = 1 WHERE id = 2",
            "UPDATE t SET id = 2 WHERE id = 100",
        ],
    ),
    "case 19, a key that changes its spelling only": (
        "CREATE TABLE t (k VARCHAR(9) COLLATE utf8mb4_general_ci PRIMARY KEY, a INT); INSERT INTO t VALUES ('a', 1), ('b', 2)",
        ["UPDATE t SET k = 'A' WHERE k = 'a'", "UPDATE t SET a = 3 WHERE k = 'B'"],
    ),
    "case 20, a row that moves to another partition": (
        "CREATE TABLE t (id INT PRIMARY KEY, a INT) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);"
        "INSERT INTO t VALUES (1, 1), (2, 2), (11, 3)",
        ["UPDATE t SET id = 21 WHERE id = 1", "DELETE FROM t WHERE id = 11"],
    ),
    "a view that is written through": (
        PLAIN + "CREATE VIEW v AS SELECT id, a FROM t WHERE id < 5",
        ["UPDATE v SET a = 99", "DELETE FROM v WHERE id = 1"],
    ),
    "zero dates, an invalid ENUM value, BIT and negative zero": (
        "SET sql_mode = ''; CREATE TABLE t (id INT PRIMARY KEY, d DATE, ts TIMESTAMP NULL, e ENUM('a'), b BIT(3), f DOUBLE);"
        "INSERT INTO t VALUES (1, '0000-00-00', 0, 'zzz', 5, -0.0), (2, '2020-00-31', NULL, NULL, NULL, NULL)",
        ["DELETE FROM t WHERE id = 1", "UPDATE t SET d = NULL WHERE id = 2"],
    ),
    "columns that SELECT * leaves out, with a key and without": (
        "CREATE TABLE t (id INT PRIMARY KEY, h INT INVISIBLE DEFAULT 5); INSERT INTO t (id, h) VALUES (1, 9), (2, 8);"
        "CREATE TABLE u (a INT, h INT INVISIBLE DEFAULT 5); INSERT INTO u (a, h) VALUES (1, 9), (2, 8)",
        [
            "UPDATE t SET h = 7 WHERE id = 1",
            "DELETE FROM t WHERE id = 2",
            "UPDATE u SET h = 7 WHERE a = 1",
            "DELETE FROM u WHERE a = 2",
        ],
    ),
    "rows that a portion of a period splits": (
        "CREATE TABLE t (id INT, s DATE, e DATE, v INT, PERIOD FOR p (s, e), UNIQUE (id, p WITHOUT OVERLAPS));"
        "INSERT INTO t VALUES (1, '2020-01-01', '2021-01-01', 1), (2, '2020-01-01', '2021-01-01', 2)",
        [
            "UPDATE t FOR PORTION OF p FROM '2020-03-01' TO '2020-04-01' SET v = 9 WHERE id = 1",
            "DELETE FROM t FOR PORTION OF p FROM '2020-05-01' TO '2020-06-01' WHERE id = 2",
        ],
    ),
    "unique keys of long texts, of beginnings, and that ignore what follows": (
        "CREATE TABLE t (c TEXT NOT NULL, b INT, UNIQUE (c)); INSERT INTO t VALUES (REPEAT('a', 5000), 1), (REPEAT('b', 5000), 2);"
        "CREATE TABLE u (c VARCHAR(99) NOT NULL, b INT, UNIQUE (c(3))); INSERT INTO u VALUES ('abcdef', 1), ('xyz', 2);"
        "CREATE TABLE w (c VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, b INT); INSERT INTO w VALUES ('a', 1), ('b', 2)",
        [
            "UPDATE t SET c = CONCAT(c, 'z') WHERE b = 1",
            "DELETE FROM t WHERE b = 2",
            "UPDATE u SET c = 'abczzz' WHERE b = 1",
            "DELETE FROM u WHERE b = 2",
            "UPDATE w SET c = 'a ' WHERE b = 1",
            "UPDATE w SET c = 'B', b = 3 WHERE b = 2",
        ],
    ),
    "a number 0 that AUTO_INCREMENT gave nobody, and compressed columns": (
        "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, c TEXT COMPRESSED);"
        "INSERT INTO t VALUES (0, REPEAT('x', 5000)), (1, '')",
        ["DELETE FROM t WHERE id = 0", "UPDATE t SET c = REPEAT('z', 4000) WHERE id = 1"],
    ),
    "columns that set themselves": (
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, u TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6));"
        "INSERT INTO t (id, a) VALUES (1, 1), (2, 2)",
        ["UPDATE t SET a = 5 WHERE id = 1", "UPDATE t SET a = 6, u = u WHERE id = 2"],
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_undo_restores_every_row_exactly(mariadb: MariaDatabase, case: str) -> None:
    schema, statements = EXACT[case]
    make(mariadb, schema)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, *statements)
        assert before != dump(mariadb)
        outcome, undone = undo(engine, record)
        assert not outcome.refused
        assert before == dump(mariadb)
        assert undone is not None
        after = change(engine, "DO 1")[0]  # the undo can itself be undone
        assert after.tables == ()


def test_an_undo_of_an_undo_brings_the_change_back(mariadb: MariaDatabase) -> None:
    make(mariadb, ORDERS)
    with opened(mariadb) as engine:
        record, _, _ = change(
            engine, "DELETE FROM customer WHERE id = 1", "UPDATE customer SET name = 'q' WHERE id = 2"
        )
        changed = dump(mariadb)
        _, undone = undo(engine, record)
        assert undone is not None
        undo(engine, undone)
        assert changed == dump(mariadb)


def test_case_11_rows_edited_since_are_conflicts_and_stay(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET a = a + 100 WHERE id <= 5", "DELETE FROM t WHERE id = 20")
        mariadb.as_application(
            "UPDATE t SET a = -1 WHERE id = 1; UPDATE t SET b = 'mine' WHERE id = 2; DELETE FROM t WHERE id = 3"
        )
        mariadb.as_application("INSERT INTO t VALUES (20, 7, 'theirs')")
        outcome, _ = undo(engine, record)
        assert outcome.refused
        assert [(c.kind.name, c.key["id"]) for c in outcome.conflicts] == [
            ("CHANGED", "1"),
            ("DELETED", "3"),
            ("KEY_REUSED", "20"),
        ]
        undo(engine, record, Resolution(partial=True))
        rows = dict(mariadb.execute("SELECT id, CONCAT(a, b) FROM t WHERE id <= 5 OR id = 20"))
        assert rows == {1: "-1x", 2: "2mine", 4: "4x", 5: "5x", 20: "7theirs"}
        again, _ = undo(engine, record)
        assert [c.key["id"] for c in again.conflicts] == ["1", "3", "20"]
        undo(engine, record, Resolution(overwrite=frozenset({1, 2, 3}), seen=again.fingerprint))
        rows = dict(mariadb.execute("SELECT id, CONCAT(a, b) FROM t WHERE id <= 5 OR id = 20"))
        assert rows == {1: "1x", 2: "2mine", 3: "3x", 4: "4x", 5: "5x", 20: "20x"}


AUDITED = PLAIN + (
    "CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT);"
    "CREATE TRIGGER t_audit AFTER UPDATE ON t FOR EACH ROW INSERT INTO audit (what) VALUES (CONCAT(OLD.a, NEW.a));"
)


def test_case_13_a_trigger_in_the_way_is_named_before_the_commit(mariadb: MariaDatabase) -> None:
    make(mariadb, AUDITED)
    with opened(mariadb) as engine:
        table = engine.table(*[_name(mariadb, "t")])
        assert table is not None
        assert engine.undo_obstacle([table]) == (
            f'trigger "t_audit" on {mariadb.name}.t cannot be switched off on MariaDB, and it writes table {mariadb.name}.audit'
            " (where that is only added to, name it in `append_only`)"
        )


def test_case_13_what_triggers_write_is_captured_and_undone_where_they_only_append(mariadb: MariaDatabase) -> None:
    make(mariadb, AUDITED)
    before = dump(mariadb)
    with opened(mariadb, append_only=("audit",)) as engine:
        record, capture, verdict = change(engine, "UPDATE t SET a = 0 WHERE id < 4")
        assert [(one.table.name.name, one.before_rows, one.after_rows) for one in capture.tables] == [
            ("audit", 0, 3),
            ("t", 3, 3),
        ]
        assert verdict.complete
        assert engine.undo_obstacle([one.table for one in capture.tables]) is None
        undo(engine, record, policy=UndoPolicy(append_only=("audit",)))
        assert before["t"] == dump(mariadb)["t"]
        assert len(dump(mariadb)["audit"]) == 6


def test_case_13_a_bookkeeping_column_keeps_what_the_trigger_sets(mariadb: MariaDatabase) -> None:
    make(
        mariadb,
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, n INT DEFAULT 0); INSERT INTO t (id, a) VALUES (1, 1), (2, 2);"
        "CREATE TRIGGER t_n BEFORE UPDATE ON t FOR EACH ROW SET NEW.n = OLD.n + 1",
    )
    with opened(mariadb, bookkeeping=("n",)) as engine:
        record, capture, _ = change(engine, "UPDATE t SET a = 9")
        assert engine.undo_obstacle([capture.tables[0].table]) is None
        undo(engine, record, policy=UndoPolicy(bookkeeping=("n",)))
        assert [(1, 1), (2, 2)] == [tuple(row) for row in mariadb.execute("SELECT id, a FROM t ORDER BY id")]
    with opened(mariadb) as engine:
        record, capture, _ = change(engine, "UPDATE t SET a = 9")
        assert engine.undo_obstacle([capture.tables[0].table]) is not None
        with pytest.raises(Refused, match="a trigger has rewritten them"):
            undo(engine, record)
        assert [(1, 9), (2, 9)] == [tuple(row) for row in mariadb.execute("SELECT id, a FROM t ORDER BY id")]


def test_case_15_columns_added_and_dropped_since(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET a = 0, b = 'y' WHERE id < 3", "DELETE FROM t WHERE id = 5")
        mariadb.as_application("ALTER TABLE t DROP COLUMN b, ADD COLUMN c INT DEFAULT 7 FIRST")
        outcome, _ = undo(engine, record)
        assert outcome.notes == (f'column "b" of "{mariadb.name}.t" was dropped since: its values are not put back',)
        assert [(7, 1, 1), (7, 2, 2), (7, 5, 5)] == [
            tuple(r) for r in mariadb.execute("SELECT * FROM t WHERE id IN (1, 2, 5) ORDER BY id")
        ]


def test_case_17_a_row_that_somebody_commits_meanwhile_is_not_taken_for_ours(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine:

        def act(transaction):  # type: ignore[no-untyped-def]
            transaction.execute("UPDATE t SET a = 0 WHERE id < 5")
            mariadb.as_application(
                "INSERT INTO t VALUES (50, 0, 'theirs'); UPDATE t SET a = 77 WHERE id = 15; DELETE FROM t WHERE id = 16"
            )

        _, capture, verdict = supervise(engine, act)
        assert (4, 4) == (capture.tables[0].before_rows, capture.tables[0].after_rows)
        assert verdict.level == "exact"


def _name(database: MariaDatabase, table: str):  # type: ignore[no-untyped-def]
    from backout.engines.values import TableName

    return TableName(database.name, table)


def test_a_deferred_mistake_is_a_failure_of_the_statement(mariadb: MariaDatabase) -> None:
    make(mariadb, ORDERS)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        with pytest.raises(DatabaseFailed) as raised:
            change(engine, "UPDATE customer SET name = 'x'", "INSERT INTO line VALUES (1, 999, 'q')")
        assert raised.value.sqlstate == "1452"
    assert before == dump(mariadb)


@pytest.mark.parametrize("kind", ["DATE", "DATETIME(6)"])
def test_a_key_that_is_the_date_zero_is_a_row_like_any_other(mariadb: MariaDatabase, kind: str) -> None:
    """`IS NULL` is true of it (manual, "IS NULL"), so that a comparison took it for a row that is not there."""
    make(
        mariadb,
        f"SET sql_mode = ''; CREATE TABLE t (d {kind} NOT NULL PRIMARY KEY, a INT); INSERT INTO t VALUES ('0000-00-00', 1), ('2024-01-01', 2), ('2024-01-02', 3);"
        f"CREATE TABLE c (id INT PRIMARY KEY, d {kind}, FOREIGN KEY (d) REFERENCES t (d)); INSERT INTO c VALUES (1, '0000-00-00'), (2, '2024-01-02')",
    )
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, capture, verdict = change(engine, "UPDATE t SET a = 9 WHERE d = '2024-01-01'")
        assert ([1], "exact") == ([one.before_rows for one in capture.tables], verdict.level)
        undo(engine, record)
        assert before == dump(mariadb)
        make(mariadb, "CREATE TRIGGER nothing BEFORE UPDATE ON t FOR EACH ROW SET @x = 1")
        record, capture, _ = change(
            engine, "UPDATE t SET a = a + 1", "DELETE FROM c WHERE id = 1", "DELETE FROM t WHERE d = 0"
        )
        undo(engine, record)
    assert before == dump(mariadb)
