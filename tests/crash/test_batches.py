"""A run in batches that dies at any instant, again and again: each row is changed once, and the undo is exact.

Each round kills the run at a random word to the server (or when the word is on its way), resumes it, and kills that as
well, until it comes through; the same with the undo. `HUNT_SEED` repeats a round.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import psycopg
import pytest

from backout.engines.values import RunRecord, RunState
from crash import victim
from crash.test_crash import Scene, start_server
from properties.driving import SEED, SHORTER
from servers import PASSWORD, PostgresDatabase, present

ROWS = 200
CHANGE = """-- /// change
-- title = "A backfill"
-- ///
-- @batch app.referral by=id size=25
UPDATE app.referral SET visits = visits + 1;
"""
TRACKED = (
    CHANGE.replace("-- @batch", '-- @pre "before"\nSELECT id, visits FROM app.referral;\n-- @batch')
    + '-- @post "after"\nSELECT id, visits FROM app.referral;\n'
)
LOOP = """# /// change
# title = "A backfill by a script"
# ///
def apply(db):
    for batch in db.batches("app.referral", by="id", size=25):
        for (number,) in db.execute(f"SELECT id FROM app.referral WHERE {batch.where}").fetchall():
            db.execute("UPDATE app.referral SET visits = visits + 1 WHERE id = %s", [number])
"""
SCHEMA = """
DROP SCHEMA IF EXISTS app CASCADE;
CREATE SCHEMA app;
CREATE TABLE app.referral (id int PRIMARY KEY, visits int, note text);
INSERT INTO app.referral SELECT g * 7, 0, 'n' || g FROM generate_series(1, 200) g;
"""
TRIGGER = """
CREATE FUNCTION app.stamp() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.note := coalesce(NEW.note, '') || ' changed'; RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON app.referral FOR EACH ROW EXECUTE FUNCTION app.stamp();
"""
#: What a batch writes beside its rows: an audit without a key, a cascade, a counter, and its own row once more.
ELSEWHERE = (
    TRIGGER
    + """
CREATE TABLE app.audit (id int, visits int);
CREATE TABLE app.counter (name text PRIMARY KEY, n int);
INSERT INTO app.counter VALUES ('all', 0), ('none', 0);
ALTER TABLE app.referral ADD again int, ADD UNIQUE (note);
CREATE TABLE app.letter (id int PRIMARY KEY, referral text REFERENCES app.referral (note) ON UPDATE CASCADE);
INSERT INTO app.letter SELECT g, 'n' || (g % 200 + 1) FROM generate_series(1, 300) g;
CREATE FUNCTION app.elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF pg_trigger_depth() > 1 OR NEW.visits = OLD.visits THEN RETURN NULL; END IF;
  INSERT INTO app.audit VALUES (NEW.id, NEW.visits);
  UPDATE app.counter SET n = n + 1 WHERE name = 'all';
  IF NEW.id > 700 THEN UPDATE app.referral SET again = coalesce(again, 0) + 1 WHERE id = NEW.id; END IF;
  RETURN NULL; END $$;
