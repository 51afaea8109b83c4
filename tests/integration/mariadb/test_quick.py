"""The quick form, and when it is not taken: the rows are the same either way."""

# ruff: noqa: E501  statements are read more easily in one line

from __future__ import annotations

import pytest

from backout.engines.mariadb.quick import plain_write
from backout.engines.values import Resolution, RunState
from backout.errors import Busy, Interrupted
from backout.recovery.plan import UndoPolicy, plan_undo
from integration.mariadb.driving import change, dump, make, opened, start, supervise, transaction, undo
from servers_mariadb import MariaDatabase

BIG = (
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20), u TIMESTAMP(6) DEFAULT '2020-01-01 00:00:00' ON UPDATE CURRENT_TIMESTAMP(6), KEY (a));"
    "INSERT INTO t (id, a, b) SELECT seq, seq MOD 7, 'x' FROM seq_1_to_30000;"
)
QUICK = [
    "UPDATE t SET b = 'y' WHERE id % 2 = 0",
    "UPDATE t SET a = a + 1 WHERE a < 3 AND b = 'x'",
    "UPDATE `t` SET b = CONCAT(b, 'z'), a = 3 WHERE id <= 20000",
    "DELETE FROM t WHERE a IN (1, 2, 3)",
]


@pytest.mark.parametrize("statement", QUICK)
def test_a_plain_statement_of_many_rows_is_captured_quickly_and_undone_exactly(
    mariadb: MariaDatabase, statement: str
) -> None:
    make(mariadb, BIG)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, capture, verdict = change(engine, statement)
        assert ["two sessions, quick form"] == [one.captured_by for one in capture.tables]
        assert verdict.level == "exact"
        outcome, _ = undo(engine, record)
        assert not outcome.refused
        engine.journal.settle()
    assert before == dump(mariadb)


GENERAL = [
    ["UPDATE t SET b = 'y' WHERE RAND() < 0.9"],
    ["UPDATE t SET b = 'y' WHERE id % 2 = 0 LIMIT 9000"],
    ["UPDATE t SET b = IF(id < 100, 'x', 'y') WHERE id < 20000"],  # some rows stay as they are
    ["UPDATE t SET b = 'y' WHERE id < 9000", "UPDATE t SET b = 'z' WHERE id = 5"],
    ["UPDATE t SET id = id + 100000 WHERE id < 9000"],
    ["UPDATE t SET b = 'y' WHERE id IN (SELECT id FROM (SELECT id FROM t LIMIT 8000) x)"],
    ["SET @x = 9000", "UPDATE t SET b = 'y' WHERE id < @x"],
]


@pytest.mark.parametrize("statements", GENERAL)
def test_all_others_are_captured_in_the_general_form(mariadb: MariaDatabase, statements: list[str]) -> None:
    make(mariadb, BIG)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, capture, _ = change(engine, *statements)
        assert ["two sessions"] == [one.captured_by for one in capture.tables]
        undo(engine, record)
        tables = [row[0] for row in mariadb.execute("SHOW TABLES FROM rescue")]
        assert all(name.endswith(("_before", "_after")) for name in tables)
        assert len(tables) == 4
    assert before == dump(mariadb)


def test_rows_that_others_make_meet_the_condition_send_it_to_the_general_form(mariadb: MariaDatabase) -> None:
    make(mariadb, BIG)
    with opened(mariadb) as engine:

        def act(transaction):  # type: ignore[no-untyped-def]
            transaction.execute("UPDATE t SET b = 'y' WHERE a < 3")
            mariadb.as_application(
                "INSERT INTO t (id, a, b) VALUES (99999, 1, 'theirs'); UPDATE t SET a = 1 WHERE id = 6"
            )

        _, capture, verdict = supervise(engine, act)
        (one,) = capture.tables
        assert ("two sessions", "exact") == (one.captured_by, verdict.level)
        assert one.before_rows == one.after_rows == capture.counted_in_sum


