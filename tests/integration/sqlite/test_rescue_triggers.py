"""Two ways to capture, one result: what triggers wrote into the rescue is what a session would have recorded."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backout.engines.sqlite import logged
from backout.engines.sqlite.rescue_triggers import RescueTriggers
from backout.engines.values import Capture, CapturedTable, RunState
from backout.errors import DatabaseFailed, Refused
from backout.recovery.proof import prove
from integration.sqlite.driving import change, dump, make, opened, start, undo

SCHEMA = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, a, b TEXT, n REAL, v AS (a || b), s AS (b || 'x') STORED);
CREATE TABLE named (code TEXT NOT NULL PRIMARY KEY, a INT, b);
CREATE TABLE pair (x INT NOT NULL, y TEXT NOT NULL, a, b BLOB, PRIMARY KEY (y, x)) WITHOUT ROWID;
CREATE TABLE uniq (id INTEGER PRIMARY KEY, u INT UNIQUE ON CONFLICT REPLACE, a CHECK (a IS NOT 'no'), b NOT NULL DEFAULT 0);
CREATE TABLE part (id INTEGER PRIMARY KEY, a INT, b);
CREATE UNIQUE INDEX part_a ON part (a) WHERE b = 1;
CREATE TABLE parent (id INTEGER PRIMARY KEY, a);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE, a);
CREATE TABLE strict_child (id INTEGER PRIMARY KEY, parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED, a);
CREATE TABLE fired (id INTEGER PRIMARY KEY, a, b);
CREATE TRIGGER fired_u AFTER UPDATE OF a ON fired BEGIN UPDATE plain SET b = new.a WHERE id = new.id; END;
CREATE TABLE keyless (a, b);
CREATE TABLE loose (k TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, a, b);
CREATE VIEW broken AS SELECT * FROM no_such_table;
"""
WITH_INDEX = "CREATE VIRTUAL TABLE words USING fts5 (a, b);"
TABLES = ("plain", "named", "pair", "uniq", "part", "parent", "child", "strict_child", "fired", "keyless", "loose")
KEYS = {"named": "code", "pair": "x", "keyless": "rowid", "loose": "k"}
VALUES = ("NULL", "1", "1.0", "'1'", "x'0041'", "'é'", "0.1 + 0.2", "'a' || char(0) || 'b'", "'no'", "-3", "''")


def inserts(table: str, number: int, value: str) -> str:
    """A row of that table."""
    return {
        "plain": f"INSERT INTO plain (id, a, b, n) VALUES ({number}, {value}, 'b', {number} / 3.0)",
        "named": f"INSERT INTO named VALUES ('k{number}', {number}, {value})",
        "pair": f"INSERT INTO pair VALUES ({number}, 'y', {value}, x'01')",
        "uniq": f"INSERT INTO uniq (id, u, a) VALUES ({number}, {number}, {value})",
        "child": f"INSERT INTO child VALUES ({number}, {number}, {value})",
        "strict_child": f"INSERT INTO strict_child VALUES ({number}, {number}, {value})",
        "parent": f"INSERT INTO parent VALUES ({number}, {value})",
        "keyless": f"INSERT INTO keyless VALUES ({number}, {value})",
        "loose": f"INSERT INTO loose VALUES ('k{number}', {number}, {value})",
        "words": f"INSERT INTO words (rowid, a, b) VALUES ({number}, 'w{number}', {value})",
    }.get(table, f"INSERT INTO {table} (id, a, b) VALUES ({number}, {number}, {value})")


def writes(pick: random.Random, tables: Sequence[str]) -> str:
    """One statement: mostly plain ones on few tables, so that several ways meet on one row."""
    table = pick.choice(tables)
    key = KEYS.get(table, "id" if table != "words" else "rowid")
    value, other, number = pick.choice(VALUES), pick.choice(VALUES), pick.randint(0, 9)
    quoted = f"'k{number}'" if table in ("named", "loose") else str(number)
    where = pick.choice([f"{key} = {quoted}", f"{key} > {quoted}", f"{key} <= {quoted}", "1", f"a IS {value}"])
    kind = pick.choice(["UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE"])
    forms = [f"{kind} {table} SET a = {value} WHERE {where}"] * 5
    forms += [f"DELETE FROM {table} WHERE {where}"] * 2
    forms += [f"UPDATE {table} SET a = a WHERE {where}", inserts(table, number, value)]
    forms += [inserts(table, number, value).replace("INSERT", "INSERT OR REPLACE")]
    if table not in ("parent", "child", "strict_child"):
        forms += [f"{kind} {table} SET b = {value}, a = {other} WHERE {where}", f"UPDATE {table} SET b = a, a = b"]
    if table == "uniq":
        forms += [f"{kind} uniq SET u = u + 1 WHERE {where}"] * 2
    if key == "id":
        forms += [f"{kind} {table} SET id = id + {number} WHERE {where}"]
    return pick.choice(forms)


