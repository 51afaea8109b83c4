"""Rule `every-row`: an UPDATE or DELETE without WHERE, which is undoable but seldom meant.

Not for: how many rows there are; the ghost run says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level
from backout.sql.model import Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note for a statement that writes every row of a table."""
    statement = step.statement
    temporary = all(target.schema in ("pg_temp", "temp") for target in statement.targets)
    if statement.kind is Kind.WRITE and Trait.EVERY_ROW in statement.traits and not temporary:
        tables = dict.fromkeys(target.table for target in statement.targets if target.operation in ("update", "delete"))
        names = ", ".join(f'"{name}"' for name in tables)
        yield Finding("every-row", Level.EXACT, f"no WHERE: it writes every row of {names}",
                      "add a WHERE, or WHERE true and an @expect if every row is meant",
                      statement.line, statement.column)  # fmt: skip
