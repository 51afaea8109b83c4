"""`python -m bench.ledger [ENTRIES [ROUNDS]]`: what gates and ledger add to a run, and how fast an audit is. Only prints.

A run under policy "team" (submitted, rehearsed, approved twice, announced; every statement signed, a ledger of that many
signed entries of other changes) beside the very same run where nobody is asked and there is no ledger, in alternating
rounds. The numbers to hold: 50 ms more per run at 10,000 entries; an audit without signatures ≥ 20,000 entries/s.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

from backout.gates.checklist import checklist
from backout.ledger.entry import first_break
from backout.ledger.seal import Bodies, Sealing
from backout.ledger.signing import NAMESPACE, Signer, sign
from backout.ledger.statement import Kind, Signed, Statement
from backout.project import Project
from backout.project.audit import audit
from backout.project.book import Book

PEOPLE = ("ann", "bob", "cem", "eve")
CONFIG = """
[project]
ledger = "sqlite:///{folder}/ledger.sqlite"
[environments.staging]
url = "sqlite:{folder}/staging.db"
[environments.plain]
url = "sqlite:{folder}/plain.db"
[environments.production]
url = "sqlite:{folder}/production.db"
operators = ["cem"]
announce = {{before = "1 ms"}}
"""
CHANGE = """\
-- /// change
-- title = "Count the referrals that were looked at"
-- author = "ann@example.org"
-- request = "https://tracker.internal/4711"
-- requested_by = "eve@example.org"
-- risk = "A referral could be counted that nobody has looked at."
-- mitigation = "A ghost run on staging, then a hundred rows."
-- repeat = true
-- ///
UPDATE referral SET seen = seen + 1 WHERE id <= 100;
"""


@dataclass
class Times:
    """Seconds of each round, by what was measured: on the clock, and of the processor, programs that it starts included."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)

    def of(self, name: str, what: Callable[[], object]) -> None:
        """Measure once."""
        began, before = perf_counter(), os.times()
        what()
        self.seconds.setdefault(name, []).append(perf_counter() - began)
        after = os.times()
        self.processor.setdefault(name, []).append(after.user + after.system - before.user - before.system)
        children = after.children_user + after.children_system - before.children_user - before.children_system
        self.others.setdefault(name, []).append(children)

    def ms(self, name: str) -> float:
        """The median, in milliseconds."""
        return median(self.seconds[name]) * 1000

    def least_ms(self, name: str) -> float:
        """The shortest, in milliseconds: what other work on the machine disturbs least."""
        return min(self.seconds[name]) * 1000

    def processor_ms(self, name: str) -> tuple[float, float]:
        """The least of the processor's time in milliseconds: of this process, of the programs that it started."""
        return min(self.processor[name]) * 1000, min(self.others[name]) * 1000


