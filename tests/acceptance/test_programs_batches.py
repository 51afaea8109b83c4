"""A program that takes its change in batches: it asks the endpoint for its next bounds, until there are none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from acceptance.program import PROGRAM, environment
from backout import Project
from backout.engines.values import RunState
from backout.errors import BackoutError, PartlyCommitted
from backout.runs.report import RunReport
from integration.postgres.stage import wait_until
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE referral (id integer PRIMARY KEY, visits integer NOT NULL DEFAULT 0, note text UNIQUE, stamped integer DEFAULT 0);
CREATE TABLE letter (id integer PRIMARY KEY, referral text REFERENCES referral (note) ON UPDATE CASCADE);
CREATE TABLE counter (name text PRIMARY KEY, n integer NOT NULL);
INSERT INTO referral (id, note) SELECT g * 3, 'n' || g FROM generate_series(1, 1000) g;
INSERT INTO letter SELECT g, 'n' || g FROM generate_series(1, 500) g;
INSERT INTO counter VALUES ('all', 0);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.stamped := NEW.stamped + 1; RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE counter SET n = n + 1 WHERE name = 'all'; RETURN NULL; END $$;
CREATE TRIGGER count_up AFTER UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION count_up();
"""
LOOP = """
while (batch := connection.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
    number, after, upto, condition, again = batch
    rows = connection.execute("SELECT id, note FROM referral WHERE (%s::int IS NULL OR id > %s) AND id <= %s ORDER BY id",
                              [after, after, upto]).fetchall()
    with connection.transaction():
        for one, note in rows:
            connection.execute("UPDATE referral SET visits = visits + 1, note = %s WHERE id = %s", [note + "!", one])
    LATER
"""
Rows = list[tuple[object, ...]]


def yes(_kind: str, _question: str) -> bool:
    return True


class Programs:
    """A project whose change is a program in batches."""

    def __init__(self, folder: Path, database: PostgresDatabase) -> None:
        self.folder, self.database = folder, database
        database.as_application(SCHEMA)
        (folder / "changes").mkdir()
        settings = f'url = "{database.login_url}"\nrole = "{database.application_role}"\n'
        (folder / "backout.toml").write_text(f"[environments.staging]\n{settings}")
        self.project = Project.find(start=folder)

    def rows(self) -> Rows:
        texts = [f"SELECT '{one}', t::text FROM {one} t" for one in ("referral", "letter", "counter")]
        return [tuple(row) for row in self.database.execute(" UNION ALL ".join(texts) + " ORDER BY 1, 2")]

    def python(self, text: str, batch: str = 'batch = {table = "referral", by = "id", size = 300}') -> None:
        """A program in Python, with psycopg; `connection` is open, and commits each statement."""
        head = f'# /// change\n# title = "Mend"\n# run = ["{sys.executable}", "{{file}}"]\n# {batch}\n# ///\n'
        body = "import os, signal, psycopg\nconnection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)\n"
        (self.folder / "changes" / "mend.py").write_text(head + body + textwrap.dedent(text))

    def loop(self, later: str = "pass") -> None:
        self.python(LOOP.replace("LATER", later))

    def run(self, *, ghost: bool = False) -> RunReport:
        project = self.project
        return (project.ghost if ghost else project.run)(project.change("mend"), "staging", ask=yes)

    def fails(self) -> BackoutError:
        with pytest.raises(BackoutError) as caught:
            self.run()
        return caught.value

    def once(self) -> None:
        """Each row was changed once, with its letter, its stamp and its step of the counter."""
        one = self.database.execute
        assert one("SELECT min(visits), max(visits), max(stamped), count(*) FROM referral WHERE note LIKE '%!'") == [
            (1, 1, 1, 1000)
        ]
        assert one("SELECT count(*) FROM letter WHERE referral LIKE '%!' AND referral NOT LIKE '%!!'") == [(500,)]
        assert one("SELECT n FROM counter") == [(1000,)]


@pytest.fixture
def programs(postgres18: PostgresDatabase, tmp_path: Path) -> Programs:
    return Programs(tmp_path, postgres18)


