"""A guarded update of 500,000 of 1,000,000 rows on SQLite and its undo, with peak memory; see docs/performance.md.

Twin of `bench/postgres.py`: same table, same change, same forms. "By hand" runs in a connection that is open already.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import apsw

from bench.measure import Ratio, medians, typed

CHANGE = """-- /// change
-- title = "Close half of the referrals"
-- data = "internal"
-- repeat = true
-- ///

UPDATE referral SET status = 'closed' WHERE id % 2 = 0;
"""
SMALL = CHANGE.replace("id % 2 = 0", "id <= 100")
UPDATE = "UPDATE referral SET status = 'closed' WHERE id % 2 = 0"
BY_HAND = "CREATE TABLE by_hand AS SELECT * FROM referral WHERE id % 2 = 0"
COPY_BACK = "UPDATE referral SET status = r.status FROM by_hand r WHERE r.id = referral.id"
SCHEMA = """
CREATE TABLE referral (
    id INTEGER PRIMARY KEY, clinic_id INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
    opened_at TEXT NOT NULL, amount NUMERIC NOT NULL, urgent INTEGER NOT NULL, updated_at TEXT NOT NULL
);
WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {rows})
INSERT INTO referral
SELECT i, i % 1000, 'open', lower(hex(randomblob(16))), datetime('2026-01-01', i || ' seconds'),
       round(i * 1.37, 2), i % 2 = 0, '2026-01-01 00:00:00'
  FROM g;
CREATE INDEX referral_clinic ON referral (clinic_id);
ANALYZE;
"""
ROWS = 1_000_000


class Bench:
    """A file with a table of a million rows, and a project that knows it."""

    def __init__(self, folder: Path, rows: int, journal_mode: str) -> None:
        self.folder = folder
        self.base, self.file = folder / "base.db", folder / "clinic.db"
        self._connection: apsw.Connection | None = None
        made = apsw.Connection(str(self.base))
        made.execute(f"PRAGMA journal_mode = {journal_mode}")
        made.execute(SCHEMA.format(rows=rows))
        made.close()
        (folder / "changes").mkdir()
        (folder / "changes" / "half.sql").write_text(CHANGE)
        (folder / "changes" / "small.sql").write_text(SMALL)
        (folder / "backout.toml").write_text(f'[environments.bench]\nurl = "sqlite:///{self.file}"\n')
        shutil.copyfile(self.base, self.file)
        self.backout("init", "--on", "bench")
        shutil.copyfile(self.file, self.base)

    @property
    def connection(self) -> apsw.Connection:
        """The connection of the one who works by hand."""
        if self._connection is None:
            self._connection = apsw.Connection(str(self.file))
        return self._connection

    def fresh(self) -> None:
        """The file anew, on disk; nobody has it open."""
        self.close()
        for kind in ("-wal", "-shm", "-journal"):
            self.file.with_name(self.file.name + kind).unlink(missing_ok=True)
        with self.base.open("rb") as source, self.file.open("r+b") as target:  # the same file: its identity stays
            target.truncate()
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())

    def opened(self) -> None:
        """Fresh, and open for work by hand."""
        self.fresh()
        self.connection.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def close(self) -> None:
        """Nobody has it open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def plain(self) -> None:
        """The bare statement."""
        self.connection.execute(UPDATE)

    def by_hand(self) -> None:
        """What the protocols ask for: full rows into a rescue table, then the update, in one transaction."""
        self.connection.execute(f"BEGIN IMMEDIATE; {BY_HAND}; {UPDATE}; COMMIT")

    def copy_back(self) -> None:
        """The undo by hand."""
        self.connection.execute(f"BEGIN IMMEDIATE; {COPY_BACK}; COMMIT")

    def backout(self, *words: str) -> tuple[float, float]:
        """(seconds of the command, its peak memory in MiB)."""
        return typed(self.folder, *words)


def measure(rounds: int, rows: int = ROWS, journal_mode: str = "delete") -> tuple[list[Ratio], list[str]]:
    """All SQLite figures: ratios, and lines of absolute ones."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), rows, journal_mode)
        peaks: dict[str, list[float]] = {"run": [], "undo": []}

        def guarded() -> None:
            peaks["run"].append(bench.backout("run", "half", "--on", "bench", "--yes")[1])

        def undo() -> None:
            peaks["undo"].append(bench.backout("undo", "bench-1", "--yes")[1])

        def changed_by_hand() -> None:
            bench.opened()
            bench.by_hand()

        def changed_by_backout() -> None:
            bench.fresh()
            guarded()

        print("update of half of the rows")
        times = medians(
            {
                "plain": (bench.opened, bench.plain),
                "by hand": (bench.opened, bench.by_hand),
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
        bench.close()
    ratios = [
        Ratio("guarded update of 500,000 of 1,000,000 rows / by hand", times["guarded"], times["by hand"], 2.5),
        Ratio("its undo / by-hand copy back", back["undo"], back["copy back by hand"]),
        Ratio("guarded update / plain update", times["guarded"], times["plain"]),
    ]
    lines = [
        f"- 100 rows of 1,000,000, whole command: {small:.2f} s",
        f"- peak memory: {max(peaks['run']):.0f} MiB in the run, {max(peaks['undo']):.0f} MiB in the undo (bar: 250 MiB)",
        f"- SQLite {apsw.sqlite_lib_version()}, journal_mode {journal_mode}, {os.cpu_count()} cores",
    ]
    return ratios, lines
