"""The bill: what a run did or would do, for a person to read before going on.

Not for: what the numbers mean to the run. Invariant: it says first what is true of the database now, and last what to
type next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backout.cli.rows import diff
from backout.cli.screen import plain, shortened
from backout.engines.values import Mode, RunState
from backout.runs.as_json import PROVEN
from backout.runs.report import RunReport

_MODES = {Mode.GHOST: "ghost run", Mode.REAL: "run", Mode.UNDO: "undo"}
_GOOD = (RunState.COMMITTED,)


def bill(report: RunReport, *, rows: int, next_command: str | None = None) -> Iterator[RenderableType]:
    """Yield the parts of the bill; `next_command` is its last line."""
    yield _head(report)
    parts = (
        ("rows", _tables(report)),
        ("before → after", [part for table in report.tables for part in diff(table, rows)]),
        ("statements", _statements(report)),
        ("assertions", _assertions(report)),
        ("sequences stay advanced", _sequences(report)),
        ("locks until the end", _locks(report)),
        ("proof", _proof(report)),
        (
            "rescue: the rows as they were, and as this run left them",
            _rescue(report) if not report.is_ghost else (),
        ),
        ("disk", _disk(report)),
        ("notes", [Text(f"- {plain(note)}") for note in report.notes]),
    )
    for title, part in parts:
        yield from section(title, part)
    yield Text()
    yield Text(f"took {seconds(report.duration_s)}", style="dim")
    if next_command:
        yield Text("next: ").append(next_command, style="bold")


def section(title: str, content: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """Yield a titled part, or nothing where there is no content."""
    parts = list(content)
    if parts:
        yield Text(f"\n{title}", style="bold cyan")
        for part in parts:
            yield Padding(part, (0, 0, 0, 2), expand=False)


def columns(*headings: str, right: Iterable[str] = ()) -> Table:
    """Return a table without lines, whose numbers stand to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in set(right) else "left", overflow="fold")
    return table


def when(time: datetime | None) -> str:
    """Return a time to the minute, with its zone."""
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip() if time else "-"


