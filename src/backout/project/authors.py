"""Whose text a change is: what its metadata says, and what git knows of its file.

Not for: who submitted it, which the ledger knows. Invariant: nobody is left out for a missing tool: what cannot be known
from git is known from the statement `submit`, without which no policy with approvals is satisfied.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backout.change.model import Change
from backout.change.read import names_of_files
from backout.gates.people import People, address

_PATIENCE_S = 10  # for git; a history of 100,000 commits takes a second


def authors_of(change: Change, people: People) -> frozenset[str]:
    """The one name of each: authors in the metadata (`;` or `,` between them) and everybody who committed the file."""
    written = [part for part in (change.metadata.author or "").replace(";", ",").split(",") if part.strip()]
    names = (address(one) for one in (*written, *_committers(change)))
    return frozenset(people.canonical(one) for one in names if one)


def authors_in_a_while(change: Change, people: People) -> Callable[[], frozenset[str]]:
    """The same, found out by a thread: git takes as long as reading a ledger does. What is returned waits for it."""
    beside = ThreadPoolExecutor(1)
    found = beside.submit(authors_of, change, people)
    beside.shutdown(wait=False)
    return found.result


def is_link(path: Path, folder: Path) -> bool:
    """Whether the file, or a folder between it and the project's, is a symbolic link."""
    absolute = path.absolute()
    try:
        inside = absolute.relative_to(folder.absolute())
    except ValueError:
        return absolute.is_symlink()
    steps = [folder.absolute().joinpath(*inside.parts[: count + 1]) for count in range(len(inside.parts))]
    return any(one.is_symlink() for one in steps)


def _committers(change: Change) -> Iterator[str]:
    if change.is_private:
        return  # git knows nothing of it; who submitted it is its author
    for file in (change.path.parent / name for name in names_of_files(change)):
        command = ["git", "log", "--follow", "--format=%ae", "--", file.name]
        try:
            done = subprocess.run(
                command, cwd=file.absolute().parent, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
            continue
        yield from done.stdout.split("\n") if done.returncode == 0 else ()
