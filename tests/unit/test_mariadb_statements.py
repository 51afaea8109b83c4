"""What can be known of a MariaDB statement from its text alone."""

# ruff: noqa: E501  statements are read more easily in one line

from __future__ import annotations

import pytest

from backout.errors import InvalidFile
from backout.sql.mariadb import read, read_script, without_parameters
from backout.sql.model import Kind, Statement, Trait


def one(text: str, *parameters: str) -> Statement:
    (statement,) = read(text, parameters, "change.sql")
    return statement


@pytest.mark.parametrize(
    ("text", "targets"),
    {
        "UPDATE t SET a = 1, b = (SELECT MAX(x) FROM u) WHERE id = 1": [("update", None, "t", ("a", "b"))],
        "UPDATE LOW_PRIORITY IGNORE `my db`.`my ``t` x SET x.a = 1": [("update", "my db", "my `t", ("a",))],
        "UPDATE a JOIN b USING (id) SET a.x = 1, b.y = 2": [("update", None, "a", ("x", "y")), ("update", None, "b", ("x", "y"))],
        "UPDATE a, s.b SET a.x = 1": [("update", None, "a", ("x",)), ("update", "s", "b", ("x",))],
        "INSERT INTO t (a) VALUES (1)": [("insert", None, "t", ())],
        "INSERT t SELECT * FROM u ON DUPLICATE KEY UPDATE a = 1": [("insert", None, "t", ()), ("update", None, "t", ())],
        "REPLACE INTO t SET a = 1": [("insert", None, "t", ())],
        "DELETE FROM t WHERE a IN (SELECT b FROM u)": [("delete", None, "t", ())],
        "DELETE a FROM a JOIN b ON a.id = b.id": [("delete", None, "a", ()), ("delete", None, "b", ())],
        "DELETE FROM a, b USING a JOIN b JOIN c": [("delete", None, "a", ()), ("delete", None, "b", ()), ("delete", None, "c", ())],
        "CALL p(1)": [],
    }.items(),
)  # fmt: skip
def test_the_tables_that_a_write_names_are_its_targets(text: str, targets: list[tuple[object, ...]]) -> None:
    statement = one(text)
    assert (Kind.WRITE, None) == (statement.kind, statement.objection)
    assert targets == [(t.operation, t.schema, t.table, t.columns) for t in statement.targets]


