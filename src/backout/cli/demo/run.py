"""The story of `backout demo`: one change and its way back, each step by the very command that a user would type.

Not for: the server and the clinic (`clinic`). Invariant: what is shown is what the real commands print and how they end;
a command that ends otherwise than the story says ends the demo with an error.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from rich.text import Text

from backout.cli.demo.clinic import CHANGE, DATABASE, Clinic, clinic, without_pg
from backout.cli.screen import show
from backout.errors import BackoutError, Conflicts, Interrupted

ANSWERED = 422  # a referral that the change closes and a doctor answers since: the conflict
REWORDED = 423  # one whose reason, which the change does not touch, is reworded since: no conflict
WIDTH = 88
# Not `-m`: the program is to call itself `backout`. `-P`: nothing is imported from the demo's folder.
_BACKOUT = [
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'backout'; from backout.cli.main import main; sys.exit(main())",
]


def demo(*, keep: bool = False) -> None:
    """Play the demo; with `keep` its server and folder are left for trying things out.

    Raises UsageError where no PostgreSQL can be started, Interrupted on Ctrl-C; no server is left running then.
    """
    began = monotonic()
    say("A PostgreSQL of its own, a small clinic in it, one change, and the way back. It takes some seconds, asks nothing,"
        " and touches no other database.")  # fmt: skip
    try:
        with clinic(keep=keep) as place:
            _introduce(place)
            _play(_Stage(place))
            _conclude(place, keep=keep, seconds=monotonic() - began)
    except KeyboardInterrupt:
        raise Interrupted("interrupted", state="the demo's server has ended", hint="backout demo starts anew") from None


def _introduce(place: Clinic) -> None:
    if place.server.note:
        say(place.server.note)
    say(f"PostgreSQL {place.server.programs.version} runs on port {place.server.port} of this machine. The clinic has 300"
        " patients, 600 referrals and 900 notes, all made up. As in most applications, triggers keep `updated_at` and"
        " write an audit log.")  # fmt: skip


def _play(stage: _Stage) -> None:
    stage.step("The change", "From 9 to 13 November a message queue was out. 132 referrals that clinics had answered"
               " still say \"open\". This file closes them, and leaves a note in each.")  # fmt: skip
    stage.read(f"changes/{CHANGE}.sql")
    stage.step("A place for the records", "backout keeps its journal, and the rows as they were, in the database that it"
               " changes: in schemas that the application's role cannot write to.")  # fmt: skip
    stage.backout("init", "--on", "demo")
    stage.step("Can it be taken back?", "That is asked first, of each statement, while nothing runs. The catalogue adds"
               " what the text does not tell: keys, triggers, cascades.")  # fmt: skip
    stage.backout("check", CHANGE, "--on", "demo")
    stage.step("A ghost run", "All of it happens, is proven and shown, and is rolled back. With --undo the way back is"
               " taken as well, inside the same transaction, and the end compared with the start.")  # fmt: skip
    stage.backout("ghost", CHANGE, "--on", "demo", "--undo", "--rows", "2")
    stage.step("The run", "Now for good. It is committed only because the rows that were kept explain every write that"
               " PostgreSQL itself counted, the audit trigger's included.")  # fmt: skip
    stage.backout("run", CHANGE, "--on", "demo", "--rows", "0", "--yes")
    run = stage.newest_run()
    stage.step("Meanwhile", "The clinic goes on working. A doctor hears back about one of these referrals, and words the"
               " reason of another more precisely.")  # fmt: skip
    stage.sql(f"UPDATE referral SET status = 'answered' WHERE id = {ANSWERED};")
    stage.sql(f"UPDATE referral SET reason = 'follow-up after knee surgery' WHERE id = {REWORDED};")
    stage.step("The undo meets the doctor's work", "The product owner finds that the referrals should have stayed open."
               " One of them is not as the run left it: that is said first, and nothing is touched.")  # fmt: skip
    stage.backout("undo", run, "--yes", ends=Conflicts.exit_status)
    stage.step("All but that row", "What the doctor decided stays. What she did to the other row stays as well, beside"
               " what is put back: the run never touched that column.")  # fmt: skip
    stage.backout("undo", run, "--partial", "--rows", "2", "--yes", ends=Conflicts.exit_status)
    stage.step("What is true now", "Of the 132 referrals, 131 are open again, and the notes of the run are gone.")
    stage.sql("SELECT status, count(*) FROM referral WHERE opened_at >= '2026-11-09' GROUP BY status ORDER BY status;")
    stage.sql(f"SELECT id, status, closed_at, reason FROM referral WHERE id IN ({ANSWERED}, {REWORDED}) ORDER BY id;")
    stage.sql("SELECT count(*) AS notes FROM note;")
    stage.step("What was done, and by whom", "The journal has it all; an undo is a run like any other.")
    stage.backout("log", "--on", "demo")


def _conclude(place: Clinic, *, keep: bool, seconds: float) -> None:
    show([Text("\n\nThat was it", style="bold cyan")])
    say("A change was read, rehearsed, run and taken back. Nothing was committed that could not be undone, and nothing"
        f" that somebody else had done was undone with it. It took {seconds:.0f} s.")  # fmt: skip
    if keep:
        process = place.server.data_directory / "cluster" / "postmaster.pid"
        say("The server goes on. Try what you like:")
        show([f"  cd {shlex.quote(str(place.folder))}", "  backout log --on demo", "  backout show demo-2",
              f"  {place.server.programs.path('psql')} \"$(cat database-url)\""])  # fmt: skip
        say("And when you have had enough:")
        show([f"  kill -INT $(head -1 {shlex.quote(str(process))})", f"  rm -r {shlex.quote(str(place.folder))}"])
    else:
        say(f"The server has done its work and ends now. The configuration and the change stay in {place.folder} for you"
            " to read; remove the folder when you like. To type the commands yourself, on a server that stays:")  # fmt: skip
        show(["  backout demo --keep"])
    say('With your own database: README.md, "The first two minutes".')


@dataclass
class _Stage:
    """Where the steps happen: numbers them, runs their commands, and shows both."""

    place: Clinic
    number: int = field(default=0)

    def step(self, title: str, sentence: str) -> None:
        """Open a step."""
        self.number += 1
        show([Text(f"\n\n{self.number}. {title}", style="bold cyan")])
        show(Text(line) for line in textwrap.wrap(sentence, WIDTH))

    def backout(self, *words: str, ends: int = 0) -> None:
        """Run one command of backout as a user would, without anybody to ask; it must end with that exit status."""
        line = shlex.join(["backout", *words])
        _typed("$ " + line)
        finished = subprocess.run(
            [*_BACKOUT, *words],
            check=False,
            cwd=self.place.folder,
            stdin=subprocess.DEVNULL,
            env=without_pg(os.environ),
        )
        if finished.returncode != ends:
            raise BackoutError(
                f"`{line}` ended with exit status {finished.returncode}, and the demo is about {ends}",
                state="the demo's server has ended", hint="please report it, with the lines above",
            )  # fmt: skip
        if ends:
            show([Text(f"(exit status {ends})", style="dim")])

    def sql(self, statement: str) -> None:
        """Run a statement as the application."""
        _typed(f"{DATABASE}=> {statement}")
        show(Text(line) for line in self.place.psql(f"\\unset QUIET\n{statement}").rstrip().splitlines())

    def read(self, name: str) -> None:
        """Show a file of the folder."""
        _typed(f"$ cat {name}")
        show(Text(line) for line in (self.place.folder / name).read_text(encoding="utf-8").splitlines())

    def newest_run(self) -> str:
        """The run that was just committed, as people write it."""
        from backout.project import Project

        return Project.find(start=self.place.folder).log("demo", limit=1)[0].identifier


def say(text: str) -> None:
    """Print a paragraph."""
    show([Text(), *(Text(line) for line in textwrap.wrap(text, WIDTH))])


def _typed(line: str) -> None:
    show(_lines(line))


def _lines(line: str) -> Iterator[Text]:
    yield Text()
    yield Text(line, style="bold")