def test_a_program_goes_through_its_table_in_batches(programs: Programs) -> None:
    programs.loop()
    before = programs.rows()

    ghost = programs.run(ghost=True)
    assert ghost.outcome is RunState.ROLLED_BACK
    assert programs.rows() == before

    report = programs.run()
    assert report.outcome is RunState.COMMITTED
    assert report.proof is not None
    assert report.proof.complete  # the row of the counter was written again and again
    programs.once()
    batches = programs.database.execute("SELECT number, looked_at FROM backout.batch ORDER BY 1")
    assert [row[1] for row in batches] == [300, 300, 300, 100]
    assert {one.table: one.updated for one in report.tables} == {
        "public.referral": 1000,
        "public.letter": 500,
        "public.counter": 1000,
    }

    programs.project.undo(report.identifier, ask=yes)
    assert programs.rows() == before


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(3)", "1 / 0"])
def test_a_program_that_dies_leaves_whole_batches_and_is_resumed(programs: Programs, end: str) -> None:
    programs.loop(f"if number == 3 and not again and not os.path.exists('died'): open('died', 'w'); {end}")
    before = programs.rows()

    error = programs.fails()
    assert isinstance(error, PartlyCommitted)
    assert isinstance(error.report, RunReport)
    assert error.state == "committed up to batch 2"
    assert programs.database.execute("SELECT sum(visits)::int FROM referral") == [(600,)]
    assert programs.database.execute("SELECT n FROM counter") == [(600,)]

    report = programs.project.resume(error.report.identifier, ask=yes)
    assert report.outcome is RunState.COMMITTED
    programs.once()
    programs.project.undo(report.identifier, ask=yes)
    assert programs.rows() == before


def test_a_program_that_leaves_its_loop_has_its_batch_rolled_back(programs: Programs) -> None:
    programs.loop("if number == 2: break")
    error = programs.fails()
    assert isinstance(error, PartlyCommitted)
    assert "ended before the last batch" in error.message
    assert programs.database.execute("SELECT sum(visits)::int FROM referral") == [(300,)]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_outside_of_batches_a_program_can_only_read(programs: Programs, place: str) -> None:
    write = """
assert connection.execute("SELECT count(*) FROM referral").fetchone() == (1000,)
for text in ("UPDATE referral SET visits = 9", "SELECT nextval('s')", "SET transaction_read_only = off"):
    try:
        connection.execute(text)
    except psycopg.Error as error:
        print(error.sqlstate, error)
        assert error.sqlstate in ("25006", "0A000", "25001"), error.sqlstate
    else:
        raise SystemExit("it was let through")
"""
    programs.database.as_application("CREATE SEQUENCE s")
    loop = LOOP.replace("LATER", "pass")
    programs.python(write + loop if place == "before" else loop + write)
    assert programs.run().outcome is RunState.COMMITTED
    programs.once()


MANY = """
INSERT INTO referral (id, note) SELECT g * 3, 'n' || g FROM generate_series(1001, 10000) g;
INSERT INTO letter SELECT g, 'n' || g FROM generate_series(1001, 5500) g;
"""


@pytest.mark.parametrize("whom", ["backout", "the program"])
def test_ten_thousand_rows_are_written_once_whoever_is_killed(programs: Programs, whom: str) -> None:
    seed = int(os.environ.get("HUNT_SEED", "0")) or Random().randrange(1, 2**31)
    print(f"HUNT_SEED={seed}")
    chance, one = Random(seed), programs.database.execute
    programs.database.as_application(MANY)
    blow = "import random\nif random.random() < 0.15: os.kill(os.getpid(), signal.SIGKILL)"
    programs.loop(textwrap.indent(blow, "    ").strip() if whom == "the program" else "pass")
    before, run = programs.rows(), ""
    changed = (0, 0)
    for attempt in range(60):
        words = ["resume", run] if run else ["run", "mend", "--on", "staging"]
        process = subprocess.Popen(
            [str(PROGRAM), *words, "--yes"], cwd=programs.folder, env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        if whom == "backout" and attempt < 6:
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.8, 3.0))
            process.kill()
        _, said = process.communicate()
        wait_until(
            lambda: one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'backout:%'") == [(0,)]
        )
        changed = one("SELECT coalesce(sum(visits), 0)::int, coalesce(max(visits), 0) FROM referral")[0]
        assert changed[1] <= 1
        assert one("SELECT n FROM counter") == [(changed[0],)]
        if process.returncode == 0:
            break
        # 4, rolled back: the program was killed in its first batch, so that there is no run to go on with.
        assert process.returncode in ((-9, 10, 2) if changed[0] else (-9, 10, 2, 4)), said
        if changed[0]:
            run = programs.project.log("staging")[0].identifier
            assert one("SELECT sum(looked_at)::int FROM backout.batch") == [(changed[0],)]
    assert changed == (10_000, 1)
    assert one("SELECT min(stamped), max(stamped), count(*) FROM referral WHERE note ~ '^n[0-9]+!$'") == [
        (1, 1, 10_000)
    ]
    assert one("SELECT count(*) FROM letter WHERE referral ~ '^n[0-9]+!$'") == [(5000,)]
    last = programs.project.log("staging")[0].identifier
    programs.project.undo(last, ask=yes)
    assert programs.rows() == before
