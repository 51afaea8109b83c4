"""Tables too big to scan: what triggers that are armed for one run capture, and that nothing of them stays.

Every scenario arms all tables (`scan_limit = 0`), so that none of them is scanned.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.values import ConflictKind
from integration.postgres.stage import Rights, Stage, conflicts, in_background, left_behind, stage_for, wait_until
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

ARMED = "armed triggers"


@pytest.fixture(params=list(Rights), ids=lambda one: one.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Every table is too big to scan; with each way past the application's triggers."""
    return stage_for(postgres, tmp_path, request.param, scan_limit="0")


def proves(stage: Stage, statements: str) -> list[tuple[str, str]]:
    """There and back, with nothing left behind. Returns the run's (table, captured by)."""
    report = stage.proves(statements)
    assert left_behind(stage) == []
    return [(table.table, table.captured_by) for table in report.tables]


CLINIC = """
CREATE TABLE clinic (id int PRIMARY KEY, name text);
CREATE TABLE patient (id int PRIMARY KEY, clinic_id int REFERENCES clinic ON DELETE CASCADE, name text, visits int);
CREATE TABLE note (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                   patient_id int REFERENCES patient ON DELETE CASCADE ON UPDATE CASCADE, text text);
INSERT INTO clinic SELECT g, 'clinic ' || g FROM generate_series(1, 4) g;
INSERT INTO patient SELECT g, g % 4 + 1, 'patient ' || g, 0 FROM generate_series(1, 40) g;
INSERT INTO note (patient_id, text) SELECT g % 40 + 1, 'note ' || g FROM generate_series(1, 80) g;
"""


def test_a_plain_change_is_captured(stage: Stage) -> None:
    stage.make(CLINIC)
    assert proves(stage, "UPDATE patient SET visits = visits + 1 WHERE id < 30") == [("public.patient", ARMED)]


def test_rows_that_a_cascade_reaches_are_captured(stage: Stage) -> None:
    stage.make(CLINIC)
    changed = proves(stage, "DELETE FROM clinic WHERE id = 2; UPDATE patient SET id = id + 1000 WHERE clinic_id = 3")
    assert changed == [("public.clinic", ARMED), ("public.note", ARMED), ("public.patient", ARMED)]


def test_versions_that_nested_triggers_make_out_of_order_cancel_out(stage: Stage) -> None:
    """The trigger's own update of the row is logged before the update that fired it."""
    stage.make(CLINIC)
    stage.make("""
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.visits < 3 THEN UPDATE patient SET visits = visits + 1 WHERE id = NEW.id; END IF;
          IF NEW.visits = 2 THEN DELETE FROM note WHERE patient_id = NEW.id;
            INSERT INTO note (patient_id, text) VALUES (NEW.id, 'seen twice'); END IF; RETURN NEW; END $$;
        CREATE TRIGGER a_again AFTER UPDATE ON patient FOR EACH ROW EXECUTE FUNCTION again();
        CREATE TRIGGER z_again AFTER UPDATE ON patient FOR EACH ROW EXECUTE FUNCTION again();
    """)
    changed = proves(stage, "UPDATE patient SET visits = 1 WHERE id < 10")
    assert changed == [("public.note", ARMED), ("public.patient", ARMED)]


PARTS = """
CREATE TABLE event (id int, at date, what text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_old (what text, at date NOT NULL, dropped int, id int NOT NULL);
ALTER TABLE event_old DROP dropped;
ALTER TABLE event ATTACH PARTITION event_old FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
CREATE TABLE event_new PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2030-01-01') PARTITION BY LIST (id);
CREATE TABLE event_new_even PARTITION OF event_new FOR VALUES IN (2, 4, 6, 8, 10);
CREATE TABLE event_new_rest PARTITION OF event_new DEFAULT;
CREATE TABLE detail (id int PRIMARY KEY, event_id int, at date,
                     FOREIGN KEY (event_id, at) REFERENCES event ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO event SELECT g, CASE WHEN g < 6 THEN date '2022-01-01' ELSE '2027-01-01' END, 'e' || g
  FROM generate_series(1, 12) g;
INSERT INTO detail SELECT id, id, at FROM event;
"""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET at = at + 1200 WHERE id IN (2, 3)",
        "UPDATE event SET id = id + 11 WHERE id = 6",
        "UPDATE event_new SET what = 'x'; DELETE FROM event_old WHERE id = 1",
        "UPDATE event_new_even SET what = 'only here'",
        "DELETE FROM event WHERE id % 3 = 0",
        "INSERT INTO event VALUES (20, '2021-05-05', 'n'), (8, '2027-01-01', 'u') ON CONFLICT (id, at) DO UPDATE "
        "SET what = excluded.what",
    ],
    ids=["moved", "moved below", "branches", "leaf", "deleted", "upsert"],
)
def test_rows_of_partitions_are_captured_where_they_are(stage: Stage, statement: str) -> None:
    stage.make(PARTS)
    assert {by for _, by in proves(stage, statement)} == {ARMED}


