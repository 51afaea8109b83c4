"""What a session has changed so far, as the rows of an answer: table, which row, before, after.

Not for: reading it (`engines`), or the report at the end. Invariant: what comes in has been masked where it is PHI.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from backout.engines.values import CapturedTable, RowChange
from backout.runs.changes import table_report
from backout.runs.report import TableReport

_NO_VALUE, _NO_ROW = "NULL", "(no row)"


def changed(one: CapturedTable, sample: Sequence[RowChange], most: int) -> TableReport:
    """One table. Where all of its rows are here they are counted; else the database has, with what was taken back."""
    table = table_report(one, frozenset(), sample)
    if len(sample) > most:
        return table
    inserted = sum(change.before is None for change in sample)
    deleted = sum(change.after is None for change in sample)
    return replace(table, inserted=inserted, deleted=deleted, updated=len(sample) - inserted - deleted)


def in_words(tables: Iterable[TableReport], most: int) -> Sequence[tuple[str, str, str, str]]:
    """One row for each of at most so many of a table, and one that says that there are more."""
    return [row for table in tables for row in _rows(table, most)]


def _rows(table: TableReport, most: int) -> Iterator[tuple[str, str, str, str]]:
    for change in table.sample[:most]:
        yield (table.table, *_row(table, change))
    if len(table.sample) > most:
        yield table.table, "… and more", "…", "…"


def _row(table: TableReport, change: RowChange) -> tuple[str, str, str]:
    before, after = change.before, change.after
    if before is None or after is None:
        row = (after if before is None else before) or {}
        cells = _cells(row, row)
        return ("+", _NO_ROW, cells) if before is None else ("-", cells, _NO_ROW)
    changed = [name for name, value in after.items() if before.get(name) != value]
    return f"~ {_cells(before, table.key)}".strip(), _cells(before, changed), _cells(after, changed)


def _cells(row: Mapping[str, str | None], names: Iterable[str]) -> str:
    values = ((name, row.get(name)) for name in names)
    return ", ".join(f"{name} {_NO_VALUE if value is None else value}" for name, value in values)
