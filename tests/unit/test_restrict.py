"""One more condition on the outermost statement: what the text becomes, and what is refused."""

from __future__ import annotations

import pytest

from backout.sql.model import Dialect
from backout.sql.read import read_script
from backout.sql.restrict import NotRestrictable, restrictable, restricted


def limited(text: str, predicate: str = "id <= 7", table: str = "t", **fixed: tuple[str, ...]) -> str:
    (statement,) = read_script(Dialect.POSTGRES, text, (), "f").statements
    return " ".join(restricted(statement, table, predicate, **fixed).split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UPDATE t SET a = 1", "UPDATE t SET a = 1 WHERE (id <= 7)"),
        ("UPDATE t SET a = 1 WHERE b OR c", "UPDATE t SET a = 1 WHERE (b OR c ) AND (id <= 7)"),
        ("DELETE FROM t RETURNING id", "DELETE FROM t WHERE (id <= 7) RETURNING id"),
        (
            "DELETE FROM t WHERE a = 'where' RETURNING id",
            "DELETE FROM t WHERE (a = 'where' ) AND (id <= 7) RETURNING id",
        ),
        (
            "UPDATE t SET a = (SELECT max(x) FROM o WHERE o.id = t.id) WHERE EXISTS (SELECT FROM p WHERE p.x)",
            "UPDATE t SET a = (SELECT max(x) FROM o WHERE o.id = t.id) "
            "WHERE (EXISTS (SELECT FROM p WHERE p.x) ) AND (id <= 7)",
        ),
        (
            "UPDATE s.t SET a = o.a FROM o WHERE o.id = t.id",
            "UPDATE s.t SET a = o.a FROM o WHERE (o.id = t.id ) AND (id <= 7)",
        ),
    ],
)  # fmt: skip
def test_the_predicate_joins_what_the_author_wrote(text: str, expected: str) -> None:
    assert limited(text) == expected


def test_a_comment_at_the_end_of_the_condition_swallows_nothing() -> None:
    written = "UPDATE t SET a = 1 WHERE b -- all\n AND c -- of them"
    (statement,) = read_script(Dialect.POSTGRES, written, (), "f").statements
    text = restricted(statement, "t", "id <= 7")
    assert text == "UPDATE t SET a = 1 WHERE (b -- all\n AND c\n) AND (id <= 7)"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("UPDATE t SET a = 1", '"t"'),
        ("UPDATE s.t AS x SET a = 1", '"x"'),
        ('DELETE FROM ONLY "T q"', '"T q"'),
    ],
)
def test_the_target_is_said_by_its_alias(text: str, reference: str) -> None:
    (statement,) = read_script(Dialect.POSTGRES, text, (), "f").statements
    assert restrictable(statement, statement.targets[0].table).reference == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("INSERT INTO t SELECT * FROM o", "only UPDATE and DELETE can be limited"),
        ("UPDATE o SET a = 1", 'it writes "o", not "t"'),
        ("WITH x AS (SELECT 1) UPDATE t SET a = 1", "it has a WITH clause, which would be evaluated anew each time"),
        (
            "UPDATE t SET a = (SELECT max(a) FROM t)",
            'it reads "t" a second time, and would see there what it has changed itself',
        ),
        (
            "UPDATE t SET a = 1 FROM t AS other WHERE other.id = t.id",
            'it reads "t" a second time, and would see there what it has changed itself',
        ),
        ("DELETE FROM t WHERE id IN (SELECT id FROM o LIMIT 5)", "a part of it writes, or has a LIMIT"),
        ("DELETE FROM t WHERE id IN (SELECT id FROM o TABLESAMPLE system (1))", "a part of it writes, or has a LIMIT"),
        ("UPDATE t SET id = id + 1", 'it changes "id", by which its rows are told apart'),
        ("SELECT 1", "it is not one plain UPDATE or DELETE"),
    ],
)
def test_what_cannot_be_limited_is_refused_with_the_reason(text: str, reason: str) -> None:
    (statement,) = read_script(Dialect.POSTGRES, text, (), "f").statements
    with pytest.raises(NotRestrictable) as refused:
        restrictable(statement, "t", fixed=("id",))
    assert reason == refused.value.reason
    assert refused.value.hint
