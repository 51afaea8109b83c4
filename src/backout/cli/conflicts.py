"""What an undo met that others changed since, numbered: key, and column by column before / ours / now.

Not for: deciding about them. Invariant: the numbers are those that `--overwrite` takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from backout.cli.bill import columns
from backout.cli.rows import cells
from backout.cli.screen import cell, plain
from backout.engines.values import Conflict

Row = Mapping[str, str | None]


def conflicts(found: Sequence[Conflict]) -> Iterator[RenderableType]:
    """Yield each conflict: what it is, and the values that disagree."""
    for one in found:
        title = Text(f"{one.number}. ", style="bold").append(plain(str(one.table)), style="bold")
        title.append(" ").append_text(cells(one.key)).append(f": {one.kind.value}", style="yellow")
        yield title.append(f" ({plain(one.detail)})" if one.detail else "")
        if names := _columns(one):
            listed = columns("column", "before", "ours", "now")
            for name in names:
                listed.add_row(plain(name), *(_value(row, name) for row in (one.before, one.ours, one.now)))
            yield Padding(listed, (0, 0, 0, 3), expand=False)
    yield Text("before: as it was before the run; ours: as the run left it; now: as it is", style="dim")


def _columns(conflict: Conflict) -> Sequence[str]:
    """Return the columns in conflict; where the row as a whole is, those in which its images differ."""
    if conflict.columns:
        return conflict.columns
    images = [row for row in (conflict.before, conflict.ours, conflict.now) if row is not None]
    names = dict.fromkeys(name for row in images for name in row if name not in conflict.key)
    return [name for name in names if len({row.get(name) for row in images}) > 1]


def _value(row: Row | None, name: str) -> Text:
    if row is None:
        return Text("(no row)", style="dim")
    return Text(cell(row[name], 28)) if name in row else Text("(not kept)", style="dim")
