"""Rows before and after, as a diff that reads without colours too.

Not for: choosing the rows. Invariant: a changed cell always shows both values, `old → new`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from backout.cli.screen import cell, plain
from backout.engines.values import RowChange
from backout.runs.report import TableReport

Row = Mapping[str, str | None]
_MARKS = {"insert": ("+", "green"), "delete": ("-", "red"), "update": ("~", "yellow")}


def diff(table: TableReport, rows: int) -> Iterator[RenderableType]:
    """Yield up to `rows` rows of one table, and how many more there are."""
    shown = table.sample[:rows]
    if not shown:
        return
    yield Text(plain(table.table), style="bold")
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(min_width=3, justify="right")
    grid.add_column(overflow="fold")
    for row in shown:
        mark, style = _MARKS[_operation(row)]
        grid.add_row(Text(mark, style=style), row_text(table, row))
    more = table.inserted + table.updated + table.deleted - len(shown)
    if more > 0:
        grid.add_row("", Text(f"… and {more:,} more", style="dim"))
    yield grid


def row_text(table: TableReport, change: RowChange) -> Text:
    """Return one row: an update by its key and changed cells, others by all their cells."""
    if change.before is None or change.after is None:
        row = change.after if change.before is None else change.before
        return cells(row or {})
    changed = [name for name, value in change.after.items() if change.before.get(name) != value]
    text = cells({name: change.before.get(name) for name in _identifying(table, change, changed)})
    text.append(":")
    for name in changed:
        text.append("  ").append(plain(name), style="dim").append(" ")
        text.append_text(arrow(change.before.get(name), change.after[name]))
    return text if changed else text.append("  no column differs")


def cells(row: Row) -> Text:
    """Return `name value, name value`."""
    text = Text()
    for index, (name, value) in enumerate(row.items()):
        text.append(", " if index else "").append(plain(name), style="dim").append(" ").append(cell(value))
    return text


def arrow(old: str | None, new: str | None) -> Text:
    """Return `old → new`. Long values that differ late are shortened around the place where they begin to differ."""
    first, second = _windows(old, new)
    return Text().append(first, style="red").append(" → ").append(second, style="green")


def _windows(old: str | None, new: str | None, longest: int = 40) -> tuple[str, str]:
    """Shorten two values so that their difference stays visible."""
    if old is None or new is None or max(len(old), len(new)) <= longest:
        return cell(old, longest), cell(new, longest)
    same = next((index for index, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - longest // 4)
    lead = "…" if start else ""
    return tuple(lead + cell(value[start:], longest - len(lead)) for value in (old, new))  # type: ignore[return-value]


def _operation(change: RowChange) -> str:
    if change.before is None:
        return "insert"
    return "delete" if change.after is None else "update"


def _identifying(table: TableReport, change: RowChange, changed: list[str]) -> list[str]:
    """Return the key; of a table without one the first column that stayed the same."""
    if table.key:
        return list(table.key)
    same = [name for name in change.before or {} if name not in changed]
    return same[:1]
