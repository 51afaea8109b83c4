"""`python -m bench.batches [ROWS] [ROUNDS]`: a backfill in batches against a plain UPDATE and against others' loops.

The forms take turns, each on a freshly loaded table. Ours is `Project.run` with capture, proof and journal of each batch
at the defaults. "The usual loop" is what migration tools do: batches of 1,000 by an `ORDER BY id LIMIT` sub-select, which
fire a row trigger. It is here twice: as pgroll does it (the trigger computes the column from variables of all columns, and
marks the row as done; pkg/backfill/templates in its repository), and with the least that such a trigger can do. "Row by
row" is a bare statement for each row, scaled up from a part of them; an ORM's loops are in `bench/orm.py`.
Prints; writes nothing.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import randint
from threading import Event, Thread
from time import perf_counter

import psycopg

from backout import Project
from backout.engines.postgres.embedded import EmbeddedServer
from bench.measure import Ratio, medians
from bench.postgres import Bench

CHANGE = """-- /// change
-- title = "Backfill"
-- data = "internal"
-- ///
-- @batch referral by=id
UPDATE referral SET status = 'closed';
"""
COPY = CHANGE.replace("UPDATE referral SET status = 'closed'", "INSERT INTO copied SELECT * FROM referral")
BATCH = 1_000
AUDIT = """
DROP TABLE IF EXISTS audit;
CREATE TABLE audit (id bigint, at timestamptz, was text); ALTER TABLE audit OWNER TO clinic_app;
CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO audit VALUES (OLD.id, now(), OLD.status); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER note AFTER UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION note()
"""
COPIED = "DROP TABLE IF EXISTS copied; CREATE TABLE copied (LIKE base); ALTER TABLE copied OWNER TO clinic_app"
TRIGGER = """
CREATE OR REPLACE FUNCTION in_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER in_step BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION in_step()
"""
COLUMNS = ("id", "clinic_id", "status", "reason", "opened_at", "amount", "urgent", "updated_at")
COMPUTING = f"""
ALTER TABLE referral ADD is_left boolean DEFAULT true;
CREATE OR REPLACE FUNCTION computed() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE
  {"; ".join(f"{one} public.referral.{one}%TYPE := NEW.{one}" for one in COLUMNS)}; path text;
BEGIN
  SELECT current_setting INTO path FROM current_setting('search_path');
  IF path <> 'public_next' THEN NEW.status := 'closed'; NEW.is_left := false; END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER computed BEFORE UPDATE OR INSERT ON referral FOR EACH ROW EXECUTE FUNCTION computed()
"""
COMPUTING_LOOP = f"""
WITH batch AS (SELECT id FROM referral WHERE is_left AND id > %s ORDER BY id LIMIT {BATCH} FOR NO KEY UPDATE),
     done AS (UPDATE referral t SET id = t.id FROM batch WHERE t.id = batch.id RETURNING t.id)
SELECT max(id) FROM done
"""
LOOP = f"""
WITH batch AS (SELECT id FROM referral WHERE id > %s ORDER BY id LIMIT {BATCH} FOR UPDATE),
     done AS (UPDATE referral t SET status = 'closed' FROM batch WHERE t.id = batch.id RETURNING t.id)
SELECT max(id) FROM done
"""


def silent(_line: str) -> None:
    """Nobody watches."""


def yes(_kind: str, _question: str) -> bool:
    """Whoever measures has decided."""
    return True


class Batches(Bench):
    """The forms of a backfill of the whole table."""

    def ready(self) -> None:
        """Beside the fresh table no run of before."""
        self.fresh()
        self.connection.execute("DROP SCHEMA IF EXISTS backout, rescue CASCADE")

    def ready_with_trigger(self) -> None:
        """For the loop."""
        self.ready()
        self.connection.execute(TRIGGER)

    def ready_with_computing(self) -> None:
        """For the loop as pgroll does it."""
        self.ready()
        self.connection.execute(COMPUTING)

    def ready_with_audit(self) -> None:
        """With a trigger that writes another table."""
        self.ready()
        self.connection.execute(AUDIT)

    def ready_to_copy(self) -> None:
        """With an empty table of the same columns."""
        self.ready()
        self.connection.execute(COPIED)

    def copy(self) -> None:
        """All rows into the other table, by one statement."""
        self.connection.execute("INSERT INTO copied SELECT * FROM referral")

    def ours(self, change: str = "backfill", progress: Callable[[str], None] = silent) -> None:
        """In batches, with the way back."""
        report = self.project.run(self.project.change(change), "bench", ask=yes, progress=progress)
        self.notes = report.notes
        self.run = report.identifier

    def undo(self) -> None:
        """The way back, in batches."""
        self.project.undo(self.run, "bench", ask=yes)

    def ready_for_undo(self) -> None:
        """A run that can be undone."""
        self.ready()
        self.ours()

    def whole(self) -> None:
        """All rows in one statement."""
        self.connection.execute("UPDATE referral SET status = 'closed'")

    def loop(self, statement: str = LOOP) -> None:
        """The usual keyset loop."""
        last: int | None = 0
        while last is not None:
            (last,) = self.connection.execute(statement, [last]).fetchone() or (None,)

    def row_by_row(self, rows: int) -> float:
        """Seconds for so many rows, one statement and one COMMIT for 1,000 of them."""
        began = perf_counter()
        for start in range(1, rows, BATCH):
            with self.connection.transaction():
                for number in range(start, start + BATCH):
                    self.connection.execute("UPDATE referral SET status = 'closed' WHERE id = %s", [number])
        return perf_counter() - began

    def longest(self) -> str:
        """How long the batches of the last run took, from the search for its rows to before its COMMIT."""
        middle, most = self.connection.execute(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), "
            "percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) FROM backout.batch"
        ).fetchone() or (0.0, 0.0)
        return f"a batch: median {middle * 1000:.0f} ms, p99 {most * 1000:.0f} ms (bar: 250 ms)"

    def scans(self) -> int:
        """How often the table was read from end to end since this was asked last, by the server's own count."""
        self.connection.execute("SELECT pg_stat_force_next_flush()")
        row = self.connection.execute("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'referral'").fetchone()
        self.connection.execute("SELECT pg_stat_reset_single_table_counters('referral'::regclass)")
        return int(row[0]) if row else 0

    @property
    def project(self) -> Project:
        """The project of the bench."""
        return Project.find(self.folder / "backout.toml")