@pytest.mark.parametrize(
    "text",
    ["UPDATE t SET a = 1", "UPDATE t x SET a = 1 WHERE a = 2", "UPDATE t, u SET a = 1 WHERE a = 2", "DELETE FROM t WHERE f(a)",
     "UPDATE t SET a = 1 WHERE a = @x", "UPDATE t SET a = 1 WHERE a > CURRENT_DATE", "DELETE t FROM t WHERE a = 1",
     "UPDATE t SET a = 1 WHERE a = 1 ORDER BY a", "DELETE FROM t WHERE s.length(a) = 1", "UPDATE t SET a = (SELECT 1) WHERE a = 1",
     "INSERT INTO t VALUES (1)", "UPDATE IGNORE t SET a = 1 WHERE b = 1"],
)  # fmt: skip
def test_what_is_not_plain_is_not_taken_for_plain(text: str) -> None:
    assert plain_write(text, "db") is None


def test_an_undo_of_a_quick_run_is_taken_whole_where_nobody_wrote_since(mariadb: MariaDatabase) -> None:
    make(mariadb, BIG)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 'y' WHERE id % 2 = 0")
        changed = dump(mariadb)
        outcome, undone = undo(engine, record)
        assert undone is not None
        assert [15000] == [counts.updated for counts in outcome.restored.values()]
        assert ["compared by the undo, quick form"] == [one.captured_by for one in undone.tables]
        assert before == dump(mariadb)
        undo(engine, undone)  # and the undo of that, in the same way
        assert changed == dump(mariadb)


def test_an_undo_of_a_quick_run_is_read_again_where_somebody_wrote_to_other_columns(mariadb: MariaDatabase) -> None:
    """One row is not wholly as the run left it: what the run did not set is kept, and its images are those of now."""
    make(mariadb, "CREATE TABLE k (id INT PRIMARY KEY, a INT, b VARCHAR(20)); INSERT INTO k SELECT seq, seq, 'x' FROM seq_1_to_9000")  # fmt: skip
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE k SET b = 'y' WHERE id > 1000")
        mariadb.as_application("UPDATE k SET a = -1 WHERE id = 2000")
        theirs = dump(mariadb)
        outcome, undone = undo(engine, record)
        assert ([8000], ()) == ([counts.updated for counts in outcome.restored.values()], outcome.conflicts)
        assert undone is not None
        assert ["two sessions, quick form"] == [one.captured_by for one in undone.tables]
        assert [(8000, -1)] == mariadb.execute("SELECT COUNT(*), MIN(IF(id = 2000, a, 0)) FROM k WHERE b = 'x' AND id > 1000")  # fmt: skip
        rescued = f"rescue.`{undone.tables[0].before_rescue}`"
        assert [(8000, -1)] == mariadb.execute(f"SELECT COUNT(*), MIN(IF(id = 2000, a, 0)) FROM {rescued} WHERE b = 'y'")  # fmt: skip
        undo(engine, undone)
        assert theirs == dump(mariadb)
        engine.journal.settle()
        named = {name for run in engine.journal.runs(9) for one in run.tables for name in (one.before_rescue, one.after_rescue)}  # fmt: skip
        assert named == {str(row[0]) for row in mariadb.execute("SHOW TABLES FROM rescue")}


def test_the_images_of_an_undo_that_was_compared_are_the_rows_before_and_after_it(mariadb: MariaDatabase) -> None:
    make(mariadb, BIG)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 'y', a = a + 1 WHERE id > 100")
        then = mariadb.execute("SELECT * FROM t WHERE id > 100 ORDER BY id")
        _, undone = undo(engine, record)
        assert undone is not None
        (one,) = undone.tables
        assert ("compared by the undo, quick form", ("a", "b", "u")) == (one.captured_by, one.after_columns)
        assert then == mariadb.execute(f"SELECT * FROM rescue.`{one.before_rescue}` ORDER BY id")
        now = mariadb.execute("SELECT id, a, b, u FROM t WHERE id > 100 ORDER BY id")
        assert now == mariadb.execute(f"SELECT id, a, b, u FROM rescue.`{one.after_rescue}` ORDER BY id")


