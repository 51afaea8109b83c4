"""`python -m bench [ROUNDS] [ENGINE …]`: measure, print, and write each engine's section into docs/performance.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench import mariadb, postgres, sqlite
from bench.measure import Ratio

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
HEAD = """# Performance

Measured by `make bench`: paired ratios of medians from alternating rounds of one run, each on a freshly loaded,
vacuumed and checkpointed table. "By hand" is what a careful person types: `CREATE TABLE rescue AS SELECT * …; UPDATE …`
in one transaction, and `UPDATE … FROM rescue` to take it back. "Guarded" is the whole `backout` command, from the
process's start to its end. The server runs with fsync, on the machine of the measurement; nothing else does, unless
a section says so.

"""
ENGINES: Mapping[str, tuple[str, Callable[[int], tuple[list[Ratio], list[str]]]]] = {
    "postgres": ("PostgreSQL", postgres.measure),
    "sqlite": ("SQLite", sqlite.measure),
    "mariadb": ("MariaDB", mariadb.measure),
}


def main() -> None:
    """Measure and write; sections of engines that are not named stay as they are."""
    words = sys.argv[1:]
    rounds = next((int(word) for word in words if word.isdigit()), 5)
    for name in [word for word in words if word in ENGINES] or list(ENGINES):
        title, measure = ENGINES[name]
        text = _section(title, rounds, *measure(rounds))
        print(text)
        PAGE.write_text(_replaced(PAGE.read_text(encoding="utf-8"), title, text), encoding="utf-8")


def _section(title: str, rounds: int, ratios: list[Ratio], lines: list[str]) -> str:
    table = ["| what | ours | other | ratio | bar | met |", "|---|---|---|---|---|---|"]
    table += [ratio.row() for ratio in ratios]
    head = f"## {title}, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds"
    return "\n\n".join([head, "\n".join(table), "\n".join(lines)]) + "\n"


def _replaced(page: str, title: str, text: str) -> str:
    """The page with a new section of that title: in its place, or at the end."""
    _, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    place = next((i for i, one in enumerate(sections) if one.startswith(f"## {title},")), len(sections))
    sections[place : place + 1] = [text]
    return HEAD + "\n".join(one.rstrip("\n") + "\n" for one in sections)


if __name__ == "__main__":
    main()
