"""Writes that an account does not see, or takes for others: followed, or refused before they are lost."""

# ruff: noqa: E501  schemas and statements are read more easily in one line

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from backout.errors import Refused
from integration.mariadb.driving import change, dump, make, opened, undo
from servers_mariadb import LOGIN_GRANTS, MariaDatabase

PLAIN = (
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20)); INSERT INTO t SELECT seq, seq, 'x' FROM seq_1_to_20;"
)


def there_and_back(mariadb: MariaDatabase, *statements: str) -> list[str]:
    """Run, undo, compare; returns the names of the tables that were captured."""
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, capture, _ = change(engine, *statements)
        assert before != dump(mariadb)
        outcome, _ = undo(engine, record)
        assert not outcome.refused
    assert before == dump(mariadb)
    return [str(one.table.name) for one in capture.tables]


def refused(mariadb: MariaDatabase, *statements: str) -> Refused:
    """Nothing is written; the reason."""
    before = dump(mariadb)
    with opened(mariadb) as engine, pytest.raises(Refused) as raised:
        change(engine, *statements)
    assert before == dump(mariadb)
    return raised.value


@contextmanager
def neighbour(mariadb: MariaDatabase, schema: str = "", *, seen: bool = False) -> Iterator[str]:
    """Another database of the server; `{n}` and `{d}` of the schema are its name and that of the test's."""
    name = f"{mariadb.name}_other"
    mariadb.execute(f"CREATE DATABASE `{name}`")
    try:
        mariadb.execute(schema.format(n=name, d=mariadb.name))
        if seen:
            mariadb.execute(f"GRANT ALL ON `{name}`.* TO `{mariadb.login_role}`@`%`")
        yield name
    finally:
        mariadb.execute(f"DROP DATABASE `{name}`")


# -- temporary tables that have another table's name -------------------------------------------------------------------


