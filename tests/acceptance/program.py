"""The installed program as a user starts it: the console script, in a folder, with nobody at a terminal.

Invariant: whatever a test types, nothing of it may be coloured and no traceback may show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unit.test_as_json import require_valid

PROGRAM = Path(sys.executable).parent / "backout"


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def environment(**variables: str) -> dict[str, str]:
    """Of a user whose own settings of libpq and of colours do not count; warnings are errors."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**ours, "PYTHONWARNINGS": "error", "LOGNAME": "ada", "TERM": "xterm-256color", **variables}


def backout(folder: Path, *arguments: str, **variables: str) -> Finished:
    """Type a command."""
    ended = subprocess.run(
        [str(PROGRAM), *arguments],
        check=False,
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return Finished(ended.returncode, ended.stdout, ended.stderr)


Typed = Callable[..., Finished]


def told(
    folder: Path,
    schema: str,
    *arguments: str,
    status: int | tuple[int, ...] = 0,
    typed: Typed = backout,
    **variables: str,
) -> dict[str, Any]:
    """Type a command with `--json`; its one object, which is as its published schema says."""
    ended = typed(folder, *arguments, "--json", **variables)
    assert ended.status in (status if isinstance(status, tuple) else (status,)), ended.err
    said = json.loads(ended.out)  # fails where anything else is on standard output
    assert ended.out == json.dumps(said, indent=2, ensure_ascii=False) + "\n"
    require_valid(said, schema)
    assert ("error" in said) == bool(ended.err)
    if "error" in said:
        assert ended.err.startswith(f"error: {said['error']['message']}\nstate: {said['error']['state']}\n")
    return dict(said)
