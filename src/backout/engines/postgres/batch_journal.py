"""The journal's part about runs in batches: its own tables, made when the first such run begins.

A batch's row is written in the batch's transaction, together with how far the run has come: under a number (`fence`)
that changes whenever somebody takes the run over. Whoever had it before updates no row, and commits no batch.

Invariant: the rescue of a run in batches is dropped only by `drop`; a run that died keeps the batches that it committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from typing import Any

from backout.engines.batches import Batched, BatchRecord, Key, Keyset, Pressure, Wanted
from backout.engines.postgres.batch_journal_armed import (
    all_armed,
    as_json,
    others_by_batch,
    rescue_names,
    table_from,
    write_armed,
)
from backout.engines.postgres.names import qualified
from backout.engines.postgres.session import Session
from backout.engines.values import Counts, RunRecord, RunState, TableName
from backout.errors import Interrupted

#: As in journal.py, which imports this.
LOCK_CLASS = 0x626B6F75


@dataclass(frozen=True)
class Left:
    """What an undo has left of one table: how many rows, and the rescue table with their keys."""

    conflicts: int = 0
    rescue: str | None = None


_THERE = "SELECT pg_catalog.to_regclass('backout.batched') IS NOT NULL"

_BATCHED = (
    "SELECT b.run, b.target, b.writes, b.by, b.upper, b.estimated_rows, b.after_columns, b.before_rescue, b.after_rescue, "
    "b.parameters, b.fence, b.wanted, b.finished, b.cancelled, b.batches, b.last, b.looked_at, b.inserted, b.updated, "
    "b.deleted, b.affected, b.pause_reason, "
    "(SELECT count(*) FROM backout.batch x WHERE x.run = b.run AND x.undone_by IS NOT NULL), "
    "(SELECT coalesce(sum(x.open_conflicts), 0)::bigint FROM backout.batch x WHERE x.run = b.run) FROM backout.batched b"
)


class PostgresBatchJournal:
    """See `engines.batches.BatchJournal`. `control` is the journal's session, in autocommit."""

    def __init__(self, control: Session) -> None:
        self._control = control

    def batched(self, run: int) -> Batched | None:
        """See the protocol."""
        return all_batched(self._control, [run]).get(run)

    def batches(self, run: int) -> Sequence[BatchRecord]:
        """See the protocol."""
        rows = self._control.run(
            "SELECT number, after, upto, looked_at, inserted, updated, deleted, affected, seconds, committed_at, undoes, "
            "undone_by, left_rescue, open_conflicts FROM backout.batch WHERE run = $1 ORDER BY number",
            [run],
        ).rows
        others = others_by_batch(self._control, run)
        return [
            BatchRecord(
                number, _key(after), tuple(upto), looked_at, Counts(inserted, updated, deleted), seconds, affected,
                tuple(others.get(number, ())), committed_at, undoes, undone_by, left, conflicts,
            )
            for number, after, upto, looked_at, inserted, updated, deleted, affected, seconds, committed_at, undoes,
            undone_by, left, conflicts in rows
        ]  # fmt: skip

    def wanted(self, run: int) -> Wanted:
        """See the protocol."""
        return Wanted(self._control.value("SELECT wanted FROM backout.batched WHERE run = $1", [run]))

    def tell(self, run: int, wanted: Wanted) -> None:
        """See the protocol."""
        self._control.run("UPDATE backout.batched SET wanted = $2 WHERE run = $1", [run, wanted.value])

    def note_pause(self, run: int, pressure: Pressure | None) -> None:
        """See the protocol."""
        control, reason = self._control, pressure.name if pressure else None
        control.run("UPDATE backout.batched SET pause_reason = $2 WHERE run = $1", [run, reason])
        control.run(
            "UPDATE backout.batch_pause SET ended_at = pg_catalog.clock_timestamp() WHERE run = $1 AND ended_at IS NULL",
            [run],
        )
        if pressure is not None:
            control.run(
                "INSERT INTO backout.batch_pause (run, reason, value, threshold) VALUES ($1, $2, $3, $4)",
                [run, reason, pressure.value, pressure.limit],
            )

    def pauses(self, run: int) -> Sequence[tuple[str, float | None, float | None, datetime, datetime | None]]:
        """See the protocol."""
        rows = self._control.run(
            "SELECT reason, value, threshold, began_at, ended_at FROM backout.batch_pause WHERE run = $1 ORDER BY began_at",
            [run],
        ).rows
        return [(reason, value, limit, began, ended) for reason, value, limit, began, ended in rows]

    def end(self, run: int, state: RunState, report: Mapping[str, Any], *, finished: bool, cancelled: bool) -> None:
        """See the protocol."""
        control = self._control
        control.run("BEGIN")
        try:
            control.run(
                "UPDATE backout.batched SET finished = finished OR $2, cancelled = cancelled OR $3, wanted = 'go on', "
                "pause_reason = NULL WHERE run = $1",
                [run, finished, cancelled],
            )
            over = finished or cancelled
            control.run(
                "UPDATE backout.run SET state = $2, finished_at = pg_catalog.clock_timestamp(), "
                "report = $3::text::jsonb, expires_at = CASE WHEN $4 THEN pg_catalog.clock_timestamp() "
                "+ keep_days * interval '1 day' END WHERE number = $1",
                [run, state.value, json.dumps(report), over],
            )
            if state is not RunState.COMMITTED:
                batched = all_batched(control, [run]).get(run)
                if batched is None or not batched.batches:
                    drop(control, run)
        except BaseException:
            control.run("ROLLBACK")
            raise
        control.run("COMMIT")
        control.run(f"SELECT pg_catalog.pg_advisory_unlock_shared({LOCK_CLASS}, {run})")