def point_updates(url: str, rows: int, stop: Event, times: list[float]) -> None:
    """Somebody else's small updates of random rows, as fast as one session can: their latencies, in seconds."""
    with psycopg.connect(url, autocommit=True) as session:
        while not stop.is_set():
            began = perf_counter()
            # Not random() in the statement: it is asked anew for each row, and no index is used.
            session.execute("UPDATE base SET urgent = NOT urgent WHERE id = %s", [randint(1, rows)])
            times.append(perf_counter() - began)


def beside(bench: Batches, url: str, rows: int) -> list[str]:
    """The latency of others' small updates, alone and beside the backfill."""
    bench.ready()
    bench.connection.execute("CREATE INDEX IF NOT EXISTS base_id ON base (id)")
    lines = []
    for name in ("alone", "beside"):
        stop, times = Event(), list[float]()
        thread = Thread(target=point_updates, args=(url, rows, stop, times))
        thread.start()
        if name == "alone":
            stop.wait(5)
        else:
            bench.ours()
        stop.set()
        thread.join()
        lines.append(
            f"another session's small updates, {name}: p95 {statistics.quantiles(times, n=20)[-1] * 1000:.2f} ms"
        )
    return lines


def main() -> None:
    """Measure, and print the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer.start(
            Path(folder) / "server", settings={"max_wal_size": "8GB", "shared_buffers": "256MB"}
        ) as server,
    ):
        place = Path(folder) / "project"
        place.mkdir()
        bench = Batches(server, place, rows)
        (place / "changes" / "backfill.sql").write_text(CHANGE)
        (place / "changes" / "copy.sql").write_text(COPY)
        found = medians(
            {
                "plain": (bench.ready, bench.whole),
                "ours": (bench.ready, bench.ours),
                "pgroll": (bench.ready_with_computing, lambda: bench.loop(COMPUTING_LOOP)),
                "loop": (bench.ready_with_trigger, bench.loop),
                "undo": (bench.ready_for_undo, bench.undo),
                "plain, audited": (bench.ready_with_audit, bench.whole),
                "ours, audited": (bench.ready_with_audit, bench.ours),
                "copy": (bench.ready_to_copy, bench.copy),
                "ours, copied": (bench.ready_to_copy, lambda: bench.ours("copy")),
            },
            rounds,
        )
        bench.ready()
        part = min(rows, 20_000)
        alone = bench.row_by_row(part) * rows / part
        print(f"\n{rows:,} rows, {rounds} rounds")
        for ratio in (
            Ratio("batches with capture / one plain UPDATE", found["ours"], found["plain"], 2.0),
            Ratio("batches with capture / the usual loop, as pgroll does it", found["ours"], found["pgroll"], 0.5),
            Ratio("batches with capture / the usual loop with the least of triggers", found["ours"], found["loop"]),
            Ratio("batches with capture / row by row, 1,000 a commit", found["ours"], alone),
            Ratio("undo in batches / one plain UPDATE", found["undo"], found["plain"], 3.0),
            Ratio(
                "the same with an audit trigger, its rows captured / plain",
                found["ours, audited"],
                found["plain, audited"],
            ),
            Ratio("INSERT … SELECT in batches / one plain one", found["ours, copied"], found["copy"]),
        ):
            print(ratio.row())
        bench.ready()
        bench.scans()
        bench.ours()
        print("\n".join(bench.notes))
        print(f"the table was read from end to end {bench.scans()} times by the run")
        print(bench.longest())
        print("\n".join(beside(bench, server.url("postgres"), rows)))
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
