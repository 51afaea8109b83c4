"""A process that runs, or undoes, a change on MariaDB, and is killed by whoever started it."""

from __future__ import annotations

import sys
from pathlib import Path

from backout import Project


def main(action: str, folder: str, run: str = "") -> None:
    """Say that the work begins, then do it."""
    project = Project.find(Path(folder) / "backout.toml")
    print("begun", flush=True)
    if action == "run":
        project.run(project.change(str(Path(folder) / "change.sql")), "shop", ask=lambda _kind, _question: True)
    else:
        project.undo(run, "shop", ask=lambda _kind, _question: True)
    print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
