"""What armed triggers capture is what the two-snapshot diff captures of the very same transaction, and what is true.

The statements, the other sessions and the truth are those of `test_capture_fuzz`; here every table is armed, and at the
end of each run its tables are scanned as well. (Others begin to write after the arming, which waits for writers.)
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import event, given, seed, settings
from hypothesis import strategies as st

from backout.engines.postgres.armed_capture import ARMED
from backout.engines.postgres.capture import Place, capture_table
from backout.engines.postgres.connect import PostgresDatabase as Engine
from backout.engines.postgres.names import quoted
from backout.engines.postgres.session import Session
from backout.engines.postgres.transaction import PostgresTransaction
from backout.engines.values import Capture, CapturedTable, Counts, TableName
from properties.driving import SEED, SHORTER, Ran, announce, finish, opened, start, transaction, undo, whole_rows
from properties.test_capture_fuzz import (
    OF_OTHERS,
    OF_RUN,
    TABLES,
    Case,
    Others,
    _compare,
    cases,
    prepared,
    racing,
    said,
)
from servers import PostgresDatabase

Rows = Counter[str]
KNOWN = [("app", name) for name in ("parent", "child", "heap", "part", "base")]


@st.composite
def quiet_beginnings(draw: st.DrawFn) -> Case:
    """Anything, but nobody writes while the tables are armed and disarmed."""
    return replace(draw(cases()), begun_before=[], others_end_first=True)


def run_armed(database: PostgresDatabase, case: Case) -> Ran:
    """Run the case, capture it in both ways, compare both with the truth, and undo it."""
    prepared(database)
    for text in case.before:
        database.as_application(text)
    verb, to = ("GRANT", "TO") if case.replica else ("REVOKE", "FROM")
    database.execute(f'{verb} SET ON PARAMETER session_replication_role {to} "{database.login_role}"')
    others = Others(database)
    try:
        before = whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
        with opened(database, scan_limit_bytes=0) as engine:
            ran = _run(database, case, others, engine)
            after = whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
            _compare(database, ran, before, after)
            not_ours = whole_rows(database, "app", dict.fromkeys(TABLES, OF_OTHERS))
            assert not undo(engine, ran).conflicts
            assert before == whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
            assert not_ours == whole_rows(database, "app", dict.fromkeys(TABLES, OF_OTHERS))
            assert database.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'backout'::regnamespace") == []
            for number in range(ran.number, ran.number + 2):
                engine.journal.drop_rescue(number)
    finally:
        others.close()
    return ran


def _run(database: PostgresDatabase, case: Case, others: Others, engine: Engine) -> Ran:
    number = engine.journal.begin_run(start())
    with transaction(engine, known=KNOWN, snapshot=case.snapshot) as run:
        own = said([step for step in case.steps if isinstance(step, str)])
        for step in case.steps:
            if isinstance(step, str):
                for text in itertools.islice(own, 1):
                    run.execute(text, ())
            else:
                others.do(*step)
        others.end()
        if not case.racing:
            return _captured_twice(engine, run, number)
        with racing(database, number):
            return _captured_twice(engine, run, number)


def _captured_twice(engine: Engine, run: PostgresTransaction, number: int) -> Ran:
    capture = run.capture(number, (), keep=False)
    assert {ARMED} >= {one.captured_by for one in capture.tables}
    scanned = {one.table.name.name: _scanned(run, one, number) for one in capture.tables}
    for one in capture.tables:
        armed = _net(_rows(run._main, one, one.before_rescue), _rows(run._main, one, one.after_rescue))
        assert scanned[one.table.name.name] == armed, one.table.name
    # What was scanned is left as it was: only the images of the triggers are committed.
    run._main.run("DROP TABLE IF EXISTS rescue.scanned_after")
    run._aux.run("ROLLBACK")
    return _finished(engine, run, number, capture)


def _finished(engine: Engine, run: PostgresTransaction, number: int, capture: Capture) -> Ran:
    ran = finish(engine, run, number, capture)
    assert run.left_behind() == ()
    event(f"proof: {ran.verdict.tightness.name}")
    return ran


def _scanned(run: PostgresTransaction, one: CapturedTable, number: int) -> tuple[Rows, Rows]:
    """The net difference of the table by the two-snapshot diff."""
    main, aux = run._main, run._aux
    main.run("DROP TABLE IF EXISTS rescue.scanned_after")
    aux.run("DROP TABLE IF EXISTS rescue.scanned_before")
    place = Place(TableName("rescue", "scanned_before"), TableName("rescue", "scanned_after"))
    found = capture_table(main, aux, one.table, one.counted or Counts(), None, run._marks, place)
    if found is None:
        return Counter(), Counter()
    return _net(_rows(aux, one, found.before_rescue), _rows(main, one, found.after_rescue))


def _rows(session: Session, one: CapturedTable, rescue: str | None) -> Rows:
    if rescue is None:
        return Counter()
    cells = ", ".join(f"i.{quoted(column.name)}" for column in one.table.restorable)
    return Counter(row for (row,) in session.run(f"SELECT ROW({cells})::text FROM rescue.{rescue} i").rows)


def _net(before: Rows, after: Rows) -> tuple[Rows, Rows]:
    return before - after, after - before


@settings(max_examples=9 // SHORTER)
@given(case=quiet_beginnings())
def test_what_triggers_capture_is_what_two_snapshots_capture(postgres: PostgresDatabase, case: Case) -> None:
    """Whatever the run does and others do meanwhile: both see the same net difference, and undo restores it."""
    run_armed(postgres, case)


@pytest.mark.hunt
@seed(SEED)
@given(case=quiet_beginnings())
def test_what_triggers_capture_is_what_two_snapshots_capture_hunted(
    postgres: PostgresDatabase, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    run_armed(postgres, case)
