"""check, ghost, run, undo, show, log and clean: what each tells, and what it leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backout.engines.values import Missing, Mode, RunState
from backout.errors import Refused, UsageError
from backout.runs.as_json import report_as_json
from backout.runs.rehearsal_json import certificate_as_json
from conformance.stage import Stage, failure, text_of
from unit.test_as_json import require_valid

ORDERS = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, status varchar(20) NOT NULL, total INTEGER);
CREATE TABLE line (id INTEGER PRIMARY KEY, orders INTEGER, FOREIGN KEY (orders) REFERENCES orders (id) ON DELETE CASCADE);
INSERT INTO orders VALUES (1, 'open', 10), (2, 'open', 20), (3, 'paid', 30);
INSERT INTO line VALUES (10, 1), (11, 1), (12, 3);
"""
CLOSE = """
-- @expect 2
UPDATE orders SET status = 'closed' WHERE status = 'open';
-- @assert "none is open"
SELECT count(*) = 0 FROM orders WHERE status = 'open';
"""


@pytest.fixture
def shop(stage: Stage) -> Stage:
    """Three orders, of which two are open."""
    stage.make(ORDERS)
    return stage


def test_check_tells_of_the_tables_that_a_change_names(shop: Stage) -> None:
    """Without a journal being made, and without a table that is not there."""
    change = shop.change("DELETE FROM orders WHERE id = 1; UPDATE nowhere SET a = 1 WHERE a = 2;")

    found = shop.project.check(change, "test")

    assert found.review.passed
    assert [("orders", ("id",), ("line",))] == [
        (one.table.name.name, one.table.key, tuple(name.rpartition(".")[2] for name in one.cascades_to))
        for one in found.tables
    ]
    assert ("nowhere",) == found.missing_tables
    assert () == shop.log()


def test_check_has_the_database_read_each_statement_and_runs_none(shop: Stage) -> None:
    """A column that is not there is found before anything runs; what waits for values or for other statements is not."""
    before = shop.dump()
    change = shop.change(
        "UPDATE orders SET staus = 'closed' WHERE status = 'open';\n"
        "UPDATE orders SET status = 'it''s \\ done' WHERE id = :wanted;\n"
        "DELETE FROM orders WHERE :wanted > id AND nothing = 1;\n"
        "UPDATE nowhere SET a = 1 WHERE a = 2;\n"
        "-- @assert \"none is open\"\nSELECT count(*) = 0 FROM orders WHERE stats = 'open';\n",
        more='[parameters]\nwanted = {type = "int", per_environment = true}\n',
    )

    found = shop.project.check(change, "test")

    first = next(step.statement.line for step in change.steps)
    assert [0, 2, 5] == [one.line - first for one in found.misunderstood]
    assert ["staus", "nothing", "stats"] == [
        word for one in found.misunderstood for word in ("staus", "nothing", "stats") if word in one.problem
    ]
    assert ("nowhere",) == found.missing_tables
    assert before == shop.dump()


def test_check_leaves_out_what_a_statement_makes_for_those_behind_it(shop: Stage) -> None:
    """A temporary table of the change is neither misunderstood nor missing."""
    change = shop.change(
        "CREATE TEMPORARY TABLE wanted (id INTEGER);\nINSERT INTO wanted VALUES (1);\n"
        "UPDATE orders SET total = 0 WHERE id IN (SELECT id FROM wanted);"
    )
    found = shop.project.check(change, "test")
    assert ((), ()) == (found.misunderstood, found.missing_tables)
    assert ["orders"] == [one.table.name.name for one in found.tables]


def test_check_says_of_a_change_in_batches_whether_the_engine_has_them(shop: Stage) -> None:
    """And not only the run."""
    change = shop.change("-- @batch orders by=id size=2\nUPDATE orders SET total = 0;")
    able = shop.target.capabilities.batches
    expected = [f"this database cannot run a change in batches: {able.why}"] if isinstance(able, Missing) else []
    assert expected == [one.problem for one in shop.project.check(change, "test").misunderstood]


def test_a_ghost_tells_all_and_leaves_nothing(shop: Stage) -> None:
    """The rows, the assertions and the proof; the journal has it as rolled back."""
    before = shop.dump()

    report = shop.ghost(CLOSE)

    assert (Mode.GHOST, RunState.ROLLED_BACK, "untouched") == (report.mode, report.outcome, report.state)
    assert [(shop.table("orders"), 0, 2, 0, ("status",))] == [
        (one.table, one.inserted, one.updated, one.deleted, one.changed_columns) for one in report.tables
    ]
    assert [("none is open", True)] == [(one.title, one.passed) for one in report.assertions]
    assert [2] == [one.affected for one in report.statements]
    assert before == shop.dump()
    assert [(1, "ghost", "rolled back")] == shop.journal()
    assert [] == shop.target.rescue_tables()
    require_valid(report_as_json(report), "run")


