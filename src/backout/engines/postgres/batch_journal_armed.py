"""The journal's part about the armed tables of runs in batches: which they are, and what each batch wrote there.

Not for: the batches themselves (`batch_journal.py`). Invariant: a row about a batch is written in the batch's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from backout.engines.postgres.session import Session
from backout.engines.values import CapturedTable, Column, Counts, Table, TableName


def rescue_names(run: int, place: int | None = None) -> tuple[str, str]:
    """The rescue tables of a run in batches, or of one of its armed tables; unlike those that `settle` drops."""
    name = f"batched_{run}" if place is None else f"batched_{run}_{place}"
    return f"{name}_before", f"{name}_after"


def register_armed(control: Session, run: int, place: int, table: Table) -> None:
    """Write down a table that is armed for the run; the caller owns the transaction."""
    control.run(
        "INSERT INTO backout.batched_armed (run, place, target) VALUES ($1, $2, $3::text::jsonb)",
        [run, place, as_json(table)],
    )


def armed_tables(control: Session, run: int) -> list[CapturedTable]:
    """The armed tables of the run, in the order in which they were, with what all batches have written there."""
    return all_armed(control, [run]).get(run, [])


def all_armed(control: Session, runs: Sequence[int]) -> dict[int, list[CapturedTable]]:
    """The same of several runs, by their numbers."""
    found: dict[int, list[CapturedTable]] = {}
    for run, place, target, *counts, before, after in control.run(
        "SELECT run, place, target, inserted, updated, deleted, before_rows, after_rows FROM backout.batched_armed "
        "WHERE run = ANY ($1) ORDER BY run, place",
        [list(runs)],
    ).rows:
        found.setdefault(run, []).append(_captured(run, place, table_from(target), Counts(*counts), before, after))
    return found


def others_by_batch(control: Session, run: int) -> dict[int, list[CapturedTable]]:
    """What each batch of the run wrote to armed tables, by the batch's number."""
    found: dict[int, list[CapturedTable]] = {}
    for number, place, target, *counts, before, after, undone, left in control.run(
        "SELECT b.number, b.place, a.target, b.inserted, b.updated, b.deleted, b.before_rows, b.after_rows, b.undone, "
        "b.left_rescue FROM backout.batch_armed b JOIN backout.batched_armed a USING (run, place) "
        "WHERE b.run = $1 ORDER BY b.number, b.place",
        [run],
    ).rows:
        one = _captured(run, place, table_from(target), Counts(*counts), before, after)
        found.setdefault(number, []).append(replace(one, batch=number, undone=undone, left_rescue=left))
    return found


def _captured(run: int, place: int, table: Table, counts: Counts, before: int, after: int) -> CapturedTable:
    before_rescue, after_rescue = rescue_names(run, place)
    return CapturedTable(
        table, counts, before, after, tuple(column.name for column in table.restorable), "armed triggers",
        before_rescue if before else None, after_rescue if after else None, logged=True, place=place,
    )  # fmt: skip


def write_armed(session: Session, run: int, number: int, one: CapturedTable) -> None:
    """Write down what a batch wrote to an armed table, in the batch's transaction."""
    counted = one.counted or Counts()
    session.run(
        "WITH one AS (INSERT INTO backout.batch_armed (run, number, place, inserted, updated, deleted, before_rows, "
        "after_rows) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)) "
        "UPDATE backout.batched_armed SET inserted = inserted + $4, updated = updated + $5, deleted = deleted + $6, "
        "before_rows = before_rows + $7, after_rows = after_rows + $8 WHERE run = $1 AND place = $3",
        [run, number, one.place, counted.inserted, counted.updated, counted.deleted, one.before_rows, one.after_rows],
    )


def as_json(table: Table) -> str:
    """A table as the journal keeps it."""
    return json.dumps({
        "schema": table.name.schema, "name": table.name.name, "identifier": table.identifier,
        "columns": [asdict(column) for column in table.columns], "key": table.key, "triggers": table.triggers,
    })  # fmt: skip


def table_from(target: Mapping[str, Any]) -> Table:
    """The table of `as_json`."""
    return Table(
        TableName(target["schema"], target["name"]), target["identifier"],
        tuple(Column(**column) for column in target["columns"]), tuple(target["key"]), tuple(target["triggers"]),
    )  # fmt: skip
