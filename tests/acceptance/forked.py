"""The program with its imports done: a command is a process of its own still, forked from one that has imported it.

Starting Python and importing the program takes 0.6 s, and a protocol has thirty commands. Not for: what a test says
about the program itself (`program.py` starts what is installed). Invariant: a command has the folder, the variables and
the streams that it is given, and nothing of any command before it, since nothing runs in the process that it is a copy of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

from acceptance.program import Finished, environment

#: What commands import late, so that help is quick.
IMPORTED = (
    "backout.cli.bill", "backout.cli.conversation", "backout.cli.main", "backout.engines.postgres.session",
    "backout.ledger.store", "backout.project", "backout.project.people_json", "backout.runs.as_json", "backout.sql.postgres",
    "postgast", "pyrage", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.orm",
)  # fmt: skip


class Forked:
    """The process that commands are copies of; a resource."""

    def __init__(self) -> None:
        places = [str(Path(__file__).parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {places!r}; import acceptance.forked as f; f.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def __call__(self, folder: Path, *arguments: str, **variables: str) -> Finished:
        """Type a command, as `program.backout` does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            streams = [str(Path(place) / name) for name in ("out", "err")]
            command = {"folder": str(folder), "arguments": arguments, "variables": environment(**variables)}
            self._process.stdin.write(json.dumps({**command, "streams": streams}) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            ended = Finished(status, *(Path(one).read_text(encoding="utf-8") for one in streams))
        assert "Traceback" not in ended.err, ended.err
        return ended

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Read commands, one a line, and answer each with its exit status."""
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(command: dict[str, Any]) -> NoReturn:
    from backout.cli.main import main

    os.environ.clear()
    os.environ.update(command["variables"])
    os.chdir(command["folder"])
    for number, place in enumerate((os.devnull, *command["streams"])):
        os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
    warnings.simplefilter("error")  # what PYTHONWARNINGS says is read when Python starts
    sys.argv = ["backout", *command["arguments"]]
    main()