Script = list[tuple[str, list[str]]]  # ("execute" | "back" | "check", statements)


def scripts(pick: random.Random, tables: Sequence[str]) -> Script:
    """What a change does: statements, some in a savepoint that is taken back, some in a check."""
    chosen = pick.sample(tables, pick.randint(1, 3))
    kinds = pick.choices(["execute", "back", "check"], [6, 2, 1], k=pick.randint(1, 7))
    return [(kind, [writes(pick, chosen) for _ in range(pick.randint(1, 3))]) for kind in kinds]


class Back(Exception):
    """Takes a savepoint back."""


def act(transaction: Any, script: Script) -> None:
    """Carry out; a statement that a constraint refuses takes its savepoint back, or ends all."""
    for kind, statements in script:
        if kind == "execute":
            for text in statements:
                try:
                    with transaction.savepoint():
                        transaction.execute(text, ())
                except DatabaseFailed:
                    continue
        elif kind == "back":
            try:
                with transaction.savepoint():
                    for text in statements:
                        transaction.execute(text, ())
                    raise Back
            except (Back, DatabaseFailed):
                continue
        else:
            try:
                with transaction.savepoint():
                    transaction.check(statements[0], ())
            except DatabaseFailed:
                continue


def filled(path: Path, pick: random.Random, schema: str, tables: Sequence[str]) -> Path:
    """A database with a few rows in each table."""
    make(path, schema)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA foreign_keys = ON")
    for table in tables:
        for number in range(pick.randint(0, 8)):
            try:
                connection.execute(inserts(table, number, pick.choice(VALUES)))
            except apsw.ConstraintError:
                continue
    connection.close()
    return path


def images_of(path: Path, captured: CapturedTable) -> set[tuple[Any, ...]]:
    """Every captured row with its images, whatever its number in the rescue."""
    connection = apsw.Connection(str(path))
    rows: dict[int, list[Any]] = {}
    names = [column.name for column in captured.table.restorable]
    for place, (rescue, columns) in enumerate(
        ((captured.before_rescue, names), (captured.after_rescue, list(captured.after_columns)))
    ):
        if rescue is not None:
            listed = ", ".join(f'quote("{name}"), hex("{name}")' for name in columns)
            extra = ", backout_orphan" if place == 0 else ""
            for number, *values in connection.execute(f"SELECT backout_row, {listed}{extra} FROM {rescue}"):
                rows.setdefault(int(number), [None, None])[place] = tuple(values)
    connection.close()
    return {tuple(images) for images in rows.values()}


def captured_by(path: Path, script: Script, *, triggers: bool) -> tuple[Capture, dict[str, Any]] | None:
    """Run and commit; (what was captured, by table its images); None where the change failed at the end."""
    database = opened(path)
    number = database.journal.begin_run(start())
    transaction = database.transaction(())
    with patch.object(RescueTriggers, "choose", RescueTriggers.choose if triggers else lambda *_: None):
        try:
            act(transaction, script)
            capture = transaction.capture(number, (), keep=True)
        except DatabaseFailed:
            transaction.rollback()
            database.close()
            return None
        transaction.record(number, RunState.COMMITTED, capture.tables, {})
        transaction.commit()
    database.close()
    return capture, {one.table.name.name: images_of(path, one) for one in capture.tables}


def undone(path: Path, *, triggers: bool) -> list[tuple[Any, ...]]:
    """Undo the first run; what was captured of that, but for who captured it."""
    database = opened(path)
    record = database.journal.run(1)
    assert record is not None
    undoing = RescueTriggers.undoing
    with patch.object(RescueTriggers, "undoing", undoing if triggers else lambda self, _: undoing(self, ())):
        outcome, back = undo(database, record)
    assert outcome.conflicts == ()
    assert back is not None
    database.close()
    return [(*shape(one), images_of(path, one)) for one in back.tables]