CREATE TRIGGER elsewhere AFTER UPDATE ON app.referral FOR EACH ROW EXECUTE FUNCTION app.elsewhere();
"""
)
STAMP_ONCE = """
CREATE OR REPLACE FUNCTION app.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.visits <> OLD.visits THEN NEW.note := coalesce(NEW.note, '') || ' changed'; END IF; RETURN NEW; END $$;
"""
ELSEWHERE += STAMP_ONCE


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """One server for all rounds."""
    if not present():
        pytest.skip("no PostgreSQL to test with")
    place = Path(tempfile.mkdtemp(prefix="backout-crash-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o711)
    server = start_server(place / "server")
    process = subprocess.Popen(
        [sys.executable, victim.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = Scene(server, PostgresDatabase(server, "test", "login", "app"), place, process)
    try:
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
            session.execute(f"CREATE ROLE login LOGIN PASSWORD '{PASSWORD}' IN ROLE app")
            session.execute("CREATE DATABASE test")
            session.execute("GRANT CREATE ON DATABASE test TO app, login")
        (place / "change.sql").write_text(CHANGE)
        (place / "tracked.sql").write_text(TRACKED)
        (place / "loop.py").write_text(LOOP)
        yield found
    finally:
        process.communicate()
        found.server.stop()
        shutil.rmtree(place, ignore_errors=True)


TRIGGERS = {"without a trigger": "", "with a trigger": TRIGGER, "with triggers and cascades": ELSEWHERE}


@pytest.mark.parametrize("trigger", list(TRIGGERS.values()), ids=list(TRIGGERS))
@pytest.mark.parametrize("blow", ["kill", "kill sent", "end the backend"])
def test_a_run_in_batches_survives_whatever_kills_it(scene: Scene, trigger: str, blow: str) -> None:
    rounds(scene, trigger, blow, max(1, 2 // SHORTER), SEED)


@pytest.mark.parametrize("blow", ["kill", "kill sent", "end the backend"])
def test_a_loop_of_a_script_survives_whatever_kills_it(scene: Scene, blow: str) -> None:
    rounds(scene, ELSEWHERE, blow, max(1, 2 // SHORTER), SEED, change="loop")


@pytest.mark.parametrize("blow", ["kill", "kill sent"])
def test_the_files_of_a_tracked_run_agree_whatever_kills_it(scene: Scene, blow: str) -> None:
    rounds(scene, TRIGGER, blow, 1, SEED, change="tracked")


@pytest.mark.parametrize("blow", ["kill the backend", "kill the server"])
def test_a_run_in_batches_survives_a_server_that_dies(scene: Scene, blow: str) -> None:
    rounds(scene, ELSEWHERE, blow, 1, SEED)


#: For the hunt: with a table whose rows refer to those that change, so that each update locks and checks.
REFERRING = """
CREATE TABLE app.visit (id int PRIMARY KEY, referral int REFERENCES app.referral ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO app.visit SELECT g, g * 7 FROM generate_series(1, 200) g;
"""
HUNTED = ["kill", "kill sent", "end the backend", "kill the backend", "kill the server"]


@pytest.mark.hunt
def test_a_hundred_kills_lose_nothing(scene: Scene) -> None:
    until_a_hundred_have_fallen(scene, ("change", "tracked", "loop"))


def until_a_hundred_have_fallen(scene: Scene, changes: Sequence[str]) -> None:
    """Rounds with each blow, table and change in turn; a blow has fallen where the run did not end by itself."""
    BLOWS.clear()
    seed = int(os.environ.get("HUNT_SEED", "0")) or Random().randrange(1, 2**31)
    print(f"HUNT_SEED={seed}")
    number = 0
    while sum(count for status, count in BLOWS.items() if status != 0) < int(os.environ.get("HUNT_KILLS", "100")):
        turn = number // len(HUNTED)
        made, change = (TRIGGER + REFERRING, ELSEWHERE)[turn % 2], changes[turn % len(changes)]
        if change == "tracked":
            made = TRIGGER + REFERRING  # what writes its own rows again is not tracked
        rounds(scene, made, HUNTED[number % len(HUNTED)], 1, seed + number, change=change)
        number += 1
    print(f"{number} rounds, by exit status: {BLOWS}")


def rounds(scene: Scene, trigger: str, blow: str, count: int, seed: int, *, change: str = "change") -> None:
    chance = Random(seed)
    for number in range(count):
        scene.database.execute("DROP SCHEMA IF EXISTS backout, rescue CASCADE")
        shutil.rmtree(scene.place / "tracking", ignore_errors=True)
        scene.database.as_application(SCHEMA + trigger)
        before = scene.dump()
        try:
            elsewhere = trigger == ELSEWHERE
            run = through(scene, "run", blow, chance, elsewhere=elsewhere, change=change)
            assert [(1, ROWS)] == scene.database.execute("SELECT visits, count(*) FROM app.referral GROUP BY 1")
            if trigger:
                stamped = "SELECT count(*) FROM app.referral WHERE note ~ '^n[0-9]+ changed$'"
                assert [(ROWS,)] == scene.database.execute(stamped)
            if change == "tracked":
                files_agree(scene, run)
            if trigger == ELSEWHERE:
                once_elsewhere(scene, run)
            elif change == "change":
                assert [(ROWS, ROWS // 25)] == scene.database.execute(
                    "SELECT sum(updated)::int, count(*)::int FROM backout.batch WHERE run = %s", [run.number]
                )
            through(scene, "undo", blow, chance, run, elsewhere=elsewhere)
            assert before == scene.dump()
        except AssertionError:
            print(f"{blow}: round {number}; HUNT_SEED={seed}")
            raise


def files_agree(scene: Scene, run: RunRecord) -> None:
    """What the queries said before and after, and the change itself: of each row one line, in each of them."""
    found = []
    for name in ("before-pre", "after-post", "change"):
        with (scene.place / "tracking" / f"{run.identifier}-{name}.csv").open(newline="") as file:
            found.append(sorted(int(line["id"]) for line in csv.DictReader(file)))
    every = [number * 7 for number in range(1, ROWS + 1)]
    assert [every, every, every] == found


def once_elsewhere(scene: Scene, run: RunRecord) -> None:
    """Each row has its one row of the audit, its one step of the counter; its letters followed it."""
    one = scene.database.execute
    assert [(ROWS, ROWS, 1)] == one("SELECT count(*), count(DISTINCT id), max(visits) FROM app.audit")
    assert [("all", ROWS), ("none", 0)] == one("SELECT name, n FROM app.counter ORDER BY 1")
    assert [(100, 1)] == one("SELECT count(*), max(again) FROM app.referral WHERE again IS NOT NULL")
    assert [(300,)] == one("SELECT count(*) FROM app.letter WHERE referral ~ ' changed$'")
    assert [(ROWS // 25, ROWS)] == one(
        "SELECT count(*), sum(looked_at)::int FROM backout.batch WHERE run = %s", [run.number]
    )


#: How often each exit status was seen; -9 and 8 are those of blows that fell.
BLOWS: dict[int, int] = {}


def through(
    scene: Scene, action: str, blow: str, chance: Random, run: RunRecord | None = None, *, elsewhere: bool = False,
    change: str = "change",
) -> RunRecord:  # fmt: skip
    """Until it came through: kill it, see that what is left agrees with the journal, go on. Returns the run."""
    name = run.identifier if run else ""
    for attempt in range(40):
        # So many words are about what it takes to come through: most of the blows fall.
        words = (420, 300) if elsewhere else (260, 110)
        moment = chance.randint(1, words[action != "undo"]) if attempt < 5 else 0
        told = scene.send(replace(scene.order, action=action, blow=blow, run=name, moment=moment, change=change))
        scene.come_back()
        record = last(scene)
        assert left_armed(scene) == []
        BLOWS[told["status"]] = BLOWS.get(told["status"], 0) + 1
        if told["status"] == 0:
            assert record is not None
            assert record.state is RunState.COMMITTED
            return record
        assert told["status"] in {-9, 2, 8, 11, 10}, told
        agrees(scene)
        if action in {"run", "resume"} and record is not None and came_through(record):
            return record  # the blow fell when all was done
        if action in {"run", "resume"} and record is not None and record.batches:
            assert record.state in {RunState.INTERRUPTED, RunState.PARTIAL}, record
            action, name = "resume", record.identifier
        if action == "undo" and undone(scene, name):
            assert record is not None
            return record
    raise AssertionError("it never came through")


def last(scene: Scene) -> RunRecord | None:
    """The newest run, once nobody of ours is connected any more and the log has settled it."""
    wait_for_nobody(scene)
    records = scene.order.project().log("test")
    return records[0] if records else None


def wait_for_nobody(scene: Scene) -> None:
    for _ in range(2000):
        if not scene.database.execute("SELECT FROM pg_stat_activity WHERE application_name LIKE 'backout:%'"):
            return
        scene.database.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("a session of a dead process is still there")


def agrees(scene: Scene) -> None:
    """The rows that the journal's batches name, and no others, are changed; what is kept explains them."""
    if scene.database.execute("SELECT to_regclass('backout.batch')") == [(None,)]:
        return
    changed = scene.database.execute("SELECT coalesce(sum(visits), 0)::int FROM app.referral")
    assert changed == scene.database.execute(
        "SELECT coalesce(sum(CASE WHEN r.mode = 'real' THEN b.looked_at ELSE -b.looked_at END), 0)::int "
        "FROM backout.batch b JOIN backout.run r ON r.number = b.run "
        "WHERE r.number >= (SELECT max(number) FROM backout.run WHERE mode = 'real' AND number IN "
        "(SELECT run FROM backout.batched))"
    )
    assert scene.database.execute("SELECT max(visits) <= 1 FROM app.referral") == [(True,)]
    if scene.database.execute("SELECT to_regclass('app.audit') IS NOT NULL") == [(True,)]:
        assert changed == scene.database.execute("SELECT count(*)::int FROM app.audit")
        assert changed == scene.database.execute("SELECT n FROM app.counter WHERE name = 'all'")


def left_armed(scene: Scene) -> list[tuple[str]]:
    """What the log has left of armed tables."""
    return scene.database.execute(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace('backout') UNION ALL "
        "SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'backout%'"
    )


def came_through(record: RunRecord) -> bool:
    """Whether it was killed after its end was written."""
    return record.state is RunState.COMMITTED and record.batches == ROWS // 25


def undone(scene: Scene, run: str) -> bool:
    """Whether the undo was killed after its last batch."""
    number = int(run.rpartition("-")[2])
    return scene.database.execute(
        "SELECT bool_and(undone_by IS NOT NULL) FROM backout.batch WHERE run = %s", [number]
    ) == [(True,)]
