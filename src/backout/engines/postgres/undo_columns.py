"""The columns of an undo, as they were captured and as they are now, and the table in which conflicts are collected.

`p` is the pre-image of a row, `q` its post-image, `t` the row as it is now. While an undo decides, the rows in conflict
are in a temporary table: `pg_temp.backout_conflict (place, identity, kind, columns, detail, number, forced)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from backout.engines.postgres.images import as_text, restored
from backout.engines.postgres.names import comma, literal, quoted
from backout.engines.values import Column, ConflictKind

CONFLICT_TABLE = "pg_temp.backout_conflict"

#: A kind that is not listed: the row is left because the other half of it is in conflict; see `moved.py`.
HELD = "held"


@dataclass(frozen=True)
class Pair:
    """One column that can be put back: as captured, and under its name of now."""

    captured: Column
    now: Column

    @property
    def retyped(self) -> bool:
        """Whether the column has another type now."""
        return self.captured.type != self.now.type

    def was(self, alias: str) -> str:
        """The value of an image, in the type of now."""
        if self.retyped:
            return f"{alias}.{quoted(self.captured.name)}::{self.now.type}"
        return restored(self.captured, alias, self.captured.name)

    def compared_image(self, alias: str) -> str:
        """The value of an image, as `compared_now` compares with it."""
        return self.was(alias) if self.retyped else f"{alias}.{quoted(self.captured.name)}"

    def compared_now(self, alias: str = "t") -> str:
        """The value of now; as text where the image is kept as text."""
        text = f"{alias}.{quoted(self.now.name)}"
        return as_text(text) if self.captured.stored_as_text and not self.retyped else text

    def same(self, now: str, then: str) -> str:
        """Has a row of now the value of an image? A type of the user's may have its `=` where we do not look for it."""
        if self.captured.stored_as_text or self.now.stored_as_text:
            return f"{as_text(f'{now}.{quoted(self.now.name)}')} = {as_text(f'{then}.{quoted(self.captured.name)}')}"
        return f"{now}.{quoted(self.now.name)} = {self.was(then)}"

    def same_as_either(self, now: str, then: str, other: str) -> str:
        """The same with the image that is there, of two; in the column's own type, so that an index can find the row."""
        if self.captured.stored_as_text or self.now.stored_as_text:
            values = comma(as_text(f"{alias}.{quoted(self.captured.name)}") for alias in (then, other))
            return f"{as_text(f'{now}.{quoted(self.now.name)}')} = coalesce({values})"
        return f"{now}.{quoted(self.now.name)} = coalesce({self.was(then)}, {self.was(other)})"


def stored_type(column: Column) -> str:
    """The column's type in rescue tables."""
    return "text" if column.stored_as_text else column.type


def kind_of(kind: ConflictKind) -> str:
    """The kind as SQL."""
    return literal(kind.value)