def compare(seed: int, folder: Path) -> set[str]:
    """One change on two copies of one database, each captured its way; returns the ways that were taken."""
    pick = random.Random(seed)
    with_index = pick.random() < 0.2  # the session never looks away there
    tables = (*TABLES, "words") if with_index else TABLES
    base = filled(folder / "base.db", pick, SCHEMA + (WITH_INDEX if with_index else ""), tables)
    paths = [folder / "triggers.db", folder / "session.db"]
    for path in paths:
        path.write_bytes(base.read_bytes())
    script = scripts(pick, tables)
    ours = captured_by(paths[0], script, triggers=True)
    theirs = captured_by(paths[1], script, triggers=False)
    assert (ours is None) == (theirs is None)
    assert dump(paths[0]) == dump(paths[1])
    if ours is None or theirs is None:
        assert dump(base) == dump(paths[0])
        return set()
    assert ours[0].tripwires == theirs[0].tripwires
    assert ours[0].counted_in_sum == theirs[0].counted_in_sum
    assert prove(ours[0]) == prove(theirs[0])
    assert [shape(one) for one in ours[0].tables] == [shape(one) for one in theirs[0].tables]
    assert ours[1] == theirs[1]
    if not ours[0].tripwires:
        backs = [undone(path, triggers=path == paths[0]) for path in paths]
        assert backs[0] == backs[1]
        assert dump(base) == dump(paths[0])
        assert dump(base) == dump(paths[1])
    return {one.captured_by for one in ours[0].tables}


def shape(one: CapturedTable) -> tuple[Any, ...]:
    """What a capture says of a table, but for who captured it."""
    return (one.table, one.before_rows, one.after_rows, one.both_rows, one.after_columns)


@given(st.integers(0, 2**32))
@example(0)
def test_what_triggers_capture_is_what_a_session_records(seed: int) -> None:
    """Same images, same counts, same proof, and an undo that gives the same rows back."""
    with tempfile.TemporaryDirectory() as folder:
        compare(seed, Path(folder))


@pytest.mark.hunt
@pytest.mark.timeout(0)
def test_what_triggers_capture_is_what_a_session_records_hunted() -> None:
    """The same for thousands of changes; both ways were taken in many of them."""
    first = int(os.environ.get("HUNT_SEED", random.randrange(2**32)))
    print(f"HUNT_SEED={first}")
    taken: list[set[str]] = []
    for seed in range(first, first + int(os.environ.get("HUNT_ROUNDS", "3000"))):
        with tempfile.TemporaryDirectory() as folder:
            try:
                taken.append(compare(seed, Path(folder)))
            except Exception as error:
                raise AssertionError(f"HUNT_SEED={seed} HUNT_ROUNDS=1") from error
    assert any({logged.CAPTURED_BY, "session"} <= ways for ways in taken)


def ways(path: Path, *statements: str) -> dict[str, str]:
    """Table -> who captured it, of a change with these statements."""
    database = opened(path)
    record, capture = change(database, *statements)
    assert capture.tripwires == ()
    before = dump(path)
    undo(database, record)
    database.close()
    assert before != dump(path)
    return {one.table.name.name: one.captured_by for one in capture.tables}


DATA = """
INSERT INTO plain (id, a, b) VALUES (1, 1, 'x'), (2, 2, 'y');
INSERT INTO uniq (id, u, a) VALUES (1, 1, 'x'), (2, 2, 'y');
INSERT INTO part VALUES (1, 1, 1), (2, 1, 0);
INSERT INTO parent VALUES (1, 1);
INSERT INTO child VALUES (1, 1, 1);
INSERT INTO fired VALUES (1, 1, 1);
INSERT INTO keyless VALUES (1, 1);
INSERT INTO loose VALUES ('a', 1, 1);
"""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE plain SET a = 9",
        "UPDATE plain SET a = 9 RETURNING id",
        "DELETE FROM plain WHERE id = 1",
        "UPDATE OR REPLACE uniq SET a = 'z'",
        "DELETE FROM part",
        "UPDATE child SET parent = NULL",
        "UPDATE parent SET a = 9",
    ],
)
def test_plain_statements_are_captured_by_triggers(statement: str, tmp_path: Path) -> None:
    """They touch exactly the rows that they name."""
    assert {logged.CAPTURED_BY} == set(ways(make(tmp_path / "a.db", SCHEMA + DATA), statement).values())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE plain SET id = id + 10",
        "UPDATE plain SET rowid = rowid + 10",
        "INSERT INTO plain (id) VALUES (9)",
        "INSERT INTO plain (id) VALUES (1) ON CONFLICT DO UPDATE SET a = 9",
        "REPLACE INTO plain (id) VALUES (1)",
        "UPDATE uniq SET u = 2 WHERE id = 1",
        "UPDATE plain SET a = 9; UPDATE plain SET b = 'z'",
        "UPDATE part SET a = 7 WHERE id = 1",
        "DELETE FROM parent",
        "UPDATE fired SET a = 9",
        "UPDATE fired SET b = 9",
        "UPDATE keyless SET a = 9",
        "UPDATE loose SET a = 9",
    ],
)
def test_other_statements_are_captured_by_the_session(statement: str, tmp_path: Path) -> None:
    """A key, a unique index, a trigger, an action, two statements at once: each may write what it does not name."""
    assert {"session"} == set(ways(make(tmp_path / "a.db", SCHEMA + DATA), statement).values())


