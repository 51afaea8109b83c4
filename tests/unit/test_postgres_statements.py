"""What `backout.sql.postgres` reads out of PostgreSQL text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backout.errors import InvalidFile
from backout.sql.model import Kind, Statement, Trait, WriteTarget
from backout.sql.postgres import read, read_script


def one(text: str, *parameters: str) -> Statement:
    (statement,) = read(text, parameters, "a.sql")
    return statement


def last(text: str) -> Statement:
    return read(text, (), "a.sql")[-1]


def error_of(text: str, *parameters: str) -> str:
    with pytest.raises(InvalidFile) as caught:
        read(text, parameters, "a.sql")
    return str(caught.value)


def test_statements_end_at_semicolons_outside_of_quotes_comments_and_parentheses() -> None:
    text = "SELECT ';', $$;$$, \";\" /* ; */ -- ;\n;\n\n;DELETE FROM é;  SELECT 1"
    assert [statement.text for statement in read(text, (), "a.sql")] == [
        "SELECT ';', $$;$$, \";\"",
        "DELETE FROM é",
        "SELECT 1",
    ]
    assert [(one.line, one.column) for one in read(text, (), "a.sql")] == [(1, 1), (4, 2), (4, 18)]


def test_the_body_of_a_function_is_one_statement() -> None:
    text = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END; SELECT 2"
    assert [Kind.FORBIDDEN, Kind.READ] == [statement.kind for statement in read(text, (), "a.sql")]


def test_columns_named_begin_and_atomic_do_not_hide_the_statement_after_them() -> None:
    """A split that took `begin atomic` for a function's body would show the first statement and run both."""
    text = "SELECT begin atomic; DELETE FROM a"
    assert [Kind.READ, Kind.WRITE] == [statement.kind for statement in read(text, (), "a.sql")]
    assert error_of("\nCREATE TEMP TABLE t AS SELECT begin atomic; DELETE FROM a") == (
        "a.sql:2:1: unable to tell where this statement ends: it has the words begin atomic\nstate: untouched"
    )


def test_comments_belong_to_the_statement_after_them_and_inner_ones_to_the_statement_around_them() -> None:
    script = read_script("-- one\nSELECT 1 -- two\n, 2; -- three\n  -- four\nSELECT 3\n-- five", (), "a.sql")
    first, second = script.statements
    assert [(c.text, c.line, c.column, c.own_line) for c in first.comments] == [(" one", 1, 1, True)]
    assert [c.text for c in first.inner_comments] == [" two"]
    assert [(c.text, c.own_line) for c in second.comments] == [(" three", False), (" four", True)]
    assert [(c.text, c.line) for c in script.trailing_comments] == [(" five", 6)]


def test_declared_parameters_become_placeholders_numbered_by_name() -> None:
    statement = one("UPDATE t SET a = :new WHERE b = :old OR c = :new", "new", "old")
    assert statement.text == "UPDATE t SET a = $1 WHERE b = $2 OR c = $1"
    assert statement.parameters == ("new", "old")


def test_a_parameter_may_be_named_like_a_keyword_and_stand_beside_a_cast() -> None:
    assert one("SELECT :date::date, ARRAY[:value]", "date", "value").text == "SELECT $1::date, ARRAY[$2]"


def test_casts_and_slices_are_not_parameters() -> None:
    text = "SELECT a::n, b[1:n], b[(1):n], b[i:n], f(x := n) FROM t"
    assert one(text, "n").text == text


def test_places_count_characters_also_after_parameters_and_multibyte_text() -> None:
    assert error_of("SELECT 'ééé', :longer_name, é from from", "longer_name") == (
        'a.sql:1:36: syntax error at or near "from"\nstate: untouched'
    )


def test_a_statement_in_a_later_line_of_the_file_is_found_there() -> None:
    with pytest.raises(InvalidFile) as caught:
        read("\nSELECT 'x", (), "a.sql", first_line=10)
    assert str(caught.value.position) == "a.sql:11:8"


def test_an_undeclared_parameter_is_named() -> None:
    assert error_of("SELECT 1;\nSELECT :foo", "bar") == (
        'a.sql:2:8: parameter "foo" is not declared\nstate: untouched\n'
        "hint: declare it under [parameters] in the metadata block"
    )


