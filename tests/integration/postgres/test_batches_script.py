"""`for batch in db.batches(…)` in a Python change: each turn of the loop is a batch, captured, proven and committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backout.errors import (
    AssertionFailed,
    BackoutError,
    Busy,
    Interrupted,
    PartlyCommitted,
    Refused,
    RolledBack,
)
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, in_background, left_behind, stage_for, wait_until, yes
from integration.postgres.test_batches import REFERRALS, batches
from servers import PostgresDatabase

pytestmark = pytest.mark.either

BY_KEYS, ARMED = "two snapshots, in batches", "armed triggers"
LOOP = """
def apply(db):
    for batch in db.batches("referral", by="id", size=300):
        db.execute(f"UPDATE referral SET visits = visits + 1 WHERE {batch.where}")
"""


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Iterator[Stage]:
    made = stage_for(postgres, tmp_path)
    made.make(REFERRALS)
    (made.folder / "changes").symlink_to(made.folder)
    yield made
    assert left_behind(made) == []


def run(stage: Stage, text: str) -> RunReport:
    return stage.run(text, suffix=".py")


def proves(stage: Stage, text: str) -> RunReport:
    """A ghost that changes nothing, a run, an undo that is exact, and the undo's undo."""
    before = stage.dump()
    stage.ghost(text, suffix=".py")
    assert before == stage.dump()
    report = run(stage, text)
    after = stage.dump()
    undone = stage.undo(report)
    assert before == stage.dump()
    stage.undo(undone)
    assert after == stage.dump()
    stage.undo(report)
    assert before == stage.dump()
    return report


def captured(report: RunReport) -> list[tuple[str, int, int, int, str]]:
    return [(one.table, one.inserted, one.updated, one.deleted, one.captured_by) for one in report.tables]


def refused(stage: Stage, text: str) -> BackoutError:
    before = stage.dump()
    error = failure(lambda: run(stage, text))
    assert before == stage.dump()
    return error


def test_parameters_of_the_metadata_are_at_hand_in_each_turn(stage: Stage) -> None:
    text = LOOP.replace("visits + 1", "%s").replace('}")', "}\", [db.parameters['wanted']])")
    stage.run(text, suffix=".py", more="# [parameters]\n# wanted = 7")
    assert stage.rows("SELECT DISTINCT visits FROM referral") == [(7,)]


def test_each_turn_is_a_batch(stage: Stage) -> None:
    report = proves(stage, LOOP)
    assert captured(report) == [("public.referral", 0, 1000, 0, BY_KEYS)]
    assert report.proof is not None
    assert report.proof.level == "exact"
    assert [(1, 0, 300, 0), (2, 0, 300, 0), (3, 0, 300, 0), (4, 0, 100, 0)] == batches(stage, report)


def test_rows_one_by_one_and_rows_of_other_tables_are_captured(stage: Stage) -> None:
    stage.make("CREATE TABLE letter (referral bigint, text text); CREATE TABLE seen (id bigint PRIMARY KEY)")
    report = proves(stage, """
def apply(db):
    (many,) = db.execute("SELECT count(*) FROM referral").fetchone()
    for batch in db.batches("referral", by="id"):
        rows = db.execute(f"SELECT id, note FROM referral r WHERE {batch.where.replace('referral', 'r')}").fetchall()
        for number, note in rows:
            db.execute("UPDATE referral SET note = %s WHERE id = %s", [note + " of " + str(many), number])
            with db.savepoint():
                db.execute("INSERT INTO letter VALUES (%s, %s)", [number, "50% off"])
            if number > 900:
                db.execute("INSERT INTO seen VALUES (%s)", [number])

def check(db):
    return db.execute("SELECT count(*) = 1000 FROM letter").fetchone()[0]
""")  # fmt: skip
    assert {row[:1] + row[4:]: row[1:4] for row in captured(report)} == {
        ("public.referral", BY_KEYS): (0, 1000, 0), ("public.letter", ARMED): (1000, 0, 0), ("public.seen", ARMED): (100, 0, 0)
    }  # fmt: skip
    assert [(one.title, one.passed) for one in report.assertions] == [("check(db)", True)]