def many(count: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _head(report: RunReport) -> Table:
    about = report.database
    server = " ".join(str(about[key]) for key in ("product", "version") if about.get(key))
    details = [
        server,
        *(f"{word} {about[key]}" for key, word in (("name", "database"), ("role", "role")) if about.get(key)),
    ]
    shown = ", ".join(plain(one) for one in details if one)
    grid = Table.grid(padding=(0, 2, 0, 0))
    of = f" of run {report.environment}-{report.undo_of}" if report.undo_of is not None else ""
    mode = "ghost undo" if report.ghost_undo else _MODES[report.mode]
    grid.add_row(Text(mode, style="bold"), Text(plain(report.identifier), style="bold").append(of))
    grid.add_row("change", plain(f"{report.change}: {report.title}"))
    grid.add_row("digest", report.digest[:16])
    grid.add_row("on", plain(report.environment) + (f" ({shown})" if shown else ""))
    style = "green" if report.outcome in _GOOD else "yellow"
    # A ghost run's whole point is to end like that; "rolled back" alone would read as a failure.
    detail = "; nothing was kept, as in every ghost run" if report.mode is Mode.GHOST else ""
    if report.ghost_undo and report.outcome is RunState.ROLLED_BACK:
        detail = "; nothing was kept, as in every ghost undo"
    words = report.outcome.value if report.outcome.value == report.state else f"{report.outcome.value}, {report.state}"
    grid.add_row("state", Text(plain(words) + detail, style=style))
    if report.subset is not None:
        grid.add_row("subset", Text(plain(report.subset), style="yellow"))
    if report.way_back is not None:
        proven = report.way_back == PROVEN
        grid.add_row("way back", Text(plain(report.way_back), style="green" if proven else "red"))
    if report.undo_how:
        grid.add_row("triggers", plain(report.undo_how))
    return grid


def _tables(report: RunReport) -> Iterator[RenderableType]:
    if not report.tables:
        if report.proof is not None:  # else the run ended before anybody looked
            yield Text("nothing was written")
        return
    listed = columns("table", "inserted", "updated", "deleted", "", right=("inserted", "updated", "deleted"))
    for one in sorted(report.tables, key=lambda table: not table.named_in_change):
        why = "named in the change" if one.named_in_change else "reached by a cascade, trigger or function"
        if report.mode is Mode.UNDO and not any((one.inserted, one.updated, one.deleted)):
            continue  # locked and looked at, and nothing of it was to be put back
        why = "put back" if report.mode is Mode.UNDO else why
        counts = (f"{count:,}" for count in (one.inserted, one.updated, one.deleted))
        listed.add_row(plain(one.table), *counts, Text(why, style="dim" if one.named_in_change else "yellow"))
    yield listed


def _statements(report: RunReport) -> Iterator[RenderableType]:
    if not report.statements:
        return
    listed = columns("line", "rows", "took", "", right=("line", "rows", "took"))
    for one in report.statements:
        text = shortened(plain(" ".join(one.text.split())), 72)
        listed.add_row(str(one.line), f"{one.affected:,}", seconds(one.seconds), Text(text))
    yield listed


def _assertions(report: RunReport) -> Iterator[RenderableType]:
    for one in report.assertions:
        if one.passed:
            yield Text("✓ ", style="green").append(plain(one.title), style="none")
        else:
            yield Text("✗ ", style="red").append(plain(f"{one.title}: it is {shortened(one.value, 60)}"))


def _sequences(report: RunReport) -> Iterator[RenderableType]:
    for one in report.sequences:
        before, after = ("not used yet" if value is None else str(value) for value in (one.before, one.after))
        yield Text(f"{plain(one.name)}  {before} → {after}")


def _locks(report: RunReport) -> Iterator[RenderableType]:
    modes: dict[str, list[str]] = {}
    for one in report.locks:
        modes.setdefault(one.table, []).append(f"{one.mode} ({one.means})" if one.means else one.mode)
    for table, held in modes.items():
        yield Text(f"{plain(table)}  {plain(', '.join(held))}")


def _proof(report: RunReport) -> Iterator[RenderableType]:
    proof = report.proof
    if proof is None:
        return
    if not proof.complete:
        yield Text(
            f"incomplete ({plain(proof.level)}): the database counted writes that no captured row explains", "red"
        )
        return
    yield Text(f"complete, {plain(proof.level)}: {explained(proof.level)}", "green")
    yield Text(f"{many(len(proof.checked), 'table')} compared: {plain(', '.join(proof.checked)) or 'none'}", "dim")


def explained(level: str) -> str:
    """Return what a level of the proof means, in plain words."""
    word, _, number = level.partition(" ")
    if word == "exact":
        return "every write that the database counted is a row that was captured"
    if word == "repeated":
        writes = many(int(number), "write") if number.isdigit() else "some writes"
        return f"{writes} went to rows that the run had written before"
    return (
        "the database's count is a bound, since it also counts what the run itself took back (savepoints, caught errors, "
        "rows made and deleted again); every table that was written has been compared"
    )


def _disk(report: RunReport) -> Iterator[RenderableType]:
    """Yield what the run takes on the server's disk, and what is free where that can be known."""
    if report.rescue_bytes is None or report.log_bytes is None:
        return
    free = report.database.get("free_bytes")
    yield Text(f"rescue {size(report.rescue_bytes)}, write-ahead log about {size(report.log_bytes)}").append(
        f", free {size(free)}" if isinstance(free, int) else ""
    )


def size(count: float) -> str:
    """Return a number of bytes in the unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def _rescue(report: RunReport) -> Iterator[RenderableType]:
    if not report.rescue:
        return
    listed = columns("table", "rows", "kept until", right=("rows",))
    for one in report.rescue:
        listed.add_row(plain(one.table), f"{one.rows:,}", when(one.expires_at))
    yield listed


def seconds(duration: float) -> str:
    """Return a duration in the units that a person would use."""
    if duration < 60:
        return f"{duration:.2f} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