def test_an_undo_that_waits_in_vain_for_a_row_leaves_nothing(mariadb: MariaDatabase) -> None:
    """Its images are on their way by then."""
    make(mariadb, BIG)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 'y' WHERE id % 2 = 0")
        changed, tables = dump(mariadb), mariadb.execute("SHOW TABLES FROM rescue")
        other = mariadb.connect("application", autocommit=False)
        other.cursor().execute("SELECT * FROM t WHERE id = 29000 FOR UPDATE")
        with pytest.raises(Busy, match="a lock was not got in time"):
            undo(engine, record)
        other.rollback()
        assert changed == dump(mariadb)
        engine.journal.end_run(record.number + 1, RunState.ROLLED_BACK, (), {})
        assert tables == mariadb.execute("SHOW TABLES FROM rescue")
        undo(engine, record)


def test_an_undo_whose_copying_session_is_ended_leaves_nothing(mariadb: MariaDatabase) -> None:
    make(mariadb, BIG)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 'y' WHERE id % 2 = 0")
        changed, tables = dump(mariadb), mariadb.execute("SHOW TABLES FROM rescue")
        now = {one.table.name: engine.table(one.table.name) for one in record.tables}
        number = engine.journal.begin_run(start())
        with transaction(engine) as found:
            mariadb.execute(f"KILL {found._aux.number}")
            with pytest.raises(Interrupted, match="the connection to the server was lost"):
                found.revert(plan_undo(record.number, record.tables, now, UndoPolicy()), Resolution())
        engine.journal.end_run(number, RunState.ROLLED_BACK, (), {})
        assert (changed, tables) == (dump(mariadb), mariadb.execute("SHOW TABLES FROM rescue"))


@pytest.mark.parametrize("name", ["k", "t", "a", "u"])
def test_a_table_may_have_the_names_that_our_own_statements_use(mariadb: MariaDatabase, name: str) -> None:
    make(mariadb, f"CREATE TABLE {name} (k INT PRIMARY KEY, t INT, A INT, B INT, U INT); INSERT INTO {name} SELECT seq, 1, 2, 3, 4 FROM seq_1_to_6000")  # fmt: skip
    before = dump(mariadb)
    with opened(mariadb) as engine:
        for statement in (f"UPDATE {name} SET t = 9, a = 8 WHERE t = 1", f"DELETE FROM {name} WHERE b = 3"):
            record, capture, _ = change(engine, statement)
            assert ["two sessions, quick form"] == [one.captured_by for one in capture.tables]
            undo(engine, record)
            assert before == dump(mariadb)


def test_an_undo_of_a_quick_run_goes_the_careful_way_where_somebody_wrote_since(mariadb: MariaDatabase) -> None:
    make(mariadb, BIG)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 'y' WHERE id % 2 = 0")
        mariadb.as_application(
            "UPDATE t SET b = 'mine' WHERE id = 2; UPDATE t SET a = -5 WHERE id = 4; DELETE FROM t WHERE id = 6"
        )
        outcome, _ = undo(engine, record)
        assert [("CHANGED", "2", ("b", "u")), ("CHANGED", "4", ("u",)), ("DELETED", "6", ())] == [
            (one.kind.name, one.key["id"], one.columns) for one in outcome.conflicts
        ]
        undo(engine, record, Resolution(partial=True))
        again, _ = undo(engine, record)
        assert ["2", "4", "6"] == [one.key["id"] for one in again.conflicts]
        undo(engine, record, Resolution(overwrite=frozenset({1, 2, 3}), seen=again.fingerprint))
        mariadb.as_application("UPDATE t SET a = 4 MOD 7, u = '2020-01-01 00:00:00' WHERE id = 4")
    assert before == dump(mariadb)
