"""A subset writes exactly the rows of the whole statement that its condition names, and writes them the same.

Statements are put together from parts that are awkward to place a condition in: comments, quotes, OR, RETURNING.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from backout.sql.model import Dialect
from backout.sql.read import read_script
from backout.sql.subset import limitable
from servers import PostgresDatabase

SCHEMA = "CREATE TABLE t (id integer PRIMARY KEY, a integer, b text, c integer); CREATE TABLE o (x integer);"
TEXTS = ("NULL", "'where -- x'", "'z1'")
FILL = "INSERT INTO o VALUES (2), (4);" + "".join(
    f"INSERT INTO t VALUES ({n}, {n * 7 % 6}, {TEXTS[n % 3]}, -1);" for n in range(1, 21)
)
CONDITIONS = (
    "a > 3", "a IN (SELECT x FROM o)", "b LIKE 'z%' OR a = 1", "NOT (a < 2)", "(a = 1)", "a = 1 /* ) */ OR a = 2",
    "EXISTS (SELECT 1 FROM o WHERE o.x = r.a)", "a IS NOT DISTINCT FROM 2", "b = 'where -- x'", "a = 3 -- c\n OR a = 4",
    "CASE WHEN a > 2 THEN true ELSE false END", "a BETWEEN 1 AND 4 OR b IS NULL", "r.a = 1 AND r.b <> ')' OR r.c IS NULL",
)  # fmt: skip
WRITES = (
    "UPDATE t AS r SET c = c + 1", "UPDATE t AS r SET c = (SELECT max(x) FROM o), b = 'set where'", "DELETE FROM t AS r",
    "UPDATE t AS r SET c = CASE WHEN a IS DISTINCT FROM 2 THEN 1 ELSE 2 END",
)  # fmt: skip
SUBSETS = {
    "{0} <= 10": range(1, 11),
    "{0} IN (1, 5, 9)": (1, 5, 9),
    "{0} BETWEEN 3 AND 12 AND {0} <> 7": (3, 4, 5, 6, *range(8, 13)),
}

State = dict[int, tuple[object, ...]]
Execute = Callable[[str], list[tuple[object, ...]]]


@st.composite
def statements(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(WRITES))
    parts = draw(st.lists(st.sampled_from(CONDITIONS), max_size=3, unique=True))
    if parts:
        text += draw(st.sampled_from(["\nWHERE ", " where ", " WHERE -- why\n "]))
        text += draw(st.sampled_from(["\nAND ", "\nOR "])).join(parts)
    return text + draw(st.sampled_from(["", "\n-- the end", "\nRETURNING id", "\nRETURNING id, a AS b"]))


def state(execute: Execute) -> State:
    return {int(str(row[0])): row for row in execute("SELECT id, a, b, c FROM t")}


def check(dialect: Dialect, text: str, subset: str, fresh: Callable[[], Execute]) -> None:
    (statement,) = read_script(dialect, text, (), "f").statements
    found = limitable(dialect, statement, "t", "id")
    assert found.keys is not None

    execute = fresh()
    start, keys = state(execute), {int(str(row[0]).strip("'")) for row in execute(found.keys.first(100))}
    execute(statement.text)
    whole = state(execute)
    execute = fresh()
    execute(found.limited(subset.format(found.column)))
    part = state(execute)

    expected = {key: (whole if key in SUBSETS[subset] else start).get(key) for key in start}
    assert {key: part.get(key) for key in start} == expected
    assert {key for key in start if whole.get(key) != start[key]} <= keys


@given(statements(), st.sampled_from(sorted(SUBSETS)))
@settings(max_examples=200)
def test_subset_is_the_whole_cut_by_its_condition_on_sqlite(text: str, subset: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)

        def fresh() -> Execute:
            connection.executescript("DELETE FROM t; DELETE FROM o;" + FILL)
            return lambda statement: connection.execute(statement).fetchall()

        check(Dialect.SQLITE, text, subset, fresh)


def test_subset_is_the_whole_cut_by_its_condition_on_postgresql(postgres18: PostgresDatabase) -> None:
    postgres18.execute(SCHEMA + FILL)
    connection = postgres18.connect(autocommit=False)

    def execute(statement: str) -> list[tuple[object, ...]]:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def fresh() -> Execute:
        connection.rollback()
        return execute

    @given(statements(), st.sampled_from(sorted(SUBSETS)))
    @settings(max_examples=200)
    def holds(text: str, subset: str) -> None:
        check(Dialect.POSTGRES, text, subset, fresh)

    holds()
    assert connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR
