"""The one tree of errors: each says what happened, what is true of the database now, and what to do about it.

Invariant: every error that a user can meet has a stable code, an exit status from the table in
`docs/reference/exit-status.md`, a `state` (what is true of the database now) and, wherever there is a way out, a `hint`.
The text is lower-case, has no full stop, and quotes values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

UNTOUCHED = "untouched"
ROLLED_BACK = "rolled back"


class BackoutError(Exception):
    """Base of all errors; `exit_status` is what the command line returns for it."""

    code: ClassVar[str] = "bug"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, state: str = UNTOUCHED, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.hint = hint
        self.report: object | None = None  # the RunReport, where a run had begun

    def __str__(self) -> str:
        lines = [self.message, f"state: {self.state}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(BackoutError):
    """The command, its options or its surroundings do not fit; nothing was touched."""

    code = "usage"
    exit_status = 2


@dataclass(frozen=True)
class Position:
    """A place in a text file; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class InvalidFile(UsageError):
    """A change or configuration file is wrong at `position`; nothing was touched."""

    code = "invalid_file"

    def __init__(self, message: str, position: Position, *, hint: str | None = None) -> None:
        super().__init__(f"{position}: {message}", hint=hint)
        self.position = position


class Refused(BackoutError):
    """A gate said no, before anything was written or before COMMIT; `gate` names it."""

    code = "refused"
    exit_status = 3

    def __init__(self, gate: str, message: str, *, state: str = UNTOUCHED, hint: str | None = None) -> None:
        super().__init__(message, state=state, hint=hint)
        self.gate = gate


class RolledBack(BackoutError):
    """The run failed and its transaction was rolled back."""

    code = "rolled_back"
    exit_status = 4

    def __init__(self, message: str, *, state: str = ROLLED_BACK, hint: str | None = None) -> None:
        super().__init__(message, state=state, hint=hint)


class DatabaseFailed(RolledBack):
    """The database refused a statement; `sqlstate` is its code, `table` the table whose constraint it was, if any."""

    code = "database_error"

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        table: str | None = None,
        state: str = ROLLED_BACK,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, state=state, hint=hint)
        self.sqlstate, self.table = sqlstate, table


class ExpectationFailed(RolledBack):
    """An `@expect` was not met."""

    code = "expectation_failed"


class AssertionFailed(RolledBack):
    """An `@assert` was not true."""

    code = "assertion_failed"


class Conflicts(BackoutError):
    """An undo met rows that others changed since; `conflicts` are numbered from 1."""

    code = "conflicts"
    exit_status = 5

    def __init__(
        self, message: str, conflicts: Sequence[object], *, state: str = UNTOUCHED, hint: str | None = None
    ) -> None:
        super().__init__(message, state=state, hint=hint)
        self.conflicts = tuple(conflicts)


class ProofFailed(BackoutError):
    """The database counted writes that the captured rows do not explain; the run was rolled back."""

    code = "proof_failed"
    exit_status = 6

    def __init__(self, message: str, *, state: str = ROLLED_BACK, hint: str | None = None) -> None:
        super().__init__(message, state=state, hint=hint)


class Busy(BackoutError):
    """Somebody else holds what the run needs: the lease or a lock."""

    code = "busy"
    exit_status = 7


class Interrupted(BackoutError):
    """The run was told to stop, or its process or session ended, before COMMIT."""

    code = "interrupted"
    exit_status = 8

    def __init__(self, message: str, *, state: str = ROLLED_BACK, hint: str | None = None) -> None:
        super().__init__(message, state=state, hint=hint)


class CheckAfterFailed(BackoutError):
    """The run is committed, and an `@after` check was not true."""

    code = "check_after_failed"
    exit_status = 9


class RehearsalFailed(BackoutError):
    """A rehearsal did not prove what it is for; `state` says whether the change was put back."""

    code = "rehearsal_failed"
    exit_status = 9


class PartlyCommitted(BackoutError):
    """A run in batches failed after some of them were committed; `state` says up to which."""

    code = "partly_committed"
    exit_status = 10


class RestoreFailed(BackoutError):
    """A restore ended half-way, on a database that cannot take back what it has done so far."""

    code = "restore_failed"
    exit_status = 10


class OutcomeUnknown(BackoutError):
    """The server went away while COMMIT was on its way; the hint names the command that settles it."""

    code = "outcome_unknown"
    exit_status = 11