def test_a_temporary_table_of_another_letter_case_is_another_table(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    found = there_and_back(mariadb, "CREATE TEMPORARY TABLE T (id INT)", "UPDATE t SET a = 0 WHERE id < 5")
    assert [f"{mariadb.name}.t"] == found


def test_a_table_of_another_database_is_not_the_temporary_one_of_that_name(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with neighbour(
        mariadb, "CREATE TABLE {n}.t (id INT PRIMARY KEY, a INT); INSERT INTO {n}.t VALUES (1, 1)", seen=True
    ) as name:
        with opened(mariadb) as engine:
            record, capture, _ = change(
                engine, "CREATE TEMPORARY TABLE t (id INT, a INT)", f"UPDATE {name}.t SET a = 9"
            )
            assert [f"{name}.t"] == [str(one.table.name) for one in capture.tables]
            undo(engine, record)
        assert [(1, 1)] == mariadb.execute(f"SELECT * FROM {name}.t")  # fmt: skip


def test_a_temporary_table_that_a_procedure_has_dropped_is_none_any_more(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN + "CREATE PROCEDURE d() DROP TEMPORARY TABLE t;")
    found = there_and_back(
        mariadb, "CREATE TEMPORARY TABLE t (id INT, a INT)", "CALL d()", "UPDATE t SET a = 0 WHERE id < 5"
    )
    assert [f"{mariadb.name}.t"] == found


def test_all_temporary_tables_that_one_statement_drops_are_gone(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    found = there_and_back(
        mariadb, "CREATE TEMPORARY TABLE z (id INT)", "CREATE TEMPORARY TABLE t (id INT, a INT)",
        "DROP TEMPORARY TABLE z, t", "UPDATE t SET a = 0",
    )  # fmt: skip
    assert [f"{mariadb.name}.t"] == found


@pytest.mark.parametrize(
    "hiding", ["CREATE TEMPORARY TABLE t AS SELECT seq AS id, seq AS a, 'x' AS b FROM seq_1_to_20", "CALL hides()"]
)
def test_a_temporary_table_that_hides_what_was_written_is_refused(mariadb: MariaDatabase, hiding: str) -> None:
    """It has the very rows that were there before: compared with it, nothing would have changed."""
    make(mariadb, PLAIN + "CREATE PROCEDURE hides() CREATE TEMPORARY TABLE t AS SELECT seq AS id, seq AS a, 'x' AS b FROM seq_1_to_20")  # fmt: skip
    error = refused(mariadb, "UPDATE t SET a = 0 WHERE id < 5", hiding)
    assert f"a temporary table of the change hides table {mariadb.name}.t, which cannot be compared" == error.message
    assert ("rolled back", "give the temporary table another name") == (error.state, error.hint)


def test_a_temporary_table_is_made_by_its_bare_name(mariadb: MariaDatabase) -> None:
    error = refused(mariadb, f"CREATE TEMPORARY TABLE {mariadb.name}.z (id INT)")
    assert "a temporary table could hide another one" == error.message


# -- tables, columns and triggers that are not shown to the account ----------------------------------------------------


@pytest.mark.parametrize("action", ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE", ""])
def test_a_table_that_is_not_seen_and_refers_to_a_written_one_is_refused(mariadb: MariaDatabase, action: str) -> None:
    """A cascade would write it; without one, an undo could not ask whether its rows are still referred to."""
    make(mariadb, "CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p VALUES (1), (2)")
    with neighbour(mariadb, f"CREATE TABLE {{n}}.`c-ü` (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES {{d}}.p (id) {action}); INSERT INTO {{n}}.`c-ü` VALUES (1, 1)") as name:  # fmt: skip
        error = refused(mariadb, "DELETE FROM p WHERE id = 2")
        assert [(1, 1)] == mariadb.execute(f"SELECT * FROM {name}.`c-ü`")
        assert (
            f'table {name}."c-ü" is tied to one that the change writes by a foreign key, and this account cannot see it'
            == error.message
        )
        assert f"GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON `{name}`.`c-ü` to this account" == error.hint


def test_the_same_table_is_followed_where_it_is_seen(mariadb: MariaDatabase) -> None:
    make(mariadb, "CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p VALUES (1), (2)")
    with neighbour(mariadb, "CREATE TABLE {n}.`c-ü` (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES {d}.p (id) ON DELETE CASCADE); INSERT INTO {n}.`c-ü` VALUES (1, 1)", seen=True) as name:  # fmt: skip
        assert [f"{mariadb.name}.p", f'{name}."c-ü"'] == there_and_back(mariadb, "DELETE FROM p WHERE id = 1")
        assert [(1, 1)] == mariadb.execute(f"SELECT * FROM {name}.`c-ü`")


@pytest.mark.parametrize(
    "body", ["UPDATE {n}.s SET a = 9", "DELETE x FROM {n}.s AS x", "INSERT INTO {n}.s SELECT 7, 7", "IF 1 THEN REPLACE {n}.s VALUES (1, 3); END IF"]
)  # fmt: skip
@pytest.mark.parametrize("storage", ["InnoDB", "MyISAM"])
def test_a_routine_that_writes_what_the_account_does_not_see_is_refused(
    mariadb: MariaDatabase, body: str, storage: str
) -> None:
    """It runs with its definer's rights."""
    make(mariadb, PLAIN)
    with neighbour(mariadb, f"CREATE TABLE {{n}}.s (id INT PRIMARY KEY, a INT) ENGINE={storage}; INSERT INTO {{n}}.s VALUES (1, 1); CREATE PROCEDURE {{d}}.p() BEGIN {body}; END") as name:  # fmt: skip
        error = refused(mariadb, "CALL p()")
        assert [(1, 1)] == mariadb.execute(f"SELECT * FROM {name}.s")
        assert (
            f"routine {mariadb.name}.p writes {name}.s, which is not there, or not for this account to see"
            == error.message
        )


def test_a_routine_may_read_what_the_account_does_not_see_and_write_its_own_temporary_table(
    mariadb: MariaDatabase,
) -> None:
    make(mariadb, PLAIN)
    body = "BEGIN CREATE TEMPORARY TABLE IF NOT EXISTS z (a INT); INSERT INTO z SELECT a FROM {n}.s; UPDATE t x JOIN z ON z.a = x.id SET x.a = 0; END"
    with neighbour(mariadb, f"CREATE TABLE {{n}}.s (id INT PRIMARY KEY, a INT); INSERT INTO {{n}}.s VALUES (1, 1); CREATE PROCEDURE {{d}}.p() {body}"):  # fmt: skip
        assert [f"{mariadb.name}.t"] == there_and_back(mariadb, "CALL p()")


def test_a_view_and_a_trigger_that_write_what_the_account_does_not_see_are_refused(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with neighbour(mariadb, "CREATE TABLE {n}.s (id INT PRIMARY KEY, a INT); INSERT INTO {n}.s VALUES (1, 1); CREATE VIEW {d}.v AS SELECT * FROM {n}.s") as name:  # fmt: skip
        mariadb.execute(f"USE {mariadb.name}; CREATE TRIGGER log AFTER UPDATE ON t FOR EACH ROW INSERT INTO {name}.s VALUES (NEW.id + 5, 5)")  # fmt: skip
        reason = f"writes {name}.s, which is not there, or not for this account to see"
        assert f"view {mariadb.name}.v {reason}" == refused(mariadb, "UPDATE v SET a = 9").message
        assert f'trigger "log" on {mariadb.name}.t {reason}' == refused(mariadb, "UPDATE t SET a = 9").message
        assert [(1, 1)] == mariadb.execute(f"SELECT * FROM {name}.s")


@pytest.mark.parametrize(
    ("grant", "message", "hint"),
    [
        ("SELECT (id, a), UPDATE (a), DELETE, TRIGGER", "this account may not read every column of table {d}.t", "SELECT"),
        ("SELECT, UPDATE, DELETE", "this account does not see the triggers of table {d}.t", "TRIGGER"),
    ],
)  # fmt: skip
def test_a_table_that_is_seen_in_part_is_refused(mariadb: MariaDatabase, grant: str, message: str, hint: str) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb):
        pass  # the journal is there
    weak = replace(mariadb, login_role=mariadb.create_role("weak", [f"{grant} ON `{mariadb.name}`.t", *LOGIN_GRANTS]))
    error = refused(weak, "DELETE FROM t WHERE id = 1")
    assert message.format(d=mariadb.name) == error.message
    assert f"GRANT {hint} ON `{mariadb.name}`.`t` to this account" == error.hint


def test_a_right_on_one_table_alone_is_enough(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    grant = f"SELECT, UPDATE, DELETE, INSERT, TRIGGER ON `{mariadb.name}`.t"
    temporary = f"CREATE TEMPORARY TABLES ON `{mariadb.name}`.*"
    with opened(mariadb):
        pass
    weak = replace(mariadb, login_role=mariadb.create_role("weak", [grant, temporary, *LOGIN_GRANTS]))
    assert [f"{mariadb.name}.t"] == there_and_back(weak, "DELETE FROM t WHERE id = 1")


# -- what no transaction holds -----------------------------------------------------------------------------------------


def test_a_sequence_that_is_written_like_a_table_is_refused(mariadb: MariaDatabase) -> None:
    """It takes effect at once, also in a ghost; NEXT VALUE FOR is allowed."""
    make(mariadb, PLAIN + "CREATE SEQUENCE s")
    error = refused(mariadb, "INSERT INTO s VALUES (50, 1, 9223372036854775806, 1, 1, 1000, 0, 0)")
    assert f"the change writes the sequence {mariadb.name}.s, which no ROLLBACK takes back" == error.message
    assert [(1,)] == mariadb.execute("SELECT next_not_cached_value FROM s")
    with opened(mariadb) as engine:
        record, capture, _ = change(engine, "UPDATE t SET a = 100 + NEXT VALUE FOR s WHERE id > 5")
        assert [(f"{mariadb.name}.t", 15)] == [(str(one.table.name), one.before_rows) for one in capture.tables]
        undo(engine, record)
    assert [(20, 210)] == mariadb.execute("SELECT COUNT(*), SUM(a) FROM t")


def test_a_routine_that_sets_autocommit_by_a_quoted_name_is_refused(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN + "CREATE PROCEDURE p() BEGIN UPDATE t SET a = 0; SET `autocommit` = 1; END")
    assert "contains a SET of a setting that a run has to own" in refused(mariadb, "CALL p()").message


@pytest.mark.parametrize("how", ["PROCEDURE p()", "TRIGGER w BEFORE UPDATE ON t FOR EACH ROW"])
def test_a_statement_that_would_pass_for_a_text_is_not_missed(mariadb: MariaDatabase, how: str) -> None:
    """Under NO_BACKSLASH_ESCAPES a text ends after its backslash; where a backslash escapes, the next statement is text."""
    hidden = r"BEGIN SET @path = 'C:\'; INSERT INTO log VALUES (1); -- '" "\nSET @y = 1; END"
    make(mariadb, PLAIN + f"CREATE TABLE log (a INT) ENGINE=MyISAM; SET sql_mode = 'NO_BACKSLASH_ESCAPES'; CREATE {how} {hidden}")  # fmt: skip
    error = refused(mariadb, "CALL p()" if how.startswith("PROCEDURE") else "UPDATE t SET a = 0")
    assert "was made under NO_BACKSLASH_ESCAPES and contains a backslash" in error.message
    assert [(0,)] == mariadb.execute("SELECT COUNT(*) FROM log")
    make(mariadb, r"SET sql_mode = 'NO_BACKSLASH_ESCAPES'; CREATE PROCEDURE plain() UPDATE t SET b = 'no such sign' WHERE id = 2")  # fmt: skip
    mariadb.execute(f"USE {mariadb.name}; DROP TRIGGER IF EXISTS w")
    assert [f"{mariadb.name}.t"] == there_and_back(mariadb, "CALL plain()")


# -- triggers of later, and rows that tell nothing ---------------------------------------------------------------------


def test_a_trigger_made_since_that_rewrites_rows_without_a_key_makes_the_undo_fail(mariadb: MariaDatabase) -> None:
    make(mariadb, "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1), (2, 2)")
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET b = 5 WHERE a = 1")
        changed = dump(mariadb)
        make(mariadb, "CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW SET NEW.b = 77")
        with pytest.raises(Refused, match="are not as they were: a trigger has rewritten them"):
            undo(engine, record)
        assert changed == dump(mariadb)


def test_rows_that_refer_to_rows_of_their_own_table_are_not_taken_for_those_of_a_plain_delete(
    mariadb: MariaDatabase,
) -> None:
    """The server has counted more rows than the condition names; the quick form is not even tried."""
    make(mariadb, "CREATE TABLE t (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES t (id) ON DELETE SET NULL); INSERT INTO t SELECT seq, IF(seq > 10000, seq - 10000, NULL) FROM seq_1_to_20000")  # fmt: skip
    before = dump(mariadb)
    with opened(mariadb) as engine:
        record, capture, verdict = change(engine, "DELETE FROM t WHERE id <= 8000")
        assert [("two sessions", 16000, 8000)] == [(c.captured_by, c.before_rows, c.after_rows) for c in capture.tables]
        assert "exact" == verdict.level
        undo(engine, record)
    assert before == dump(mariadb)
