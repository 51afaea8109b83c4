"""`@subset` and `--subset`: what a person may type, where the condition goes, and what is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.change.read import read_change
from backout.change.subset import subset_of
from backout.errors import InvalidFile, Refused, UsageError
from backout.sql.limitable import Limitable
from backout.sql.model import Dialect
from backout.sql.read import read_script
from backout.sql.restrict import NotRestrictable
from backout.sql.subset import limitable

HEAD = "-- /// change\n-- title = 'Close'\n-- ///\n"
BOTH = pytest.mark.parametrize("dialect", [Dialect.POSTGRES, Dialect.SQLITE])


def limited(dialect: Dialect, text: str, table: str = "t") -> Limitable:
    (statement,) = read_script(dialect, text, ("x", "y"), "f").statements
    return limitable(dialect, statement, table, "id")


def squeezed(text: str) -> str:
    return " ".join(text.split())


@BOTH
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UPDATE t SET a = 1 WHERE b OR c", "UPDATE t SET a = 1 WHERE (b OR c ) AND (K)"),
        (
            "UPDATE t SET a = 1 WHERE b -- all of them\n OR c",
            "UPDATE t SET a = 1 WHERE (b -- all of them OR c ) AND (K)",
        ),
        ("DELETE FROM t AS r", "DELETE FROM t AS r WHERE (K)"),
        ("DELETE FROM t RETURNING id", "DELETE FROM t WHERE (K) RETURNING id"),
        ("UPDATE t SET a = 'where'", "UPDATE t SET a = 'where' WHERE (K)"),
        (
            "UPDATE t SET a = o.a IS DISTINCT FROM 3 FROM o WHERE t.x = o.x",
            "UPDATE t SET a = o.a IS DISTINCT FROM 3 FROM o WHERE (t.x = o.x ) AND (K)",
        ),
        ("SELECT count(*) = 0 FROM t WHERE a OR b", "SELECT count(*) = 0 FROM t WHERE (a OR b ) AND (K)"),
        ("SELECT count(*) = 0 FROM t AS r", "SELECT count(*) = 0 FROM t AS r WHERE (K)"),
    ],
)
def test_the_condition_joins_the_outermost_where_and_nothing_else_changes(
    dialect: Dialect, text: str, expected: str
) -> None:
    assert squeezed(limited(dialect, text).limited("K")) == expected


@BOTH
def test_the_key_is_said_with_the_alias(dialect: Dialect) -> None:
    assert limited(dialect, "UPDATE t AS r SET a = 1").column == '"r"."id"'
    assert limited(dialect, "DELETE FROM t").column == '"t"."id"'


def test_the_query_for_keys_numbers_the_parameters_that_it_uses_anew() -> None:
    keys = limited(Dialect.POSTGRES, "UPDATE t SET a = :x WHERE b = :y AND c > :y").keys
    assert keys is not None
    assert keys.parameters == ("y",)
    assert "WHERE b = $1 AND c > $1" in keys.text
    assert keys.first(50).endswith("ORDER BY key LIMIT 50")


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t SELECT 1",
        "UPDATE o SET a = 1",
        "UPDATE t SET id = 3",
        "UPDATE t SET a = (SELECT max(a) FROM t)",
        "UPDATE t SET a = 1 FROM t AS other WHERE other.x = t.x",
        "DELETE FROM t WHERE a IN (SELECT b FROM t)",
        "DELETE FROM t WHERE a IN (SELECT b FROM o LIMIT 3)",
        "WITH q AS (SELECT 1) DELETE FROM t",
        "SELECT count(*) = 0 FROM t, o",
        "SELECT count(*) = 0 FROM t JOIN o ON true",
        "SELECT count(*) = 0 FROM t GROUP BY a",
        "SELECT count(*) = 0 FROM t ORDER BY 1",
        "SELECT count(*) = (SELECT count(*) FROM t) FROM t",
        "SELECT count(*) = 0 FROM t UNION ALL SELECT true",
        "SELECT count(*) = 0 FROM o",
        "SELECT 1",
    ],
)
def test_what_cannot_be_limited_safely_is_refused(dialect: Dialect, text: str) -> None:
    with pytest.raises(NotRestrictable) as refused:
        limited(dialect, text)
    assert refused.value.reason
    assert refused.value.hint


@pytest.mark.parametrize(
    "text", ["DELETE FROM t ORDER BY a LIMIT 3", "DELETE FROM t LIMIT 3", "UPDATE OR REPLACE t SET a = 1"]
)
def test_sqlite_with_limit_order_or_replace_is_refused(text: str) -> None:
    with pytest.raises(NotRestrictable):
        limited(Dialect.SQLITE, text)


def test_postgresql_column_named_where_is_not_taken_for_the_clause() -> None:
    text = limited(Dialect.POSTGRES, "DELETE FROM t WHERE t.where").limited("K")
    assert squeezed(text) == "DELETE FROM t WHERE (t.where ) AND (K)"


# -- what a person types -----------------------------------------------------------------------------------------------


def written(folder: Path, statements: str) -> Path:
    path = folder / "close.sql"
    path.write_text(HEAD + statements)
    return path


SUBSET = "-- @subset t by=id\nUPDATE t SET a = 1;\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id <= 100", "C <= 100"),
        ('"id" != -1.5', "C <> -1.5"),
        ("ID between 1 and 9 AND id in (2, 3)", "C BETWEEN 1 AND 9 AND C IN (2, 3)"),
        ("id = 'it''s'", "C = 'it''s'"),
    ],
)
def test_comparisons_of_the_key_with_literals_are_taken(tmp_path: Path, text: str, expected: str) -> None:
    change = read_change(written(tmp_path, SUBSET))
    assert subset_of(change, text).condition("C") == expected


def test_number_of_rows_is_taken(tmp_path: Path) -> None:
    assert subset_of(read_change(written(tmp_path, SUBSET)), "50 rows").rows == 50


@pytest.mark.parametrize(
    "text",
    [
        "", "id", "id <=", "id <= other", "other <= 1", "id <= 1 OR true", "id <= 1; DROP TABLE t", "id <= (SELECT 1)",
        "id <= 1) OR (1 = 1", "id = 'a' || 'b'", "id = E'\\''", "id = 'a\\'", "id IN ()", "id IN (1", "id <= 1 -- x",
        "id BETWEEN 1", "id <= f(1)", "0 rows", "10001 rows", "id <= 1 AND", "id = $1", "id <= 1x", "-5 rows",
    ],
)  # fmt: skip
def test_anything_else_is_refused_before_any_connection(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        subset_of(read_change(written(tmp_path, SUBSET)), text)


def test_values_of_the_key_are_hidden_where_the_data_is_private(tmp_path: Path) -> None:
    subset = subset_of(read_change(written(tmp_path, SUBSET)), "id IN (17, 18) AND id <= 99")
    assert subset.described(private=True) == "id IN (•••) AND id <= •••"


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ("UPDATE t SET a = 1;", "does not say what a subset of it is"),
        (SUBSET + "INSERT INTO log VALUES (1);", 'this statement writes "log" and has no @subset'),
        (SUBSET + "-- @subset u by=t_id\nDELETE FROM u;", "several keys: id, t_id"),
    ],
)
def test_change_that_would_run_in_full_somewhere_is_refused(tmp_path: Path, statements: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        subset_of(read_change(written(tmp_path, statements)), "id <= 1")
    assert reason in refused.value.message
    assert refused.value.exit_status == 3


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("-- @subset 10\nDELETE FROM a;", 'directive "@subset" is not understood'),
        ("-- @subset t by=id\nDELETE FROM a;", 'this statement cannot be limited to a subset: it writes "a", not "t"'),
        ("-- @subset a by=id\n-- @subset a by=id\nDELETE FROM a;", 'a second "@subset" for one statement'),
        ('-- @subset a by=id\n-- @pre "x"\nSELECT 1 FROM a;\nDELETE FROM a;', 'directive "@pre" and "@subset"'),
        ("-- @subset a by=id\n-- @batch a by=id\nDELETE FROM a;", 'directive "@batch" and "@subset"'),
    ],
)
def test_declaration_that_has_no_effect_is_an_error(tmp_path: Path, statements: str, message: str) -> None:
    with pytest.raises(InvalidFile) as invalid:
        read_change(written(tmp_path, statements))
    assert message in invalid.value.message
