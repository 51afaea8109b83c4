"""A change in batches: each row once, each batch with its way back, and what is refused before the first batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backout.engines.postgres import batch_capture
from backout.engines.postgres import batches as engine_batches
from backout.errors import (
    BackoutError,
    Conflicts,
    ExpectationFailed,
    InvalidFile,
    PartlyCommitted,
    Refused,
)
from backout.runs.report import RunReport
from integration.postgres.stage import Rights, Stage, backends, failure, in_background, stage_for, wait_until, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.either

REFERRALS = """
CREATE TABLE referral (id bigint PRIMARY KEY, status text NOT NULL, visits int NOT NULL DEFAULT 0, note text);
INSERT INTO referral SELECT g, CASE WHEN g % 3 = 0 THEN 'open' ELSE 'new' END, 0, 'n' || g
  FROM generate_series(1, 1000) g;
"""


@pytest.fixture(params=list(Rights), ids=lambda one: one.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """With each way past the application's triggers."""
    return stage_for(postgres, tmp_path, request.param)


def batches(stage: Stage, run: RunReport) -> list[tuple[int, int, int, int]]:
    """(number, inserted, updated, deleted) of each batch in the journal."""
    return stage.database.execute(
        "SELECT number, inserted, updated, deleted FROM backout.batch WHERE run = %s ORDER BY number", [run.run]
    )


def there_and_back(stage: Stage, statements: str) -> RunReport:
    """A ghost that changes nothing, a run, and an undo that is exact; the run's report."""
    before, triggers = stage.dump(), stage.triggers()
    ghost = stage.ghost(statements)
    assert before == stage.dump()
    report = stage.run(statements)
    assert before != stage.dump()
    assert [(t.inserted, t.updated, t.deleted) for t in ghost.tables] == [
        (t.inserted, t.updated, t.deleted) for t in report.tables
    ]
    assert report.proof is not None
    assert report.proof.level == "exact"
    undone = stage.undo(report)
    assert before == stage.dump()
    assert triggers == stage.triggers()
    stage.undo(undone)
    assert before != stage.dump()
    stage.undo(report)
    assert before == stage.dump()
    return report


def test_an_update_touches_each_row_once_and_comes_back(stage: Stage) -> None:
    stage.make(REFERRALS)
    report = there_and_back(stage, "-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1")
    assert [(n, 0, 100, 0) for n in range(1, 11)] == batches(stage, report)


def test_rows_that_the_condition_leaves_out_are_not_touched(stage: Stage) -> None:
    stage.make(REFERRALS)
    report = there_and_back(
        stage,
        "-- @batch referral by=id size=300\nUPDATE referral r SET status = 'closed' WHERE r.status = 'open' -- these",
    )
    assert [(1, 0, 100, 0), (2, 0, 100, 0), (3, 0, 100, 0), (4, 0, 33, 0)] == batches(stage, report)


def test_what_each_batch_runs_is_recorded_beside_what_the_author_wrote(stage: Stage) -> None:
    """The bounds are in the journal, batch by batch."""
    stage.make(REFERRALS)
    written = "UPDATE referral r SET visits = 1 WHERE status = 'open' OR visits = 2"
    report = stage.run(f"-- @batch referral by=id size=400\n{written}")
    limited = written.replace("WHERE ", "WHERE (") + '\n) AND (("r"."id") > (:after) AND ("r"."id") <= (:upto))'
    assert [one.text for one in report.statements] == [written]
    assert report.notes[0] == f"each batch runs: {limited}"
    assert stage.rows("SELECT report->'notes'->>0 FROM backout.run") == [(report.notes[0],)]
    bounds = stage.rows("SELECT after[1], upto[1] FROM backout.batch ORDER BY number")
    assert bounds == [(None, "400"), ("400", "800"), ("800", "1000")]


def test_a_delete_runs_in_batches_and_comes_back(stage: Stage) -> None:
    stage.make(REFERRALS)
    report = there_and_back(stage, "-- @batch referral by=id size=400\nDELETE FROM referral WHERE status = 'open'")
    assert sum(deleted for _, _, _, deleted in batches(stage, report)) == 333


def test_the_size_finds_itself(stage: Stage) -> None:
    stage.make(REFERRALS)
    report = there_and_back(stage, "-- @batch referral by=id\nUPDATE referral SET visits = 1")
    assert sum(updated for _, _, updated, _ in batches(stage, report)) == 1000


