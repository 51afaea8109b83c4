"""The statements that a program sent, on the screen: folded, without their values, as a reviewer reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from backout.cli.bill import columns, many
from backout.cli.screen import plain

if TYPE_CHECKING:
    from backout.endpoint.emitted import Emitted, Story


def statements(story: Story) -> Iterator[RenderableType]:
    """Yield the statements, in order; what repeats itself once, with how often."""
    listed = columns("n", "times", "rows", "ms", "outcome", "statement", right=("n", "times", "rows", "ms"))
    for group, times in story.folded():
        if times > 1 and len(group) > 1:
            listed.add_row(f"{group[0].first}", f"{times}x", "", "", "", Text(f"{len(group)} statements:", style="dim"))
        for one in group:
            listed.add_row(*_row(one, times if len(group) == 1 else 1, inner=times > 1 and len(group) > 1))
    yield listed
    yield Text(f"{many(len(story.lines), 'statement')}", style="dim")
    if story.broken is not None:
        yield Text(f"the transcript is not what was written, from statement {story.broken} on", style="red")


def _row(one: Emitted, times: int, *, inner: bool) -> tuple[str, str, str, str, str, Text]:
    count = one.times if times == 1 and not inner else times
    return (
        "" if inner else str(one.first), f"{count}x" if count > 1 and not inner else "",
        "" if one.rows is None else f"{one.rows:,}", f"{one.milliseconds:,.1f}", one.outcome,
        Text(("  " if inner else "") + plain(one.text)),
    )  # fmt: skip


def as_lines(lines: tuple[Mapping[str, Any], ...], *, private: bool) -> Iterator[str]:
    """Yield the transcript as lines of JSON; of PHI neither statements nor parameters, but what they look like."""
    from backout.sql.libpg_query import without_values

    for line in lines:
        shown = dict(line)
        if private:
            shown["statement"] = without_values(line["statement"])
            for key in ("parameters", "data"):
                if key in shown:
                    shown[key] = "•••"
        yield json.dumps(shown, ensure_ascii=False)