def test_a_positional_parameter_is_refused() -> None:
    assert error_of("SELECT $1") == (
        'a.sql:1:8: positional parameter "$1"\nstate: untouched\n'
        "hint: write :name, and declare it under [parameters] in the metadata block"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1\0", "a.sql:1:9: a NUL character"),
        ("SELECT 1\rDELETE", "a.sql:1:9: a carriage return outside a line end"),
        ("SELECT '\ud800'", "a.sql:1:9: a surrogate, U+D800, is not a character"),
        ("-- \u202e\n", "a.sql:1:4: an invisible character that changes the reading direction, U+202E"),
    ],
)
def test_characters_that_run_differently_from_how_they_read_are_refused(text: str, message: str) -> None:
    assert error_of(text).splitlines()[0] == message


def test_long_chains_of_operators_are_read() -> None:
    """protobuf's default limit is 100 nested messages, which 50 terms exceed."""
    assert one("SELECT " + "||".join(["'a'"] * 3000)).kind is Kind.READ


def test_targets_include_those_of_ctes_and_upserts() -> None:
    statement = one(
        "WITH d AS (DELETE FROM s.a RETURNING *) INSERT INTO b SELECT * FROM d ON CONFLICT (i) DO UPDATE SET x=1"
    )
    assert set(statement.targets) == {
        WriteTarget("insert", None, "b"),
        WriteTarget("update", None, "b", ("x",)),
        WriteTarget("delete", "s", "a"),
    }
    assert statement.kind is Kind.WRITE
    assert one("WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d").kind is Kind.WRITE
    assert one("MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN DELETE").targets == (
        WriteTarget("merge", None, "a"),
    )


def test_the_columns_of_an_update_are_those_of_its_set_list() -> None:
    statement = one('UPDATE ONLY "S"."T" t SET (a, b) = (1, 2), c[1] = 3, d.e = 4 FROM u WHERE t.i = u.i')
    assert statement.targets == (WriteTarget("update", "S", "T", ("a", "b", "c", "d")),)
    assert statement.is_single_update


@pytest.mark.parametrize(
    "text",
    [
        "WITH d AS (DELETE FROM a RETURNING *) UPDATE b SET x = 1",
        "INSERT INTO a VALUES (1) ON CONFLICT (i) DO UPDATE SET x = 1",
        "DELETE FROM a",
        "WITH u AS (UPDATE a SET x = 1 RETURNING *) SELECT * FROM u",
    ],
)
def test_only_a_plain_update_is_a_single_update(text: str) -> None:
    assert not one(text).is_single_update


def test_an_update_with_a_reading_cte_is_a_single_update() -> None:
    assert one("WITH d AS (SELECT 1 AS i) UPDATE b SET x = 1 FROM d WHERE b.i = d.i").is_single_update


def test_a_cte_is_no_table_but_a_table_of_its_name_outside_is() -> None:
    outside = one("WITH a AS (SELECT * FROM b) SELECT * FROM a JOIN s.a x ON true")
    assert set(outside.tables) == {(None, "b"), ("s", "a")}
    assert one("WITH a AS (SELECT * FROM a) SELECT * FROM a").tables == ((None, "a"),)
    assert one("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a").tables == ()
    assert (None, "a") in one("WITH a AS (SELECT 1) DELETE FROM a").tables
    assert (None, "a") in one("SELECT (WITH a AS (SELECT 1) SELECT count(*) FROM a), a.* FROM a").tables


def test_functions_are_named_as_written_and_in_lower_case() -> None:
    statement = one("SELECT F(1), app.g(2), substring(a FROM 1), current_timestamp(2) FROM h(3)")
    assert set(statement.functions) == {"f", "app.g", "substring", "current_timestamp", "h"}


def test_a_temporary_table_of_the_change_is_named_with_its_schema() -> None:
    text = "CREATE TEMP TABLE z AS SELECT 1 AS i; INSERT INTO z SELECT 2; CREATE INDEX zi ON z (i); DROP TABLE z;"
    statements = read(text + "UPDATE z SET i = 1", (), "a.sql")
    assert [s.kind for s in statements] == [Kind.TEMPORARY, Kind.WRITE, Kind.TEMPORARY, Kind.TEMPORARY, Kind.WRITE]
    assert statements[1].targets == (WriteTarget("insert", "pg_temp", "z"),)
    assert statements[4].targets == (WriteTarget("update", None, "z", ("i",)),)


