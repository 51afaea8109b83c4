"""`python -m bench [ROUNDS]`: measure, print, and write the table into docs/performance.md."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.postgres import measure

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
HEAD = """# Performance

Measured by `make bench`: paired ratios of medians from alternating rounds of one run, each on a freshly loaded,
vacuumed and checkpointed table. "By hand" is what a careful person types: `CREATE TABLE rescue AS SELECT * …; UPDATE …`
in one transaction, and `UPDATE … FROM rescue` to take it back. "Guarded" is the whole `backout` command, from the
process's start to its end. The server runs with fsync, on the machine of the measurement; nothing else does.

"""


def main() -> None:
    """Measure and write."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ratios, lines = measure(rounds)
    table = ["| what | ours | other | ratio | bar | met |", "|---|---|---|---|---|---|"]
    table += [ratio.row() for ratio in ratios]
    text = HEAD + f"## PostgreSQL, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds\n\n" + "\n".join(table)
    text += "\n\n" + "\n".join(lines) + "\n"
    print(text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
