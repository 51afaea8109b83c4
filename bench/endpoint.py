"""`python -m bench.endpoint [ROUNDS [ROWS]]`: what the endpoint adds, beside a direct connection to the same server.

Short alternating rounds, medians; writes its section of docs/performance.md. Client, endpoint and server share the machine,
as they do in use but for the server: every microsecond of Python is one of the client's. What stands beside a run's other
work (its watch, its transcript in the database, its capture) is measured in whole ghost runs. Needs pgbench and psql.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, time

import psycopg

from backout import Project
from backout.endpoint.server import Endpoint
from backout.engines.postgres.embedded import EmbeddedServer
from backout.engines.postgres.loan import lend
from backout.engines.postgres.session import Session
from bench.__main__ import PAGE, _replaced

SECONDS = 1  # of pgbench at a time
TIMES = 6  # that each side takes its turn in a round
TITLE = "Endpoint"
PGBENCH = ("pgbench", "-n", "-S", "-M", "prepared", "-c", "1", "-T", str(SECONDS))
SETUP = """
CREATE ROLE app; CREATE ROLE login LOGIN PASSWORD 'bench'; GRANT app TO login;
GRANT CREATE ON DATABASE postgres TO login; GRANT CREATE ON SCHEMA public TO app;
ALTER TABLE pgbench_accounts OWNER TO app; ALTER TABLE pgbench_branches OWNER TO app;
ALTER TABLE pgbench_tellers OWNER TO app; ALTER TABLE pgbench_history OWNER TO app;
CREATE TABLE target (id bigint, name text, reason text); ALTER TABLE target OWNER TO app;
CREATE TABLE referral AS SELECT g::bigint AS id, 'open'::text AS status, repeat(md5(g::text), 3) AS reason
  FROM generate_series(1, 1000000) g;
ALTER TABLE referral ADD PRIMARY KEY (id), OWNER TO app
"""
SELECT = f"{' '.join(PGBENCH)} > said"
UPDATE = """psql -X -q -c "UPDATE referral SET status = 'closed' WHERE id % 1000 = 0"; date +%s.%N > ended"""


class Bench:
    """A server with pgbench's tables, a million rows to fetch, and a file of a million rows to copy."""

    def __init__(self, server: EmbeddedServer, folder: Path, rows: int) -> None:
        self.direct = server.url("postgres") + "?sslmode=disable&gssencmode=disable"
        self.rows, self.file, self.folder = rows, folder / "rows.tsv", folder
        self.seen: dict[str, list[float]] = {}
        pgbench = ["pgbench", "-q", "-i", "-s", "10", self.direct]
        subprocess.run(pgbench, check=True, capture_output=True)
        with psycopg.connect(self.direct, autocommit=True) as connection:
            connection.execute(SETUP)
            connection.execute("VACUUM ANALYZE referral")
            (size,) = connection.execute("SELECT pg_table_size('referral') / 1000000").fetchone() or (0,)
            self.megabytes: int = size
        with self.file.open("w", encoding="utf-8") as file:
            for number in range(rows):
                file.write(f"{number}\tpatient {number}\t{number:032x}\n")
        url = server.url("postgres", user="login", password="bench")
        (folder / "backout.toml").write_text(f'[environments.bench]\nurl = "{url}"\nrole = "app"\n')
        (folder / "changes").mkdir()
        for name, text in (("select", SELECT), ("update", UPDATE)):
            head = f'# /// change\n# title = "{name}"\n# run = ["sh", "-e", "{{file}}"]\n# ///\n'
            (folder / "changes" / f"{name}.sh").write_text(head + textwrap.dedent(text) + "\n")
        self.project = Project.find(start=folder)

    @contextmanager
    def through(self) -> Iterator[str]:
        """The address of an endpoint whose transaction is rolled back at the end."""
        session = Session(self.direct, "bench")
        session.run("BEGIN")
        try:
            with lend(session) as loan, Endpoint(loan, user="bench") as endpoint:
                yield endpoint.url
        finally:
            session.close()

    def round(self, number: int) -> None:
        """Each form, the two sides in turn."""
        for turn in range(TIMES):
            for side in self._sides(turn):
                self.select(side)
        for name in ("fetch", "copy"):
            form = {"fetch": self.fetch, "copy": self.copy}[name]
            for side in self._sides(number):
                if side == "direct":
                    self.note(f"{name} direct", form(self.direct))
                else:
                    with self.through() as url:
                        self.note(f"{name} through", form(url))
        self.note("in a run", self.in_a_run())
        self.note("capture", self.capture())

    @staticmethod
    def _sides(number: int) -> tuple[str, str]:
        return ("direct", "through") if number % 2 == 0 else ("through", "direct")

    def note(self, name: str, value: float) -> None:
        """One that was seen."""
        self.seen.setdefault(name, []).append(value)
        print(f"  {name}: {value:.4f}", flush=True)

    def select(self, side: str) -> None:
        """Milliseconds of one prepared SELECT of one row; of them processor time of the endpoint."""
        if side == "direct":
            self.note("select direct", said(subprocess.check_output([*PGBENCH, self.direct], text=True))[0])
            return
        with self.through() as url:
            used = process_time()
            latency, count = said(subprocess.check_output([*PGBENCH, url], text=True))
            self.note("select processor", (process_time() - used) / count * 1000)
        self.note("select through", latency)

    def in_a_run(self) -> float:
        """Milliseconds of the same statement in a whole ghost run."""
        self._ghost("select")
        return said((self.folder / "said").read_text())[0]

    def capture(self) -> float:
        """Seconds from the end of a program that has changed 1,000 rows to the end of its ghost run."""
        ended = self._ghost("update")
        return ended - float((self.folder / "ended").read_text())

    def _ghost(self, name: str) -> float:
        self.project.ghost(self.project.change(name), "bench", ask=lambda _kind, _question: True)
        return time()

    def fetch(self, url: str) -> float:
        """Seconds of one client that fetches all rows, with psql, to nowhere."""
        query = f"SELECT g, 'patient ' || g, md5(g::text) FROM generate_series(1, {self.rows}) g"
        return self._psql(url, "-c", query, "-o", "/dev/null")

    def copy(self, url: str) -> float:
        """Seconds of COPY of all rows; not kept."""
        return self._psql(url, "-c", "BEGIN", "-c", f"\\copy target FROM '{self.file}'", "-c", "ROLLBACK")

    def _psql(self, url: str, *arguments: str) -> float:
        began = perf_counter()
        subprocess.run(["psql", "-X", "-q", "-A", url, *arguments], check=True, capture_output=True)
        return perf_counter() - began

    def middle(self, name: str) -> float:
        """The median."""
        return median(self.seen[name])


