"""The undoability verdict: which findings each statement has, and what they make of it."""

from pathlib import Path

import pytest

from backout.change.read import read_change
from backout.lint.builtin_functions import is_built_in
from backout.lint.model import Finding, Level, Review
from backout.lint.review import RULES, review
from backout.sql.model import Dialect

ASSERT = ';\n-- @assert "x"\nSELECT true'


def review_of(tmp_path: Path, sql: str, dialect: str = "postgres", tail: str = ASSERT) -> Review:
    path = tmp_path / "a.sql"
    path.write_text(f'-- /// change\n-- title = "T"\n-- dialect = "{dialect}"\n-- ///\n{sql}{tail}')
    return review(read_change(path))


def found(tmp_path: Path, sql: str, dialect: str = "postgres") -> list[tuple[str, Level, str]]:
    return [(one.rule, one.level, one.message) for one in review_of(tmp_path, sql, dialect).findings]


def test_a_plain_update_is_exact(tmp_path: Path) -> None:
    result = review_of(tmp_path, "UPDATE a SET b = lower(c) WHERE d = 1")
    assert (result.level, result.passed, result.findings) == (Level.EXACT, True, ())


def test_a_forbidden_statement_is_not_undoable(tmp_path: Path) -> None:
    result = review_of(tmp_path, "SELECT 1;\n  TRUNCATE a")
    assert (result.level, result.passed) == (Level.NOT_UNDOABLE, False)
    assert result.verdicts[1].findings == (
        Finding(
            "forbidden", Level.NOT_UNDOABLE, "TRUNCATE cannot be captured: it removes rows without touching each",
            "use DELETE", 6, 3,
        ),
    )  # fmt: skip
    assert [verdict.level for verdict in result.verdicts] == [Level.EXACT, Level.NOT_UNDOABLE, Level.EXACT]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DO $$ BEGIN DELETE FROM a; END $$", "the DO block does nothing outside of the transaction"),
        ("CALL app.close(1)", '"app.close" does nothing outside of the transaction'),
        ("SELECT close(1)", '"close" does nothing outside of the transaction'),
        ("UPDATE a SET b = app.lower(b) WHERE i = 1", '"app.lower" does nothing outside of the transaction'),
        ("SELECT query_to_xml('DELETE FROM a', true, true, '')",
         'the query that is given to "query_to_xml" does nothing outside of the transaction'),
    ],
)  # fmt: skip
def test_code_of_the_databases_own_is_exact_if(tmp_path: Path, sql: str, message: str) -> None:
    assert found(tmp_path, sql) == [("opaque", Level.EXACT_IF, message)]


@pytest.mark.parametrize("name", ["net.http_post", "http_get", "cron.schedule", "public.http", "aws_lambda.invoke"])
def test_a_function_that_acts_outside_is_not_undoable(tmp_path: Path, name: str) -> None:
    assert ("outside", Level.NOT_UNDOABLE, f'function "{name}" acts outside of the database') in found(
        tmp_path, f"SELECT {name}('x')"
    )


@pytest.mark.parametrize(
    "sql", ["DELETE FROM a", "UPDATE a SET b = 1", "WITH d AS (DELETE FROM a RETURNING 1) SELECT 1"]
)
def test_a_write_without_where_is_exact_with_a_note(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql) == [("every-row", Level.EXACT, 'no WHERE: it writes every row of "a"')]


def test_a_write_of_every_row_of_a_temporary_table_is_not_worth_a_note(tmp_path: Path) -> None:
    assert found(tmp_path, "CREATE TEMP TABLE z (i int); DELETE FROM z") == []


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("DELETE FROM a WHERE random() < 0.5", "random()"),
        ("UPDATE a SET b = now() WHERE i = 1", "now()"),
        ("UPDATE a SET b = CURRENT_TIMESTAMP WHERE i = 1", "current_timestamp()"),
        ("INSERT INTO a SELECT * FROM b TABLESAMPLE system (1)", "TABLESAMPLE"),
        ("DELETE FROM a WHERE i IN (SELECT i FROM a LIMIT 1)", "LIMIT without ORDER BY"),
    ],
)
def test_a_volatile_write_is_exact_with_a_note(tmp_path: Path, sql: str, part: str) -> None:
    assert found(tmp_path, sql) == [("volatile", Level.EXACT, f"{part} may give another result in each run")]


def test_a_volatile_query_is_not_worth_a_note(tmp_path: Path) -> None:
    assert found(tmp_path, "SELECT random() FROM a LIMIT 1") == []


def test_a_sequence_stays_advanced(tmp_path: Path) -> None:
    assert found(tmp_path, "INSERT INTO a VALUES (nextval('s'))") == [
        ("sequence", Level.EXACT, "nextval() is not transactional: its sequence stays advanced")
    ]


def test_search_path_is_worth_a_note(tmp_path: Path) -> None:
    assert found(tmp_path, "SET LOCAL search_path = app") == [
        ("search-path", Level.EXACT, "the tables of the following statements depend on search_path")
    ]


def test_replace_is_worth_a_note(tmp_path: Path) -> None:
    assert found(tmp_path, "REPLACE INTO a VALUES (1)", "sqlite") == [
        ("replace", Level.EXACT, "REPLACE also deletes every row with an equal unique key")
    ]


def test_a_change_without_any_check_is_worth_a_note(tmp_path: Path) -> None:
    result = review_of(tmp_path, "INSERT INTO a VALUES (1); INSERT INTO a VALUES (2)", tail="")
    assert [(one.rule, one.level, one.message) for one in result.findings] == [
        ("no-check", Level.EXACT, "no @expect and no @assert: a wrong result would be committed")
    ]
    assert review_of(tmp_path, "-- @expect 1\nINSERT INTO a VALUES (1)", tail="").findings == ()


def test_a_python_change_is_exact_if(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('# /// change\n# title = "T"\n# ///\ndef apply(db): ...\n')
    result = review(read_change(path))
    assert (result.level, result.passed) == (Level.EXACT_IF, True)
    assert [one.message for one in result.findings] == ["the script does nothing outside of the transaction"]


def test_built_in_functions_are_known_per_dialect() -> None:
    assert is_built_in(Dialect.POSTGRES, "pg_catalog.lower")
    assert is_built_in(Dialect.POSTGRES, "jsonb_set")
    assert not is_built_in(Dialect.POSTGRES, "app.lower")
    assert not is_built_in(Dialect.POSTGRES, "julianday")
    assert is_built_in(Dialect.SQLITE, "julianday")


def test_every_finding_of_a_rule_has_a_hint(tmp_path: Path) -> None:
    sql = "DELETE FROM a WHERE f(random()) > nextval('s'); TRUNCATE a; DELETE FROM a; SELECT http_get('x')"
    result = review_of(tmp_path, sql, tail="")
    assert len({one.rule for one in result.findings}) >= 6
    assert len(RULES) == 9
    assert all(one.hint for one in result.findings)
