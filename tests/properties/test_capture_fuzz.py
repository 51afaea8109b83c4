"""What the two-snapshot diff captures is what a third session sees to have changed, whoever writes at the same time.

Rows are divided by their numbers, so that the truth can be told without looking at the capture: the run writes to rows
below 20 and makes rows from 1000 on; the others write to rows from 20 to 999, and lock rows of the run's.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import psycopg
import pytest
from hypothesis import currently_in_test_context, event, given, seed, settings
from hypothesis import strategies as st

from backout.engines.postgres.capture import GENERAL, QUICK
from backout.engines.postgres.connect import PostgresDatabase as Engine
from backout.engines.values import UpdateHint
from properties import driving
from properties.driving import (
    EXACT_TEXT,
    SEED,
    SHORTER,
    Ran,
    announce,
    finish,
    images,
    opened,
    start,
    transaction,
    undo,
    whole_rows,
)
from servers import PostgresDatabase

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.parent (id int PRIMARY KEY, v int, pad text) WITH (fillfactor = 50);
CREATE TABLE app.child (
    id int PRIMARY KEY, parent int REFERENCES app.parent ON DELETE CASCADE ON UPDATE CASCADE, v int);
CREATE TABLE app.heap (id int, v text);
CREATE TABLE app.part (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE app.part_a PARTITION OF app.part FOR VALUES IN ('a');
CREATE TABLE app.part_b PARTITION OF app.part FOR VALUES IN ('b');
CREATE TABLE app.base (id int PRIMARY KEY, v int);
CREATE TABLE app.derived (more text) INHERITS (app.base);
"""
EMPTY = "TRUNCATE app.parent, app.child, app.heap, app.part, app.base"
FILL = """
INSERT INTO app.parent SELECT g, g, repeat('x', g) FROM generate_series(0, 39) g;
INSERT INTO app.child SELECT g, g - g % 2, g FROM generate_series(0, 39) g WHERE g < 20 OR g % 3 = 0;
INSERT INTO app.heap SELECT g % 10 + g / 40 * 20, 'v' || g % 3 FROM generate_series(0, 79) g;
INSERT INTO app.part SELECT g, CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END, g FROM generate_series(0, 39) g;
INSERT INTO app.base SELECT g, g FROM generate_series(0, 39, 2) g;
INSERT INTO app.derived SELECT g, g, 'd' FROM generate_series(1, 39, 2) g;
"""

#: In `child`, a row that another inserts may name a parent that the run writes to; its own number tells whose it is.
OF_RUN = "(t.id < 20 OR t.id >= 1000)"
OF_OTHERS = f"NOT {OF_RUN}"
TABLES = ("parent", "child", "heap", "part_a", "part_b", "base", "derived")

#: Rows 0 to 4 of `parent` may be locked FOR KEY SHARE by others all the time: the run leaves their keys as they are.
hot = st.integers(0, 4)
cold = st.integers(5, 19)
mine = st.integers(0, 19)
fresh = st.integers(1000, 1009)
value = st.integers(-3, 3)
theirs = st.integers(20, 39)
locking = st.sampled_from(["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"])
mild_locking = st.sampled_from(["NO KEY UPDATE", "KEY SHARE"])  # neither waits for somebody's KEY SHARE