def test_a_run_tells_what_it_did_and_keeps_the_way_back(shop: Stage) -> None:
    """With the rows before and after, an exact proof, and rescue tables that are there."""
    report = shop.run(CLOSE)

    assert (Mode.REAL, RunState.COMMITTED, "committed", "test-1") == (
        report.mode, report.outcome, report.state, report.identifier,
    )  # fmt: skip
    assert report.proof is not None
    assert (True, "exact") == (report.proof.complete, report.proof.level)
    row = {"id": "1", "total": "10"}
    assert ({**row, "status": "open"}, {**row, "status": "closed"}) == (
        report.tables[0].sample[0].before, report.tables[0].sample[0].after,
    )  # fmt: skip
    assert [("closed",), ("closed",), ("paid",)] == shop.rows("SELECT status FROM orders ORDER BY id")
    assert {one.table.rpartition(".")[2] for one in report.rescue} <= {*shop.target.rescue_tables()}
    assert [] == shop.target.leftovers()
    require_valid(report_as_json(report), "run")


def test_an_undo_tells_what_it_put_back(shop: Stage) -> None:
    before = shop.dump()
    report = shop.run("DELETE FROM orders WHERE id = 1; INSERT INTO orders VALUES (7, 'new', 70);")

    undone = shop.undo(report)

    assert (Mode.UNDO, RunState.COMMITTED, report.run) == (undone.mode, undone.outcome, undone.undo_of)
    assert {(shop.table("line"), 2, 0, 0), (shop.table("orders"), 1, 0, 1)} == {
        (one.table, one.inserted, one.updated, one.deleted) for one in undone.tables
    }
    assert before == shop.dump()
    assert [] == shop.target.leftovers()
    require_valid(report_as_json(undone), "run")


def test_a_rehearsal_goes_there_and_back_and_says_that_it_is_proven(shop: Stage) -> None:
    """Run, undone, compared; the journal has both, and the data is as before."""
    before = shop.dump()

    rehearsal = shop.project.rehearse(shop.change(CLOSE), "test", ask=lambda _kind, _question: True)

    assert (RunState.COMMITTED, rehearsal.run.run) == (rehearsal.run.outcome, rehearsal.undo.undo_of)
    assert rehearsal.certificate is not None
    assert [(0, 2, 0)] == [*rehearsal.certificate.rows.values()]
    assert before == shop.dump()
    assert {"real", "undo"} <= {mode for _, mode, state in shop.journal() if state == "committed"}
    record, _ = shop.project.show(rehearsal.run.identifier)
    assert certificate_as_json(rehearsal.certificate) == record.report["certificate"]  # with the rest of its report
    assert record.report["digest"] == rehearsal.run.digest
    assert [] == shop.target.leftovers()


def test_show_and_log_tell_of_a_run_later(shop: Stage) -> None:
    """The newest first, and the rows from the rescue."""
    shop.run(CLOSE)
    shop.undo("test-1")

    record, tables = shop.project.show("test-1")
    newest, oldest = shop.log()

    assert (RunState.COMMITTED, "A change") == (record.state, record.start.title)
    assert [(shop.table("orders"), 2)] == [(one.table, one.updated) for one in tables]
    assert ["open", "open"] == [(one.before or {})["status"] for one in tables[0].sample]
    assert (2, Mode.UNDO, 1, 1, Mode.REAL) == (
        newest.number, newest.start.mode, newest.start.undo_of, oldest.number, oldest.start.mode,
    )  # fmt: skip
    assert isinstance(failure(lambda: shop.project.show("test-9")), UsageError)


def test_a_change_that_changes_nothing_is_committed_and_can_be_undone(shop: Stage) -> None:
    """No row matched."""
    before = shop.dump()
    report = shop.run("UPDATE orders SET total = 1 WHERE id = 99;")
    assert (RunState.COMMITTED, ()) == (report.outcome, report.tables)
    assert before == shop.dump()


def test_nobody_who_says_no_changes_anything(shop: Stage) -> None:
    """Neither journal nor run."""
    change = shop.change(CLOSE)
    error = failure(lambda: shop.project.run(change, "test", ask=lambda _kind, _question: False))
    assert isinstance(error, Refused)
    assert "untouched" == error.state
    assert () == shop.log()


