"""`python -m bench.mariadb [ROUNDS [ROWS]]`: a guarded update of half of 500,000 rows on MariaDB, and its undo.

Paired with what a careful person types: `INSERT INTO rescue SELECT … FOR UPDATE; UPDATE …` in one transaction, and
`UPDATE … JOIN rescue` to take it back. Prints; docs/performance.md has the figures of a quiet machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import Ratio, medians, typed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from servers_mariadb import MariaDatabase, MariaServers

CHANGE = """-- /// change
-- title = "Close half of the referrals"
-- data = "internal"
-- repeat = true
-- ///

UPDATE referral SET status = 'closed' WHERE id % 2 = 0;
"""
UPDATE = "UPDATE referral SET status = 'closed' WHERE id % 2 = 0"
COPY_BACK = "UPDATE referral t JOIN by_hand r ON r.id = t.id SET t.status = r.status"
TABLE = """CREATE TABLE base (id BIGINT PRIMARY KEY, clinic_id INT, status VARCHAR(20), reason VARCHAR(40), opened_at DATETIME,
amount DECIMAL(12, 2), urgent BOOLEAN, updated_at DATETIME, KEY (clinic_id))"""


class Bench:
    """A database with a table, and a project that knows it."""

    def __init__(self, database: MariaDatabase, folder: Path, rows: int) -> None:
        self.folder, self.session = folder, database.connect()
        self.run("SET GLOBAL innodb_buffer_pool_size = 536870912")
        self.run(TABLE)
        self.run(
            "INSERT INTO base SELECT seq, seq MOD 1000, 'open', MD5(seq), '2026-01-01' + INTERVAL seq SECOND, seq * 1.37, "
            f"seq MOD 2 = 0, '2026-01-01' FROM seq_1_to_{rows}"
        )
        (folder / "changes").mkdir()
        (folder / "changes" / "half.sql").write_text(CHANGE)
        (folder / "backout.toml").write_text(f'[environments.bench]\nurl = "{database.login_url}"\n')

    def run(self, *statements: str) -> Any:
        """Statements, each committed unless one says otherwise."""
        with self.session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def fresh(self) -> None:
        """The table anew."""
        self.run("DROP TABLE IF EXISTS referral, by_hand", "CREATE TABLE referral LIKE base")
        self.run("INSERT INTO referral SELECT * FROM base", "ANALYZE TABLE referral")

    def by_hand(self) -> None:
        """What the protocols ask for."""
        self.run("CREATE TABLE by_hand LIKE base", "START TRANSACTION")
        self.run("INSERT INTO by_hand SELECT * FROM referral WHERE id % 2 = 0 FOR UPDATE", UPDATE, "COMMIT")

    def plain(self) -> None:
        """The bare statement."""
        self.run("START TRANSACTION", UPDATE, "COMMIT")

    def copy_back(self) -> None:
        """The undo by hand."""
        self.run("START TRANSACTION", COPY_BACK, "COMMIT")

    def guarded(self) -> None:
        """The guarded update."""
        typed(self.folder, "run", "half", "--on", "bench", "--yes")

    def undo(self) -> None:
        """Of the last run."""
        ((number,),) = self.run("SELECT MAX(number) FROM backout.run WHERE mode = 'real'")
        typed(self.folder, "undo", f"bench-{number}", "--yes")


@contextmanager
def _bench(rows: int) -> Iterator[Bench]:
    servers = MariaServers(f"bench_{os.getpid()}")
    database = servers.create_database()
    try:
        with tempfile.TemporaryDirectory() as name:
            yield Bench(database, Path(name), rows)
    finally:
        servers.drop_database(database)
        servers.stop()


def measure(rounds: int, rows: int = 500_000) -> tuple[list[Ratio], list[str]]:
    """All MariaDB figures: ratios, and lines of absolute ones."""
    with _bench(rows) as bench:
        typed(bench.folder, "init", "--on", "bench")

        def changed_by_hand() -> None:
            bench.fresh()
            bench.by_hand()

        def changed_by_backout() -> None:
            bench.fresh()
            bench.guarded()

        forms = {
            "plain": (bench.fresh, bench.plain),
            "by hand": (bench.fresh, bench.by_hand),
            "guarded": (bench.fresh, bench.guarded),
            "copy back": (changed_by_hand, bench.copy_back),
            "undo": (changed_by_backout, bench.undo),
        }
        times = medians(forms, rounds)
        ((version,),) = bench.run("SELECT VERSION()")
    ratios = [
        Ratio(f"guarded update of {rows // 2:,} of {rows:,} rows / by hand", times["guarded"], times["by hand"], 1.2),
        Ratio("its undo / copy back by hand", times["undo"], times["copy back"], 1.3),
    ]
    return ratios, [f"- MariaDB {version}, {os.cpu_count()} cores"]