@st.composite
def run_step(draw: st.DrawFn) -> str:
    """One statement of the run; none of them can fail, nor wait for a lock that others hold."""
    a, b, h, n, v = draw(cold), draw(cold), draw(hot), draw(fresh), draw(value)
    m = n + 10
    any_row, table = draw(mine), draw(st.sampled_from(["parent", "child", "part", "base"]))
    return draw(
        st.sampled_from(
            [
                f"UPDATE app.parent SET v = v + {v} WHERE id = {h}",
                f"UPDATE app.parent SET v = v + {v} WHERE id BETWEEN {a} AND {b}",
                f"UPDATE app.{table} SET v = v WHERE id = {any_row}",
                f"UPDATE app.{table} SET v = {v} WHERE id % 3 = 1 AND id < 20",
                f"SELECT FROM app.{table} WHERE id = {a} FOR {draw(locking)}",
                f"SELECT FROM app.parent WHERE id = {h} FOR {draw(mild_locking)}",
                f"INSERT INTO app.parent AS p VALUES ({n}, {v}) ON CONFLICT (id) DO UPDATE SET v = excluded.v + p.v",
                (
                    f"INSERT INTO app.child SELECT {n}, max(id), {v} FROM app.parent WHERE id <= {any_row} "
                    "ON CONFLICT DO NOTHING"
                ),
                f"DELETE FROM app.parent WHERE id IN ({a}, {n})",
                f"DELETE FROM app.child WHERE id = {any_row}",
                f"DELETE FROM app.child c USING app.parent p WHERE p.id = c.parent AND p.id = {a} AND c.id < 20",
                f"UPDATE app.parent SET id = {n} WHERE id = {a} AND NOT EXISTS (SELECT FROM app.parent WHERE id = {n})",
                (
                    f"UPDATE app.child c SET v = p.v + {v} FROM app.parent p "
                    f"WHERE p.id = c.parent AND c.id < 20 AND p.id > {a}"
                ),
                (
                    f"MERGE INTO app.parent p USING (VALUES ({a}), ({n}), ({m})) s (id) ON p.id = s.id "
                    f"WHEN MATCHED AND p.v > {v} THEN DELETE WHEN MATCHED THEN UPDATE SET v = {v} "
                    f"WHEN NOT MATCHED THEN INSERT VALUES (s.id, {v})"
                ),
                (
                    f"WITH gone AS (DELETE FROM app.heap WHERE id = {a % 10} RETURNING v) "
                    f"INSERT INTO app.heap SELECT {n}, v FROM gone"
                ),
                f"UPDATE app.heap SET v = 'w' WHERE id = {a % 10}",
                f"INSERT INTO app.heap VALUES ({a % 10}, 'v1'), ({a % 10}, 'v1')",
                f"DELETE FROM app.heap WHERE id < 20 AND v = 'v{abs(v)}'",
                f"UPDATE app.part SET region = CASE region WHEN 'a' THEN 'b' ELSE 'a' END WHERE id = {any_row}",
                f"UPDATE app.part SET v = v + 1 WHERE id < {a}",
                f"INSERT INTO app.part VALUES ({n}, 'a', {v}) ON CONFLICT DO NOTHING",
                f"DELETE FROM app.part WHERE id IN ({a}, {n})",
                f"UPDATE app.base SET v = {v} WHERE id = {any_row}",
                f"DELETE FROM app.base WHERE id = {any_row}",
                (
                    f"DO $$ BEGIN UPDATE app.parent SET v = v + 1 WHERE id = {h}; RAISE 'x'; "
                    f"EXCEPTION WHEN raise_exception THEN UPDATE app.child SET v = {v} WHERE id = {any_row}; END $$"
                ),
                (
                    f"DO $$ BEGIN UPDATE app.parent SET v = v + 1 WHERE id = {h}; PERFORM FROM app.base WHERE id = {a} "
                    f"FOR UPDATE; EXCEPTION WHEN raise_exception THEN NULL; END $$"
                ),
                "SAVEPOINT",
                "SAVEPOINT",
                "ROLLBACK TO",
                "RELEASE",
            ]
        )
    )


