"""A change that wrote more rows in one transaction than its environment allows: it is to run in batches.

Judged by what was captured, in the ghost run that shows it and again in the run itself, since the rows of a ghost run are
not those of a run a day later. Not for: changes that have batches, or engines that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backout.change.model import Change
from backout.engines.protocol import Database
from backout.engines.values import Capture, CapturedTable, Counts, Mode
from backout.errors import Refused
from backout.runs.report import WOULD_REFUSE, RunReport


def require_batches(
    database: Database, found: Capture, change: Change, mode: Mode, most: int | None, report: RunReport
) -> RunReport:
    """Refused, rolled back, for a run that wrote more than `most` rows; a note for a ghost run. None: any number."""
    rows = sum(_written(one).total for one in found.tables)
    if most is None or rows <= most or not database.capabilities.batches:
        return report
    what = f"{rows:,} rows were written in one transaction, and {most:,} is the most here (`batch_above`)"
    hint = _directive(change, found.tables)
    if mode is Mode.REAL:
        raise Refused("batches", what, state="rolled back", hint=hint)
    return replace(report, notes=(*report.notes, f"{WOULD_REFUSE}{what}: {hint}"))


def _written(one: CapturedTable) -> Counts:
    return one.counted or Counts()


def _directive(change: Change, tables: Sequence[CapturedTable]) -> str:
    """What to add to the change, so that it goes by its key through the table that it wrote to most, if it can by name."""
    said = {(one.schema, one.table) for step in change.steps for one in step.statement.targets}
    by_name = [(one, name) for one in tables for name in _names(one) if name in said]
    largest, (schema, table) = max(
        by_name or [(one, (one.table.name.schema, one.table.name.name)) for one in tables],
        key=lambda pair: _written(pair[0]).total,
    )
    name, key = f"{schema}.{table}" if schema else table, largest.table.key
    if not key:
        return f'give "{name}" a primary key, so that the change can run in batches'
    columns = ", ".join(f'"{one}"' for one in key)
    if change.language == "program":
        by = columns if len(key) == 1 else f"[{columns}]"
        return (
            f'let it run in batches: batch = {{table = "{name}", by = {by}}} in its metadata, and backout.next_batch()'
        )
    if change.language == "python":
        by = columns if len(key) == 1 else f"({columns})"
        return f'let it run in batches: for batch in db.batches("{name}", by={by}): …'
    return f"let it run in batches: write -- @batch {name} by={','.join(key)} before the statement"


def _names(one: CapturedTable) -> tuple[tuple[str | None, str], ...]:
    """As a statement may say the table's name."""
    return (None, one.table.name.name), (one.table.name.schema, one.table.name.name)
