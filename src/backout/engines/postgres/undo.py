"""Putting rows back, inside the supervised transaction, without touching what others have changed since.

First at full speed: one statement per table and operation, which compare and write in one go. When each wrote as many
rows as there are images, nothing was in the way and the undo is done. Otherwise it is taken back to a savepoint, the
rows in conflict are named, and either nothing is written (the caller asks) or all but them is.

The application's triggers are kept out in the first way that the rights allow (`Way`); with none of them the undo is
refused before anything is written. In the replica role foreign keys are off as well: then every key that the undo
touched is checked by anti-join, and a row that would break one becomes a conflict.

Invariant: the rows written are exactly those planned; any other count rolls the undo back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backout.engines.postgres.names import comma
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_columns import CONFLICT_TABLE
from backout.engines.postgres.undo_conflicts import discover, listed, numbers_of, refused_though_forced
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.postgres.undo_moved import in_doubt, moves_of, notes_on_halves, release_halves
from backout.engines.postgres.undo_piecemeal import write_or_find
from backout.engines.postgres.undo_references import broken_keys, someone_would_be_hit
from backout.engines.postgres.undo_triggers import hooks, keep_triggers_out, let_triggers_in, undo_obstacle
from backout.engines.postgres.undo_work import Reverted, Way, Work, note_savepoint
from backout.engines.postgres.undo_write import may_be_a_circle, renumbered, rewritable, write
from backout.engines.values import Conflict, Counts, Resolution, UndoOutcome, UndoPlan
from backout.errors import Busy, DatabaseFailed, Refused

_ROUNDS = 5


def revert(
    main: Session, plan: UndoPlan, resolution: Resolution, *, rescue_schema: str
) -> tuple[UndoOutcome, Reverted]:
    """Put back what `plan` says; see `engines.protocol.Transaction.revert`."""
    oids = [undo.table.identifier for undo in plan.tables]
    way, obstacle = hooks(main, oids).way, undo_obstacle(main, oids)
    if way is None:
        raise Refused("undo rights", f"the undo would not be exact: {obstacle}", hint="give the right, then undo again")
    work = Work(main, plan, rescue_schema, way)
    for place, undo in enumerate(plan.tables, 1):
        kind = KeyedTable if undo.captured.table.key else KeylessTable
        work.tables.append(kind(undo, place, rescue_schema))
    main.run(f"DROP TABLE IF EXISTS {CONFLICT_TABLE}")
    main.run(
        f"CREATE TEMP TABLE {CONFLICT_TABLE.removeprefix('pg_temp.')} (place int, identity text, kind text, "
        "columns text[], detail text, number bigint, forced boolean NOT NULL DEFAULT false) ON COMMIT DROP"
    )
    keep_triggers_out(work)
    work.rewritable, work.rewriting = rewritable(work), renumbered(work)
    work.rewriting &= work.rewritable
    work.wanted = [main.one(table.expected()) for table in work.tables]
    outcome = _optimistic(work) or _careful(work, resolution)
    let_triggers_in(work)
    locked = oids if way is Way.OWNER else [t.undo.table.identifier for t in work.tables if isinstance(t, KeylessTable)]
    return outcome, Reverted(plan, tuple(work.tables), tuple(locked), tuple(work.savepoints))


def _optimistic(work: Work) -> UndoOutcome | None:
    """Write all at once; None where a row was not as the run left it, or a constraint refused (nothing is written)."""
    if someone_would_be_hit(work):
        return None
    work.main.run("SAVEPOINT backout_undo")
    try:
        written = write(work, merging=False, wanted=work.wanted)
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        return _optimistic(work) if may_be_a_circle(work, error) else None
    if written != work.wanted or broken_keys(work):
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
        return None
    note_savepoint(work)
    work.main.run("RELEASE SAVEPOINT backout_undo")
    return _outcome(work, written, ())


def _careful(work: Work, resolution: Resolution) -> UndoOutcome:
    """Name the rows in conflict, then write all but them; repeated where others write at the same time."""
    stubborn: set[tuple[int, str]] = set()
    work.moved = moves_of(work.main, work.rescue_schema, work.tables)
    work.in_doubt = in_doubt(work)
    for _ in range(_ROUNDS):
        discover(work)
        conflicts, fingerprint, unlisted = listed(work)
        refused = tuple(conflict.number for conflict in conflicts if conflict.number in numbers_of(work, stubborn))
        notes = _objections(conflicts, resolution, fingerprint, refused, unlisted=unlisted)
        if notes is not None:
            return UndoOutcome(
                {},
                conflicts,
                work.way.value,
                refused=True,
                fingerprint=fingerprint,
                notes=(*work.plan.notes, *_more(unlisted), *notes_on_halves(work), *notes),
                unlisted=unlisted,
            )
        if resolution.overwrite:
            numbers = comma(str(int(number)) for number in (0, *sorted(resolution.overwrite - set(refused))))
            work.main.run(f"UPDATE {CONFLICT_TABLE} SET forced = true WHERE number IN ({numbers})")
            release_halves(work)
            conflicts, _, unlisted = listed(work)  # what is left: of very many, others than were listed
        known = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}")
        work.main.run("SAVEPOINT backout_undo")
        written = write_or_find(work)
        broken = broken_keys(work)
        if work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}") == known and not broken and not unrestored(work):
            work.main.run("RELEASE SAVEPOINT backout_undo")
            outcome = _outcome(work, written, conflicts, fingerprint=fingerprint)
            return replace(
                outcome,
                notes=(*outcome.notes, *_more(unlisted), *notes_on_halves(work), *map(_refusal, refused)),
                unlisted=unlisted,
            )
        stubborn |= refused_though_forced(work)
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    raise Busy(
        "unable to put the rows back: they keep changing", state="rolled back",
        hint="try again when it is quieter",
    )  # fmt: skip


def _refusal(number: int) -> str:
    return f"conflict {number} cannot be overwritten: a constraint refuses it"


def _more(unlisted: int) -> tuple[str, ...]:
    return (f"{unlisted} more rows are in conflict than are listed",) if unlisted else ()


def _objections(
    conflicts: Sequence[Conflict], resolution: Resolution, fingerprint: str, refused: Sequence[int], *, unlisted: int
) -> tuple[str, ...] | None:
    """Why the undo may not go on; None: it may."""
    if resolution.overwrite and resolution.seen != fingerprint:
        return ("the conflicts are not those that were listed: look at the numbers again",)
    if not resolution.overwrite <= {conflict.number for conflict in conflicts}:
        return ()  # a number that is in no list: a mistake, which the caller tells
    if resolution.partial:
        return None
    if refused:
        return tuple(map(_refusal, refused))
    if not unlisted and all(conflict.number in resolution.overwrite for conflict in conflicts):
        return None
    return ()


def unrestored(work: Work) -> int:
    """How many rows outside of the conflicts are not as they should be; 0 after a complete undo."""
    return sum(work.main.value(table.unrestored()) for table in work.tables)


def _outcome(
    work: Work,
    written: Sequence[tuple[int, int, int]],
    conflicts: Sequence[Conflict],
    *,
    fingerprint: str | None = None,
) -> UndoOutcome:
    restored = {
        table.undo.table.name: Counts(inserted, updated, deleted)
        for table, (deleted, updated, inserted) in zip(work.tables, written, strict=True)
    }
    return UndoOutcome(
        restored, tuple(conflicts), work.way.value, refused=False, fingerprint=fingerprint, notes=work.plan.notes
    )


def save_left(main: Session, reverted: Reverted, undo_run: int) -> dict[int, tuple[str | None, int]]:
    """Keep the keys of the rows that the undo has left. Returns place -> (rescue table with the keys, how many)."""
    left: dict[int, tuple[str | None, int]] = {}
    for table in reverted.tables:
        count = main.value(f"SELECT count(*) FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced")
        name = None
        if count and isinstance(table, KeyedTable):
            # By the number of the undo: one that was undone itself may have left such a table as well.
            name = f"run_{reverted.plan.run}_{table.place}_left_{undo_run}"
            main.run(table.save_left(name))
        left[table.place] = (name, count)
    return left
