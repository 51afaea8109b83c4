"""The writes of an undo as SQL text: plain ones, those that go by way of delete and insert, and chains of several.

Not for: which rows are written (`undo_keyed.py`, `undo_keyless.py`), nor in which order (`undo_write.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backout.engines.postgres.names import comma


@dataclass(frozen=True)
class Rewriting:
    """An update by way of deleting the rows and inserting them as they are to be.

    For what no UPDATE can do: unique values that go round in a circle, of which each row would be refused as long as the
    next one still has its value; and columns that are GENERATED ALWAYS AS IDENTITY (manual: UPDATE, "can only be updated
    to DEFAULT"). Only where no foreign key acts on the delete.
    """

    delete: str
    insert: Callable[[str], str]  # from the rows that `delete` returned, under this name

    @property
    def alone(self) -> str:
        """As one statement."""
        return f"WITH moved AS ({self.delete} RETURNING t.*) {self.insert('moved')}"

    def limited(self, condition: str) -> Rewriting:
        """Of those rows only."""
        return Rewriting(self.delete + condition, self.insert)

    def steps(self, moved: str, after: str) -> tuple[str, str]:
        """As two steps of a chain; `after` is a condition that makes the first wait."""
        return f"{self.delete}{after} RETURNING t.*", self.insert(moved)


Statement = str | Rewriting


def chained(statements: Sequence[Statement]) -> str:
    """Several writes as one statement, in this order, so that every foreign key is checked once, at its end.

    Each CTE waits for the one before, since it reads its count (manual 7.8.4: data-modifying CTEs have no order else).
    Answers the rows that each has written.
    """
    names = [f"step_{number}" for number in range(len(statements))]
    parts = []
    for number, (name, statement) in enumerate(zip(names, statements, strict=True)):
        after = f" AND (SELECT count(*) FROM {names[number - 1]}) >= 0" if number else ""
        if isinstance(statement, Rewriting):
            delete, insert = statement.steps(f"{name}_moved", after)
            parts += [f"{name}_moved AS ({delete})", f"{name} AS ({insert} RETURNING 1)"]
        else:
            parts.append(f"{name} AS ({statement}{after} RETURNING 1)")
    counts = comma(f"(SELECT count(*) FROM {name})" for name in names)
    return f"WITH {comma(parts)} SELECT {counts}"
