"""A few of the promises once more, as a user types them: exit statuses, and the objects that `--json` prints."""

from __future__ import annotations

import re

import pytest

from acceptance.program import backout, told
from conformance.stage import Stage

pytestmark = pytest.mark.newest  # what a user types is not about versions

TABLES = "CREATE TABLE t (id INTEGER PRIMARY KEY, v varchar(20)); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')"


def prepared(stage: Stage, statements: str) -> Stage:
    stage.make(TABLES)
    stage.write_config()
    stage.change(statements)
    return stage


def test_ghost_run_log_and_undo_are_typed(stage: Stage) -> None:
    """Each prints one object, and the exit status is 0."""
    folder = prepared(stage, "UPDATE t SET v = 'x' WHERE id < 3;").folder
    before = stage.dump()

    checked = told(folder, "check", "check", "change-1.sql", "--on", "test")
    ghost = told(folder, "run", "ghost", "change-1.sql", "--on", "test", "--undo", "--yes")
    run = told(folder, "run", "run", "change-1.sql", "--on", "test", "--yes")
    log = told(folder, "log", "log", "--on", "test")
    undone = told(folder, "run", "undo", "test-2", "--yes")

    assert checked
    assert ("ghost", "rolled back", "untouched") == (ghost["mode"], ghost["outcome"], ghost["state"])
    assert ("real", "committed", 2) == (run["mode"], run["outcome"], run["tables"][0]["updated"])
    assert {"complete": True, "level": "exact"}.items() <= run["proof"].items()
    assert 2 == len(log["runs"])
    assert ("undo", "committed", 2) == (undone["mode"], undone["outcome"], undone["undo_of"])
    assert before == stage.dump()


def test_what_fails_has_its_exit_status(stage: Stage) -> None:
    """Refused 3, rolled back 4, conflicts 5."""
    folder = prepared(stage, "-- @expect 1\nUPDATE t SET v = 'x';").folder
    stage.change("UPDATE t SET v = 'y';")
    stage.change("DROP TABLE t;")

    failed = told(folder, "run", "run", "change-1.sql", "--on", "test", "--yes", status=4)
    assert "rolled back" == failed["outcome"]
    assert 3 == backout(folder, "run", "change-3.sql", "--on", "test", "--yes").status
    assert 0 == backout(folder, "run", "change-2.sql", "--on", "test", "--yes").status
    stage.elsewhere("UPDATE t SET v = 'theirs' WHERE id = 2")
    met = told(folder, "run", "undo", "test-2", "--yes", status=5)
    assert [(1, {"id": "2"}, ["v"])] == [(one["number"], one["key"], one["columns"]) for one in met["conflicts"]]
    ended = backout(folder, "undo", "test-2", "--yes", "--partial")
    assert ended.status in {0, 5}
    assert [("a",), ("theirs",), ("c",)] == stage.rows("SELECT v FROM t ORDER BY id")


def test_an_undo_that_put_nothing_back_says_so_when_it_is_shown(stage: Stage) -> None:
    """What the database counted there were attempts."""
    folder = prepared(stage, "UPDATE t SET v = 'x' WHERE id < 3;").folder
    assert 0 == backout(folder, "run", "change-1.sql", "--on", "test", "--yes").status
    stage.elsewhere("UPDATE t SET v = 'theirs' WHERE id < 3")
    assert 5 == backout(folder, "undo", "test-1", "--partial", "--yes").status

    shown = backout(folder, "show", "test-2").out.splitlines()
    as_json = told(folder, "show", "show", "test-2")

    assert ["left", "2", "rows", "in", "conflict,", "not", "put", "back"] in [one.split() for one in shown]
    assert [] == [one for one in as_json["tables"] if one["inserted"] or one["updated"] or one["deleted"]]
    assert not [one for one in shown if one.split()[:1] == [stage.table("t")] and one.split()[1:4] != ["0", "0", "0"]]
    assert "2 rows not restored" in backout(folder, "show", "test-1").out


def test_an_undo_is_shown_with_what_it_put_back_beside_a_conflict(stage: Stage) -> None:
    """Two rows of three; one is left."""
    folder = prepared(stage, "UPDATE t SET v = 'x';").folder
    assert 0 == backout(folder, "run", "change-1.sql", "--on", "test", "--yes").status
    stage.elsewhere("UPDATE t SET v = 'theirs' WHERE id = 2")
    assert 5 == backout(folder, "undo", "test-1", "--partial", "--yes").status

    (table,) = told(folder, "show", "show", "test-2")["tables"]

    assert (0, 2, 0) == (table["inserted"], table["updated"], table["deleted"])
    assert "1 row in conflict, not put back" in backout(folder, "show", "test-2").out


def test_a_ghost_undo_is_named_as_one(stage: Stage) -> None:
    """On its bill and in the log, where it is no undo that failed."""
    folder = prepared(stage, "UPDATE t SET v = 'x';").folder
    assert 0 == backout(folder, "run", "change-1.sql", "--on", "test", "--yes").status

    bill = backout(folder, "undo", "test-1", "--ghost", "--yes").out
    ghost = told(folder, "run", "undo", "test-1", "--ghost", "--yes")

    assert "ghost undo  test-2 of run test-1" == bill.splitlines()[0]
    assert "rolled back, untouched; nothing was kept, as in every ghost undo" in bill
    assert "rescue:" not in bill
    assert (True, "undo") == (ghost["ghost_undo"], ghost["mode"])
    log = backout(folder, "log", "--on", "test").out
    assert ["ghost undo of 1"] * 2 == re.findall(r"ghost undo of \d+", log)
    assert "(ghost undo of run test-1)" in backout(folder, "show", "test-2").out
    assert 0 == backout(folder, "undo", "test-1", "--yes").status
    assert "(undo of run test-1)" in backout(folder, "show", "test-4").out
