"""Rule `forbidden`: a statement that may not stand in a change.

Not for: why it may not; the room `sql` says so in the statement's objection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield the statement's objection."""
    statement = step.statement
    if statement.objection is not None:
        yield Finding("forbidden", Level.NOT_UNDOABLE, statement.objection.reason, statement.objection.hint,
                      statement.line, statement.column)  # fmt: skip
