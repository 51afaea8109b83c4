"""Rule `sequence`: numbers drawn from a sequence stay drawn, also after a ghost run and after an undo.

Not for: `setval`, which is refused (`forbidden`), nor serial and identity columns, which only a catalogue knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note for a statement that calls nextval()."""
    statement = step.statement
    if {"nextval", "pg_catalog.nextval"} & set(statement.functions):
        yield Finding("sequence", Level.EXACT, "nextval() is not transactional: its sequence stays advanced",
                      "gaps in the numbers must be allowed", statement.line, statement.column)  # fmt: skip
