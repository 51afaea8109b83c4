"""Rule `no-check`: a change without any @expect or @assert proves nothing about what it did.

Not for: Python changes, which check by their own `check(db)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.change.model import Change, Step, StepKind
from backout.lint.model import Finding, Level
from backout.sql.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note at the first write of a change that has neither @expect nor @assert."""
    writes = [one for one in change.steps if one.kind is StepKind.APPLY and one.statement.kind is Kind.WRITE]
    checked = any(one.expectation is not None or one.kind is StepKind.ASSERT for one in change.steps)
    if writes and step is writes[0] and not checked:
        yield Finding("no-check", Level.EXACT, "no @expect and no @assert: a wrong result would be committed",
                      '-- @expect N before the statement, or -- @assert "…" before a query',
                      step.statement.line, step.statement.column)  # fmt: skip
