"""A report as GitHub-flavoured Markdown, for a pull request or a ticket.

Sources: GitHub Flavored Markdown Spec 0.29, 2.4 (backslash escapes), 4.10 (tables), 6.3 (code spans). Invariant: a value
of a row stands in a code span, where neither markup nor a mention (`@somebody`) takes effect; all else is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backout.cli.report.blocks import (
    Block,
    Cell,
    Command,
    Diff,
    DiffRow,
    Document,
    Fields,
    Grid,
    Listing,
    Note,
    Section,
)
from backout.cli.screen import plain

_MARKS = {"good": "✅ ", "bad": "❌ ", "warn": "⚠️ ", "quiet": "", "": ""}
_SPECIAL = re.compile(r"([\\`*_\[\]|#~$>])")
_URL = re.compile(r"https?://[^\s<>|`\\]+")


def markdown(document: Document) -> str:
    """The document as text that ends with a line end."""
    parts = [f"# {escaped(document.title)}", escaped(document.subtitle)]
    parts.append(" · ".join(_MARKS[one.tone] + escaped(one.text) for one in document.badges))
    for section in document.sections:
        parts += _section(section, 2)
    parts += ["---", f"<sub>{escaped(document.footer)}</sub>"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, level: int) -> Iterator[str]:
    badges = "".join(f" ({_MARKS[one.tone]}{escaped(one.text)})" for one in section.badges)
    yield f"{'#' * level} {escaped(section.title)}{badges}"
    for block in section.blocks:
        yield _block(block)
    for inner in section.inner:
        yield from _section(inner, level + 1)


def _block(block: Block) -> str:
    match block:
        case Fields():
            return _table(("", ""), [(f"**{escaped(name)}**", _cell(cell)) for name, cell in block.rows])
        case Grid():
            rows = [tuple(_cell(one) for one in row) for row in block.rows]
            return _table(tuple(map(escaped, block.headings)), rows, block.right)
        case Listing():
            return "\n".join(f"- {_cell(one)}" for one in block.items)
        case Note():
            return f"> {_cell(block.cell)}"
        case Command():
            about = f"{escaped(block.about)}:\n\n" if block.about else ""
            return f"{about}{_fenced(block.text)}"
        case Diff():
            return _diff(block)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    rule = ["---:" if index in right else "---" for index in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def _cell(cell: Cell) -> str:
    text = _code(cell.text) if cell.code and cell.text else _linked(cell.text)
    return _MARKS[cell.tone] + text if cell.text else ""


def _linked(text: str) -> str:
    """Escaped, but for a text that is an address as a whole, which becomes a link."""
    return f"<{text}>" if _URL.fullmatch(text) else escaped(text)


def _diff(diff: Diff) -> str:
    lines = [f"**{escaped(diff.table)}**, before → after:", ""]
    lines += [f"- {_row(one)}" for one in diff.rows]
    return "\n".join([*lines, f"- … and {diff.more:,} more"] if diff.more else lines)


def _row(row: DiffRow) -> str:
    identity = ", ".join(f"{escaped(name)} {_value(value)}" for name, value in row.identity)
    changes = ", ".join(f"{escaped(name)} {_value(old)} → {_value(new)}" for name, old, new in row.changes)
    return f"`{row.mark}` {identity}" + (f": {changes}" if changes else "")


def _value(value: str | None) -> str:
    return "NULL" if value is None else _code(value) if value else "(empty)"


def escaped(text: str) -> str:
    """The text as Markdown that shows it."""
    shown = plain(" ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", shown.replace("&", "&amp;").replace("<", "&lt;"))


def _code(text: str) -> str:
    """A code span; a fence longer than any in the text, and the one thing that a table takes for its own, escaped."""
    shown = plain(" ".join(text.split())) or " "
    fence = "`" * (max((len(one) for one in re.findall(r"`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


def _fenced(text: str) -> str:
    fence = "`" * max(3, max((len(one) for one in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}console\n$ {plain(text)}\n{fence}"
