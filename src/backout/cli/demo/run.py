"""`backout demo`: the story played on a server of its own, each step by the very command that a user would type.

Not for: what is told (`story`), the server and the clinic (`clinic`). Invariant: what is shown is what the real
commands print; one that ends otherwise than the story says ends the demo with an error.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from time import monotonic

from rich.text import Text

from backout.cli.demo.clinic import DATABASE, Clinic, clinic, without_pg
from backout.cli.demo.story import CAST, MORAL, STORY, Line, Step
from backout.cli.screen import show
from backout.errors import BackoutError, Interrupted

_WIDTH = 88  # a line of prose that the eye still follows
# Not `-m`, so that the program calls itself `backout`. `-P`: nothing is imported from the demo's folder.
_BACKOUT = (sys.executable, "-P", "-c", "import sys; from backout.cli.main import main; sys.exit(main())")


def demo(*, keep: bool = False) -> None:
    """Play the demo; with `keep` its server goes on, and the end says how to use and how to end it.

    Raises UsageError where no PostgreSQL can be started, Interrupted on Ctrl-C; no server is left running then.
    """
    began = monotonic()
    _say("A PostgreSQL of its own, a small clinic in it, one change, and the way back. No other database is touched.")
    try:
        with clinic(keep=keep) as place:
            _introduce(place)
            for number, step in enumerate(STORY, 1):
                _play(place, number, step)
            _heading("That was it")
            _say(f"{MORAL} It took {monotonic() - began:.0f} s.")
            (_invite if keep else _take_leave)(place)
    except KeyboardInterrupt:
        raise Interrupted("interrupted", state="the demo's server has ended", hint="backout demo starts anew") from None


def _introduce(place: Clinic) -> None:
    if place.server.note:
        _say(place.server.note)
    _say(f"PostgreSQL {place.server.programs.version} runs on port {place.server.port} of this machine. {CAST}")


def _play(place: Clinic, number: int, step: Step) -> None:
    _heading(f"{number}. {step.title}")
    _say(step.sentence)
    for line in step.lines:
        words = shlex.split(line.text.removeprefix("$ "))
        if line.text.startswith("$ backout "):
            _type(line.text)
            _run(place.folder, words[1:], line)
        elif line.text.startswith("$ cat "):
            _type(line.text)
            _show_lines((place.folder / words[1]).read_text(encoding="utf-8"))
        else:
            _type(f"{DATABASE}=> {line.text}")
            _show_lines(place.psql(line.text))


def _run(folder: Path, words: list[str], line: Line) -> None:
    """Run a command of backout as a user would, with nobody there to ask."""
    finished = subprocess.run(
        [*_BACKOUT, *words], check=False, cwd=folder, stdin=subprocess.DEVNULL, env=without_pg(os.environ)
    )
    if finished.returncode != line.ends:
        raise BackoutError(
            f'"{line.text}" ended with exit status {finished.returncode}, and the story says {line.ends}',
            state="the demo's server has ended", hint="please report it with the lines above",
        )  # fmt: skip
    if line.ends:
        show([Text(f"(exit status {line.ends})", style="dim")])


def _invite(place: Clinic) -> None:
    """The server stays: how to go on, and how to end it."""
    folder, psql = shlex.quote(str(place.folder)), shlex.quote(str(place.server.programs.path("psql")))
    process = shlex.quote(str(place.server.data_directory / "cluster" / "postmaster.pid"))
    _say("The server goes on. Some things to try:")
    _show_lines(
        f'  cd {folder}\n  backout show demo-2\n  backout undo demo-4 --ghost\n  {psql} "$(cat database-url)"\n'
    )
    _say("And when you have seen enough:")
    _show_lines(f"  kill -INT $(head -n 1 {process})\n  rm -r {folder}\n")


def _take_leave(place: Clinic) -> None:
    _say(
        f"The server ends now. The configuration and the change stay in {place.folder} for you to read; remove the "
        "folder when you like. To type the commands yourself, on a server that stays: backout demo --keep"
    )


def _heading(text: str) -> None:
    show([Text(), Text(), Text(text, style="bold cyan")])


def _say(text: str) -> None:
    """Print a paragraph."""
    show([Text(), *(Text(line) for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False))])


def _type(line: str) -> None:
    show([Text(), Text(line, style="bold")])


def _show_lines(text: str) -> None:
    show([Text(line) for line in text.rstrip("\n").split("\n")])
