"""One more condition on the SELECT of an INSERT … SELECT: what the text becomes, and what is refused."""

from __future__ import annotations

import pytest

from backout.sql.model import Dialect
from backout.sql.read import read_script
from backout.sql.restrict import NotRestrictable
from backout.sql.restrict_insert import batchable


def limited(text: str, table: str = "s") -> str:
    (statement,) = read_script(Dialect.POSTGRES, text, (), "f").statements
    found = batchable(statement, table, ["id"])
    return " ".join(found.with_predicate(f"{found.reference}.id <= 7").split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("INSERT INTO t SELECT * FROM s", 'INSERT INTO t SELECT * FROM s WHERE ("s".id <= 7)'),
        (
            "INSERT INTO t (a) SELECT x.a FROM s AS x WHERE b OR c",
            'INSERT INTO t (a) SELECT x.a FROM s AS x WHERE (b OR c ) AND ("x".id <= 7)',
        ),
        (
            "INSERT INTO t SELECT * FROM s ON CONFLICT (a) WHERE b DO UPDATE SET c = 1 WHERE t.c > 1 RETURNING a",
            'INSERT INTO t SELECT * FROM s WHERE ("s".id <= 7) ON CONFLICT (a) WHERE b DO UPDATE SET c = 1 WHERE t.c > 1 '
            "RETURNING a",
        ),
        (
            "INSERT INTO t SELECT * FROM s WHERE b -- all\nON CONFLICT ON CONSTRAINT k DO NOTHING",
            'INSERT INTO t SELECT * FROM s WHERE (b -- all ) AND ("s".id <= 7) ON CONFLICT ON CONSTRAINT k DO NOTHING',
        ),
        (
            "INSERT INTO t SELECT * FROM s JOIN conflict ON conflict.id = s.id WHERE b ON CONFLICT DO NOTHING",
            'INSERT INTO t SELECT * FROM s JOIN conflict ON conflict.id = s.id WHERE (b ) AND ("s".id <= 7) '
            "ON CONFLICT DO NOTHING",
        ),
        (
            "INSERT INTO t SELECT s.a, (SELECT count(*) FROM o WHERE o.s = s.id) FROM c RIGHT JOIN s USING (id)",
            "INSERT INTO t SELECT s.a, (SELECT count(*) FROM o WHERE o.s = s.id) FROM c RIGHT JOIN s USING (id) "
            'WHERE ("s".id <= 7)',
        ),
        ("INSERT INTO a.s SELECT * FROM b.s", 'INSERT INTO a.s SELECT * FROM b.s WHERE ("s".id <= 7)'),
    ],
)  # fmt: skip
def test_the_predicate_joins_what_the_author_wrote(text: str, expected: str) -> None:
    assert limited(text) == expected


def test_a_statement_that_writes_its_own_rows_is_limited_as_before() -> None:
    assert limited("DELETE FROM s WHERE a RETURNING id") == 'DELETE FROM s WHERE (a ) AND ("s".id <= 7) RETURNING id'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("INSERT INTO t VALUES (1)", "it inserts written values, not rows of a table"),
        ("INSERT INTO t DEFAULT VALUES", "it inserts default values"),
        (
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM s",
            "it has a WITH clause, which would be evaluated anew each time",
        ),
        ("INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM s", "its SELECT has a WITH clause: batches would not add up to it"),
        ("INSERT INTO t SELECT DISTINCT a FROM s", "it has a DISTINCT: batches would not add up to it"),
        ("INSERT INTO t SELECT a FROM s GROUP BY a", "it has a GROUP BY: batches would not add up to it"),
        ("INSERT INTO t SELECT 1 FROM s HAVING true", "it has a HAVING: batches would not add up to it"),
        ("INSERT INTO t SELECT a FROM s LIMIT 5", "it has a LIMIT: batches would not add up to it"),
        ("INSERT INTO t SELECT a FROM s OFFSET 5", "it has an OFFSET: batches would not add up to it"),
        (
            "INSERT INTO t SELECT a FROM s FOR UPDATE",
            "it locks rows (FOR UPDATE and the like): batches would not add up to it",
        ),
        ("INSERT INTO t SELECT a FROM s ORDER BY a", "it has an ORDER BY, and batches go in the order of their key"),
        ("INSERT INTO t SELECT a FROM s UNION ALL SELECT a FROM u", "it has a UNION, INTERSECT or EXCEPT"),
        ("INSERT INTO t SELECT sum(a) FROM s", '"sum" is an aggregate: batches would not add up to it'),
        ("INSERT INTO t SELECT 1 + COUNT(*) FROM s", '"count" is an aggregate: batches would not add up to it'),
        ("INSERT INTO t SELECT mine(DISTINCT a) FROM s", '"mine" is an aggregate: batches would not add up to it'),
        (
            "INSERT INTO t SELECT row_number() OVER () FROM s",
            '"row_number" is a window function: batches would not add up to it',
        ),
        ("INSERT INTO t SELECT a FROM s, (SELECT a FROM u LIMIT 1) v", "a part of it writes, or has a LIMIT"),
        ("INSERT INTO t SELECT a FROM u", 'it does not read "s" in its FROM'),
        ("INSERT INTO t SELECT a FROM (SELECT * FROM s) s", 'it does not read "s" in its FROM'),
        (
            "INSERT INTO t SELECT 1 FROM (s JOIN u USING (id)) AS j",
            '"s" is in a join with an alias, which hides its columns',
        ),
        ("INSERT INTO t SELECT 1 FROM s JOIN s o ON o.p = s.id", 'it reads "s" more than once in its FROM'),
        (
            "INSERT INTO t SELECT 1 FROM u LEFT JOIN s USING (id)",
            '"s" stands on the side of an outer join that may be missing: rows without it would be in every batch',
        ),
        (
            "INSERT INTO t SELECT 1 FROM s FULL JOIN u USING (id)",
            '"s" stands on the side of an outer join that may be missing: rows without it would be in every batch',
        ),
        (
            "INSERT INTO s SELECT * FROM s",
            "it inserts into the table that it reads: later batches would read what earlier ones inserted",
        ),
        (
            "INSERT INTO t SELECT a FROM s WHERE NOT EXISTS (SELECT FROM t WHERE t.a = s.a)",
            'it reads "t", into which it inserts: later batches would see there what earlier ones inserted',
        ),
        ("INSERT INTO t (SELECT a FROM s)", "unable to tell where its WHERE ends"),
    ],
)  # fmt: skip
def test_what_batches_would_not_add_up_to_is_refused(text: str, reason: str) -> None:
    with pytest.raises(NotRestrictable) as refused:
        limited(text)
    assert refused.value.reason == reason
