"""What a change in batches writes beside the rows of each batch: by cascades, triggers and functions, batch by batch."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from backout.errors import BackoutError, Busy, Conflicts, Interrupted, PartlyCommitted, ProofFailed, Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Rights, Stage, failure, left_behind, stage_for, yes
from integration.postgres.test_batches import REFERRALS, refused, there_and_back
from servers import PostgresDatabase

pytestmark = pytest.mark.either

ARMED = "armed triggers"
UPDATE = "-- @batch referral by=id size=250\nUPDATE referral SET visits = visits + 1"


@pytest.fixture(params=list(Rights), ids=lambda one: one.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """With each way past the application's triggers, and a table of referrals."""
    made = stage_for(postgres, tmp_path, request.param)
    made.make(REFERRALS)
    return made


def trigger(stage: Stage, body: str, when: str = "AFTER UPDATE", on: str = "referral", name: str = "act") -> None:
    """A row trigger of the application's."""
    stage.make(f"""
        CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
        CREATE TRIGGER {name} {when} ON {on} FOR EACH ROW EXECUTE FUNCTION {name}();
    """)


def audited(stage: Stage, key: str = "") -> None:
    """Each update of a referral writes a row of the audit."""
    stage.make(
        f"CREATE TABLE audit (id bigint {key}, what text); INSERT INTO audit SELECT -g, 'old' FROM generate_series(1, 5) g"
    )
    trigger(stage, "INSERT INTO audit VALUES (NEW.id, 'visits ' || NEW.visits)")


def captured(report: RunReport) -> list[tuple[str, int, int, int, str]]:
    return [(one.table, one.inserted, one.updated, one.deleted, one.captured_by) for one in report.tables]


def proves(stage: Stage, statements: str) -> RunReport:
    """There and back, with nothing of ours left on the tables."""
    report = there_and_back(stage, statements)
    assert left_behind(stage) == []
    return report


BY_KEYS = "two snapshots, in batches"


@pytest.mark.parametrize("key", ["", "PRIMARY KEY"], ids=["without a key", "with a key"])
def test_rows_that_a_trigger_writes_to_another_table_are_captured(stage: Stage, key: str) -> None:
    audited(stage, key)
    report = proves(stage, UPDATE)
    assert captured(report) == [
        ("public.referral", 0, 1000, 0, BY_KEYS), ("public.audit", 1000, 0, 0, ARMED)
    ]  # fmt: skip
    assert stage.database.execute(
        "SELECT number, place, inserted, after_rows FROM backout.batch_armed WHERE run = %s ORDER BY 1", [report.run]
    ) == [(number, 1, 250, 250) for number in range(1, 5)]