@st.composite
def others_step(draw: st.DrawFn) -> tuple[int, str]:
    """A statement of one of two other sessions; they write to different rows, so that neither waits for the other."""
    who = draw(st.integers(0, 1))
    row, other, v, h = draw(theirs) // 2 * 2 + who, draw(theirs) // 2 * 2 + who, draw(value), draw(hot)
    return who, draw(
        st.sampled_from(
            [
                "COMMIT",
                "COMMIT",
                "ROLLBACK",
                f"UPDATE app.parent SET v = {v} WHERE id = {row}",
                f"UPDATE app.parent SET id = id + 100 WHERE id = {row}",
                f"DELETE FROM app.parent WHERE id = {row}",
                f"INSERT INTO app.parent VALUES ({row + 200}, {v}) ON CONFLICT DO NOTHING",
                f"INSERT INTO app.child VALUES ({row + 100}, {h}, {v}) ON CONFLICT DO NOTHING",
                f"SELECT FROM app.parent WHERE id = {h} FOR KEY SHARE",
                f"SELECT FROM app.parent WHERE id IN ({row}, {other}) FOR UPDATE",
                f"SELECT FROM app.part WHERE id = {row} FOR SHARE",
                f"UPDATE app.part SET region = 'a' WHERE id = {row}",
                f"DELETE FROM app.part WHERE id = {row}",
                f"UPDATE app.base SET v = {v} WHERE id = {row}",
                f"SELECT FROM app.base WHERE id = {row} FOR UPDATE",
                f"UPDATE app.heap SET v = 'other' WHERE id = {20 + row % 10 // 2 * 2 + who}",
                f"DELETE FROM app.heap WHERE id = {20 + row % 10 // 2 * 2 + who}",
                f"INSERT INTO app.heap VALUES ({row}, 'new')",
                "SAVEPOINT a",
            ]
        )
    )


@st.composite
def before_step(draw: st.DrawFn) -> str:
    """What was committed, or rolled back, on rows of the run before it began: traces that stay in the rows' headers."""
    row, table = draw(mine), draw(st.sampled_from(["parent", "child", "part", "base"]))
    return draw(
        st.sampled_from(
            [
                f"SELECT FROM app.{table} WHERE id = {row} FOR {draw(locking)}",
                f"UPDATE app.{table} SET v = v + 1 WHERE id = {row}",
                (
                    f"BEGIN; SELECT FROM app.{table} WHERE id = {row} FOR SHARE; SAVEPOINT a; "
                    f"UPDATE app.{table} SET v = 7 WHERE id = {row}; ROLLBACK"
                ),
                f"BEGIN; DELETE FROM app.{table} WHERE id = {row}; ROLLBACK",
                "VACUUM FREEZE app.parent",
            ]
        )
    )


@dataclass(frozen=True)
class Case:
    """One round. `others_end`: whether the other sessions' open transactions commit before the capture, or after it."""

    before: list[str]
    begun_before: list[tuple[int, str]]  # what the others do in transactions that are open when the run begins
    steps: list[str | tuple[int, str]]
    snapshot: bool
    others_end_first: bool
    racing: bool  # a third other session writes all the time while the images are read
    keep: bool
    replica: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Anything."""
    return Case(
        draw(st.lists(before_step(), max_size=4)),
        draw(st.lists(others_step(), max_size=4)),
        draw(st.lists(st.one_of(run_step(), run_step(), others_step()), min_size=1, max_size=16)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def prepared(database: PostgresDatabase) -> None:
    """The tables, filled; what is there already is emptied only, since making tables is slow."""
    if not database.execute("SELECT to_regnamespace('app')")[0][0]:
        database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO "{database.application_role}"')
        database.as_application(SCHEMA)
    database.as_application(EMPTY)
    database.as_application(FILL)


class Others:
    """Two sessions of other people's, whose transactions begin with their first statement."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._sessions = [psycopg.connect(database.application_url, autocommit=True) for _ in range(2)]

    def do(self, who: int, text: str) -> None:
        session = self._sessions[who]
        is_open = session.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        if text in {"COMMIT", "ROLLBACK"}:
            if is_open:
                session.execute(text)
            return
        session.execute(text.encode() if is_open else b"BEGIN; " + text.encode())

    def end(self) -> None:
        """The first commits, the second rolls back."""
        self.do(0, "COMMIT")
        self.do(1, "ROLLBACK")

    def close(self) -> None:
        for session in self._sessions:
            session.close()