KEYS = {
    "text": "lpad((g * 37 % 600)::text, 4, 'é')",
    "uuid": "md5(g::text)::uuid",
    "numeric": "(g * 1.5)::numeric(12, 3)",
    "timestamptz": "timestamptz '2026-01-01' + g * interval '1 hour 0.000001 s'",
    "double precision": "sqrt(g)",
    "bytea": "decode(md5(g::text), 'hex')",
}


@pytest.mark.parametrize("type_", KEYS)
def test_any_built_in_type_can_be_the_key(stage: Stage, type_: str) -> None:
    stage.make(
        f"CREATE TABLE t (k {type_} PRIMARY KEY, v int);"
        f"INSERT INTO t SELECT {KEYS[type_]}, g FROM generate_series(1, 600) g"
    )
    report = there_and_back(stage, "-- @batch t by=k size=70\nUPDATE t SET v = -v")
    assert [70] * 8 + [40] == [updated for _, _, updated, _ in batches(stage, report)]


def test_a_composite_key_and_gaps_are_no_problem(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE t (a text, b int, v int, PRIMARY KEY (a, b));
        INSERT INTO t SELECT 'a' || g % 7, g * g * 1000, g FROM generate_series(1, 500) g;
    """)
    report = there_and_back(stage, "-- @batch public.t by=a,b size=60\nUPDATE public.t SET v = v + 1")
    assert [60] * 8 + [20] == [updated for _, _, updated, _ in batches(stage, report)]


def test_rows_with_one_value_of_a_skewed_key_are_in_one_batch(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE t (id int PRIMARY KEY, day int NOT NULL, v int); CREATE INDEX ON t (day DESC NULLS FIRST);
        INSERT INTO t SELECT g, CASE WHEN g <= 300 THEN 5 ELSE g % 10 END, g FROM generate_series(1, 400) g;
    """)
    report = there_and_back(stage, "-- @batch t by=day size=50\nUPDATE t SET v = v + 1")
    assert sum(updated for _, _, updated, _ in batches(stage, report)) == 400
    assert 310 in [updated for _, _, updated, _ in batches(stage, report)]


def test_columns_of_any_type_and_name_come_back(stage: Stage) -> None:
    stage.make("""
        CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN small AS int CHECK (VALUE < 9);
        CREATE TABLE "T t" (
          "images" int PRIMARY KEY, "many" mood, "opened" pair[], "place" small, gone int, j json, b jsonb, r int4range,
          n numeric, f float8, i interval, d timestamptz[], "back""slash\\" text,
          twice int GENERATED ALWAYS AS (images * 2) STORED
        );
        ALTER TABLE "T t" DROP COLUMN gone;
        INSERT INTO "T t" SELECT g, 'sad', ARRAY[(g, 'x,"y')::pair, NULL], g % 9, '{"a":  1}', '{"a": null}',
            int4range(g, NULL), 1.50, '-0', '1 mon -3 days', ARRAY[timestamptz '2026-01-01', NULL],
            CASE WHEN g % 2 = 0 THEN E'a\\\n"' END
          FROM generate_series(1, 60) g;
    """)
    report = there_and_back(
        stage,
        '-- @batch "T t" by=images size=25\n'
        "UPDATE \"T t\" SET many = 'glad', opened = NULL, place = NULL, j = '[]', b = NULL, r = 'empty', n = 1.5, f = 0, "
        "i = '0', d = '{}'",
    )
    assert [25, 25, 10] == [updated for _, _, updated, _ in batches(stage, report)]


def test_an_empty_table_and_an_empty_batch_are_fine(stage: Stage) -> None:
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v int)")
    assert batches(stage, stage.run("-- @batch t by=id\nUPDATE t SET v = 1")) == []
    stage.elsewhere("INSERT INTO t SELECT g, g FROM generate_series(1, 30) g")
    report = stage.run("-- @batch t by=id size=10\nUPDATE t SET v = 0 WHERE v > 20")
    assert [(1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 10, 0)] == batches(stage, report)