def test_rows_that_cascades_reach_are_captured(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE visit (id int PRIMARY KEY, referral bigint REFERENCES referral ON DELETE CASCADE, v int);
        CREATE TABLE note (visit int REFERENCES visit ON DELETE CASCADE, text text);
        CREATE TABLE letter (id int PRIMARY KEY, visit int DEFAULT 7 REFERENCES visit ON DELETE SET NULL);
        INSERT INTO visit SELECT g, g % 900 + 1, g FROM generate_series(1, 1500) g;
        INSERT INTO note SELECT g % 1500 + 1, 'n' || g % 3 FROM generate_series(1, 1800) g;
        INSERT INTO letter SELECT g, g % 1500 + 1 FROM generate_series(1, 300) g;
    """)
    report = proves(stage, "-- @batch referral by=id size=300\nDELETE FROM referral WHERE status = 'open'")
    assert {(table, by) for table, _, _, _, by in captured(report)} == {
        ("public.referral", BY_KEYS), ("public.visit", ARMED), ("public.note", ARMED), ("public.letter", ARMED)
    }  # fmt: skip


def test_a_cascade_of_an_update_is_captured(stage: Stage) -> None:
    stage.make("""
        ALTER TABLE referral ADD number text UNIQUE; UPDATE referral SET number = 'r' || id;
        CREATE TABLE visit (id int PRIMARY KEY, referral text REFERENCES referral (number) ON UPDATE CASCADE);
        INSERT INTO visit SELECT g, 'r' || g FROM generate_series(1, 1000, 3) g;
    """)
    report = proves(stage, "-- @batch referral by=id size=300\nUPDATE referral SET number = 'n' || id")
    assert [row[:3] for row in captured(report)] == [("public.referral", 0, 1000), ("public.visit", 0, 334)]


def test_a_trigger_that_updates_its_own_row_again_is_proven(stage: Stage) -> None:
    trigger(stage, "IF pg_trigger_depth() = 1 THEN UPDATE referral SET note = note || '!' WHERE id = NEW.id; END IF")
    report = proves_as(stage, UPDATE, "repeated 1000")
    assert captured(report) == [("public.referral", 0, 2000, 0, ARMED)]


def proves_as(stage: Stage, statements: str, level: str) -> RunReport:
    """There and back where rows are written more than once."""
    before = stage.dump()
    stage.ghost(statements)
    assert before == stage.dump()
    report = stage.run(statements)
    after = stage.dump()
    assert report.proof is not None
    assert report.proof.level == level
    undone = stage.undo(report)
    assert before == stage.dump()
    stage.undo(undone)
    assert after == stage.dump()
    stage.undo(report)
    assert before == stage.dump()
    assert left_behind(stage) == []
    return report


def test_a_trigger_that_writes_rows_of_other_batches_is_taken_back_in_order(stage: Stage) -> None:
    trigger(
        stage,
        "IF pg_trigger_depth() = 1 THEN UPDATE referral SET visits = visits + 10 WHERE id = 1001 - NEW.id; END IF",
    )
    proves_as(stage, UPDATE, "exact")


def test_one_batch_whose_rows_a_later_one_changed_again_is_in_conflict(stage: Stage) -> None:
    before = stage.dump()
    trigger(
        stage, "IF pg_trigger_depth() = 1 AND NEW.id = 900 THEN UPDATE referral SET note = '!' WHERE id = 5; END IF"
    )
    report = stage.run("-- @batch referral by=id size=250\nUPDATE referral SET note = 'x'")
    error = failure(lambda: stage.project.undo(report.identifier, "test", batch=1, ask=yes))
    assert isinstance(error, Conflicts)
    stage.project.undo(report.identifier, "test", batch=4, ask=yes)
    stage.project.undo(report.identifier, "test", batch=1, ask=yes)
    stage.undo(report)
    assert before == stage.dump()


def test_a_tree_that_deletes_itself_across_batches_comes_back(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node ON DELETE CASCADE, v text);
        INSERT INTO node SELECT g, CASE WHEN g > 10 THEN g % 10 + 1 END, 'v' || g FROM generate_series(1, 400) g;
    """)
    before = stage.dump()
    report = stage.run("-- @batch node by=id size=5\nDELETE FROM node WHERE id <> 3 AND parent IS NULL")
    assert stage.rows("SELECT count(*) FROM node") == [(40,)]
    assert captured(report) == [("public.node", 0, 0, 360, ARMED)]
    stage.undo(report)
    assert before == stage.dump()


def test_a_counter_that_each_row_moves_is_put_back(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE counter (name text PRIMARY KEY, n int); INSERT INTO counter VALUES ('all', 5), ('none', 1)"
    )
    trigger(stage, "UPDATE counter SET n = n + 1 WHERE name = 'all'")
    proves_as(stage, UPDATE, "repeated 996")


def test_a_table_that_only_a_later_batch_writes_is_armed_then(stage: Stage) -> None:
    audited(stage)
    stage.make("CREATE TABLE late (id bigint); CREATE TABLE later (id bigint PRIMARY KEY)")
    trigger(stage, "IF NEW.id > 500 THEN INSERT INTO late VALUES (NEW.id); END IF", name="late")
    trigger(stage, "IF NEW.id = 999 THEN INSERT INTO later VALUES (NEW.id); END IF", name="later")
    report = proves(stage, UPDATE)
    assert [row[:2] for row in captured(report)][1:] == [
        ("public.audit", 1000),
        ("public.late", 500),
        ("public.later", 1),
    ]


def test_its_own_table_can_be_armed_when_batches_are_committed_already(stage: Stage) -> None:
    trigger(
        stage,
        "IF NEW.id > 500 AND pg_trigger_depth() = 1 THEN UPDATE referral SET note = 'again' WHERE id = NEW.id; END IF",
    )
    report = proves_as(stage, UPDATE, "repeated 500")
    assert captured(report) == [("public.referral", 0, 500, 0, BY_KEYS), ("public.referral", 0, 1000, 0, ARMED)]


