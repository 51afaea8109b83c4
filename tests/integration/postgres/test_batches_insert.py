"""INSERT … SELECT in batches: each row of the source once, the rows that it makes kept and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import BackoutError, Conflicts, Interrupted, PartlyCommitted, ProofFailed, Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Rights, Stage, failure, left_behind, stage_for, yes
from integration.postgres.test_batches import REFERRALS, refused, there_and_back
from servers import PostgresDatabase

pytestmark = pytest.mark.either

BATCH = "-- @batch referral by=id size=300\n"
LETTERS = """
CREATE TABLE letter (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, referral bigint UNIQUE REFERENCES referral, text text);
CREATE TABLE clinic (id int PRIMARY KEY, name text); INSERT INTO clinic SELECT g, 'c' || g FROM generate_series(0, 4) g;
"""


@pytest.fixture(params=list(Rights), ids=lambda one: one.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """With referrals to read, and letters to write."""
    made = stage_for(postgres, tmp_path, request.param)
    made.make(REFERRALS + LETTERS)
    return made


def proves(stage: Stage, statement: str) -> RunReport:
    report = there_and_back(stage, BATCH + statement)
    assert left_behind(stage) == []
    return report


def rows(report: RunReport) -> list[tuple[str, int, int, int]]:
    return [(one.table, one.inserted, one.updated, one.deleted) for one in report.tables]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO letter (referral, text) SELECT id, 'dear ' || note FROM referral",
        "INSERT INTO letter (referral, text) SELECT r.id, c.name FROM referral r JOIN clinic c ON c.id = r.id % 5",
        "INSERT INTO letter (referral, text) SELECT r.id, c.name FROM referral AS r LEFT JOIN clinic c ON c.id = r.id -- all",
        "INSERT INTO letter (referral, text) SELECT r.id, (SELECT max(name) FROM clinic c WHERE c.id < r.id) "
        "FROM referral r\nON CONFLICT DO NOTHING",
        "INSERT INTO public.letter AS l (referral, text) SELECT r.id, x.a FROM referral r, LATERAL (VALUES (r.note)) x (a) "
        "WHERE r.id > 0 OR r.id < 0 ON CONFLICT (referral) DO UPDATE SET text = excluded.text WHERE l.text <> '' "
        "RETURNING l.id",
    ],
    ids=["plain", "join", "outer join", "sub-select", "all clauses"],
)
def test_the_rows_of_all_batches_are_those_of_the_statement(stage: Stage, statement: str) -> None:
    report = proves(stage, statement)
    assert rows(report) == [("public.letter", 1000, 0, 0)]
    assert stage.database.execute(
        "SELECT number, affected, inserted FROM backout.batch WHERE run = %s ORDER BY 1", [report.run]
    ) == [(1, 300, 0), (2, 300, 0), (3, 300, 0), (4, 100, 0)]


def test_what_it_inserts_is_what_one_statement_inserts(stage: Stage) -> None:
    statement = "INSERT INTO letter (referral, text) SELECT id, upper(note) FROM referral WHERE status = 'open'"
    stage.run(BATCH + statement)
    found = stage.rows("SELECT referral, text FROM letter ORDER BY 1")
    stage.elsewhere("DELETE FROM letter; " + statement)
    assert found == stage.rows("SELECT referral, text FROM letter ORDER BY 1")


def test_rows_that_are_there_already_are_left_or_updated_and_put_back(stage: Stage) -> None:
    stage.make("INSERT INTO letter (referral, text) SELECT g, 'old' FROM generate_series(1, 1000, 4) g")
    some = "INSERT INTO letter (referral, text) SELECT id, note FROM referral ON CONFLICT (referral) DO "
    assert rows(proves(stage, some + "NOTHING")) == [("public.letter", 750, 0, 0)]
    assert rows(proves(stage, some + "UPDATE SET text = excluded.text WHERE letter.text <> 'x'")) == [
        ("public.letter", 750, 250, 0)
    ]


def test_triggers_and_partitions_of_the_target_are_captured(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE event (id bigint, what text) PARTITION BY RANGE (id);
        CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (600);
        CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (600) TO (9000);
        CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN UPDATE referral SET visits = visits + 1 WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER seen AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION seen();
    """)
    report = proves(stage, "INSERT INTO event SELECT id, note FROM referral")
    assert sorted(rows(report)) == [
        ("public.event_1", 599, 0, 0), ("public.event_2", 401, 0, 0), ("public.referral", 0, 1000, 0)
    ]  # fmt: skip


def test_parameters_and_expectations_are_those_of_the_statement(stage: Stage) -> None:
    more = '-- parameters = {least = 500, word = "x"}'
    text = (
        "-- @expect 0..300\n-- @expect total 501\n" + BATCH
        + "INSERT INTO letter (referral, text) SELECT id, :word FROM referral WHERE id >= :least"
    )  # fmt: skip
    before = stage.dump()
    report = stage.run(text, more=more)
    assert rows(report) == [("public.letter", 501, 0, 0)]
    stage.undo(report)
    assert before == stage.dump()
    error = failure(lambda: stage.run(text.replace("501", "502"), more=more))
    assert isinstance(error, PartlyCommitted)


