"""Generated changes: whatever they write is captured, row by row, and the undo restores every row."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter

import pymysql
import pytest

from backout.errors import Busy, DatabaseFailed
from backout.recovery.plan import UndoPolicy
from integration.mariadb.driving import Dump, change, dump, make, opened, undo
from servers_mariadb import MariaDatabase

SEED = int(os.environ.get("HUNT_SEED") or random.SystemRandom().randrange(2**32))

SCHEMA = """
CREATE TABLE p (id INT PRIMARY KEY, a INT, b VARCHAR(9) COLLATE utf8mb4_general_ci, u INT UNIQUE);
CREATE TABLE c (k VARCHAR(9) COLLATE utf8mb4_general_ci, n INT, p INT, a INT, PRIMARY KEY (k, n),
  FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE g (id INT AUTO_INCREMENT PRIMARY KEY, k VARCHAR(9) COLLATE utf8mb4_general_ci, n INT, b INT,
  FOREIGN KEY (k, n) REFERENCES c (k, n) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE heap (a INT, b VARCHAR(9));
CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(99));
CREATE TABLE other (id INT PRIMARY KEY, a INT);
CREATE TRIGGER c_update AFTER UPDATE ON c FOR EACH ROW INSERT INTO audit (what) VALUES (CONCAT_WS('>', OLD.a, NEW.a));
CREATE PROCEDURE proc(x INT) BEGIN UPDATE heap SET a = x WHERE a < x; DELETE FROM p WHERE id = x; END;
INSERT INTO p SELECT seq, seq MOD 5, CHAR(97 + seq MOD 7), IF(seq MOD 3, seq, NULL) FROM seq_1_to_30;
INSERT INTO c SELECT CHAR(97 + seq MOD 5), seq, 1 + seq MOD 30, seq FROM seq_1_to_60;
INSERT INTO g (k, n, b) SELECT CHAR(97 + seq MOD 5), seq, seq FROM seq_1_to_60;
INSERT INTO heap SELECT seq MOD 6, CHAR(97 + seq MOD 3) FROM seq_1_to_40;
INSERT INTO other SELECT seq, seq FROM seq_1_to_50;
"""
APPEND_ONLY = ("audit",)


def statement(chance: random.Random) -> str:
    """One of many kinds of statement, on keys that often meet."""
    i, j, v = chance.randint(1, 35), chance.randint(1, 70), chance.randint(0, 6)
    letter = chance.choice("abcdABCD")
    return chance.choice([
        f"UPDATE p SET a = {v} WHERE id < {i}",
        f"UPDATE p SET id = id + 100 WHERE id = {i}",
        f"UPDATE p SET b = UPPER(b) WHERE a = {v}",
        f"DELETE FROM p WHERE id = {i}",
        f"REPLACE INTO p VALUES ({i}, {v}, '{letter}', {j})",
        f"INSERT INTO p VALUES ({i}, {v}, '{letter}', NULL) ON DUPLICATE KEY UPDATE a = a + 1",
        f"INSERT IGNORE INTO p VALUES ({i + 30}, {v}, '{letter}', {i})",
        f"UPDATE c SET k = '{letter}' WHERE n = {j}",
        f"UPDATE c SET k = UPPER(k), a = a + 1 WHERE p = {i}",
        f"DELETE FROM c WHERE k = '{letter}' LIMIT {v}",
        f"DELETE c, g FROM c JOIN g ON g.n = c.n WHERE c.n < {v}",
        f"UPDATE p JOIN c ON c.p = p.id SET p.a = c.a, c.a = p.a WHERE c.n < {j}",
        f"INSERT INTO g (b) VALUES ({v}), ({i})",
        f"UPDATE g SET n = n WHERE id = {j}",
        f"UPDATE g SET b = {v} ORDER BY RAND() LIMIT {v}",
        f"UPDATE heap SET a = {v} WHERE b = '{letter}'",
        f"DELETE FROM heap WHERE a = {v} LIMIT 2",
        f"INSERT INTO heap VALUES ({v}, '{letter}'), ({v}, '{letter}'), (NULL, NULL)",
        f"CALL proc({i})",
        f"UPDATE p SET u = u + 1 WHERE id < {v} ORDER BY u DESC",
    ])  # fmt: skip


def differences(before: Dump, after: Dump) -> dict[str, tuple[int, int]]:
    """Per table the number of rows that are only before, and only after."""
    found = {}
    for table in before:
        then, now = Counter(before[table]), Counter(after[table])
        gone, made = sum((then - now).values()), sum((now - then).values())
        if gone or made:
            found[table] = (gone, made)
    return found


def rounds(mariadb: MariaDatabase, count: int, seed: int) -> int:
    """Run and undo generated changes; returns how many were committed."""
    chance = random.Random(seed)
    make(mariadb, SCHEMA)
    committed = 0
    policy = UndoPolicy(append_only=APPEND_ONLY)
    with opened(mariadb, append_only=APPEND_ONLY) as engine:
        for number in range(count):
            statements = [statement(chance) for _ in range(chance.randint(1, 6))]
            told = f"HUNT_SEED={seed}, round {number}: {statements}"
            before = dump(mariadb)
            try:
                record, capture, verdict = change(engine, *statements)
            except DatabaseFailed:
                assert before == dump(mariadb), told
                continue
            except AssertionError as error:
                raise AssertionError(told) from error
            committed += 1
            captured = {one.table.name.name: (one.before_rows, one.after_rows) for one in capture.tables}
            assert differences(before, dump(mariadb)) == captured, told
            assert verdict.complete, told
            if record.tables and any(one.table.name.name not in APPEND_ONLY for one in record.tables):
                outcome, _ = undo(engine, record, policy=policy)
                assert not outcome.refused, (told, outcome.conflicts)
                now = dump(mariadb)
                assert {k: v for k, v in before.items() if k != "audit"} == {
                    k: v for k, v in now.items() if k != "audit"
                }, told
    return committed


def test_generated_changes_are_captured_and_restored(mariadb: MariaDatabase) -> None:
    assert rounds(mariadb, 12, SEED) > 0


@pytest.mark.hunt
def test_many_generated_changes_are_captured_and_restored(mariadb: MariaDatabase) -> None:
    rounds(mariadb, 1500, SEED)


def test_what_others_write_at_the_same_time_is_never_taken_for_ours(mariadb: MariaDatabase) -> None:
    """Others touch rows of the same tables all the time, and never those that the run writes."""
    make(mariadb, SCHEMA)
    ended = threading.Event()

    def others() -> None:
        session = mariadb.connect("application")
        chance = random.Random(SEED)
        with session.cursor() as cursor:
            while not ended.is_set():
                i = chance.randint(26, 50)
                try:
                    cursor.execute(f"UPDATE other SET a = a + 1 WHERE id = {i}")
                    cursor.execute(f"DELETE FROM other WHERE id = {i + 1}")
                    cursor.execute(f"INSERT IGNORE INTO other VALUES ({i + 1}, {i})")
                except pymysql.Error:
                    pass

    thread = threading.Thread(target=others)
    thread.start()
    try:
        with opened(mariadb) as engine:
            for number in range(6):
                try:
                    _, capture, verdict = change(
                        engine, f"UPDATE other SET a = {-number} WHERE id <= 10", "DELETE FROM other WHERE id = 25"
                    )
                except Busy:
                    continue  # written too often to be told apart: refused, nothing lost
                assert verdict.complete
                (one,) = capture.tables
                gone = 1 if number == 0 or one.before_rows == 11 else 0
                assert (10 + gone, 10) == (one.before_rows, one.after_rows)
                assert capture.counted_in_sum == 10 + gone
    finally:
        ended.set()
        thread.join()
