"""What an environment and a change say of programs: how they are started, how long they may take, and whom they may tell.

Not for: running them (`endpoint/serve.py`). Invariant: what runs is what the run's digest is of.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from backout.change.digest import digest
from backout.change.model import Change, DataClass
from backout.errors import Refused, UsageError
from backout.gates.policy import Policy
from backout.project.config import Environment

if TYPE_CHECKING:
    from backout.endpoint.limits import Limits
    from backout.endpoint.serve import Command


def command_of(change: Change, environment: Environment, folder: Path) -> Command:
    """The change's own command."""
    from backout.endpoint.serve import Command

    metadata = change.metadata
    return Command(
        metadata.run, folder, limits_of_program(change, environment),
        None if metadata.network is None else metadata.network == "endpoint",
    )  # fmt: skip


def done_by(change: Change, words: Sequence[str]) -> Change:
    """The change with another command in place of its own, and a digest of both. Raises UsageError.

    Of PHI the digest is made with a key that nobody keeps: a command with a guessable value would give that away.
    """
    if change.language != "program" or change.metadata.session or change.is_private:
        raise UsageError(
            f'"{change.identifier}" is not a change that a program does',
            hint='its metadata says how: run = ["bin/rails", "runner", "{file}"]',
        )
    if change.batching is not None:
        raise UsageError(
            f'"{change.identifier}" runs in batches, and is resumed by the command that it began with',
            hint="write the command into its metadata, or take out `batch`",
        )
    key = secrets.token_bytes(32) if change.metadata.data is DataClass.PHI else None
    command = json.dumps(list(words), ensure_ascii=False).encode()
    made = digest(change.identifier, change.digest, attachments={"command": command}, key=key)
    return replace(change, digest=made, metadata=replace(change.metadata, run=tuple(words)))


def require_nobody_approves(policy: Policy, on: str) -> None:
    """People approve what is in the change; a command that is typed is not. Raises Refused, with nothing written."""
    if policy.needs_people:
        raise Refused(
            "endpoint", f'"{on}" asks for people who approve what runs, and they have not read a command that is typed',
            hint='write it into the change, run = ["…"], and submit that; or try it with --ghost',
        )  # fmt: skip


def limits_of_program(change: Change, environment: Environment) -> Limits:
    """The change's own limits, else the environment's."""
    from backout.endpoint.limits import Limits

    given = {
        "total": environment.program_time, "idle": environment.program_idle, "statement": environment.program_statement,
        **change.metadata.limits,
    }  # fmt: skip
    seconds = {name: one.total_seconds() if one is not None else None for name, one in given.items()}
    return Limits(seconds["total"], seconds["idle"], seconds["statement"])


def require_held_back(change: Change, environment: Environment) -> None:
    """No ghost run of a program whose mail and messages would go out. Raises Refused, with nothing written.

    Hooks that run after a commit run in a ghost run as well: to the program, each of its commits has succeeded.
    """
    if change.language != "program" or environment.outbound != "real" or change.metadata.outbound == "handled":
        return
    from backout.endpoint.child import why_not_closed

    if change.metadata.network != "open":
        problem = why_not_closed()
        if problem is None:
            return
        why = f"it cannot be given a network of its own here: {problem}"
    else:
        why = 'the change says network = "open"'
    raise Refused(
        "outbound",
        f'"{change.identifier}" could tell other systems what a ghost run rolls back: outbound is "real" on '
        f'"{environment.name}", and {why}',
        hint='hold mail and queues back where BACKOUT_MODE is "ghost", and say outbound = "handled" in its metadata; '
        "or try it on an environment whose outbound is not real",
    )


def require_no_session(change: Change, on: str) -> None:
    """What people type at a prompt has no text that could be run in another way. Raises UsageError."""
    if change.metadata.session:
        raise UsageError(
            f'"{change.identifier}" is a session: what it does is typed at a prompt',
            hint=f"backout session {change.identifier} --on {on}",
        )