def test_a_trigger_that_changes_its_own_row_is_captured(stage: Stage) -> None:
    stage.make(REFERRALS)
    stage.make("""
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN NEW.note := 'changed ' || NEW.id; RETURN NEW; END $$;
        CREATE TRIGGER stamp BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION stamp();
    """)
    report = there_and_back(stage, "-- @batch referral by=id size=250\nUPDATE referral SET visits = 2")
    assert ("status", "visits", "note") == report.tables[0].changed_columns


def test_rows_that_others_hold_shared_locks_on_are_captured_all_the_same(stage: Stage) -> None:
    """The row then bears a multixact, by which our own id is not found."""
    stage.make(REFERRALS)
    stage.make("CREATE TABLE child (id int PRIMARY KEY, referral bigint REFERENCES referral)")
    before = stage.dump()
    with stage.database.connect("application", autocommit=False) as child:
        child.execute("INSERT INTO child SELECT g, g * 10 FROM generate_series(1, 50) g")
        report = stage.run("-- @batch referral by=id size=250\nUPDATE referral SET visits = visits + 1")
        child.rollback()
    assert [(n, 0, 250, 0) for n in range(1, 5)] == batches(stage, report)
    stage.undo(report)
    assert before == stage.dump()


def test_a_row_that_others_change_while_the_statement_runs_is_captured_as_they_left_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor that was opened before does not see their version: the count tells, and the second session is asked."""
    stage.make(REFERRALS)
    stage.make("""
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          FOR i IN 1..3000 LOOP
            EXIT WHEN current_setting('application_name') NOT LIKE 'backout:%'
              OR EXISTS (SELECT FROM referral WHERE id = 50 AND note = 'theirs');
            PERFORM pg_sleep(0.01);
          END LOOP; RETURN NULL; END $$;
        CREATE TRIGGER wait BEFORE UPDATE ON referral FOR EACH STATEMENT EXECUTE FUNCTION wait();
    """)
    by_cursor, seen = batch_capture._by_cursor, []

    def watched(*arguments: Any) -> tuple[int, int] | None:
        seen.append(by_cursor(*arguments))
        return seen[-1]

    monkeypatch.setattr(batch_capture, "_by_cursor", watched)
    asleep = "SELECT FROM pg_stat_activity WHERE application_name = 'backout: run' AND wait_event = 'PgSleep'"

    def elsewhere() -> None:
        wait_until(lambda: bool(stage.rows(asleep)))
        with stage.database.connect("application") as other:
            other.execute("UPDATE referral SET note = 'theirs' WHERE id = 50")

    thread, raised = in_background(elsewhere)
    report = stage.run("-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1")
    thread.join()
    assert raised == []
    assert seen == [(99, 100)] + [(100, 100)] * 9
    assert stage.rows("SELECT visits, note FROM referral WHERE id = 50") == [(1, "theirs")]
    stage.undo(report)
    assert stage.rows("SELECT visits, note FROM referral WHERE id = 50") == [(0, "theirs")]
    assert stage.rows("SELECT count(*) FROM referral WHERE visits <> 0") == [(0,)]


def test_rows_too_large_for_the_servers_memory_are_captured_by_the_second_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_batches, "IN_SERVER_BYTES", -1)
    stage.make(REFERRALS)
    there_and_back(stage, "-- @batch referral by=id size=300\nUPDATE referral SET visits = 5 WHERE status = 'open'")


def test_between_two_batches_the_past_is_held_and_the_table_is_not(stage: Stage) -> None:
    stage.make(REFERRALS)
    seen: list[tuple[bool, int]] = []

    def watch(said: str) -> None:
        if said.startswith("batch "):
            (pid,) = backends(stage.database, "backout: before-images")
            held = stage.rows(f"SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = {pid}")
            locks = stage.rows(f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND relation = 'referral'::regclass")
            seen.append((held[0][0], locks[0][0]))

    change = stage.change("-- @batch referral by=id size=300\nUPDATE referral SET visits = 1")
    stage.project.run(change, "test", ask=yes, progress=watch)
    assert seen == [(True, 0)] * 4


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(stage: Stage, statements: str) -> BackoutError:
    before = stage.dump()
    error = failure(lambda: stage.run(statements))
    assert before == stage.dump()
    assert stage.rescue_tables() == []
    return error


@pytest.mark.parametrize(
    ("table", "by", "reason"),
    [
        ("CREATE TABLE t (id int, v int)", "id", "no key identifies its rows"),
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", "w", 'it has no column "w"'),
        ("CREATE TABLE t (id int PRIMARY KEY, w int, v int)", "w", 'column "w" may be NULL, and such rows are in no batch'),
        ("CREATE TABLE t (id int PRIMARY KEY, w int NOT NULL, v int)", "w", 'no index has its rows in the order of "w"'),
        (
            "CREATE TABLE t (id int PRIMARY KEY, w int NOT NULL, v int); CREATE INDEX ON t (w) WHERE w > 0",
            "w",
            'no index has its rows in the order of "w"',
        ),
        (
            "CREATE TABLE t (id int, w int, v int, PRIMARY KEY (w, id))",
            "id,w",
            'no index has its rows in the order of "id", "w"',
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
            "id",
            "it is not a plain table of its own: it has partitions, or tables that inherit from it",
        ),
    ],
)  # fmt: skip
def test_a_table_that_is_not_fit_is_refused(stage: Stage, table: str, by: str, reason: str) -> None:
    stage.make(table)
    error = failure(lambda: stage.run(f"-- @batch t by={by}\nUPDATE t SET v = 1"))
    assert isinstance(error, Refused)
    assert error.message.endswith(f"is not fit for batches: {reason}")
    assert error.state == "untouched"


def test_ghost_undo_of_a_batched_change_is_refused(stage: Stage) -> None:
    stage.make(REFERRALS)
    error = failure(lambda: stage.ghost("-- @batch referral by=id\nUPDATE referral SET visits = 1", undo=True))
    assert isinstance(error, Refused)


def test_a_statement_that_cannot_be_limited_is_refused_with_its_place(stage: Stage) -> None:
    error = failure(lambda: stage.change("-- @batch referral by=id\nINSERT INTO referral SELECT * FROM referral"))
    assert isinstance(error, InvalidFile)


# -- what is expected --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".sql", ".py"])
def test_a_ghost_run_tries_as_many_batches_as_it_is_told_to_and_a_run_all(stage: Stage, suffix: str) -> None:
    """What is expected of all batches together is not asked of a few."""
    stage.make(REFERRALS)
    stage.options = {**stage.options, "ghost_batches": "2"}
    text = "-- @batch referral by=id size=300\n-- @expect total 1000\nUPDATE referral SET visits = 1"
    if suffix == ".py":
        text = (
            'def apply(db):\n    for batch in db.batches("referral", by="id", size=300):\n'
            '        db.execute(f"UPDATE referral SET visits = 1 WHERE {batch.where}")\n'
        )
    before = stage.dump()
    ghost = stage.ghost(text, suffix=suffix)
    assert [one.updated for one in ghost.tables] == [600]
    assert "only the first 2 batches were tried (`ghost_batches`): a run has all of them" in ghost.notes
    assert "each batch was rolled back by itself: they did not see each other" in ghost.notes
    assert before == stage.dump()
    report = stage.run(text, suffix=suffix)
    assert [one.updated for one in report.tables] == [1000]


def test_an_expectation_is_per_batch_and_a_failing_one_leaves_those_before(stage: Stage) -> None:
    stage.make(REFERRALS)
    before = stage.dump()
    error = failure(
        lambda: stage.run("-- @batch referral by=id size=300\n-- @expect 300\nUPDATE referral SET visits = visits + 1")
    )
    assert isinstance(error, PartlyCommitted)
    assert (error.exit_status, error.state) == (10, "committed up to batch 3")
    assert "batch 4 wrote 100 rows, and 300 were expected" in error.message
    assert isinstance(error.report, RunReport)
    assert stage.rows("SELECT sum(visits) FROM referral") == [(900,)]
    stage.undo(error.report)
    assert before == stage.dump()


def test_an_expectation_that_the_first_batch_fails_leaves_nothing(stage: Stage) -> None:
    stage.make(REFERRALS)
    error = refused(stage, "-- @batch referral by=id size=300\n-- @expect 5\nUPDATE referral SET visits = visits + 1")
    assert isinstance(error, ExpectationFailed)


@pytest.mark.parametrize("check", ["-- @expect total 5", "-- @assert"])
def test_what_is_asked_after_the_last_batch_can_fail_the_run(stage: Stage, check: str) -> None:
    stage.make(REFERRALS)
    before = stage.dump()
    total, asserted = (check, "") if "total" in check else ("", '-- @assert "none"\nSELECT count(*) = 5 FROM referral;')
    error = failure(
        lambda: stage.run(f"{total}\n-- @batch referral by=id\nUPDATE referral SET visits = visits + 1;\n{asserted}")
    )
    assert isinstance(error, PartlyCommitted)
    assert isinstance(error.report, RunReport)
    stage.undo(error.report)
    assert before == stage.dump()


# -- undo --------------------------------------------------------------------------------------------------------------


def test_one_batch_can_be_undone_by_itself_and_the_rest_later(stage: Stage) -> None:
    stage.make(REFERRALS)
    before = stage.dump()
    report = stage.run("-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1")
    stage.project.undo(report.identifier, "test", batch=7, ask=yes)
    assert stage.rows("SELECT min(id), max(id) FROM referral WHERE visits = 0") == [(601, 700)]
    again = failure(lambda: stage.project.undo(report.identifier, "test", batch=7, ask=yes))
    assert isinstance(again, Refused)
    stage.undo(report)
    assert before == stage.dump()
    assert isinstance(failure(lambda: stage.undo(report)), Refused)


def test_a_row_that_others_changed_since_is_a_conflict_of_its_batch(stage: Stage) -> None:
    stage.make(REFERRALS)
    report = stage.run("-- @batch referral by=id size=100\nUPDATE referral SET visits = visits + 1")
    stage.elsewhere("UPDATE referral SET visits = 50 WHERE id = 250")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Conflicts)
    assert error.state == "7 batches are put back"
    assert stage.rows("SELECT count(*) FROM referral WHERE visits = 1") == [(299,)]
    done = stage.undo(report, partial=True)
    assert [{"id": "250"}] == [dict(one.key) for one in done.conflicts]
    assert stage.rows("SELECT id, visits FROM referral WHERE visits <> 0") == [(250, 50)]
    listed = failure(lambda: stage.project.undo(report.identifier, "test", batch=3, ask=yes))
    assert isinstance(listed, Conflicts)
    stage.project.undo(report.identifier, "test", batch=3, overwrite=[1], ask=yes)
    assert stage.rows("SELECT count(*) FROM referral WHERE visits <> 0") == [(0,)]
    assert isinstance(failure(lambda: stage.undo(report)), Refused)


# -- rehearsal, and what comes after -----------------------------------------------------------------------------------


def test_a_change_in_batches_is_rehearsed_there_and_back(stage: Stage) -> None:
    stage.make(REFERRALS)
    before = stage.dump()
    change = stage.change(
        "-- @batch referral by=id size=300\nUPDATE referral SET status = 'closed' WHERE status = 'open'",
        more="-- idempotent = true",
    )
    rehearsal = stage.project.rehearse(change, "test", ask=yes)
    assert before == stage.dump()
    assert rehearsal.is_idempotent
    assert rehearsal.certificate is not None
    assert rehearsal.certificate.rows == {"public.referral": (0, 333, 0)}


def test_a_second_run_that_changes_rows_is_said_to(stage: Stage) -> None:
    stage.make(REFERRALS)
    change = stage.change("-- @batch referral by=id size=300\nUPDATE referral SET visits = visits + 1")
    rehearsal = stage.project.rehearse(change, "test", ask=yes)
    assert rehearsal.again is not None
    assert rehearsal.again.net_change == {"public.referral": 2000}


def test_checks_after_the_end_are_asked(stage: Stage) -> None:
    stage.make(REFERRALS)
    error = failure(
        lambda: stage.run(
            '-- @batch referral by=id\nUPDATE referral SET visits = 1;\n-- @after "none"\nSELECT count(*) = 0 FROM referral'
        )
    )
    assert (error.exit_status, error.state) == (9, "committed")
    assert stage.journal() == [(1, "real", "committed")]


def test_the_way_back_of_an_expired_run_is_dropped_as_a_whole(stage: Stage) -> None:
    stage.make(REFERRALS)
    stage.run("-- @batch referral by=id size=100\nUPDATE referral SET visits = 1")
    assert stage.rescue_tables() == ["batched_1_after", "batched_1_before"]
    stage.database.execute("UPDATE backout.run SET expires_at = now() - interval '1 day'")
    stage.project.clean("test", [1])
    assert stage.rescue_tables() == []
    assert isinstance(failure(lambda: stage.undo("test-1")), Refused)
