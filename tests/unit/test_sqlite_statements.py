"""What `backout.sql.sqlite` reads out of SQLite text."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.errors import InvalidFile
from backout.sql.model import Kind, Statement, Trait, WriteTarget
from backout.sql.sqlite import read, read_script


def one(text: str, *parameters: str) -> Statement:
    (statement,) = read(text, parameters, "a.sql")
    return statement


def error_of(text: str, *parameters: str) -> str:
    with pytest.raises(InvalidFile) as caught:
        read(text, parameters, "a.sql")
    return str(caught.value)


def test_statements_end_at_semicolons_outside_of_quotes_and_comments() -> None:
    text = "SELECT ';', \";\", [;], `;` /* ; /* */ -- ;\n;;\nDELETE FROM é; SELECT x';' /* no end ;"
    assert [statement.text for statement in read(text, (), "a.sql")] == [
        "SELECT ';', \";\", [;], `;`",
        "DELETE FROM é",
        "SELECT x';'",
    ]


def test_a_comment_ends_where_sqlite_ends_it() -> None:
    """SQLite does not nest comments: a reader that did would not see this DELETE."""
    text = "/* /* */ DELETE FROM a;"
    assert one(text).kind is Kind.WRITE
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE a (i)")
        connection.execute("INSERT INTO a VALUES (1)")
        connection.executescript(text)
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)
    connection.close()


def test_a_trigger_is_one_statement() -> None:
    text = "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET x = 1; END; SELECT 1"
    assert [Kind.FORBIDDEN, Kind.READ] == [statement.kind for statement in read(text, (), "a.sql")]


def test_comments_keep_their_places() -> None:
    script = read_script("-- one\nSELECT 1 -- two\n, 2; -- three\nSELECT 3\n-- five", (), "a.sql")
    first, second = script.statements
    assert [(c.text, c.line, c.column) for c in first.comments] == [(" one", 1, 1)]
    assert [c.text for c in first.inner_comments] == [" two"]
    assert [(c.text, c.own_line) for c in second.comments] == [(" three", False)]
    assert [(c.text, c.line) for c in script.trailing_comments] == [(" five", 5)]


def test_parameters_stay_and_are_named_once() -> None:
    statement = one("UPDATE t SET a = :new WHERE b = ':old' OR c = :new -- :x", "new", "old")
    assert statement.text == "UPDATE t SET a = :new WHERE b = ':old' OR c = :new"
    assert statement.parameters == ("new",)


def test_an_undeclared_parameter_is_named() -> None:
    assert error_of("SELECT 1;\nSELECT :foo") == (
        'a.sql:2:8: parameter "foo" is not declared\nstate: untouched\n'
        "hint: declare it under [parameters] in the metadata block"
    )


@pytest.mark.parametrize("variable", ["?", "?1", "@a", "$a", "#a"])
def test_other_kinds_of_parameters_are_refused(variable: str) -> None:
    assert error_of(f"SELECT {variable}", "a") == (
        f'a.sql:1:8: parameter "{variable}" is not written :name\nstate: untouched\n'
        "hint: write :name, and declare it under [parameters] in the metadata block"
    )


def test_a_quote_without_its_end_is_found() -> None:
    assert error_of("SELECT 1;\n SELECT 'é") == "a.sql:2:9: a quote ' without its end\nstate: untouched"


def test_a_word_that_begins_no_statement_is_refused() -> None:
    assert error_of("UPDTE a SET b = 1") == (
        'a.sql:1:1: a statement cannot begin with "UPDTE"\nstate: untouched\n'
        "hint: a statement begins with SELECT, VALUES, WITH, INSERT, REPLACE, UPDATE or DELETE"
    )


def test_a_with_needs_its_statement() -> None:
    assert error_of("WITH a AS (SELECT 1)") == (
        "a.sql:1:1: a WITH without its SELECT, INSERT, UPDATE or DELETE\nstate: untouched"
    )


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("INSERT INTO main.a VALUES (1)", [WriteTarget("insert", "main", "a")]),
        ("REPLACE INTO [a b] VALUES (1)", [WriteTarget("insert", None, "a b")]),
        ('INSERT OR IGNORE INTO "a""b" VALUES (1)', [WriteTarget("insert", None, 'a"b')]),
        ("DELETE FROM `a` WHERE i = 1", [WriteTarget("delete", None, "a")]),
        ("UPDATE OR FAIL a SET x = 1, (y, z) = (2, 3)", [WriteTarget("update", None, "a", ("x", "y", "z"))]),
        ("WITH update_ AS (SELECT 1), replace AS (SELECT 2) DELETE FROM a", [WriteTarget("delete", None, "a")]),
        (
            "INSERT INTO a VALUES (1) ON CONFLICT (i) DO UPDATE SET x = excluded.x",
            [WriteTarget("insert", None, "a"), WriteTarget("update", None, "a", ("x",))],
        ),
        ("WITH a AS (SELECT 1) SELECT * FROM a", []),
    ],
)
def test_targets_are_the_tables_that_are_written(text: str, targets: list[WriteTarget]) -> None:
    assert list(one(text).targets) == targets


def test_only_an_update_is_a_single_update() -> None:
    assert one("WITH a AS (SELECT 1) UPDATE b SET x = 1").is_single_update
    assert not one("INSERT INTO a VALUES (1) ON CONFLICT (i) DO UPDATE SET x = 1").is_single_update


def test_tables_and_functions_are_those_of_the_whole_statement() -> None:
    statement = one(
        "WITH c(x) AS (SELECT * FROM u) UPDATE t SET a = F(1) "
        "WHERE i IN (SELECT i FROM c, main.x, (q JOIN r)) AND j IN z"
    )
    assert set(statement.tables) == {(None, "t"), (None, "u"), ("main", "x"), (None, "q"), (None, "r"), (None, "z")}
    assert statement.functions == ("f",)


def test_a_temporary_table_of_the_change_is_named_with_its_schema() -> None:
    text = "CREATE TEMP TABLE Z (i); INSERT INTO z VALUES (1); DROP TABLE z; INSERT INTO z VALUES (1)"
    statements = read(text, (), "a.sql")
    assert [s.kind for s in statements] == [Kind.TEMPORARY, Kind.WRITE, Kind.TEMPORARY, Kind.WRITE]
    assert [s.targets[0].schema for s in statements if s.targets] == ["temp", None]


def test_traits_say_what_a_reviewer_should_know() -> None:
    assert one("DELETE FROM a").traits == {Trait.EVERY_ROW}
    assert one("DELETE FROM a WHERE i IN (SELECT 1)").traits == frozenset()
    assert one("UPDATE a SET x = (SELECT 1 WHERE 1)").traits == {Trait.EVERY_ROW}
    assert one("INSERT OR REPLACE INTO a VALUES (1)").traits == {Trait.REPLACE}
    assert one("INSERT INTO a SELECT replace(b, 'x', 'y') FROM c LIMIT 1").traits == {Trait.LIMIT_WITHOUT_ORDER}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1", Kind.READ),
        ("VALUES (1)", Kind.READ),
        ("EXPLAIN QUERY PLAN DELETE FROM a", Kind.READ),
        ("PRAGMA main.table_info(a)", Kind.READ),
        ("PRAGMA defer_foreign_keys = ON", Kind.SETTING),
        ("CREATE TABLE temp.a (i)", Kind.TEMPORARY),
        ("ALTER TABLE temp.a ADD b", Kind.TEMPORARY),
    ],
)
def test_what_may_stand_in_a_change_is_allowed(text: str, kind: Kind) -> None:
    assert (one(text).kind, one(text).objection) == (kind, None)


TRANSACTION = "a change may not control the transaction"
SCHEMA = "a change of the schema is not a change of rows"
PRAGMA = "this PRAGMA changes how the database works, which is not undone"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((f"{word} x", TRANSACTION) for word in ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE")),
        ("ATTACH 'x' AS y", "a change may not attach or detach a database"),
        ("DETACH y", "a change may not attach or detach a database"),
        ("VACUUM", "VACUUM rewrites the whole file and cannot be undone"),
        ("ANALYZE", "ANALYZE changes no rows and cannot be undone"),
        ("REINDEX a", "REINDEX changes no rows and cannot be undone"),
        ("PRAGMA foreign_keys = OFF", PRAGMA),
        ("PRAGMA", PRAGMA),
        ("CREATE TABLE a (i)", SCHEMA),
        ("CREATE VIRTUAL TABLE a USING fts5(b)", SCHEMA),
        ("CREATE UNIQUE INDEX i ON a (b)", SCHEMA),
        ("DROP TABLE a", SCHEMA),
        ("ALTER TABLE a ADD b", SCHEMA),
        ("DELETE FROM Backout_run", 'table "Backout_run" is backout\'s own'),
        (
            "UPDATE sqlite_sequence SET seq = 1",
            'table "sqlite_sequence" belongs to SQLite: writes to it cannot be undone',
        ),
        ("SELECT load_extension('x')", 'function "load_extension" may not be called: it brings code into the process'),
        ("DELETE FROM", "the table that it writes cannot be read"),
    ],
)
def test_what_may_not_stand_in_a_change_is_refused_with_a_reason_and_a_hint(text: str, reason: str) -> None:
    statement = one(text)
    assert statement.kind is Kind.FORBIDDEN
    assert statement.objection is not None
    assert statement.objection.reason == reason
    assert statement.objection.hint


WORDS = (
    "WITH a AS ( ) , SELECT UPDATE SET = CREATE TEMP TABLE . PRAGMA INTO INSERT OR REPLACE DELETE FROM ; ' -- /* "
    "TRIGGER END DROP :a [x] IN VALUES ON CONFLICT DO"
)
LIKELY = st.lists(st.sampled_from([*WORDS.split(), "\n"])).map(" ".join)


@given(st.text() | LIKELY)
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        read_script(text, ("a",), "a.sql")
    except InvalidFile as error:
        assert error.position.line >= 1


@given(
    st.lists(st.sampled_from(["SELECT ';', 1", "DELETE FROM a -- ;\n WHERE b = 'x;'", "-- ;\n", "/* ; */", ";", "\n"]))
)
def test_splitting_loses_no_text(pieces: list[str]) -> None:
    """What stands between the statements is white space, semicolons and comments, and nothing else."""
    rest = " ; ".join(pieces)
    for statement in read(rest, (), "a.sql"):
        before, found, rest = rest.partition(statement.text)
        assert found
        assert not read(before, (), "a.sql")
    assert not read(rest, (), "a.sql")