def test_a_table_is_handed_over_to_the_session_before_another_kind_of_statement(tmp_path: Path) -> None:
    """From then on the session has it to the end; other tables keep their triggers."""
    path = make(tmp_path / "a.db", SCHEMA + DATA)
    found = ways(
        path,
        "UPDATE plain SET a = 9",
        "UPDATE parent SET a = 9",
        "DELETE FROM plain WHERE id = 1",
        "INSERT INTO plain (id) VALUES (1)",
        "UPDATE plain SET b = 'z'",
    )
    assert {"plain": "session", "parent": logged.CAPTURED_BY} == found


def test_a_row_that_no_trigger_wrote_rolls_the_run_back(tmp_path: Path) -> None:
    """The counts of a plain statement have to agree."""
    database = opened(make(tmp_path / "a.db", SCHEMA + DATA))
    transaction = database.transaction(())
    transaction.execute("UPDATE plain SET a = 3 WHERE id = 1", ())
    (followed,) = transaction._triggers.logged.values()
    with transaction._ours():
        transaction._connection.execute(f"DROP TRIGGER temp.{followed.triggers['UPDATE']}")
        transaction._connection.execute(
            f"CREATE TEMP TRIGGER {followed.triggers['UPDATE']} DELETE ON plain BEGIN SELECT 1; END"
        )
    transaction.execute("UPDATE plain SET a = 4", ())
    capture = transaction.capture(1, (), keep=False)
    transaction.rollback()
    assert ('table "plain": 2 rows written, 0 captured',) == capture.tripwires
    assert not prove(capture).complete


def test_a_write_to_a_followed_table_that_was_not_foreseen_rolls_the_run_back(tmp_path: Path) -> None:
    """The session is asked about the table, and knows whose it is."""
    database = opened(make(tmp_path / "a.db", SCHEMA + DATA))
    transaction = database.transaction(())
    transaction.execute("UPDATE plain SET a = 3 WHERE id = 1", ())
    with patch.object(RescueTriggers, "choose", lambda *_: None):
        transaction.execute("INSERT INTO plain (id) VALUES (9)", ())
    capture = transaction.capture(1, (), keep=False)
    transaction.rollback()
    assert ('table "plain" was written by a statement that had not said so',) == capture.tripwires


def test_a_change_cannot_write_the_rescue_that_the_triggers_fill(tmp_path: Path) -> None:
    """Its name can be seen, and is denied."""
    database = opened(make(tmp_path / "a.db", SCHEMA + DATA))
    transaction = database.transaction(())
    transaction.execute("UPDATE plain SET a = 3", ())
    (followed,) = transaction._triggers.logged.values()
    with pytest.raises(Refused) as met:
        transaction.execute(f"DELETE FROM {followed.before}", ())
    transaction.rollback()
    assert f'the change writes backout\'s own table "{followed.before}"' == met.value.message


def test_text_that_is_not_utf_8_is_captured_and_put_back_as_it_was(tmp_path: Path) -> None:
    """No value passes through Python on this way."""
    path = make(
        tmp_path / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, s); INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT))"
    )
    database = opened(path)
    record, _ = change(database, "UPDATE t SET s = 'x'")
    undo(database, record)
    assert [("FF41", "text")] == database.query("SELECT hex(s), typeof(s) FROM t").rows