def test_a_run_that_was_stopped_reads_each_row_once(stage: Stage) -> None:
    (stage.folder / "changes").symlink_to(stage.folder)
    before = stage.dump()

    def watch(said: str) -> None:
        if said.startswith("batch 2:"):
            stage.project.pause("1", "test")

    change = stage.change(BATCH + "INSERT INTO letter (referral, text) SELECT id, note FROM referral")
    error = failure(lambda: stage.project.run(change, "test", ask=yes, progress=watch))
    assert isinstance(error, Interrupted)
    assert stage.rows("SELECT count(*) FROM letter") == [(600,)]
    report = stage.project.resume("1", "test", ask=yes)
    assert rows(report) == [("public.letter", 1000, 0, 0)]
    assert stage.rows("SELECT count(*), count(DISTINCT referral) FROM letter") == [(1000, 1000)]
    stage.project.undo("test-1", "test", batch=2, ask=yes)
    assert stage.rows("SELECT count(*) FROM letter WHERE referral BETWEEN 301 AND 600") == [(0,)]
    stage.undo("test-1")
    assert before == stage.dump()


def test_a_table_of_the_same_name_in_another_schema_is_another(stage: Stage) -> None:
    stage.database.execute(f'CREATE SCHEMA old AUTHORIZATION "{stage.database.application_role}"')
    stage.make("CREATE TABLE old.referral (id bigint PRIMARY KEY, note text)")
    report = proves(stage, "INSERT INTO old.referral SELECT id, note FROM public.referral WHERE id <= 500")
    assert rows(report) == [("old.referral", 500, 0, 0)]


def test_a_row_that_others_have_changed_since_is_a_conflict(stage: Stage) -> None:
    report = stage.run(BATCH + "INSERT INTO letter (referral, text) SELECT id, note FROM referral")
    stage.elsewhere("UPDATE letter SET text = 'signed' WHERE referral = 7")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Conflicts)
    stage.undo(report, partial=True)
    assert stage.rows("SELECT referral, text FROM letter") == [(7, "signed")]


def test_the_source_may_be_gone_by_the_time_of_the_undo(stage: Stage) -> None:
    stage.make("CREATE TABLE copied (id bigint, note text)")
    report = stage.run(BATCH + "INSERT INTO copied SELECT id, note FROM referral")
    stage.elsewhere("DROP TABLE letter, referral")
    stage.undo(report)
    assert stage.rows("SELECT count(*) FROM copied") == [(0,)]


def test_tracking_queries_are_compared_with_the_rows_that_were_inserted(stage: Stage) -> None:
    stage.make("CREATE TABLE copied (id bigint PRIMARY KEY, note text)")
    text = (
        '-- @pre "Those to come"\nSELECT count(*) FROM referral WHERE id > 100;\n' + BATCH
        + "INSERT INTO copied SELECT id, note FROM referral WHERE id > 100;\n"
        + '-- @post "Copied"\nSELECT id, note FROM copied ORDER BY id;'
    )  # fmt: skip
    report = stage.run(text)
    assert [(one.step, one.rows) for one in report.tracking] == [("pre", 1), ("post", 900), ("change", 900)]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_row_that_is_made_of_several_is_seen_by_the_planner(stage: Stage) -> None:
    """An aggregate of one's own, and one in a sub-select whose rows are all of the outer query."""
    stage.make("""
        CREATE FUNCTION longest(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS
          $$ SELECT CASE WHEN length(b) > length(a) THEN b ELSE a END $$;
        CREATE AGGREGATE longest_of(text) (SFUNC = longest, STYPE = text, INITCOND = '');
    """)
    for cell in ("longest_of(r.note)", "(SELECT max(r.note) FROM clinic c WHERE c.id = 1)"):
        error = refused(stage, BATCH + f"INSERT INTO letter (text) SELECT {cell} FROM referral r")
        assert isinstance(error, Refused)
        assert "the statement makes one row of several (aggregate)" in error.message


def test_rows_that_a_trigger_adds_to_the_source_fail_the_proof(stage: Stage) -> None:
    stage.make("""
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO referral VALUES (NEW.referral + 5000, 'new'); RETURN NULL; END $$;
        CREATE TRIGGER more AFTER INSERT ON letter FOR EACH ROW EXECUTE FUNCTION more();
    """)
    error: BackoutError = refused(stage, BATCH + "INSERT INTO letter (referral, text) SELECT id, note FROM referral")
    assert isinstance(error, ProofFailed)
    assert 'rows were inserted into "public.referral", from which the statement reads' in error.message


def test_a_view_of_the_source_is_not_inserted_into(stage: Stage) -> None:
    stage.make("CREATE VIEW seen AS SELECT id, status FROM referral")
    error = refused(stage, BATCH + "INSERT INTO seen SELECT id + 10000, status FROM referral")
    assert isinstance(error, ProofFailed)