def test_a_row_that_is_written_twice_in_its_turn_is_proven(stage: Stage) -> None:
    report = proves(stage, LOOP + "        db.execute(f\"UPDATE referral SET note = 'x' WHERE {batch.where}\")\n")
    assert captured(report) == [("public.referral", 0, 2000, 0, ARMED)]


def test_rows_are_deleted_with_what_hangs_on_them(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE visit (id int PRIMARY KEY, referral bigint REFERENCES referral ON DELETE CASCADE);
        INSERT INTO visit SELECT g, g FROM generate_series(1, 1000) g;
    """)
    report = proves(
        stage, LOOP.replace("UPDATE referral SET visits = visits + 1 WHERE", "DELETE FROM referral WHERE id > 150 AND")
    )
    assert [row[:4] for row in captured(report)] == [("public.referral", 0, 0, 850), ("public.visit", 0, 0, 850)]


def test_an_object_mapper_writes_within_a_turn(stage: Stage) -> None:
    pytest.importorskip("sqlalchemy")
    report = proves(stage, """
from sqlalchemy import orm, String, text

class Base(orm.DeclarativeBase): pass

class Referral(Base):
    __tablename__ = "referral"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    note: orm.Mapped[str] = orm.mapped_column(String)

def apply(db):
    for batch in db.batches("referral", by="id", size=300):
        with orm.Session(bind=db.sqlalchemy(), join_transaction_mode="create_savepoint") as session:
            for one in session.query(Referral).filter(text(batch.where)):
                one.note = one.note.upper()
            session.commit()
""")  # fmt: skip
    assert [row[:4] for row in captured(report)] == [("public.referral", 0, 1000, 0)]


def test_a_composite_key_is_named_as_a_tuple(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE t (a text, b int, v int, PRIMARY KEY (a, b));
        INSERT INTO t SELECT 'a' || g % 7, g, g FROM generate_series(1, 500) g;
    """)
    report = proves(stage, """
def apply(database):
    for batch in database.batches("public.t", by=("a", "b"), size=60):
        assert len(batch.upto) == 2
        database.execute("UPDATE t SET v = -v WHERE " + batch.where)
""")  # fmt: skip
    assert captured(report) == [("public.t", 0, 500, 0, BY_KEYS)]


# -- stopping and going on ---------------------------------------------------------------------------------------------


def test_a_script_that_raises_leaves_the_batches_before_it_and_goes_on_there(stage: Stage) -> None:
    before, flag = stage.dump(), stage.folder / "mended"
    text = (
        LOOP
        + f"""
        if batch.number == 3 and not __import__("pathlib").Path({str(flag)!r}).exists():
            raise ValueError("no")
"""
    )
    error = failure(lambda: run(stage, text))
    assert isinstance(error, PartlyCommitted)
    assert error.message.endswith("change-1.py:11: the script raised ValueError: no")
    assert (error.state, stage.rows("SELECT sum(visits) FROM referral")) == ("committed up to batch 2", [(600,)])
    flag.touch()
    report = stage.project.resume("1", "test", ask=yes)
    assert stage.rows("SELECT min(visits), max(visits) FROM referral") == [(1, 1)]
    stage.undo(report)
    assert before == stage.dump()


def test_a_pause_cannot_be_caught_by_the_script(stage: Stage) -> None:
    text = """
def apply(db):
    try:
        for batch in db.batches("referral", by="id", size=300):
            db.execute(f"UPDATE referral SET visits = visits + 1 WHERE {batch.where}")
    except Exception:
        db.execute("SELECT 1")
"""

    def watch(said: str) -> None:
        if said.startswith("batch 2:"):
            stage.project.pause("1", "test")

    error = failure(lambda: stage.project.run(stage.change(text, suffix=".py"), "test", ask=yes, progress=watch))
    assert isinstance(error, Interrupted)
    assert (error.message, error.state) == ("paused", "committed up to batch 2")
    stage.project.resume("1", "test", ask=yes)
    assert stage.rows("SELECT min(visits), max(visits) FROM referral") == [(1, 1)]


