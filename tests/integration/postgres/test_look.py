"""A look at what a run has changed so far: it shows the rows, and leaves nothing that the capture at the end would miss."""

from __future__ import annotations

import pytest

from backout.engines.values import Mode
from properties.driving import finish, opened, start, transaction
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE patient (id integer PRIMARY KEY, name text);
INSERT INTO patient SELECT g, 'p' || g FROM generate_series(1, 6) g;
"""


@pytest.mark.parametrize("snapshot", [False, True], ids=["read committed", "repeatable read"])
def test_what_is_written_between_looks_is_seen_by_them_and_by_the_capture(
    postgres: PostgresDatabase, snapshot: bool
) -> None:
    postgres.as_application(SCHEMA)
    rescue = (
        "SELECT array_agg(relname::text ORDER BY 1) FROM pg_class "
        "WHERE relnamespace = 'rescue'::regnamespace AND relname LIKE 'run%'"
    )
    with opened(postgres) as engine:
        number = engine.journal.begin_run(start(Mode.REAL))
        with transaction(engine, snapshot=snapshot) as run:
            assert run.look(number, 10) == []
            run.execute("UPDATE patient SET name = 'one' WHERE id = 1", ())
            ((table, rows),) = run.look(number, 10)
            assert (str(table.table.name), [(row.before, row.after) for row in rows]) == (
                "public.patient", [({"id": "1", "name": "p1"}, {"id": "1", "name": "one"})],
            )  # fmt: skip
            run.execute("SAVEPOINT here", ())
            run.execute("DELETE FROM patient WHERE id = 2", ())
            run.execute("INSERT INTO patient VALUES (7, 'seven')", ())
            ((_, rows),) = run.look(number, 10)
            assert [(row.before is None, row.after is None) for row in rows] == [
                (False, False), (False, True), (True, False),
            ]  # fmt: skip
            run.execute("SAVEPOINT there", ())
            run.execute("UPDATE patient SET name = 'again' WHERE id IN (1, 3)", ())
            ran = finish(engine, run, number, run.capture(number, (), keep=True))
        assert [(one.before_rows, one.after_rows) for one in ran.capture.tables] == [(3, 3)]
        assert ran.verdict.complete
    assert postgres.execute(rescue) == [(["run_1_1_after", "run_1_1_before", "run_1_1_moved"],)]


def test_nobody_else_is_taken_for_the_session_that_looks(postgres18: PostgresDatabase) -> None:
    postgres18.as_application(SCHEMA)
    with opened(postgres18) as engine, transaction(engine) as run:
        run.execute("DELETE FROM patient", ())
        assert len(run.look(1, 2)[0][1]) == 2
        assert run.newcomers(60) == ()
        postgres18.connect("application")
        assert len(run.newcomers(60)) == 1