@contextmanager
def racing(database: PostgresDatabase, number: int) -> Iterator[None]:
    """Somebody who writes, locks, commits and rolls back as fast as the server can while the block runs."""
    done = threading.Event()
    failed: list[BaseException] = []
    chance = Random(number)

    def write() -> None:
        try:
            with psycopg.connect(database.application_url, autocommit=True) as session:
                while not done.is_set():
                    row = chance.randrange(400, 420)
                    session.execute("BEGIN")
                    for _ in range(chance.randrange(1, 4)):
                        table = chance.choice(["parent", "part", "base"])
                        columns = "id, region, v" if table == "part" else "id, v"
                        values = f"{row}, 'a', 0" if table == "part" else f"{row}, 0"
                        driving.run_all(session, [chance.choice([
                            f"UPDATE app.{table} SET v = v + 1 WHERE id BETWEEN {row} AND 420",
                            f"DELETE FROM app.{table} WHERE id = {row}",
                            f"INSERT INTO app.{table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",
                            f"SELECT FROM app.{table} WHERE id >= {row} AND id < 1000 FOR UPDATE",
                            f"INSERT INTO app.heap VALUES ({row}, 'r')",
                            f"UPDATE app.heap SET v = v || '.' WHERE id >= 400 AND id <= {row}",
                            f"INSERT INTO app.child VALUES ({row}, {row % 5}, 0) ON CONFLICT DO NOTHING",
                            "SAVEPOINT s",
                        ])])  # fmt: skip
                    session.execute(chance.choice([b"COMMIT", b"ROLLBACK"]))
        except BaseException as error:  # noqa: BLE001 -- told to the test's own thread
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed


def said(steps: list[str]) -> Iterator[str]:
    """The run's statements with their savepoints named and balanced."""
    depth = 0
    for step in steps:
        if step == "SAVEPOINT":
            depth += 1
            yield f"SAVEPOINT s{depth}"
        elif step in {"ROLLBACK TO", "RELEASE"}:
            if depth:
                yield f"{step} SAVEPOINT s{depth}"
                depth -= step == "RELEASE"
        else:
            yield step


def run_case(database: PostgresDatabase, case: Case) -> Ran:
    """Run the case; the truth is told by sessions that know nothing of the capture."""
    prepared(database)
    for text in case.before:
        database.as_application(text)
    grant = (
        "GRANT SET ON PARAMETER session_replication_role TO"
        if case.replica
        else ("REVOKE SET ON PARAMETER session_replication_role FROM")
    )
    database.execute(f'{grant} "{database.login_role}"')
    others = Others(database)
    try:
        before = whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
        with opened(database) as engine:
            ran = _run(database, case, others, engine)
            after = whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
            _compare(database, ran, before, after)
            others.end()
            not_ours = whole_rows(database, "app", dict.fromkeys(TABLES, OF_OTHERS))
            outcome = undo(engine, ran)
            assert not outcome.conflicts
            assert before == whole_rows(database, "app", dict.fromkeys(TABLES, OF_RUN))
            assert not_ours == whole_rows(database, "app", dict.fromkeys(TABLES, OF_OTHERS))
            for number in range(ran.number, ran.number + 2):
                engine.journal.drop_rescue(number)
    finally:
        others.close()
    return ran


def _run(database: PostgresDatabase, case: Case, others: Others, engine: Engine) -> Ran:
    for who, text in case.begun_before:
        others.do(who, text)
    number = engine.journal.begin_run(start())
    with transaction(engine, snapshot=case.snapshot) as run:
        own = said([step for step in case.steps if isinstance(step, str)])
        for step in case.steps:
            if isinstance(step, str):
                for text in itertools.islice(own, 1):
                    run.execute(text, ())
            else:
                others.do(*step)
        if case.others_end_first:
            others.end()
        if not case.racing:
            return finish(engine, run, number, run.capture(number, (), keep=True))
        with racing(database, number):
            return finish(engine, run, number, run.capture(number, (), keep=True))


def _compare(
    database: PostgresDatabase, ran: Ran, before: dict[str, Counter[str]], after: dict[str, Counter[str]]
) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as session:
        session.execute(EXACT_TEXT)
        captured = images(session, ran)
    for table in TABLES:
        pre, post = captured.get(table, (Counter(), Counter()))
        assert pre <= before[table], f"{table}: a pre-image is no row of before"
        assert post <= after[table], f"{table}: a post-image is no row of after"
        assert before[table] - after[table] == pre - post, table
        assert after[table] - before[table] == post - pre, table
    if currently_in_test_context():
        for one in ran.capture.tables:
            event(one.captured_by)
        event(f"proof: {ran.verdict.tightness.name}")