def test_parameters_are_values_of_every_type(stage: Stage) -> None:
    """Bound by the driver, never pasted into the text."""
    stage.make(
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b varchar(60), c {stage.target.dialect.amount}(10, 2), d DATE, "
        f"e BOOLEAN); INSERT INTO t (id) VALUES (1), (2)"
    )
    before = stage.dump()
    more = "[parameters]\n" + "\n".join(
        f'{name} = {{type = "{kind}", per_environment = true}}'
        for name, kind in {"number": "int", "name": "text", "amount": "numeric", "day": "date", "flag": "bool"}.items()
    )
    values = {"number": 42, "name": "'; DROP TABLE t; --", "amount": "1.50", "day": "2026-11-14", "flag": True}
    text = (
        "-- @expect 1\nUPDATE t SET a = :number, b = :name, c = :amount, d = :day, e = :flag WHERE id = 1;\n"
        '-- @assert "it is there"\nSELECT count(*) = 1 FROM t WHERE a = :number AND b = :name;'
    )
    report = stage.run(text, more=more, parameters=values)
    assert [(42, "'; DROP TABLE t; --")] == stage.rows("SELECT a, b FROM t WHERE id = 1")
    stage.undo(report)
    assert before == stage.dump()


# -- how long the way back is kept -------------------------------------------------------------------------------------


def test_the_rescue_expires_after_the_time_that_the_environment_says(shop: Stage) -> None:
    """By the database's clock; seven days where nothing is said."""
    shop.options = {"keep": '"36 hours"'}
    shop.run("UPDATE orders SET total = 1")
    shop.options = {}
    shop.run("UPDATE orders SET total = 2")
    second, first = shop.log()
    for record, keep in ((first, timedelta(hours=36)), (second, timedelta(days=7))):
        assert record.expires_at is not None
        assert record.finished_at is not None
        kept = record.expires_at - record.finished_at  # the clock is read twice
        assert keep == timedelta(seconds=round(kept.total_seconds()))
    assert shop.project.expired("test") == ()


def test_clean_drops_what_has_expired_and_nothing_else(shop: Stage) -> None:
    """The journal remembers the run; its undo is refused from then on."""
    shop.options = {"keep": '"1 ms"'}
    shop.run("UPDATE orders SET total = 1")
    shop.options = {}
    kept = shop.run("UPDATE orders SET total = 2")
    assert [1] == [record.number for record in shop.project.expired("test")]
    mine = [name for name in shop.target.rescue_tables() if "run_1_" in name]
    others = [name for name in shop.target.rescue_tables() if "run_2_" in name]
    assert mine
    assert others
    shop.project.clean("test", [1])
    assert others == shop.target.rescue_tables()
    assert shop.project.expired("test") == ()
    error = failure(lambda: shop.undo("test-1"))
    assert error.message.startswith('the rescue of run "test-1" was dropped on 20')
    assert "what it changed can only come back from a backup" == error.hint
    shop.undo(kept)
    assert [(1,), (1,), (1,)] == shop.rows("SELECT total FROM orders")


def test_clean_refuses_what_has_not_expired(shop: Stage) -> None:
    """The whole text; of several, none is dropped."""
    shop.options = {"keep": '"1 ms"'}
    shop.run("UPDATE orders SET total = 1")
    shop.options = {}
    shop.run("UPDATE orders SET total = 2")
    kept = shop.target.rescue_tables()
    assert ["the rescue of run 2 has not expired", "state: untouched", "hint: see `backout log`"] == text_of(
        failure(lambda: shop.project.clean("test", [2, 1]))
    )
    assert kept == shop.target.rescue_tables()


def test_open_conflicts_hold_the_rescue(shop: Stage) -> None:
    """Until they are resolved, whatever its time; what an undo has left is dropped with it."""
    shop.options = {"keep": '"1 ms"'}
    report = shop.run("UPDATE orders SET status = 'x'")
    shop.elsewhere("UPDATE orders SET status = 'mine' WHERE id = 1")
    shop.undo(report, partial=True)
    assert [2] == [record.number for record in shop.project.expired("test")]
    assert isinstance(failure(lambda: shop.project.clean("test", [1])), Refused)
    shop.elsewhere("UPDATE orders SET status = 'x' WHERE id = 1")
    shop.undo(report)
    assert [1, 2, 3] == sorted(record.number for record in shop.project.expired("test"))
    shop.project.clean("test", [1, 2, 3])
    assert [] == shop.target.rescue_tables()


def test_neither_a_ghost_nor_a_failed_run_leaves_a_rescue(shop: Stage) -> None:
    """Nothing is there to be cleaned."""
    shop.ghost("UPDATE orders SET total = 1")
    shop.ghost("UPDATE orders SET total = 1", undo=True)
    shop.refuses("-- @expect 1\nUPDATE orders SET total = 1")
    assert [] == shop.target.rescue_tables()
    assert shop.project.expired("test") == ()