def main() -> None:
    """Make the ledger, measure, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, count)
        measure(folder, count, rounds)
        if "--profile" in sys.argv:
            profile(folder)


def prepare(folder: Path, count: int) -> None:
    """People with keys, databases, the filled ledger, and all that the policy asks for."""
    people = ""
    signers = []
    for name in PEOPLE:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        public = (folder / f"{name}.pub").read_text().strip()
        signers.append(f'{name}@example.org namespaces="{NAMESPACE}" {public}\n')
        people += f'[people.{name}]\nemail = "{name}@example.org"\n'
    (folder / "allowed_signers").write_text("".join(signers))
    (folder / "changes").mkdir()
    (folder / "changes" / "count.sql").write_text(CHANGE)
    (folder / "backout.toml").write_text(people + CONFIG.format(folder=folder))
    (folder / "plain.toml").write_text(f'[environments.plain]\nurl = "sqlite:{folder}/plain.db"\n')
    for name in ("staging", "plain", "production"):
        with closing(sqlite3.connect(folder / f"{name}.db")) as database, database:
            database.execute("CREATE TABLE referral (id INTEGER PRIMARY KEY, seen INTEGER NOT NULL)")
            database.executemany("INSERT INTO referral VALUES (?, 0)", [(one,) for one in range(1, 1001)])
    fill(folder, count)
    change = project(folder, "ann").change("count")
    project(folder, "ann").statements.submit(change)
    project(folder, "eve").rehearse(change, "staging", ask=yes)
    for name, kind in (("bob", "correctness"), ("cem", "safety")):
        project(folder, name).approve(change, "production", kind, ticked=checklist(kind))
    project(folder, "cem").announced(change, "production", ["everybody"])


def fill(folder: Path, count: int) -> None:
    """Many approvals of another change, as long as those of the profiles."""
    details = {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}
    other = Statement(Kind.APPROVE, "reopen", "0" * 64, "production", "bob@example.org", datetime.now(UTC), details)
    body = Signed(other, sign(other.text, Signer(folder / "bob"))).body
    Book(project(folder, "ann").config).ledger.append_all([body] * count)


def project(folder: Path, person: str | None) -> Project:
    """As a new process has it."""
    if person is None:
        return Project.find(folder / "plain.toml")
    return Project.find(folder / "backout.toml", key=folder / person)


def measure(folder: Path, count: int, rounds: int) -> None:
    """Medians of alternating rounds."""
    times = Times()
    command = [str(Path(sys.executable).parent / "backout"), "run", "count", "--yes", "--config"]
    run(folder, None)  # the first makes the journal, and imports
    run(folder, "cem")
    for _ in range(rounds):
        times.of("run, nobody asked", lambda: run(folder, None))
        times.of("run, team", lambda: run(folder, "cem"))
    for _ in range(rounds):
        plain = [*command, str(folder / "plain.toml"), "--on", "plain"]
        times.of("command, nobody asked", lambda: command_of(plain))  # noqa: B023
        team = [*command, str(folder / "backout.toml"), "--on", "production", "--key", str(folder / "cem")]
        times.of("command, team", lambda: command_of(team))  # noqa: B023
    book = Book(project(folder, "ann").config)
    for _ in range(rounds):
        times.of("read", book.ledger.rows)
        rows = book.ledger.rows()
        times.of("seal", lambda: Sealing(Bodies(rows), None).seal())  # noqa: B023
        entries = book.ledger.entries()
        times.of("chain", lambda: first_break(entries))  # noqa: B023
        times.of("audit", lambda: audit(book, signatures=False))
    print(f"entries of other changes                    {count:>8,}")
    for name in ("run", "command"):
        asked, alone = f"{name}, team", f"{name}, nobody asked"
        print(f"{name:<8} nobody asked, no ledger          {times.ms(alone):>8.1f} ms")
        print(f"{name:<8} policy team                      {times.ms(asked):>8.1f} ms")
        least = times.least_ms(asked) - times.least_ms(alone)
        print(f"{name:<8} gates and ledger add             {times.ms(asked) - times.ms(alone):>8.1f} ms", end="")
        print(f" (of the shortest: {least:.1f} ms)")
    of_team, of_plain = times.processor_ms("run, team"), times.processor_ms("run, nobody asked")
    here, programs = of_team[0] - of_plain[0], of_team[1] - of_plain[1]
    print(f"run      of the processor: this process {here:.0f} ms more, ssh-keygen and git {programs:.0f} ms")
    print(f"read the ledger                             {times.ms('read'):>8.1f} ms")
    print(f"hash it at once, against its seal           {times.ms('seal'):>8.1f} ms")
    print(f"recompute the chain link by link            {times.ms('chain'):>8.1f} ms")
    print(f"audit without signatures                    {count / times.ms('audit') * 1000:>8,.0f} entries/s")


def profile(folder: Path) -> None:
    """Where one run under the policy spends its time."""
    profiler = cProfile.Profile()
    profiler.runcall(run, folder, "cem")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


def run(folder: Path, person: str | None) -> None:
    """One run, in the process."""
    found = project(folder, person)
    found.run(found.change("count"), "production" if person else "plain", ask=yes)


def command_of(words: list[str]) -> None:
    """One run, as a command of its own."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "BACKOUT_DEBUG": "1"})
    if done.returncode != 0:
        raise SystemExit(done.stderr)


def yes(_kind: str, _question: str) -> bool:
    """Whatever is asked."""
    return True


if __name__ == "__main__":
    main()