def ensure(control: Session) -> None:
    """Make the tables where they are not there yet."""
    if not control.value(_THERE):
        text = files(__package__).joinpath("batches_v1.sql").read_text(encoding="utf-8")
        control.run(f"BEGIN; {text}; COMMIT", doing="create the journal's tables for batches", state="untouched")


def register(control: Session, run: int, keyset: Keyset, parameters: str) -> Batched:
    """Write the run's row; the caller owns the transaction."""
    before, after = rescue_names(run)
    control.run(
        "INSERT INTO backout.batched (run, target, writes, by, upper, estimated_rows, after_columns, before_rescue, "
        "after_rescue, parameters) VALUES ($1, $2::text::jsonb, $3, $4, $5, $6, $7, $8, $9, $10)",
        [
            run, as_json(keyset.table), keyset.writes, list(keyset.by),
            None if keyset.upper is None else list(keyset.upper),
            keyset.estimated_rows, list(keyset.after_columns), before, after, parameters,
        ],
    )  # fmt: skip
    return all_batched(control, [run])[run]


def all_batched(control: Session, runs: Sequence[int]) -> dict[int, Batched]:
    """Those of the runs that are in batches."""
    if not control.value(_THERE):
        return {}
    rows = control.run(f"{_BATCHED} WHERE b.run = ANY ($1)", [list(runs)]).rows
    armed = all_armed(control, [row[0] for row in rows])
    found = {}
    for row in rows:
        one = _batched(row)
        undone = bool(one.batches) and one.undone == one.batches and not one.open_conflicts
        others = tuple(replace(other, undone=undone) for other in armed.get(one.run, ()))
        found[one.run] = replace(one, others=others)
    return found


def take_over(control: Session, run: int) -> Batched:
    """The next fencing number; waits for a batch of the last holder that is being committed at this moment."""
    control.run("UPDATE backout.batched SET fence = fence + 1, wanted = 'go on' WHERE run = $1", [run])
    return all_batched(control, [run])[run]


def write_batch(session: Session, run: int, fence: int, record: BatchRecord) -> None:
    """The batch's row, and how far the run is; in the batch's transaction. Raises Interrupted without the run's number."""
    counts = record.counts
    known = session.run(
        "WITH held AS (UPDATE backout.batched SET batches = $3, last = $4, looked_at = looked_at + $5, "
        "inserted = inserted + $6, updated = updated + $7, deleted = deleted + $8, affected = affected + $12 "
        "WHERE run = $1 AND fence = $2 AND batches = $3 - 1 RETURNING run) "
        "INSERT INTO backout.batch (run, number, after, upto, looked_at, inserted, updated, deleted, affected, seconds, "
        "fence, undoes) SELECT h.run, $3, $9, $4, $5, $6, $7, $8, $12, $10, $2, $11 FROM held h",
        [
            run, fence, record.number, list(record.upto), record.looked_at, counts.inserted, counts.updated,
            counts.deleted, None if record.after is None else list(record.after), record.seconds, record.undoes,
            record.affected,
        ],
    ).affected  # fmt: skip
    if known != 1:
        raise Interrupted(
            f"somebody else has taken run {run} over: this batch is not committed",
            state="the batches of the journal are committed",
            hint=f"see how far it is: backout show {run}",
        )

    for one in record.others:
        write_armed(session, run, record.number, one)


