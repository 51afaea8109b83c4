"""What a branch adds to a project, as git knows it: files by how they differ from where the branch left its base.

Not for: what is in them (`project/ci.py`). Invariant: git is only read, by argument lists, never through a shell; a name
that begins with a dash is never taken for an option.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backout.errors import UsageError

_PATIENCE_S = 60  # for a diff of a large working tree
#: The branch that a merge request goes to, as the two services name it.
#: Sources: docs.github.com "Variables", GITHUB_BASE_REF; docs.gitlab.com "Predefined CI/CD variables".
BASE_VARIABLES = ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
USUAL_BASE = "main"


@dataclass(frozen=True)
class Branch:
    """`root` is the working tree; paths are relative to it, as git writes them."""

    root: Path
    base: str  # as it was found: "main", "origin/main"
    fork: str  # the commit where the branch left its base
    changed: frozenset[str]  # added or edited since, committed or not
    removed: frozenset[str]

    def before(self, path: str) -> bytes | None:
        """The file's content at the fork; None: it was not there."""
        done = _git(self.root, "cat-file", "blob", f"{self.fork}:{path}")
        return done.stdout if done.returncode == 0 else None

    def name(self, path: Path) -> str:
        """A file's path as git, and annotations, write it; as it is where it is outside of the working tree."""
        try:
            # git's own spelling of the root is the real one; the file itself may be a link, and is not followed.
            return (path.absolute().parent.resolve() / path.name).relative_to(self.root).as_posix()
        except ValueError:
            return path.as_posix()


def branch_of(folder: Path, base: str | None, variables: Mapping[str, str] = os.environ) -> Branch:
    """What differs in `folder`'s working tree from the merge base with `base`.

    Without `base`: the target of the merge request that this runs for, else "main". Errors: UsageError where there is
    no repository or no such base.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top.returncode != 0:
        raise UsageError(f'"{folder}" is not in a git repository', hint="backout ci compares a branch with its base")
    root = Path(_text(top.stdout).rstrip("\n")).resolve()
    wanted = base or next((variables[one] for one in BASE_VARIABLES if variables.get(one)), USUAL_BASE)
    found = _resolved(root, wanted)
    fork = _git(root, "merge-base", found, "HEAD")
    if fork.returncode != 0:
        hint = "fetch the whole history: fetch-depth: 0 (GitHub), GIT_DEPTH: 0 (GitLab)"
        raise UsageError(f'no commit is common to "{found}" and this branch', hint=hint)
    commit = _text(fork.stdout).strip()
    changed, removed = _differences(root, commit)
    return Branch(root, found, commit, changed, removed)


def _resolved(root: Path, wanted: str) -> str:
    for name in (wanted, f"origin/{wanted}"):
        if _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").returncode == 0:
            return name
    raise UsageError(
        f'there is no branch or commit "{wanted}" to compare with',
        hint=f"name it: --base BRANCH; in CI fetch it first: git fetch origin {wanted}",
    )


def _differences(root: Path, commit: str) -> tuple[frozenset[str], frozenset[str]]:
    """(added or edited, removed); a renamed file is one of each. Files that git ignores are left out."""
    fields = _listed(
        root, "diff", "--no-ext-diff", "--no-textconv", "--name-status", "--no-renames", "-z", commit, "--"
    )
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    new = _listed(root, "ls-files", "--others", "--exclude-standard", "-z")
    changed = frozenset(path for status, path in pairs if status != "D") | frozenset(new)
    return changed, frozenset(path for status, path in pairs if status == "D")


def _listed(root: Path, *arguments: str) -> Sequence[str]:
    done = _git(root, *arguments)
    if done.returncode != 0:
        raise UsageError(f"git {arguments[0]} failed: {_text(done.stderr).strip()}")
    return [one for one in _text(done.stdout).split("\0") if one]


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    safe = ["-c", "core.fsmonitor=false"]  # nothing of the repository's own configuration may run a program
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", *safe, *arguments]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=_PATIENCE_S, env=variables)
    except FileNotFoundError:
        raise UsageError("git is not installed here", hint="backout ci compares a branch with its base") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"git {arguments[0]} took longer than {_PATIENCE_S} s") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogateescape")
