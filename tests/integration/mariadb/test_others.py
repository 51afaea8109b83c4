"""What others commit while a run reads its rows: it hides nothing of ours, and is not taken for ours."""

from __future__ import annotations

import pytest

from backout.engines.mariadb import capture
from backout.engines.mariadb.capture import Pair, Sums, Target
from integration.mariadb.driving import change, make, opened, undo
from servers_mariadb import MariaDatabase


@pytest.mark.parametrize(
    ("statement", "main_first", "images"),
    [
        ("DELETE FROM t WHERE a = 1 LIMIT 1", False, (1, 0)),
        ("INSERT INTO t VALUES (1, 1)", True, (0, 1)),
    ],
)
def test_equal_rows_that_others_write_between_two_readings_hide_nothing(
    mariadb: MariaDatabase,
    monkeypatch: pytest.MonkeyPatch,
    *,
    statement: str,
    main_first: bool,
    images: tuple[int, int],
) -> None:
    """Without a key a row of theirs can stand for one of ours: one is deleted here, its like is inserted there.

    The interleaving is fixed: they commit after one session has summed up, and before the other has.
    """
    make(mariadb, "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)")
    both = capture._both

    def read(pair: Pair, target: Target) -> tuple[Sums, Sums]:
        monkeypatch.setattr(capture, "_both", both)
        first, second = (pair.main, pair.aux) if main_first else (pair.aux, pair.main)
        before = capture._sums(first, target)
        mariadb.as_application("INSERT INTO t VALUES (1, 1)")
        after = capture._sums(second, target)
        return (before, after) if main_first else (after, before)

    monkeypatch.setattr(capture, "_both", read)
    with opened(mariadb) as engine:
        record, found, verdict = change(engine, statement)
        assert [images] == [(one.before_rows, one.after_rows) for one in found.tables]
        assert "exact" == verdict.level
        undo(engine, record)
    assert [(1, 3), (2, 1)] == mariadb.execute("SELECT a, COUNT(*) FROM t GROUP BY a ORDER BY a")


def test_rows_that_others_write_to_a_table_that_was_only_named_are_not_taken_for_ours(
    mariadb: MariaDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change has changed nothing there, on balance; they write all the time."""
    make(mariadb, "CREATE TABLE t (a INT, b INT); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)")
    both = capture._both

    def read(pair: Pair, target: Target) -> tuple[Sums, Sums]:
        found = both(pair, target)
        mariadb.as_application("INSERT INTO t VALUES (3, 3)")
        return found

    monkeypatch.setattr(capture, "_both", read)
    with opened(mariadb) as engine:
        _, found, _ = change(engine, "UPDATE t SET b = b + 1 WHERE a = 2", "UPDATE t SET b = b - 1 WHERE a = 2")
        assert () == found.tables
