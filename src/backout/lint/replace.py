"""Rule `replace`: SQLite's REPLACE deletes the rows that are in its way.

Not for: INSERT … ON CONFLICT DO UPDATE, which keeps the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level
from backout.sql.model import Trait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note for a statement with REPLACE."""
    statement = step.statement
    if Trait.REPLACE in statement.traits:
        yield Finding("replace", Level.EXACT, "REPLACE also deletes every row with an equal unique key",
                      "INSERT … ON CONFLICT DO UPDATE keeps the row", statement.line, statement.column)  # fmt: skip
