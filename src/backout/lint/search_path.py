"""Rule `search-path`: after SET search_path the bare names of the text may mean other tables than a reader thinks.

Not for: the capture, which knows the tables that were written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level
from backout.sql.model import Trait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note for a statement that sets search_path."""
    statement = step.statement
    if Trait.SEARCH_PATH in statement.traits:
        yield Finding("search-path", Level.EXACT, "the tables of the following statements depend on search_path",
                      "write the schema before each table instead", statement.line, statement.column)  # fmt: skip
