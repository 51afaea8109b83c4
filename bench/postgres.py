"""A guarded update of 500,000 of 1,000,000 rows on PostgreSQL, its undo, and a small one; see docs/performance.md."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter

import psycopg

from backout.engines.postgres.embedded import EmbeddedServer
from bench.measure import INSTALLED, PROGRAM, Ratio, medians, typed

CHANGE = """-- /// change
-- title = "Close half of the referrals"
-- data = "internal"
-- repeat = true
-- ///

UPDATE referral SET status = 'closed' WHERE id % 2 = 0;
"""
SMALL = CHANGE.replace("id % 2 = 0", "id <= 100")
UPDATE = "UPDATE referral SET status = 'closed' WHERE id % 2 = 0"
COPY_BACK = "UPDATE referral t SET status = r.status FROM by_hand r WHERE r.id = t.id"
ROWS = 1_000_000


class Bench:
    """A server, a table of a million rows, and a project that knows it."""

    def __init__(self, server: EmbeddedServer, folder: Path, rows: int) -> None:
        self.folder = folder
        self.connection = psycopg.connect(server.url("postgres"), autocommit=True)
        run = self.connection.execute
        for statement in (
            "CREATE ROLE clinic_app", "CREATE ROLE backout_login LOGIN PASSWORD 'bench'",
            "GRANT clinic_app TO backout_login", "GRANT CREATE ON DATABASE postgres TO backout_login",
            "GRANT CREATE ON SCHEMA public TO clinic_app",
            "GRANT SET ON PARAMETER session_replication_role TO backout_login",
            f"""CREATE TABLE base AS SELECT g::bigint AS id, (g % 1000)::int AS clinic_id, 'open'::text AS status,
                md5(g::text) AS reason, timestamptz '2026-01-01' + g * interval '1 second' AS opened_at,
                (g * 1.37)::numeric(12, 2) AS amount, g % 2 = 0 AS urgent, timestamptz '2026-01-01' AS updated_at
                FROM generate_series(1, {rows}) g""",
        ):  # fmt: skip
            run(statement)  # type: ignore[arg-type]
        (folder / "changes").mkdir()
        (folder / "changes" / "half.sql").write_text(CHANGE)
        (folder / "changes" / "small.sql").write_text(SMALL)
        url = server.url("postgres", user="backout_login", password="bench")
        (folder / "backout.toml").write_text(f'[environments.bench]\nurl = "{url}"\nrole = "clinic_app"\n')

    def fresh(self) -> None:
        """The table anew: loaded, indexed, vacuumed, on disk; no rescue left."""
        for statement in (
            "DROP TABLE IF EXISTS referral, by_hand", "CREATE TABLE referral AS SELECT * FROM base",
            "ALTER TABLE referral ADD PRIMARY KEY (id), OWNER TO clinic_app",
            "CREATE INDEX ON referral (clinic_id)", "VACUUM ANALYZE referral", "CHECKPOINT",
        ):  # fmt: skip
            self.connection.execute(statement)  # type: ignore[arg-type]

    def plain(self) -> None:
        """The bare statement."""
        with self.connection.transaction():
            self.connection.execute(UPDATE)

    def by_hand(self, columns: str = "*") -> None:
        """What the protocols ask for: full rows into a rescue table, then the update, in one transaction."""
        with self.connection.transaction():
            self.connection.execute(f"CREATE TABLE by_hand AS SELECT {columns} FROM referral WHERE id % 2 = 0")  # type: ignore[arg-type]
            self.connection.execute(UPDATE)

    def copy_back(self) -> None:
        """The undo by hand."""
        with self.connection.transaction():
            self.connection.execute(COPY_BACK)

    def backout(self, *words: str) -> tuple[float, float]:
        """(seconds of the command, its peak memory in MiB)."""
        return typed(self.folder, *words)


def _help() -> float:
    began = perf_counter()
    subprocess.run([PROGRAM, "--help"], check=True, env=INSTALLED, stdout=subprocess.DEVNULL)
    return perf_counter() - began


def measure(rounds: int, rows: int = ROWS) -> tuple[list[Ratio], list[str]]:
    """All PostgreSQL figures: ratios, and lines of absolute ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"max_wal_size": "8GB", "shared_buffers": "256MB"}
        with EmbeddedServer.start(folder / "server", settings=settings) as server:
            bench = Bench(server, folder, rows)
            bench.fresh()
            bench.backout("init", "--on", "bench")
            peaks: list[float] = []

            def guarded() -> None:
                peaks.append(bench.backout("run", "half", "--on", "bench", "--yes")[1])

            def undo() -> None:
                (number,) = bench.connection.execute("SELECT max(number) FROM backout.run").fetchone() or (0,)
                peaks.append(bench.backout("undo", f"bench-{number}", "--yes")[1])

            def changed_by_hand() -> None:
                bench.fresh()
                bench.by_hand()
                bench.connection.execute("CHECKPOINT")

            def changed_by_backout() -> None:
                bench.fresh()
                guarded()
                bench.connection.execute("CHECKPOINT")

            print("update of half of the rows")
            times = medians(
                {
                    "plain": (bench.fresh, bench.plain),
                    "by hand": (bench.fresh, bench.by_hand),
                    "guarded": (bench.fresh, guarded),
                },
                rounds,
            )
            print("undo")
            back = medians(
                {"copy back by hand": (changed_by_hand, bench.copy_back), "undo": (changed_by_backout, undo)}, rounds
            )
            bench.fresh()
            small = min(bench.backout("run", "small", "--on", "bench", "--yes")[0] for _ in range(3))
            version = bench.connection.execute("SHOW server_version").fetchone()
            bench.connection.close()
    help_s = min(_help() for _ in range(5))
    ratios = [
        Ratio("guarded update of 500,000 of 1,000,000 rows / by hand", times["guarded"], times["by hand"], 1.05),
        Ratio("its undo / by-hand copy back", back["undo"], back["copy back by hand"], 1.4),
        Ratio("guarded update / plain update", times["guarded"], times["plain"], 1.5),
    ]
    lines = [
        f"- 100 rows of 1,000,000, whole command: {small:.2f} s (bar: 1.0 s)",
        f"- `backout --help`: {help_s:.2f} s (bar: 0.15 s)",
        f"- peak memory of backout in all of these: {max(peaks):.0f} MiB (bar: 150 MiB)",
        f"- PostgreSQL {version[0] if version else '?'}, {os.cpu_count()} cores",
    ]
    return ratios, lines
