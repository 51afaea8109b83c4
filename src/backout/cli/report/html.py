"""A report as one HTML file: no script, no other file, no font or picture from anywhere.

Invariant: every text passes `html.escape`; and should that ever fail, the page's own Content-Security-Policy lets
nothing run or load (https://www.w3.org/TR/CSP3/, "default-src 'none'").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

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
from backout.cli.report.style import STYLE
from backout.cli.screen import plain

_URL = re.compile(r"https?://\S+")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NAMES = {"+": "inserted", "-": "deleted", "~": "updated"}


def html(document: Document) -> str:
    """The document as the text of a file."""
    badges = "".join(_badge(one) for one in document.badges)
    body = "\n".join(part for one in document.sections for part in _section(one, 2))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(document.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{_text(document.title)}</h1>
<p class="subtitle">{_text(document.subtitle)}</p>
<p class="badges">{badges}</p>
</header>
{body}
<footer>{_text(document.footer)}</footer>
</main>
</body>
</html>
"""


def _section(section: Section, level: int) -> Iterator[str]:
    badges = "".join(_badge(one) for one in section.badges)
    yield f'<section class="level{level}">'
    yield f"<h{level}>{_text(section.title)} {badges}</h{level}>"
    for block in section.blocks:
        yield _block(block)
    for inner in section.inner:
        yield from _section(inner, level + 1)
    yield "</section>"


def _block(block: Block) -> str:
    match block:
        case Fields():
            rows = "".join(f"<dt>{_text(name)}</dt><dd>{_cell(cell)}</dd>" for name, cell in block.rows)
            return f"<dl>{rows}</dl>"
        case Grid():
            return _grid(block)
        case Listing():
            items = "".join(f'<li class="{one.tone or "quiet"}">{_inner(one)}</li>' for one in block.items)
            return f'<ul class="listing">{items}</ul>'
        case Note():
            return f'<p class="note {block.cell.tone}">{_inner(block.cell)}</p>'
        case Command():
            about = f'<p class="about">{_text(block.about)}</p>' if block.about else ""
            return f'<div class="command"><pre><code>{_text(block.text)}</code></pre>{about}</div>'
        case Diff():
            return _diff(block)


def _grid(grid: Grid) -> str:
    def cells(tag: str, texts: list[str]) -> str:
        marks = (' class="number"' if index in grid.right else "" for index in range(len(texts)))
        return "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in zip(marks, texts, strict=True))

    head = cells("th", [_text(one) for one in grid.headings])
    rows = "".join(f"<tr>{cells('td', [_cell(one) for one in row])}</tr>" for row in grid.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _diff(diff: Diff) -> str:
    rows = "".join(_row(one) for one in diff.rows)
    more = f'<tr><td></td><td class="quiet">… and {diff.more:,} more</td></tr>' if diff.more else ""
    caption = f"<caption><code>{_text(diff.table)}</code>, before → after</caption>"
    return f'<div class="wide"><table class="diff">{caption}<tbody>{rows}{more}</tbody></table></div>'


def _row(row: DiffRow) -> str:
    identity = ", ".join(f'<span class="name">{_text(name)}</span> {_value(value)}' for name, value in row.identity)
    changes = "".join(
        f'<span class="change"><span class="name">{_text(name)}</span> <del>{_value(old)}</del> → '
        f"<ins>{_value(new)}</ins></span>"
        for name, old, new in row.changes
    )
    name = _NAMES[row.mark]
    mark = {"-": "&minus;"}.get(row.mark, row.mark)
    return f'<tr class="{name}"><td class="mark" title="{name}">{mark}</td><td>{identity}{changes}</td></tr>'


def _badge(cell: Cell) -> str:
    return f'<span class="badge {cell.tone}">{_text(cell.text)}</span>'


def _cell(cell: Cell) -> str:
    return f'<span class="{cell.tone}">{_inner(cell)}</span>' if cell.tone else _inner(cell)


def _inner(cell: Cell) -> str:
    """Code, a link where the whole text is an address, or text."""
    if cell.code:
        return f"<code>{_text(cell.text)}</code>"
    if _URL.fullmatch(cell.text):
        return f'<a href="{_text(cell.text)}" rel="noreferrer">{_text(cell.text)}</a>'
    return _text(cell.text)


def _value(value: str | None) -> str:
    if value is None:
        return '<span class="null">NULL</span>'
    return f"<code>{_text(value)}</code>" if value else '<span class="null">empty</span>'


def _text(text: str) -> str:
    """Escaped for text and for attributes; what would steer the reader's eye (bidi controls and such) shown as code."""
    return escape(plain(text), quote=True)
