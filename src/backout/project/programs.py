"""What an environment and a change say of programs: how long they may take, and whom they may tell in a ghost run.

Not for: running them (`endpoint/serve.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.change.model import Change
from backout.errors import Refused, UsageError
from backout.project.config import Environment

if TYPE_CHECKING:
    from backout.endpoint.limits import Limits


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