def write_undone(session: Session, original: int, batch: int, undo_run: int, left: Mapping[int, Left]) -> None:
    """Record in the original's batch what an undo of it has left, in the undo's transaction.

    `left`: by the table's place among the armed ones, 0 for the table that the batches go through; of those that were put
    back now.
    """
    own = left.get(0, Left())
    done = session.run(
        "UPDATE backout.batch SET undone_by = $3, left_rescue = $4, open_conflicts = $5 "
        "WHERE run = $1 AND number = $2 AND (undone_by IS NULL OR open_conflicts > 0)",
        [original, batch, undo_run, own.rescue, sum(one.conflicts for one in left.values())],
    ).affected
    if done != 1:
        raise Interrupted(f"batch {batch} of run {original} is undone already", hint=f"backout show {original}")
    for place, one in left.items():
        session.run(
            "UPDATE backout.batch_armed SET undone = $4, left_rescue = $5 WHERE run = $1 AND number = $2 AND place = $3",
            [original, batch, place, not one.conflicts, one.rescue],
        )
    # An undo of an undo brings the first run's effects back: that batch can be undone again.
    again = (
        "FROM backout.batch u JOIN backout.run r ON r.number = u.run "
        "WHERE u.run = $1 AND u.number = $2 AND t.run = r.undo_of AND t.number = u.undoes"
    )
    session.run(
        f"UPDATE backout.batch t SET undone_by = NULL, left_rescue = NULL, open_conflicts = 0 {again}",
        [original, batch],
    )
    session.run(f"UPDATE backout.batch_armed t SET undone = false, left_rescue = NULL {again}", [original, batch])


def as_left(control: Session, run: int) -> tuple[RunState, Mapping[str, Any]] | None:
    """How a run in batches that died ended, for `settle`; None: it is none, or has committed no batch."""
    batched = all_batched(control, [run]).get(run)
    if batched is None or not batched.batches:
        return None
    state = f"committed up to batch {batched.batches}"
    return RunState.INTERRUPTED, {"outcome": "interrupted", "state": state}


def drop(control: Session, run: int) -> None:
    """Drop the rescue tables of a run in batches; the caller owns the transaction."""
    names = control.run(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN backout.run r ON r.rescue_schema = n.nspname AND r.number = $1 "
        "WHERE c.relkind = 'r' AND c.relname ~ ('^batched_' || $1::text || '_([0-9]+_){0,2}(before|after|left_[0-9]+)$')",
        [run],
    ).rows
    for schema, name in names:
        control.run(f"DROP TABLE {qualified(TableName(schema, name))}", doing="drop a rescue table")


def with_batches(control: Session, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records, with what they did in batches."""
    found = all_batched(control, [record.number for record in records])
    return [_with(record, found.get(record.number)) for record in records]


def _with(record: RunRecord, batched: Batched | None) -> RunRecord:
    if batched is None:
        return record
    tables = batched.tables if batched.batches else ()
    return replace(record, tables=tables, open_conflicts=batched.open_conflicts, batches=batched.batches)


def _batched(row: tuple[Any, ...]) -> Batched:
    (run, target, writes, by, upper, estimated, after_columns, before, after, parameters, fence, wanted, finished,
     cancelled, batches, last, looked_at, inserted, updated, deleted, affected, pause_reason, undone,
     conflicts) = row  # fmt: skip
    keyset = Keyset(table_from(target), tuple(by), _key(upper), estimated, tuple(after_columns), writes)
    return Batched(
        run, keyset, before, after, parameters, fence, Wanted(wanted), finished, cancelled, batches, _key(last), looked_at,
        Counts(inserted, updated, deleted), undone, conflicts, pause_reason, affected,
    )  # fmt: skip


def _key(values: Sequence[str] | None) -> Key | None:
    return None if values is None else tuple(values)