def test_a_bare_name_is_not_taken_for_temporary_once_search_path_is_set() -> None:
    """With `search_path = public, pg_temp` the bare name means the permanent table."""
    text = "CREATE TEMP TABLE z (i int); SET search_path = public, pg_temp; DELETE FROM z; DROP TABLE z"
    _, _, delete, drop = read(text, (), "a.sql")
    assert delete.targets == (WriteTarget("delete", None, "z"),)
    assert drop.kind is Kind.FORBIDDEN


@pytest.mark.parametrize("text", ["SELECT x:n", "SELECT 1:n", "SELECT a[null:n]"])
def test_a_colon_that_is_attached_to_a_word_makes_no_placeholder(text: str) -> None:
    """As `x$1` it would be the name of a column."""
    if "[" in text:
        assert one(text, "n").text == text
    else:
        assert "a.sql:1:" in error_of(text, "n")


def test_traits_say_what_a_reviewer_should_know() -> None:
    assert one("DELETE FROM a").traits == {Trait.EVERY_ROW}
    assert one("DELETE FROM a WHERE true").traits == frozenset()
    assert one("INSERT INTO a SELECT * FROM b TABLESAMPLE system (1)").traits == {Trait.SAMPLE}
    assert one("INSERT INTO a SELECT * FROM b LIMIT 1").traits == {Trait.LIMIT_WITHOUT_ORDER}
    assert one("INSERT INTO a SELECT * FROM b ORDER BY i LIMIT 1").traits == frozenset()
    assert one("SET LOCAL search_path = app").traits == {Trait.SEARCH_PATH}
    assert one("SELECT set_config('search_path', 'app', true)").traits == {Trait.SEARCH_PATH}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1", Kind.READ),
        ("VALUES (1)", Kind.READ),
        ("TABLE a", Kind.READ),
        ("SHOW search_path", Kind.READ),
        ("EXPLAIN DELETE FROM a", Kind.READ),
        ("EXPLAIN ANALYZE SELECT 1", Kind.READ),
        ("DECLARE c CURSOR FOR SELECT 1", Kind.READ),
        ("FETCH ALL FROM c", Kind.READ),
        ("SELECT lo_get(1)", Kind.READ),
        ("SELECT nextval('s')", Kind.READ),
        ("DO $$ BEGIN DELETE FROM a; END $$", Kind.WRITE),
        ("CALL f(1)", Kind.WRITE),
        ("SELECT 1 AS i INTO TEMP z", Kind.TEMPORARY),
        ("CREATE TEMP TABLE z (i int)", Kind.TEMPORARY),
        ("CREATE INDEX ON pg_temp.z (i)", Kind.TEMPORARY),
        ("DROP TABLE pg_temp.z", Kind.TEMPORARY),
        ("SET CONSTRAINTS ALL DEFERRED", Kind.SETTING),
        ("SET LOCAL statement_timeout = '5s'", Kind.SETTING),
        ("LOCK TABLE a IN SHARE MODE", Kind.SETTING),
        ("SELECT set_config('app.user', 'x', true)", Kind.READ),
    ],
)
def test_what_may_stand_in_a_change_is_allowed(text: str, kind: Kind) -> None:
    assert (one(text).kind, one(text).objection) == (kind, None)


def test_explain_without_analyze_writes_nothing() -> None:
    assert one("EXPLAIN DELETE FROM a").targets == ()


GHOST_TOO = "it takes effect even when the run is rolled back, so also in a ghost run"
LOCK = "LOCK TABLE in this mode makes every writer wait until the end of the run"
TRANSACTION = "a change may not control the transaction"
SCHEMA = "a change of the schema is not a change of rows"
CATALOGUE = "belongs to the system catalogue: writes to it cannot be undone"