def said(text: str) -> tuple[float, int]:
    """What pgbench says: milliseconds of a statement, and how many there were."""
    latency = re.search(r"latency average = ([\d.]+) ms", text)
    count = re.search(r"actually processed: (\d+)", text)
    assert latency, text
    assert count, text
    return float(latency[1]), int(count[1])


def section(bench: Bench, rounds: int) -> str:
    """The section of the page."""
    direct, through = bench.middle("select direct"), bench.middle("select through")
    pairs = zip(bench.seen["select direct"], bench.seen["select through"], strict=True)
    ratio = median(one / other for one, other in pairs)
    fetch = bench.middle("fetch through") / bench.middle("fetch direct")
    copy = bench.middle("copy through") / bench.middle("copy direct")
    added, capture = through - direct, bench.middle("capture")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    load = os.getloadavg()[1]
    lines = [
        ("added latency of a prepared SELECT of one row, median of rounds", f"{added:.3f} ms", "≤ 0.15 ms", added <= 0.15),
        ("`pgbench -S -M prepared`, one client, through / direct, median of pairs", f"{ratio:.2f}", "≥ 0.40", ratio >= 0.40),
        (f"one client that fetches {bench.rows:,} rows, through / direct", f"{fetch:.2f}", "≤ 1.5", fetch <= 1.5),
        (f"COPY of {bench.rows:,} rows in, through / direct", f"{copy:.2f}", "≤ 1.5", copy <= 1.5),
        (f"end of a run that has changed 1,000 rows of 1,000,000 ({bench.megabytes} MB)", f"{capture:.2f} s", "≤ 0.8 s",
         capture <= 0.8),
        ("peak memory of the endpoint's process", f"{peak:.0f} MB", "≤ 120 MB", peak <= 120),
    ]  # fmt: skip
    own, beside = bench.middle("select processor"), bench.middle("in a run")
    figures = f"""\
- direct {direct:.3f} ms, through {through:.3f} ms per statement; processor time of the endpoint: {own:.3f} ms
- in a whole ghost run, with its watch and its transcript in the database: {beside:.3f} ms per statement
- PostgreSQL 18.4, 2 cores, with other work on them: load {load:.1f}"""
    table = ["| what | measured | bar | met |", "|---|---|---|---|"]
    table += [f"| {what} | {found} | {bar} | {'yes' if met else '**no**'} |" for what, found, bar, met in lines]
    turns = rounds * TIMES
    return "\n\n".join([
        f"## {TITLE}, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds",
        f"""\
`python -m bench.endpoint`: pgbench and psql, through the endpoint and directly, in alternating rounds; pgbench {turns} times
on each side, {SECONDS} s each.""",
        "\n".join(table),
        figures,
    ]) + "\n"  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)  # the server has an account of its own
        with EmbeddedServer.start(place / "server") as server:
            bench = Bench(server, place, rows)
            for number in range(rounds):
                bench.round(number)
            text = section(bench, rounds)
    print(text)
    if rows >= 1_000_000:
        PAGE.write_text(_replaced(PAGE.read_text(encoding="utf-8"), TITLE, text), encoding="utf-8")


if __name__ == "__main__":
    main()
