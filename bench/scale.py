"""`python -m bench.scale [ROWS] [TIMES]`: the rate of a backfill in batches on a table TIMES as large, against ROWS.

Each size on a server and a table of its own, with capture, proof and journal, at the defaults. Says where it is every ten
seconds. Ten million rows take some 15 GB in the folder for temporary files (TMPDIR), which are gone when it ends. Prints;
writes nothing.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from backout.engines.postgres.embedded import EmbeddedServer
from bench.batches import CHANGE, Batches

SAY_EVERY_S = 10.0


class Said:
    """Prints a line of progress where the last was long enough ago."""

    def __init__(self) -> None:
        self._at = perf_counter()

    def __call__(self, line: str) -> None:
        if perf_counter() - self._at >= SAY_EVERY_S:
            self._at = perf_counter()
            print(f"  {line}", flush=True)


def rate(rows: int) -> float:
    """Rows per second, from the call to its return."""
    print(f"{rows:,} rows: loads the table", flush=True)
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
        bench.ready()
        bench.connection.execute("DROP TABLE base")
        began = perf_counter()
        bench.ours(progress=Said())
        seconds = perf_counter() - began
        bench.connection.close()
    print(f"{rows:,} rows: {seconds:.1f} s, {rows / seconds:,.0f} rows/s", flush=True)
    return rows / seconds


def main() -> None:
    """Measure, and print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    times = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    small, large = rate(rows), rate(rows * times)
    print(f"rate at {rows * times:,} rows / at {rows:,}: {large / small:.2f} (bar: ≥ 0.8)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB (bar: 120 MB)")


if __name__ == "__main__":
    main()
