"""`python -m bench.endpoint [ROUNDS [ROWS]]`: what the endpoint adds, beside a direct connection to the same server.

Alternating rounds, medians; writes its section of docs/performance.md. Client, endpoint and server share the machine, as
they do in use but for the server: every microsecond of Python is one of the client's. Needs pgbench and psql.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import psycopg

from backout.endpoint.server import Endpoint
from backout.engines.postgres.embedded import EmbeddedServer
from backout.engines.postgres.loan import lend
from backout.engines.postgres.session import Session
from bench.__main__ import PAGE, _replaced

SECONDS = 4  # of pgbench in each round
TITLE = "Endpoint"


class Bench:
    """A server with pgbench's tables, a million rows to fetch, and a file of a million rows to copy."""

    def __init__(self, server: EmbeddedServer, folder: Path, rows: int) -> None:
        self.direct = server.url("postgres")
        self.rows, self.file = rows, folder / "rows.tsv"
        self.seen: dict[str, list[float]] = {}
        pgbench = ["pgbench", "-q", "-i", "-s", "10", self.direct]
        subprocess.run(pgbench, check=True, capture_output=True)
        with psycopg.connect(self.direct, autocommit=True) as connection:
            connection.execute("CREATE TABLE target (id bigint, name text, reason text)")
        with self.file.open("w", encoding="utf-8") as file:
            for number in range(rows):
                file.write(f"{number}\tpatient {number}\t{number:032x}\n")

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
        """Each form once, the two sides in turn."""
        sides = ["direct", "through"] if number % 2 == 0 else ["through", "direct"]
        forms: dict[str, Callable[[str], float]] = {
            "select": lambda url: latency(url, "-S"), "fetch": self.fetch, "copy": self.copy,
        }  # fmt: skip
        for name, form in forms.items():
            for side in sides:
                if side == "direct":
                    found = form(self.direct)
                else:
                    with self.through() as url:
                        used = process_time()
                        found = form(url)
                        used = process_time() - used
                    if name == "select":
                        self.seen.setdefault("select processor", []).append(used * found / SECONDS)
                self.seen.setdefault(f"{name} {side}", []).append(found)
                print(f"  round {number + 1}: {name} {side}: {found:.4f}", flush=True)

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


def latency(url: str, kind: str) -> float:
    """Milliseconds of one prepared statement of pgbench, one client."""
    command = ["pgbench", "-n", kind, "-M", "prepared", "-c", "1", "-T", str(SECONDS), url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"latency average = ([\d.]+) ms", said)
    assert found, said
    return float(found[1])


def section(bench: Bench, rounds: int) -> str:
    """The section of the page."""
    direct, through = bench.middle("select direct"), bench.middle("select through")
    fetch = bench.middle("fetch through") / bench.middle("fetch direct")
    copy = bench.middle("copy through") / bench.middle("copy direct")
    added = through - direct
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    load = os.getloadavg()[1]
    lines = [
        ("added latency of a prepared SELECT of one row, median of rounds", f"{added:.3f} ms", "≤ 0.15 ms", added <= 0.15),
        ("`pgbench -S -M prepared`, one client, through / direct", f"{direct / through:.2f}", "≥ 0.40",
         direct / through >= 0.40),
        (f"one client that fetches {bench.rows:,} rows, through / direct", f"{fetch:.2f}", "≤ 1.5", fetch <= 1.5),
        (f"COPY of {bench.rows:,} rows in, through / direct", f"{copy:.2f}", "≤ 1.5", copy <= 1.5),
        ("peak memory of the endpoint's process", f"{peak:.0f} MB", "≤ 120 MB", peak <= 120),
    ]  # fmt: skip
    own = bench.middle("select processor")
    figures = f"""\
- direct {direct:.3f} ms, through {through:.3f} ms per statement; processor time of the endpoint: {own:.3f} ms
- PostgreSQL 18.4, 2 cores, with other work on them: load {load:.1f}"""
    table = ["| what | measured | bar | met |", "|---|---|---|---|"]
    table += [f"| {what} | {found} | {bar} | {'yes' if met else '**no**'} |" for what, found, bar, met in lines]
    return "\n\n".join([
        f"## {TITLE}, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds",
        "`python -m bench.endpoint`: pgbench and psql, through the endpoint and directly, in alternating rounds.",
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