REFUSED = {
    "TRUNCATE t": "it changes the schema, which commits at once and cannot be rolled back",
    "CREATE TABLE t (a INT)": "it changes the schema, which commits at once and cannot be rolled back",
    "DROP TABLE t": "it changes the schema, which commits at once and cannot be rolled back",
    "ALTER TABLE t ADD a INT": "it changes the schema, which commits at once and cannot be rolled back",
    "RENAME TABLE a TO b": "it changes the schema, which commits at once and cannot be rolled back",
    "LOCK TABLES t WRITE": "it commits the transaction at once",
    "UNLOCK TABLES": "it commits the transaction at once",
    "FLUSH TABLES": "it commits the transaction at once",
    "BEGIN": "a change may not control the transaction",
    "START TRANSACTION": "a change may not control the transaction",
    "COMMIT": "a change may not control the transaction",
    "XA START 'x'": "a change may not control the transaction",
    "SET autocommit = 0": 'setting "autocommit" may not be set: a change may not control the transaction',
    "SET @a = 1, SESSION autocommit = 0": 'setting "autocommit" may not be set: a change may not control the transaction',
    "SET @@session.foreign_key_checks = 0": 'setting "foreign_key_checks" may not be set: it switches constraints off',
    "SET GLOBAL max_connections = 1": 'setting "max_connections" is set for the whole server, which is not undone',
    "SET PASSWORD = 'x'": 'setting "password" may not be set: it changes who the change runs as',
    "SET NAMES latin1": 'setting "names" may not be set: it changes how the rest of the file is read',
    "SET STATEMENT max_statement_time = 1 FOR DELETE FROM t": "SET STATEMENT changes settings for what follows it",
    "SET nobody_knows = 1": 'setting "nobody_knows" is not one that a change may set',
    "PREPARE s FROM 'DELETE FROM t'": "it runs text as a statement, which cannot be read beforehand",
    "EXECUTE IMMEDIATE 'DELETE FROM t'": "it runs text as a statement, which cannot be read beforehand",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE t": "it reads or writes files",
    "SELECT * FROM t INTO OUTFILE '/x'": "it reads or writes files",
    "DELIMITER //": "it is a command of the mysql client, not of the server",
    "SOURCE x.sql": "it is a command of the mysql client, not of the server",
    "USE other": "names after it would mean other tables",
    "ANALYZE TABLE t": "it is administration, which commits at once",
    "CREATE TEMPORARY TABLE shop.z (id INT)": "a temporary table could hide another one",
    "INSERT DELAYED INTO t VALUES (1)": "DELAYED writes outside of the transaction",
    "DELETE HISTORY FROM t": "it removes the history of a system-versioned table",
    "SELECT GET_LOCK('a', 1)": (
        'function "get_lock" may not be called: user locks are not part of the transaction; backout\'s own could be let go'
    ),
    "UPDATE backout.run SET state = 'x'": 'database "backout" is backout\'s own: a change may not name "backout.run"',
    "DELETE FROM mysql.user": '"mysql.user" belongs to the server: writes to it cannot be undone',
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_may_not_stand_in_a_change_says_why(text: str) -> None:
    statement = one(text)
    assert statement.kind is Kind.FORBIDDEN
    assert statement.objection is not None
    assert REFUSED[text] == statement.objection.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/*!50000 UPDATE t SET a = 1 */", "an executable comment"),
        ("SELECT 1 /*! , 2 */", "an executable comment"),
        ("SELECT 1; /*M!100100 DELETE FROM t */", "an executable comment"),
        ("SELECT 'a", "a quote ' without its end"),
        ("SELECT /* a", "a comment /* without its end"),
        ("SELECT /* a /* b */ 1", "a comment inside of a comment"),
        ("MERGE INTO t", 'a statement cannot begin with "MERGE"'),
        ("SELECT :missing", 'parameter "missing" is not declared'),
        ("SELECT ?", 'parameter "?" is not written :name'),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        read(text, ["p"], "change.sql")
    assert message in raised.value.message
    assert "change.sql:1:" in raised.value.message


@pytest.mark.parametrize(
    "text",
    ["SELECT '/*! not a comment */'", 'SELECT "/*M! nor this */"', "SELECT `/*! nor this`", "SELECT 1 -- /*! nor this",
     "SELECT 1 # /*! nor this", r"SELECT 'it\'s /*! fine */'", "SELECT 'it''s /*! fine */'"],
)  # fmt: skip
def test_texts_names_and_line_comments_may_hold_anything(text: str) -> None:
    assert one(text).kind is Kind.READ


def test_statements_end_at_semicolons_outside_of_texts_and_names() -> None:
    text = "SELECT ';', \";\", `;` -- ;\n; # ;\nSELECT 5--3 /* ; */;\n-- @title\nUPDATE t SET a = 'x;\\';y'"
    assert [(1, 1), (3, 1), (5, 1)] == [(one.line, one.column) for one in read(text, (), "f")]
    assert [" @title"] == [comment.text for comment in read(text, (), "f")[2].comments]


def test_comments_after_the_last_statement_are_kept() -> None:
    assert [" @after"] == [comment.text for comment in read_script("SELECT 1;\n-- @after", (), "f").trailing_comments]


def test_parameters_stay_as_they_are_written() -> None:
    statement = one("UPDATE t SET a = :a, b = ':no' WHERE c = :a -- :no", "a")
    assert (("a",), "UPDATE t SET a = :a, b = ':no' WHERE c = :a") == (statement.parameters, statement.text)
    assert "SELECT NULL, 'x %s ?', NULL, NULL, 5 % 3" == without_parameters("SELECT %s, 'x %s ?', ?, %(name)s, 5 % 3")


def test_a_temporary_table_is_no_target_of_the_capture() -> None:
    script = read(
        "CREATE TEMPORARY TABLE z AS SELECT 1; INSERT INTO z VALUES (2); DROP TEMPORARY TABLE z; UPDATE z SET a = 1",
        (),
        "f",
    )
    assert [Kind.TEMPORARY, Kind.WRITE, Kind.TEMPORARY, Kind.WRITE] == [one.kind for one in script]
    assert ["temp", None] == [script[1].targets[0].schema, script[3].targets[0].schema]


def test_a_temporary_table_is_meant_by_its_bare_name_and_letter_case_until_it_is_dropped() -> None:
    """Everything else could be a table, and is captured."""
    script = read(
        "CREATE TEMPORARY TABLE z (a INT); CREATE TEMPORARY TABLE y AS SELECT 1; UPDATE Z SET a = 1; UPDATE shop.z SET a = 1;"
        "UPDATE z SET a = 1; DROP TEMPORARY TABLE IF EXISTS y, z; UPDATE z SET a = 1; UPDATE y SET a = 1",
        (),
        "f",
    )
    written = [one.targets[0].schema for one in script if one.targets]
    assert [None, "shop", "temp", None, None] == written


def test_traits_tell_what_a_reviewer_should_know() -> None:
    assert one("UPDATE t SET a = 1").traits == {Trait.EVERY_ROW}
    assert one("DELETE FROM t WHERE a = 1 LIMIT 3").traits == {Trait.LIMIT_WITHOUT_ORDER}
    assert one("REPLACE INTO t VALUES (1)").traits == {Trait.REPLACE}
    assert one("UPDATE t SET a = 1 WHERE b = 2 ORDER BY c LIMIT 3").traits == frozenset()


def test_the_tables_that_a_text_reads_are_named_too() -> None:
    text = "WITH q AS (SELECT * FROM a.b) SELECT (SELECT y FROM q) FROM t, `C d` JOIN e ON f(t.x) = 1"
    assert {("a", "b"), (None, "t"), (None, "C d"), (None, "e")} == set(one(text).tables)
    assert ("f",) == one(text).functions


def test_a_column_list_after_a_qualified_table_is_no_call() -> None:
    assert () == one("INSERT INTO shop.t (a, b) SELECT 1, 2").functions
    assert ("shop.f", "max") == one("SELECT shop.f(1), MAX(x) FROM shop.t").functions
    assert ("s.p",) == one("CALL s.p(1)").functions
