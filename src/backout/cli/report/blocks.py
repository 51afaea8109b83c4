"""The parts of which a report is made, without any markup: plain texts that each format escapes in its own way.

Invariant: a text here is what it says; nothing of it is ever taken for Markdown or HTML.
"""

from __future__ import annotations

from dataclasses import dataclass

GOOD, WARN, BAD, QUIET = "good", "warn", "bad", "quiet"


@dataclass(frozen=True)
class Cell:
    """One text; `code` is shown as it is typed, `tone` is one of the four above or empty."""

    text: str
    tone: str = ""
    code: bool = False


@dataclass(frozen=True)
class Fields:
    """Names and what they are."""

    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Grid:
    """A table; `right` are the columns of numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: tuple[int, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Lines, each with its mark."""

    items: tuple[Cell, ...]


@dataclass(frozen=True)
class Note:
    """A sentence that should not be overlooked."""

    cell: Cell


@dataclass(frozen=True)
class Command:
    """What to type, and what it does."""

    text: str
    about: str = ""


@dataclass(frozen=True)
class DiffRow:
    """One row before and after; `mark` is +, - or ~. None is "no value": the cell was not there, or is NULL."""

    mark: str
    identity: tuple[tuple[str, str | None], ...]
    changes: tuple[tuple[str, str | None, str | None], ...] = ()


@dataclass(frozen=True)
class Diff:
    """Rows of one table, and how many more there are."""

    table: str
    rows: tuple[DiffRow, ...]
    more: int = 0


Block = Fields | Grid | Listing | Note | Command | Diff


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; sections inside of it are one level lower."""

    title: str
    blocks: tuple[Block, ...] = ()
    inner: tuple[Section, ...] = ()
    badges: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    badges: tuple[Cell, ...]
    sections: tuple[Section, ...]
    footer: str
