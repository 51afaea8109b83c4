"""Runs of the past on the screen: the list of the journal, and one of them in full.

Not for: runs of this moment (`bill`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from backout.cli.bill import columns, many, seconds, section, when
from backout.cli.rows import diff
from backout.cli.screen import plain, shortened
from backout.engines.values import Mode, RunRecord, RunState
from backout.gates.attestation import Validation
from backout.runs.report import TableReport

NOBODY_LOOKS: Mapping[int, Validation] = MappingProxyType({})
_STYLES = {RunState.COMMITTED: "green", RunState.ROLLED_BACK: "yellow", RunState.UNKNOWN: "red"}


def runs(
    records: Sequence[RunRecord], validations: Mapping[int, Validation] = NOBODY_LOOKS
) -> Iterator[RenderableType]:
    """Yield the list, the newest first; `validations` are those of runs that people have to look at, by number."""
    if not records:
        yield Text("no runs yet")
        return
    more = ("validated",) if validations else ()
    headings = ("run", "kind", "outcome", "started", "took", "by", "change", "way back until", *more)
    listed = columns(*headings, right=("took",))
    for record in records:
        start = record.start
        kind = f"{_undo(record)} of {start.undo_of}" if start.undo_of is not None else start.mode.value
        listed.add_row(
            plain(record.identifier), kind, outcome(record), when(record.started_at), took(record),
            shortened(plain(_person(record)), 16), shortened(plain(start.change), 32), way_back(record),
            *((_validated(validations.get(record.number)),) if more else ()),
        )  # fmt: skip
    yield listed


def run(
    record: RunRecord, tables: Sequence[TableReport], validation: Validation | None = None, *, rows: int
) -> Iterator[RenderableType]:
    """Yield one run in full: who, when, how it ended, what it wrote, and until when it can be undone."""
    start = record.start
    grid = Table.grid(padding=(0, 2, 0, 0))
    of = f"{_undo(record)} of run {start.environment}-{start.undo_of}"
    kind = of if start.undo_of is not None else start.mode.value
    grid.add_row(Text("run", style="bold"), Text(plain(record.identifier), style="bold").append(f"  ({kind})"))
    grid.add_row("change", plain(f"{start.change}: {start.title}"))
    grid.add_row("digest", start.digest)
    grid.add_row("outcome", outcome(record))
    grid.add_row("by", plain(_person(record)))
    if _person(record) != start.operator:
        grid.add_row("account", plain(start.operator))
    grid.add_row("started", f"{when(record.started_at)}, took {took(record)}")
    grid.add_row("way back", way_back(record))
    if validation is not None:
        grid.add_row("validated", _validated(validation))
    if record.batches:
        grid.add_row("batches", f"{record.batches:,} committed")
    if left := _left(record):
        grid.add_row("left", Text(f"{many(left, 'row')} in conflict, not put back", style="yellow"))
    if record.open_conflicts:
        grid.add_row("conflicts", Text(f"{many(record.open_conflicts, 'row')} not restored", style="yellow"))
    yield grid
    yield from section("rows", _tables(record, tables))
    yield from section("before → after", (part for table in tables for part in diff(table, rows)))
    yield from section("notes", (Text(f"- {plain(str(note))}") for note in record.report.get("notes") or ()))


def _person(record: RunRecord) -> str:
    """Who ran it, by the one name that the project knows them by; else the account."""
    return str((record.report.get("authority") or {}).get("person") or record.start.operator)


def _undo(record: RunRecord) -> str:
    return "ghost undo" if record.report.get("ghost_undo") else "undo"


def _left(record: RunRecord) -> int:
    """The rows that an undo has left as they are, since they are in conflict."""
    if record.start.mode is not Mode.UNDO or record.state is not RunState.COMMITTED:
        return 0
    return len(record.report.get("conflicts") or ()) + int(record.report.get("conflicts_unlisted") or 0)


def outcome(record: RunRecord) -> Text:
    """Return how the run ended."""
    return Text(record.state.value, style=_STYLES.get(record.state, ""))


def _validated(one: Validation | None) -> Text:
    """Return whether people have looked at the application; nothing where nobody has to."""
    return Text("-") if one is None else Text(plain(one.text), style="" if one.is_validated else "yellow")


def took(record: RunRecord) -> str:
    """Return how long the run lasted."""
    if record.finished_at is None:
        return "-"
    return seconds((record.finished_at - record.started_at).total_seconds())


def way_back(record: RunRecord) -> str:
    """Return until when the run can be undone."""
    if record.rescue_dropped_at:
        return f"removed {when(record.rescue_dropped_at)}"
    stopped = record.batches and record.state in {RunState.INTERRUPTED, RunState.PARTIAL}
    if (record.state is not RunState.COMMITTED and not stopped) or not record.tables:
        return "-"
    if all(one.undone for one in record.tables):
        return "undone"
    return when(record.expires_at) if record.expires_at else "kept until it is resumed or cancelled"


def _tables(record: RunRecord, tables: Sequence[TableReport]) -> Iterator[RenderableType]:
    if not tables:
        return
    listed = columns("table", "inserted", "updated", "deleted", "kept in", right=("inserted", "updated", "deleted"))
    rescue = {
        str(one.table.name): ", ".join(name for name in (one.before_rescue, one.after_rescue) if name)
        for one in record.tables
        if not record.rescue_dropped_at
    }
    for one in tables:
        counts = (f"{count:,}" for count in (one.inserted, one.updated, one.deleted))
        listed.add_row(plain(one.table), *counts, plain(rescue.get(one.table, "")))
    yield listed