REFUSED = [
    *((text, TRANSACTION) for text in (
        "BEGIN", "START TRANSACTION", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT a", "RELEASE a",
        "ROLLBACK TO SAVEPOINT a", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'",
    )),
    *((text, SCHEMA) for text in (
        "CREATE TABLE a (i int)", "CREATE TABLE a AS SELECT 1", "SELECT 1 AS i INTO a", "DROP TABLE a",
        "ALTER TABLE a ADD b int", "CREATE INDEX ON a (i)", "CREATE VIEW v AS SELECT 1", "DROP FUNCTION f",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "COMMENT ON TABLE a IS 'x'", "CREATE ROLE r",
        "CREATE EXTENSION dblink", "ALTER TABLE a RENAME TO b", "CREATE SCHEMA s", "DROP OWNED BY r",
        "CREATE DATABASE d",
        "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()", "CREATE SEQUENCE s", "ALTER SEQUENCE s RESTART",
        "CREATE UNLOGGED TABLE a (i int)", "DROP TABLE pg_temp.a, b",
    )),
    ("TRUNCATE a", "TRUNCATE cannot be captured: it removes rows without touching each"),
    ("GRANT SELECT ON a TO b", "GRANT and REVOKE are changes of the schema, not of rows"),
    ("REVOKE r FROM b", "GRANT and REVOKE are changes of the schema, not of rows"),
    ("VACUUM a", "VACUUM and ANALYZE change no rows and cannot be undone"),
    ("ANALYZE a", "VACUUM and ANALYZE change no rows and cannot be undone"),
    ("CLUSTER a", "CLUSTER rewrites the table and locks it"),
    ("REINDEX TABLE a", "REINDEX locks the table and cannot be undone"),
    ("REFRESH MATERIALIZED VIEW a", "REFRESH MATERIALIZED VIEW cannot be captured"),
    ("NOTIFY a", "NOTIFY cannot be taken back"),
    ("LISTEN a", "LISTEN has no meaning in a change"),
    ("UNLISTEN a", "UNLISTEN has no meaning in a change"),
    ("DISCARD ALL", "DISCARD resets the session that the run depends on"),
    ("LOAD 'x'", "LOAD brings code into the server, which cannot be undone"),
    ("ALTER SYSTEM SET work_mem = 1", "ALTER SYSTEM changes the whole server and cannot be undone"),
    ("CHECKPOINT", "CHECKPOINT acts on the whole server"),
    ("PREPARE p AS SELECT 1", "PREPARE outlives the transaction"),
    ("EXECUTE p", "EXECUTE hides which statement runs"),
    ("CREATE TEMP TABLE z AS EXECUTE p", "EXECUTE hides which statement runs"),
    ("CREATE TEMP VIEW v AS SELECT * FROM a", "a temporary view hides which table is written"),
    ("DEALLOCATE p", "DEALLOCATE outlives the transaction"),
    ("LOCK TABLE a", LOCK),
    ("LOCK TABLE a IN SHARE ROW EXCLUSIVE MODE", LOCK),
    ("COPY a FROM PROGRAM 'x'", "COPY … PROGRAM runs a program on the server, which cannot be undone"),
    ("COPY a TO '/x'", "COPY of a server's file reaches outside the database"),
    ("COPY a FROM '/x'", "COPY of a server's file reaches outside the database"),
    ("COPY a FROM STDIN", "COPY FROM STDIN has no input in a change file"),
    ("COPY a TO STDOUT", "COPY TO STDOUT would carry rows out of the database"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD runs its query at COMMIT, after the proof"),
    ("EXPLAIN ANALYZE DELETE FROM a", "EXPLAIN ANALYZE executes the statement that it explains"),
    ("EXPLAIN (ANALYZE, BUFFERS) DELETE FROM a", "EXPLAIN ANALYZE executes the statement that it explains"),
    ("SET ROLE r", 'setting "role" changes who the change runs as'),
    ("SET LOCAL ROLE NONE", 'setting "role" changes who the change runs as'),
    ("RESET ROLE", 'setting "role" changes who the change runs as'),
    ("SET SESSION AUTHORIZATION r", 'setting "session_authorization" changes who the change runs as'),
    ("RESET SESSION AUTHORIZATION", 'setting "session_authorization" changes who the change runs as'),
    ("RESET ALL", "RESET ALL resets the session that the run depends on"),
    ("SET session_replication_role = replica",
     'setting "session_replication_role" turns triggers and foreign keys off'),
    ('SET LOCAL "Session_Replication_Role" = replica',
     'setting "session_replication_role" turns triggers and foreign keys off'),
    ("SELECT set_config('session_replication_role', 'replica', true)",
     'setting "session_replication_role" turns triggers and foreign keys off'),
    ("SELECT pg_catalog.set_config('ROW_SECURITY'::text, 'off', true)",
     'setting "row_security" changes which rows are visible to the capture'),
    ("SELECT set_config(name, 'x', true) FROM a", "set_config() of a setting that the text does not name"),
    ("SELECT set_config(setting_name => 'x', new_value => '', is_local => true)",
     "set_config() of a setting that the text does not name"),
    ("SET track_counts = off", 'setting "track_counts" switches off the counts that prove the capture complete'),
    ("SET standard_conforming_strings = off",
     'setting "standard_conforming_strings" changes how the rest of the file is read'),
    ("SET NAMES 'latin1'", 'setting "client_encoding" changes how the rest of the file is read'),
    ("SET TRANSACTION READ ONLY", 'setting "transaction" belongs to the transaction, which is not the change\'s own'),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
     'setting "transaction" belongs to the transaction, which is not the change\'s own'),
    ("SET transaction_isolation = 'serializable'",
     'setting "transaction_isolation" belongs to the transaction, which is not the change\'s own'),
    ("SET backout.run = '1'", 'setting "backout.run" is backout\'s own'),
    ("SELECT setval('s', 1)",
     f'function "setval" may not be called: sequences are not transactional: {GHOST_TOO}'),
    ("SELECT pg_notify('a', 'b')", 'function "pg_notify" may not be called: a notification cannot be taken back'),
    ("DELETE FROM a WHERE lo_unlink(o) = 1", 'function "lo_unlink" may not be called: large objects are not captured'),
    ("SELECT app.dblink_exec('x', 'y')",
     'function "app.dblink_exec" may not be called: it writes through a connection of its own, which is not captured'),
    ("SELECT pg_terminate_backend(1)",
     f'function "pg_terminate_backend" may not be called: it ends somebody\'s session: {GHOST_TOO}'),
    ("SELECT * FROM pg_read_file('x')",
     'function "pg_read_file" may not be called: it reaches the files of the server'),
    ("SELECT pg_catalog.pg_stat_reset()",
     'function "pg_catalog.pg_stat_reset" may not be called: it alters the counts that prove the capture complete'),
    ("UPDATE backout.run SET a = 1", 'schema "backout" is backout\'s own: a change may not write to "backout.run"'),
    ("WITH d AS (DELETE FROM rescue.r RETURNING *) SELECT * FROM d",
     'schema "rescue" is backout\'s own: a change may not write to "rescue.r"'),
    ("UPDATE pg_class SET relname = 'x'", f'"pg_class" {CATALOGUE}'),
    ("DELETE FROM information_schema.sql_parts", f'"sql_parts" {CATALOGUE}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_may_not_stand_in_a_change_is_refused_with_a_reason_and_a_hint(text: str, reason: str) -> None:
    statement = one(text)
    assert statement.kind is Kind.FORBIDDEN
    assert statement.objection is not None
    assert statement.objection.reason == reason
    assert statement.objection.hint


@given(st.text() | st.text(alphabet="selct1 ,;:$'\"-/*()[]é\n@", max_size=60))
@example("SELECT begin atomic; DELETE FROM a")
@example("; -- ;")
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        read_script(text, ("a", "n"), "a.sql")
    except InvalidFile as error:
        assert error.position.line >= 1
        assert error.position.column >= 1


PIECES = st.sampled_from(
    [
        "SELECT ';', 1", "UPDATE é SET x = $tag$;$tag$", "-- comment ;\n", "/* ; /* ; */ */", ";", "\n", "  ",
        "DELETE FROM a -- ;\n WHERE b = 'x;'", "INSERT INTO a VALUES (1), (2)", "SELECT E'\\';'", 'SELECT ";"',
    ]
)  # fmt: skip


@given(st.lists(PIECES))
def test_splitting_loses_no_text(pieces: list[str]) -> None:
    """What stands between the statements is white space, semicolons and comments, and nothing else."""
    text = " ; ".join(pieces)
    rest = text
    for statement in read(text, (), "a.sql"):
        before, found, rest = rest.partition(statement.text)
        assert found
        assert not read(before, (), "a.sql")
    assert not read(rest, (), "a.sql")


OPAQUE = st.sampled_from(
    [
        "':n'",
        "E':n\\''",
        "$$ :n $$",
        "$q$ :n $q$",
        '":n"',
        "a::n",
        "/* :n */ 1",
        "b[1:n]",
        "1 -- :n\n",
        "U&':n'",
        "b'1'",
    ]
)


@given(st.lists(OPAQUE, min_size=1), st.booleans())
def test_parameters_in_literals_comments_casts_and_slices_stay(parts: list[str], with_parameter: bool) -> None:
    columns = ", ".join(parts)
    text = f"SELECT {columns}"
    if with_parameter:
        statement = one(f"{text} , :n", "n")
        assert (statement.text, statement.parameters) == (f"{text} , $1", ("n",))
    else:
        assert one(f"{text} , 1", "n").text == f"{text} , 1"