# -- the searches ------------------------------------------------------------------------------------------------------


@settings(max_examples=15 // SHORTER)
@given(case=cases())
def test_what_is_captured_is_what_changed(postgres: PostgresDatabase, case: Case) -> None:
    """Whatever the run does and others do meanwhile: the images are the net difference, and undo restores it."""
    run_case(postgres, case)


@pytest.mark.hunt
@seed(SEED)
@given(case=cases())
def test_what_is_captured_is_what_changed_hunted(
    postgres: PostgresDatabase, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    run_case(postgres, case)


# -- each form, once ---------------------------------------------------------------------------------------------------


def forms(ran: Ran) -> dict[str, str]:
    return {one.table.name.name: one.captured_by for one in ran.capture.tables}


def case_of(
    *steps: str | tuple[int, str], begun_before: tuple[tuple[int, str], ...] = (), snapshot: bool = False
) -> Case:
    return Case([], list(begun_before), list(steps), snapshot, False, False, True, False)


def test_a_plain_change_is_captured_by_the_quick_form(postgres: PostgresDatabase) -> None:
    """Nothing was touched twice and nothing only locked: both images are read at once, by the transaction's id."""
    ran = run_case(postgres, case_of("UPDATE app.child SET v = -1 WHERE id < 9", "DELETE FROM app.base WHERE id = 2"))

    assert {"child": QUICK, "base": QUICK} == forms(ran)
    assert ran.verdict.level == "exact"


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        ["UPDATE app.parent SET v = 1 WHERE id = 9", "UPDATE app.parent SET v = 2 WHERE id = 9"],
        ["SAVEPOINT", "UPDATE app.parent SET v = 1 WHERE id = 9", "RELEASE"],
        ["UPDATE app.parent SET v = 1 WHERE id = 9", "SELECT FROM app.parent WHERE id = 8 FOR UPDATE"],
        ["SELECT FROM app.parent WHERE id = 9 FOR UPDATE", "SAVEPOINT", "UPDATE app.parent SET v = 1 WHERE id = 9"],
        [(0, "SELECT FROM app.parent WHERE id = 3 FOR KEY SHARE"), "UPDATE app.parent SET v = 1 WHERE id = 3"],
        ["INSERT INTO app.parent VALUES (1000, 1)", "DELETE FROM app.parent WHERE id = 1000"],
        ["UPDATE app.parent SET v = 1 WHERE id = 9", "SAVEPOINT", "DELETE FROM app.parent WHERE id = 8", "ROLLBACK TO"],
    ],
    ids=[
        "touched twice", "savepoint", "only locked", "locked, then updated in a savepoint", "locked by others",
        "inserted and deleted", "rolled back",
    ],
)  # fmt: skip
def test_what_the_counts_do_not_prove_is_captured_by_the_general_form(
    postgres: PostgresDatabase, steps: list[str | tuple[int, str]], snapshot: bool
) -> None:
    """Each way in which the top transaction id alone does not tell."""
    ran = run_case(postgres, case_of(*steps, snapshot=snapshot))

    assert GENERAL == forms(ran)["parent"]


def test_narrowed_post_images_are_whole_again_after_the_undo(postgres: PostgresDatabase) -> None:
    """A plain UPDATE keeps the key and the columns of its SET list only, and that is enough."""
    prepared(postgres)
    before = whole_rows(postgres, "app", dict.fromkeys(TABLES, "true"))
    with opened(postgres) as engine:
        number = engine.journal.begin_run(start())
        with transaction(engine) as run:
            rows = run.execute("UPDATE app.parent SET v = -v WHERE id > 3", ()).affected
            hints = [UpdateHint("app", "parent", ("v",), rows)]
            ran = finish(engine, run, number, run.capture(number, hints, keep=True))
        undo(engine, ran)

    assert [("v",)] == [one.after_columns for one in ran.capture.tables]
    assert before == whole_rows(postgres, "app", dict.fromkeys(TABLES, "true"))