def test_rows_of_inheritance_children_are_captured_where_they_are(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE place (id int PRIMARY KEY, name text);
        CREATE TABLE city (people int, PRIMARY KEY (id)) INHERITS (place);
        CREATE TABLE capital (land text, PRIMARY KEY (id)) INHERITS (city);
        INSERT INTO place VALUES (1, 'here'); INSERT INTO city VALUES (2, 'there', 10), (3, 'far', 20);
        INSERT INTO capital VALUES (4, 'top', 30, 'A'), (5, 'best', 40, 'B');
    """)
    changed = proves(stage, "UPDATE place SET name = upper(name); DELETE FROM city WHERE people > 30")
    assert changed == [("public.capital", ARMED), ("public.city", ARMED), ("public.place", ARMED)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO patient VALUES (1, 1, 'new', 5), (99, 1, 'other', 5) ON CONFLICT (id) DO UPDATE "
        "SET visits = excluded.visits",
        "INSERT INTO patient VALUES (1, 1, 'new', 5), (99, 1, 'other', 5) ON CONFLICT DO NOTHING",
        "MERGE INTO patient p USING (VALUES (1), (2), (77)) n (id) ON p.id = n.id WHEN MATCHED AND p.id = 1 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET visits = 9 WHEN NOT MATCHED THEN INSERT VALUES (n.id, 1, 'm', 0)",
        "WITH gone AS (DELETE FROM note WHERE id < 9 RETURNING *) UPDATE patient p SET visits = gone.id FROM gone "
        "WHERE p.id = gone.patient_id",
        "DO $$ BEGIN BEGIN UPDATE patient SET visits = 7 WHERE id < 4; RAISE 'no'; EXCEPTION WHEN raise_exception THEN "
        "UPDATE patient SET visits = 8 WHERE id = 2; END; END $$",
        "UPDATE patient SET visits = 1 WHERE id = 1; UPDATE patient SET visits = 2 WHERE id = 1; "
        "DELETE FROM patient WHERE id = 2; INSERT INTO patient VALUES (2, 1, 'again', 0), (88, 1, 'short', 0); "
        "DELETE FROM patient WHERE id = 88",
        "UPDATE note SET text = NULL; DELETE FROM note WHERE id % 2 = 0; UPDATE patient SET name = name || '!'",
    ],
    ids=["upsert", "do nothing", "merge", "writing cte", "exception", "again and again", "every row"],
)
def test_every_kind_of_statement_is_captured(stage: Stage, statement: str) -> None:
    stage.make(CLINIC)
    stage.options = {**stage.options, "arm": '["patient"]'}  # the text of a DO block names no tables
    assert {by for _, by in proves(stage, statement)} == {ARMED}


def test_copied_rows_are_captured(stage: Stage) -> None:
    """Only a function that a superuser has made can copy here: a change may not."""
    stage.make(CLINIC)
    stage.database.execute(
        "CREATE FUNCTION load() RETURNS void LANGUAGE sql SECURITY DEFINER AS "
        "$$ COPY public.patient (id, visits) FROM PROGRAM 'printf \"100\\t1\\n101\\t2\\n\"' $$"
    )
    stage.options = {**stage.options, "arm": '["patient"]'}
    assert proves(stage, "SELECT load(); UPDATE patient SET visits = 7 WHERE id = 101") == [("public.patient", ARMED)]


def test_savepoints_of_a_script_are_captured(stage: Stage) -> None:
    """A script names no tables, so that the environment must."""
    stage.make(CLINIC)
    stage.options = {**stage.options, "arm": '["clinic"]'}
    before = stage.dump()
    report = stage.run(
        """def apply(db):
    with db.savepoint():
        db.execute("DELETE FROM patient WHERE id < 5")
    try:
        with db.savepoint():
            db.execute("DELETE FROM clinic")
            raise RuntimeError
    except RuntimeError:
        db.execute("UPDATE clinic SET name = 'kept' WHERE id = %s", [2])
""",
        suffix=".py",
    )
    assert {ARMED} == {table.captured_by for table in report.tables}
    assert report.proof is not None
    assert report.proof.level == "bounded"
    stage.undo(report)
    assert before == stage.dump()
    assert left_behind(stage) == []


def test_a_table_without_a_key_is_captured_with_its_duplicates(stage: Stage) -> None:
    stage.make(
        """CREATE TABLE heap (a int, j json); INSERT INTO heap SELECT g % 3, '{"a": 1}' FROM generate_series(1, 9) g"""
    )
    statements = "UPDATE heap SET a = 7 WHERE a = 1; INSERT INTO heap VALUES (0, '{}'); DELETE FROM heap WHERE a = 2"
    assert proves(stage, statements) == [("public.heap", ARMED)]


def test_columns_of_every_kind_are_captured(stage: Stage) -> None:
    """Types of the application's own, generated and identity columns, names that are ours, values that print alike."""
    stage.make("""
        CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN word AS text CHECK (length(value) < 9);
        CREATE TABLE odd (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, backout_side "char", "L" mood, "new" word,
          "Größe" int, twice int GENERATED ALWAYS AS ("Größe" * 2) STORED, n numeric, f float8, big text,
          at timestamptz, copies int, backout_whole text, "q""uote'" text);
        INSERT INTO odd (backout_side, "L", "new", "Größe", n, f, big, at, copies, backout_whole, "q""uote'")
          SELECT 'o', 'sad', 'w', g, 1.0, '-0', repeat(md5(g::text), 200), now(), 1, 'x', '$$' FROM generate_series(1, 9) g;
    """)
    assert proves(
        stage,
        """UPDATE odd SET n = 1.00, backout_side = 'n', "L" = 'ok', "new" = 'y' WHERE id < 4;
        UPDATE odd SET f = 0, "Größe" = 7 WHERE id = 5; UPDATE odd SET at = 'infinity' WHERE id = 6;
        UPDATE odd SET n = 1.0, "new" = 'z' WHERE id = 1; DELETE FROM odd WHERE id = 9;
        INSERT INTO odd ("new") VALUES ('z')""",
    ) == [("public.odd", ARMED)]


def test_a_plain_update_keeps_the_changed_columns_only(stage: Stage) -> None:
    stage.make(CLINIC)
    report = stage.run("UPDATE patient SET visits = visits + 1")
    (columns,) = stage.rows(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
        f"WHERE attrelid = 'rescue.{report.rescue[1].table}'::regclass AND attnum > 0"
    )
    assert columns == ("id, visits",)


@pytest.mark.parametrize(
    ("statement", "level"),
    [
        ("UPDATE patient SET visits = 1 WHERE id < 4", "exact"),
        ("UPDATE patient SET visits = 1 WHERE id < 4; UPDATE patient SET visits = 2 WHERE id < 3", "repeated 2"),
        ("UPDATE patient SET visits = 0 WHERE id < 4", "repeated 3"),
        (
            "UPDATE patient SET visits = 1 WHERE id < 4; DO $$ BEGIN UPDATE patient SET visits = 4 / (id - 7) "
            "WHERE id BETWEEN 5 AND 7; EXCEPTION WHEN division_by_zero THEN NULL; END $$",
            "bounded",
        ),
    ],
    ids=["exact", "twice", "nothing new", "failed half-way"],
)
def test_the_proof_says_how_tight_it_is(stage: Stage, statement: str, level: str) -> None:
    stage.make(CLINIC)
    proof = stage.run(statement).proof
    assert proof is not None
    assert (proof.complete, proof.level) == (True, level)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_what_others_write_meanwhile_is_not_captured(stage: Stage, isolation: str) -> None:
    """They write to the armed table before, during and after the run; the undo leaves all of it."""
    stage.make(CLINIC)
    stage.make(
        "CREATE FUNCTION meet() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$"
    )
    stage.options = {**stage.options, "isolation": f'"{isolation}"', "lock_timeout": '"10 s"'}
    stage.elsewhere("UPDATE patient SET name = 'before' WHERE id = 39")
    other = stage.database.connect("application")
    other.execute("SELECT pg_advisory_lock(1)")
    thread, raised = in_background(lambda: stage.run("UPDATE patient SET visits = 5 WHERE id < 10; SELECT meet();"))
    wait_until(lambda: bool(stage.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))
    other.execute("UPDATE patient SET name = 'during' WHERE id = 20")
    other.execute("DELETE FROM patient WHERE id = 30")
    other.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    assert raised == []
    assert stage.rows("SELECT before_rows, after_rows FROM backout.run_table") == [(9, 9)]
    stage.elsewhere("UPDATE patient SET name = 'after' WHERE id = 40")
    stage.undo("test-1")
    assert stage.rows("SELECT id, name FROM patient WHERE name !~ 'patient' ORDER BY 1") == [
        (20, "during"), (39, "before"), (40, "after"),
    ]  # fmt: skip
    assert stage.rows("SELECT count(*) FROM patient WHERE visits <> 0 OR id = 30") == [(0,)]


def test_conflicts_are_met_as_in_a_scanned_table(stage: Stage) -> None:
    stage.make(CLINIC)
    report = stage.run("UPDATE patient SET visits = 1 WHERE id < 4; DELETE FROM patient WHERE id = 7")
    stage.elsewhere("UPDATE patient SET visits = 50 WHERE id = 2; INSERT INTO patient VALUES (7, 1, 'else', 0)")
    met = conflicts(stage, report)
    assert [(one.kind, one.key) for one in met if one.table.name == "patient"] == [
        (ConflictKind.CHANGED, {"id": "2"}), (ConflictKind.KEY_REUSED, {"id": "7"}),
    ]  # fmt: skip
    stage.undo(report, partial=True)
    assert stage.rows("SELECT id, visits FROM patient WHERE visits <> 0") == [(2, 50)]
    assert left_behind(stage) == []


def test_neither_run_nor_undo_nor_conflict_scans_the_table(stage: Stage) -> None:
    """As the server counts sequential scans; the change finds its rows by the key."""
    stage.make(CLINIC)
    stage.make(
        "INSERT INTO patient SELECT g, g % 4 + 1, repeat('x', 400), 0 FROM generate_series(100, 40000) g; "
        "CREATE INDEX ON patient (clinic_id); CREATE INDEX ON note (patient_id); ANALYZE; "
        "SELECT pg_stat_force_next_flush();"  # the scans of CREATE INDEX are counted before the change is
    )
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'patient'"
    before = stage.rows(scans)
    report = stage.run("UPDATE patient SET visits = 1 WHERE id BETWEEN 200 AND 300; DELETE FROM patient WHERE id = 500")
    stage.elsewhere("UPDATE patient SET visits = 9 WHERE id = 250")
    stage.undo(report, partial=True)
    wait_until(lambda: stage.rows("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'patient'")[0][0] > 200)
    assert before == stage.rows(scans)


def test_the_bill_says_what_was_armed(stage: Stage) -> None:
    stage.make(CLINIC)
    note = (
        "too big to scan, so armed with a trigger for the length of the run: public.clinic, public.note, public.patient"
    )
    assert note in stage.ghost("UPDATE clinic SET name = 'x'").notes
    assert note in stage.run("UPDATE clinic SET name = 'x'").notes


def test_a_table_below_the_limit_is_scanned(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """A family counts as a whole: its partitions are written together."""
    stage = stage_for(postgres, tmp_path, scan_limit='"64 kB"')
    stage.make(PARTS)
    stage.make("INSERT INTO event SELECT g, '2021-01-01', repeat('x', 50) FROM generate_series(100, 1900) g")
    before = stage.dump()
    report = stage.run("UPDATE event SET what = 'x' WHERE id IN (1, 8); UPDATE detail SET id = id + 100 WHERE id = 5")
    assert {table.table: table.captured_by for table in report.tables} == {
        "public.detail": "two snapshots, quick form",
        "public.event_new_even": ARMED,
        "public.event_old": ARMED,
    }
    stage.undo(report)
    assert before == stage.dump()
    assert left_behind(stage) == []


def test_moved_rows_are_left_together_where_one_is_in_conflict(stage: Stage) -> None:
    """The triggers' log does not say which key became which: no half of a row is put back."""
    stage.make(CLINIC)
    run = stage.run("UPDATE patient SET id = id + 1000 WHERE id <= 3; UPDATE patient SET visits = 1 WHERE id = 20")
    stage.elsewhere("UPDATE patient SET name = 'new' WHERE id = 1002; UPDATE patient SET visits = 7 WHERE id = 20")
    report = stage.undo(run, partial=True)
    assert stage.rows("SELECT id, name FROM patient WHERE id <= 3 OR id > 1000 ORDER BY id") == [
        (1001, "patient 1"), (1002, "new"), (1003, "patient 3"),
    ]  # fmt: skip
    assert 'of "public.patient" 5 other halves of rows that the run moved are left with them' in report.notes
    stage.undo(run, overwrite=[one.number for one in conflicts(stage, run)])
    assert stage.rows("SELECT min(id), max(id), count(*), sum(visits) FROM patient") == [(1, 40, 40, 0)]
