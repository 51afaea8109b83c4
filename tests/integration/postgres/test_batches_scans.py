"""No batch reads a table from end to end, as the server itself counts sequential scans: nor does its undo."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.postgres.stage import Rights, Stage, stage_for, wait_until
from servers import PostgresDatabase

pytestmark = pytest.mark.either

TABLES = """
CREATE TABLE referral (id int PRIMARY KEY, visits int NOT NULL, note text);
CREATE TABLE letter (id int PRIMARY KEY, referral int REFERENCES referral ON DELETE CASCADE, note text);
CREATE TABLE copied (id int PRIMARY KEY, visits int);
INSERT INTO referral SELECT g * 3, 0, repeat('n', 200) FROM generate_series(1, 20000) g;
INSERT INTO letter SELECT g, g * 3, repeat('n', 200) FROM generate_series(1, 20000) g;
CREATE INDEX ON letter (referral);
"""
#: What else is written: a row of another table for each, by its key.
TRIGGER = """
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE letter SET note = 'n' WHERE referral = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER follow AFTER UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION follow();
"""
UPDATE = "-- @batch referral by=id size=1000\nUPDATE referral SET visits = visits + 1"
LOOP = """
def apply(db):
    for batch in db.batches("referral", by="id", size=1000):
        db.execute(f"UPDATE referral SET visits = visits + 1 WHERE {batch.where}")
"""


@pytest.fixture(params=list(Rights), ids=lambda one: one.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    return stage_for(postgres, tmp_path, request.param)


@pytest.mark.parametrize(
    ("more", "suffix", "change"),
    [
        ("", ".sql", UPDATE),
        ("", ".sql", "-- @batch referral by=id size=1000\nDELETE FROM referral"),
        (TRIGGER, ".sql", UPDATE),
        ("", ".sql", "-- @batch referral by=id size=1000\nINSERT INTO copied SELECT id, visits FROM referral"),
        ("", ".py", LOOP),
    ],
    ids=["update", "delete with a cascade", "trigger", "insert from it", "loop of a script"],
)
def test_neither_batches_nor_their_undo_read_the_tables_from_end_to_end(
    stage: Stage, more: str, suffix: str, change: str
) -> None:
    stage.make(TABLES)
    (stage.folder / "changes").symlink_to(stage.folder)
    stage.make(more + "; ANALYZE; SELECT pg_stat_force_next_flush()")  # the scans of CREATE INDEX are counted before
    scans = (
        "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('referral', 'letter', 'copied') ORDER BY 1"
    )
    before, rows = stage.rows(scans), stage.dump()
    stage.database.execute("SELECT pg_stat_reset()")
    report = stage.run(change, suffix=suffix)
    assert report.tables[0].inserted + report.tables[0].updated + report.tables[0].deleted == 20_000
    stage.undo(report)
    written = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'public'"
    wait_until(lambda: stage.rows(written)[0][0] >= 40_000)  # a session's counts come with its end
    assert [(name, 0) for name, _ in before] == stage.rows(scans)
    assert rows == stage.dump()