def test_a_lock_that_is_not_free_begins_the_script_anew_with_the_batches_that_are_left(stage: Stage) -> None:
    with stage.database.connect("application", autocommit=False) as other:
        other.execute("SELECT FROM referral WHERE id = 700 FOR UPDATE")
        thread, raised = in_background(lambda: run(stage, LOOP))
        wait_until(lambda: stage.rows("SELECT sum(visits) FROM referral") == [(600,)])
        wait_until(lambda: bool(stage.rows("SELECT FROM pg_locks WHERE NOT granted")))
        other.rollback()
        thread.join()
    assert raised == []
    assert stage.rows("SELECT min(visits), max(visits) FROM referral") == [(1, 1)]


def test_a_lock_that_nobody_lets_go_of_ends_it(stage: Stage) -> None:
    with stage.database.connect("application", autocommit=False) as other:
        other.execute("SELECT FROM referral WHERE id = 700 FOR UPDATE")
        error = failure(lambda: run(stage, LOOP))
        other.rollback()
    assert isinstance(error, PartlyCommitted)
    assert error.state == "committed up to batch 2"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "behind", "check"])
def test_nothing_is_written_outside_of_the_loop(stage: Stage, where: str) -> None:
    write = "    db.execute(\"UPDATE referral SET note = 'lost'\")\n"
    text = {
        "before": LOOP.replace("def apply(db):\n", "def apply(db):\n" + write),
        "behind": LOOP + write,
        "check": LOOP + "def check(db):\n" + write,
    }[where]
    error = failure(lambda: run(stage, text))
    assert "read-only transaction" in error.message
    assert stage.rows("SELECT count(*) FROM referral WHERE note = 'lost'") == [(0,)]
    assert isinstance(error, RolledBack if where == "before" else PartlyCommitted)


def test_a_connection_that_is_kept_writes_nothing_between_two_turns(stage: Stage) -> None:
    pytest.importorskip("sqlalchemy")
    error = failure(lambda: run(stage, """
from sqlalchemy import text

def apply(db):
    for batch in db.batches("referral", by="id", size=300):
        connection = db.sqlalchemy()
        connection.execute(text("UPDATE referral SET visits = 1 WHERE " + batch.where))
    connection.execute(text("UPDATE referral SET note = 'lost'"))
"""))  # fmt: skip
    assert isinstance(error, PartlyCommitted)
    assert "a statement outside of the loop over db.batches" in error.message
    assert stage.rows("SELECT count(*) FROM referral WHERE note = 'lost'") == [(0,)]


def test_rows_of_other_batches_are_not_written_by_the_loop(stage: Stage) -> None:
    error = refused(stage, LOOP.replace(" WHERE {batch.where}", ""))
    assert isinstance(error, Refused)
    assert 'rows of "public.referral" were written that are not of the batch at hand' in error.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            LOOP.replace("        db.execute", "        break\n        db.execute"),
            "the script left its loop over db.batches",
        ),
        (LOOP.replace('"id"', "key").replace("def", 'key = "id"\n\ndef'), "db.batches is not understood"),
        (LOOP + '    db.batches("referral", by="id")\n', "a second call of db.batches"),
        (
            LOOP.replace("def apply(db)", "def work(db)") + "def apply(db):\n    work(db)\n",
            "db.batches was not seen in the text of the change",
        ),
        (LOOP + "        db.commit()\n", "a change may not commit"),
        (LOOP + '        db.execute("COMMIT")\n', "a statement of the script may not run"),
    ],
    ids=["left", "not a literal", "twice", "hidden", "commit", "said"],
)
def test_what_is_no_loop_over_batches_is_refused(stage: Stage, text: str, reason: str) -> None:
    assert reason in refused(stage, text).message


def test_a_check_that_fails_leaves_what_is_committed(stage: Stage) -> None:
    before = stage.dump()
    error = failure(lambda: run(stage, LOOP + "def check(db):\n    return False\n"))
    assert isinstance(error, PartlyCommitted)
    assert "check(db) returned False" in error.message
    stage.undo("test-1")
    assert before == stage.dump()
    assert not isinstance(error, AssertionFailed | Busy)