def test_rows_of_partitions_are_captured_where_they_are(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE event (id bigint, what text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (600);
        CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (600) TO (9000);
    """)
    trigger(stage, "INSERT INTO event VALUES (NEW.id, 'x')")
    report = proves(stage, UPDATE)
    assert [row[:2] for row in captured(report)][1:] == [("public.event_1", 599), ("public.event_2", 401)]


def test_what_others_write_to_an_armed_table_meanwhile_is_theirs(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    theirs: list[str] = []

    def watch(said: str) -> None:
        if said.startswith("batch"):
            stage.elsewhere(f"INSERT INTO audit VALUES ({len(theirs)}, 'theirs')")
            theirs.append(f"({len(theirs)},theirs)")

    report = stage.project.run(stage.change(UPDATE), "test", ask=yes, progress=watch)
    assert captured(report)[1][:2] == ("public.audit", 1000)
    stage.undo(report)
    assert {**before, "audit": sorted(before["audit"] + theirs)} == stage.dump()


def test_what_fails_half_way_in_a_trigger_is_not_taken_for_proven(stage: Stage) -> None:
    """The server counts the row that a unique index then refused; no trigger fires for it."""
    stage.make("CREATE TABLE seen (v int UNIQUE); INSERT INTO seen VALUES (1)")
    trigger(
        stage,
        "IF NEW.id = 7 THEN BEGIN INSERT INTO seen VALUES (1); EXCEPTION WHEN unique_violation THEN NULL; END; END IF",
    )
    error = refused(stage, UPDATE)
    assert isinstance(error, ProofFailed)
    assert 'do not explain every write of "public.seen"' in error.message
    assert left_behind(stage) == []


# -- stopping and going on ---------------------------------------------------------------------------------------------


def until(stage: Stage, batch: int, statements: str = UPDATE) -> BackoutError:
    """Paused behind that batch."""
    change = stage.change(statements)

    def watch(said: str) -> None:
        if said.startswith(f"batch {batch}:"):
            stage.project.pause("1", "test")

    return failure(lambda: stage.project.run(change, "test", ask=yes, progress=watch))


@pytest.fixture
def known(stage: Stage) -> None:
    (stage.folder / "changes").symlink_to(stage.folder)


@pytest.mark.usefixtures("known")
def test_a_run_that_goes_on_arms_what_it_knows_again(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    assert isinstance(until(stage, 2), Interrupted)
    assert left_behind(stage) == []
    stage.elsewhere("UPDATE audit SET what = what || ' seen' WHERE id = 7")
    stage.elsewhere("INSERT INTO audit VALUES (7, 'theirs')")
    report = stage.project.resume("1", "test", ask=yes)
    assert left_behind(stage) == []
    assert [row[:4] for row in captured(report)] == [("public.referral", 0, 1000, 0), ("public.audit", 1000, 0, 0)]
    stage.elsewhere("DELETE FROM audit WHERE what = 'theirs'; UPDATE audit SET what = 'visits 1' WHERE id = 7")
    stage.undo(report)
    assert before == stage.dump()


@pytest.mark.usefixtures("known")
def test_a_table_that_was_altered_meanwhile_stops_it(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    until(stage, 2)
    stage.elsewhere("ALTER TABLE audit ADD more int")
    error = failure(lambda: stage.project.resume("1", "test", ask=yes))
    assert isinstance(error, PartlyCommitted)
    assert (error.message, error.state) == (
        'table "public.audit" was altered since the run began', "committed up to batch 2"
    )  # fmt: skip
    stage.undo("test-1")
    stage.elsewhere("ALTER TABLE audit DROP more")
    assert before == stage.dump()


def test_a_trigger_of_ours_that_somebody_takes_away_fails_the_proof(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()

    def watch(said: str) -> None:
        if said.startswith("batch 2:"):
            stage.elsewhere('ALTER TABLE audit DISABLE TRIGGER "backout_armed_run_1_1"')

    error = failure(lambda: stage.project.run(stage.change(UPDATE), "test", ask=yes, progress=watch))
    assert isinstance(error, PartlyCommitted)
    assert 'do not explain every write of "public.audit"' in error.message
    assert left_behind(stage) == []
    stage.undo("test-1")
    assert before == stage.dump()


def test_a_table_that_is_never_free_is_told(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    with stage.database.connect("application", autocommit=False) as writer:
        writer.execute("INSERT INTO audit VALUES (0, 'mine')")
        error = failure(lambda: stage.run(UPDATE))
        writer.rollback()
    assert isinstance(error, Busy)
    assert 'unable to arm table "public.audit" with a trigger' in error.message
    assert "held by backend" in error.message
    assert (before, []) == (stage.dump(), left_behind(stage))


def test_a_table_that_the_login_role_may_not_arm_is_refused_before_the_first_batch(stage: Stage) -> None:
    stage.database.execute("CREATE TABLE theirs (id bigint); GRANT INSERT, SELECT ON theirs TO PUBLIC")
    trigger(stage, "INSERT INTO theirs VALUES (NEW.id)")
    error = refused(stage, UPDATE)
    assert isinstance(error, Refused)
    assert 'the statement writes to "public.theirs" as well' in error.message
    assert str(error.hint).startswith("let an administrator run: GRANT ")
    assert [("refused",)] == stage.database.execute("SELECT state FROM backout.run")


def test_a_change_cannot_write_to_the_log(stage: Stage) -> None:
    """Nobody's name of it is known before; a function that looks for it is found by what the server counts."""
    audited(stage)
    stage.options = {"role": ""}
    trigger(stage, """
        IF NEW.id = 7 AND to_regclass('pg_temp.armed_run_1_1_' || 'audit'::regclass::oid) IS NOT NULL THEN
          EXECUTE format('DELETE FROM pg_temp.armed_run_1_1_%s', 'audit'::regclass::oid); END IF
    """, name="zz_forge")  # fmt: skip
    error = refused(stage, UPDATE)
    assert (error.exit_status, error.state) == (6, "rolled back")
    assert 'the log of table "public.audit" was written to by something else than its trigger' in error.message


# -- undo --------------------------------------------------------------------------------------------------------------


def test_one_batch_takes_what_it_wrote_elsewhere_back_with_it(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    report = stage.run(UPDATE)
    stage.project.undo(report.identifier, "test", batch=3, ask=yes)
    assert stage.rows("SELECT min(id), max(id) FROM referral WHERE visits = 0") == [(501, 750)]
    assert stage.rows("SELECT count(*), count(*) FILTER (WHERE id BETWEEN 501 AND 750) FROM audit") == [(755, 0)]
    after = stage.dump()
    assert stage.undo(report, ghost=True).outcome.value == "rolled back"
    assert after == stage.dump()
    stage.undo(report)
    assert before == stage.dump()


def test_the_way_back_is_dropped_with_all_its_tables(stage: Stage) -> None:
    audited(stage)
    stage.run(UPDATE)
    assert stage.rescue_tables() == ["batched_1_1_after", "batched_1_1_before", "batched_1_after", "batched_1_before"]
    stage.database.execute("UPDATE backout.run SET expires_at = now() - interval '1 day'")
    stage.project.clean("test", [1])
    assert stage.rescue_tables() == []


@pytest.mark.parametrize("key", ["", "PRIMARY KEY"], ids=["without a key", "with a key"])
def test_a_row_elsewhere_that_others_changed_is_a_conflict_of_its_batch(stage: Stage, key: str) -> None:
    audited(stage, key)
    before = stage.dump()
    report = stage.run(UPDATE)
    stage.elsewhere("UPDATE audit SET what = 'mine' WHERE id = 600")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Conflicts)
    assert error.state == "1 batches are put back"
    stage.undo(report, partial=True)
    assert {**before, "audit": []} == {**stage.dump(), "audit": []}
    stage.elsewhere("UPDATE audit SET what = 'visits 1' WHERE id = 600")
    stage.undo(report)
    assert before == stage.dump()
    assert isinstance(failure(lambda: stage.undo(report)), Refused)
    assert left_behind(stage) == []


def test_an_append_only_table_keeps_its_rows(stage: Stage) -> None:
    audited(stage)
    stage.undo_options = '[undo]\nappend_only = ["audit"]'
    before = stage.dump()
    report = stage.run(UPDATE)
    after = stage.dump()
    stage.undo(report)
    assert {**before, "audit": after["audit"]} == stage.dump()


def test_a_rehearsal_compares_all_tables(stage: Stage) -> None:
    audited(stage)
    before = stage.dump()
    rehearsal = stage.project.rehearse(stage.change(UPDATE), "test", ask=yes)
    assert rehearsal.again is not None
    assert rehearsal.again.net_change == {"public.referral": 2000, "public.audit": 1000}
    assert before == stage.dump()


def test_a_later_session_with_the_same_backend_id_fires_nothing(stage: Stage) -> None:
    """The guard's second half: a session that happens to get the dead one's id has no log of that name."""
    audited(stage)
    seen = []

    def watch(said: str) -> None:
        if said.startswith("batch 2:"):
            (guard,) = stage.rows(
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'backout_armed_run_1_1'"
            )[0]
            condition = guard[guard.index("WHEN (") + 5 : guard.index(" EXECUTE FUNCTION")]
            mine = condition.replace(condition.split("= ")[1].split(")")[0], "pg_catalog.pg_backend_pid()")
            with psycopg.connect(stage.database.superuser_url) as other:
                seen.append((condition != mine, *other.execute(f"SELECT {mine}").fetchall()))

    stage.project.run(stage.change(UPDATE), "test", ask=yes, progress=watch)
    assert seen == [(True, (False,))]
