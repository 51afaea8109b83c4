"""Conflict-aware undo: judge every captured row against now, try, learn what refuses, decide, do, look again.

Triggers fire, since MariaDB cannot switch them off: what they do to the rows that are put back is noticed, and the undo
then refused; what they write elsewhere shows in the capture that follows.
Invariant: what was not put back is in a `left` table, and a later undo looks at exactly those rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from backout.engines.conflicts import Found, allows, refusals, renumbered
from backout.engines.conflicts import fingerprint as fingerprint_of
from backout.engines.halves import hold, notes_on_halves, release
from backout.engines.mariadb import images, records, undo_at_once, undo_report, undo_rows
from backout.engines.mariadb.capture import Pair
from backout.engines.mariadb.completeness import Counter
from backout.engines.mariadb.names import comma, literal, qualified, quoted
from backout.engines.mariadb.session import Session
from backout.engines.mariadb.undo_apply import apply
from backout.engines.mariadb.undo_at_once import Ahead
from backout.engines.mariadb.undo_references import dangling
from backout.engines.mariadb.undo_rows import Work
from backout.engines.values import (
    CapturedTable,
    Conflict,
    Counts,
    Resolution,
    Settings,
    TableName,
    UndoOutcome,
    UndoPlan,
    UndoTable,
)
from backout.errors import Refused

HOW = "they fire; rows are put back by their keys, without foreign key actions, and foreign keys are checked afterwards"
_FINAL = frozenset({"REFERENCED", "PARENT_GONE", "CONSTRAINT"})  # no order of ours makes these rows valid


@dataclass(frozen=True)
class Ground:
    """What an undo works with."""

    pair: Pair
    counter: Counter
    settings: Settings
    ahead: Ahead | None  # where images may go while the undo is at work

    @property
    def main(self) -> Session:
        """The session that writes."""
        return self.pair.main

    @property
    def control(self) -> Session:
        """The session that asks the catalogue."""
        return self.pair.control


@dataclass
class Reverted:
    """What an undo has left, for the journal; the rows are read when the undo's run is recorded."""

    plan: UndoPlan
    works: tuple[Work, ...] = ()
    at_once: UndoTable | None = None  # the one table that was put back whole, by one statement
    captured: CapturedTable | None = None  # and its images, where they are known already
    left: dict[TableName, tuple[str, list[tuple[object, ...]]]] = field(default_factory=dict)

    def includes(self, name: TableName) -> bool:
        """Whether the plan is about that table."""
        return any(one.table.name == name for one in self.plan.tables)

    def write(self, main: Session, control: Session, rescue: str, undo_run: int) -> None:
        """Write down what is left of each table; `left` tables are made by `control`, since DDL commits."""
        open_rows = 0
        records.begin_undone(main, self.plan.run)
        for place, work in enumerate(self.works):
            captured = work.captured
            left = int(main.value(f"SELECT COUNT(*) FROM {work.table} WHERE kind IS NOT NULL"))
            name = None
            if left:
                open_rows += left
                # Named for the run that they belong to, and the undo that left them: it goes when that rescue goes.
                name = f"run_{self.plan.run}_{place + 1000 * undo_run}_left"
                _write_left(main, control, work, qualified(TableName(rescue, name)))
            records.mark_undone(main, self.plan.run, captured.table.name, left_rescue=name, undone=not left)
        records.set_open_conflicts(main, self.plan.run, open_rows)
        undo_rows.drop(main, self.works)


def _write_left(main: Session, control: Session, work: Work, table: str) -> None:
    if work.key:
        image = work.rescue_table(work.captured.after_rescue or work.captured.before_rescue)
        columns = comma(quoted(pair.old.name) for pair in work.key)
        control.run(
            f"CREATE TABLE {table} (PRIMARY KEY ({columns})) ENGINE=InnoDB AS SELECT {columns} FROM {image} LIMIT 0"
        )
        main.run(
            f"INSERT INTO {table} ({columns}) SELECT {work.key_columns('U')} FROM {work.table} U WHERE U.kind IS NOT NULL"
        )
        return
    row = quoted(images.row_column(work.captured.table))
    control.run(f"CREATE TABLE {table} ({row} BIGINT UNSIGNED NOT NULL, side CHAR(1) NOT NULL) ENGINE=InnoDB")
    # A table without a key is put back as a whole or not at all: all its rows are left.
    main.run(f"INSERT INTO {table} SELECT U.image, IF(U.b, 'b', 'a') FROM {work.table} U")


def revert(ground: Ground, plan: UndoPlan, resolution: Resolution, reverted: Reverted) -> tuple[UndoOutcome, int]:
    """Put back what `plan` says; returns the outcome and the number of rows that the server counted for it."""
    session = ground.main
    whole = None
    if not resolution.overwrite:
        whole = undo_at_once.restore(ground.pair, ground.counter, plan, ground.ahead)
    if whole is not None:
        reverted.at_once, reverted.captured = plan.tables[0], whole.captured
        restored = {plan.tables[0].table.name: Counts(updated=whole.rows)}
        seen = fingerprint_of(())
        return UndoOutcome(restored, (), HOW, refused=False, fingerprint=seen, notes=plan.notes), whole.rows
    with _quiet(session), _savepoint(session):
        works = undo_rows.prepare(session, plan, ground.settings.rescue_schema)
        reverted.works = works
        session.run("SAVEPOINT backout_judged")
        written = _settle(ground, works)
        met = undo_report.conflicts(session, works)
        fingerprint = fingerprint_of(met)
        notes = list(plan.notes)
        left = met
        if resolution.overwrite and resolution.seen != fingerprint:
            notes.append("the conflicts are not those that were seen: look at the list and decide again")
            return _refusal(session, works, met, fingerprint, notes), 0
        if not allows(resolution, {entry.conflict.number for entry in met}):
            return _refusal(session, works, met, fingerprint, notes), 0
        if _force(session, works, met, resolution):
            written = _settle(ground, works)
            left = renumbered(undo_report.conflicts(session, works), met)
        notes.extend(refusals(left, resolution))
        notes.extend(notes_on_halves(session.value, {work.table: work.plan.table.name for work in works}))
        if left and not resolution.partial:
            return _refusal(session, works, left, fingerprint, notes), 0
        restored = _restored(session, works)
    return UndoOutcome(
        restored, tuple(f.conflict for f in left), HOW, refused=False, fingerprint=fingerprint, notes=tuple(notes)
    ), written


@contextmanager
def _quiet(session: Session) -> Iterator[None]:
    """No foreign key actions inside of the block."""
    session.run("SET SESSION foreign_key_checks = 0")
    try:
        yield
    finally:
        if not session.lost:
            session.run("SET SESSION foreign_key_checks = 1")


@contextmanager
def _savepoint(session: Session) -> Iterator[None]:
    """Where an undo raises, its whole run is rolled back."""
    session.run("SAVEPOINT backout_undo")
    yield
    session.run("RELEASE SAVEPOINT backout_undo")


def _settle(ground: Ground, works: tuple[Work, ...]) -> int:
    """Apply, mark what refuses, take back, until all that is left to do can be done; returns the rows written.

    Ends, since every round takes at least one row out. Leaves the savepoint `backout_try` open, for `_force`.
    """
    session, keyed = ground.main, _keyed(works)
    while True:
        hold(session.value, session.run, keyed)
        session.run("SAVEPOINT backout_try")
        before = ground.counter.rows_modified(session)
        wanted = [(work, undo_rows.keyless_counts(session, work, then=True)) for work in works if _may_rewrite(work)]
        offenders = apply(session, works)
        if not offenders:
            offenders = list(dangling(session, ground.control, works))
        if not offenders:
            written = ground.counter.rows_modified(session) - before
            _require_exact(session, works)
            for work, counts in wanted:
                if undo_rows.keyless_counts(session, work, then=False) != counts:
                    raise _rewritten("rows", work)
            return written
        session.run("ROLLBACK TO SAVEPOINT backout_try")
        for offender in offenders:
            session.run(
                f"UPDATE {offender.work.table} SET action = NULL, forced = FALSE, kind = {literal(offender.kind)}, "
                f"detail = {literal(offender.detail)} WHERE `row` = {int(offender.row)}"
            )
        for work in {offender.work.table: offender.work for offender in offenders}.values():
            if not work.key:  # as a whole or not at all
                session.run(f"UPDATE {work.table} SET action = NULL")


def _keyed(works: Sequence[Work]) -> list[str]:
    """The work tables in which a row is told by its key."""
    return [work.table for work in works if work.key]


def _require_exact(session: Session, works: Sequence[Work]) -> None:
    """Each row is as it was wanted, whatever triggers did. Raises Refused; the caller rolls back."""
    for work in works:
        if not work.key or not work.plan.table.triggers:
            continue
        plain = [pair for pair in work.pairs if not pair.bookkeeping]
        wrong = session.value(f"SELECT COUNT(*) FROM {work.source(now='JOIN')} WHERE U.action = 'delete'")
        if work.captured.before_rescue is not None:
            whole = " AND ".join(f"{pair.exact('T')} <=> {pair.exact('B')}" for pair in plain) or "TRUE"
            back = (
                " AND ".join(f"(NOT {work.touched(p)} OR {p.exact('T')} <=> {p.exact('B')})" for p in plain) or "TRUE"
            )
            wrong += session.value(
                f"SELECT COUNT(*) FROM {work.source(now='LEFT JOIN')} WHERE U.action IN ('insert', 'replace') "
                f"AND NOT ({work.has('T')} AND {whole})"
            )
            wrong += session.value(
                f"SELECT COUNT(*) FROM {work.source(now='LEFT JOIN')} WHERE U.action = 'update' AND U.cols = '' "
                f"AND NOT ({work.has('T')} AND {back})"
            )
        if wrong:
            raise _rewritten(f"{wrong} rows", work)


def _may_rewrite(work: Work) -> bool:
    """Rows without a key that a trigger may rewrite are told by their number only."""
    return not work.key and bool(work.plan.table.triggers)


def _rewritten(what: str, work: Work) -> Refused:
    return Refused(
        "undo",
        f"{what} of {work.plan.table.name} are not as they were: a trigger has rewritten them",
        state="rolled back",
        hint="name the trigger's columns as `bookkeeping`, or drop the trigger for the time of the undo",
    )


def _force(session: Session, works: Sequence[Work], met: Sequence[Found[Work]], resolution: Resolution) -> bool:
    """Give the rows that `overwrite` names something to do; True if there are any. What was applied is taken back."""
    named = [entry for entry in met if entry.conflict.number in resolution.overwrite and _can_be_forced(entry)]
    if named:
        session.run("ROLLBACK TO SAVEPOINT backout_try")
        release(session.run, _keyed(works))
        for entry in met:
            # What only a foreign key or another constraint refused is tried again: the forced rows may be what it met.
            again = entry.conflict.kind.name in _FINAL and bool(entry.work.key)
            if entry in named or again:
                session.run(
                    f"UPDATE {entry.work.table} SET action = {literal(_action(entry.conflict))}, "
                    f"forced = {entry in named}, kind = NULL, detail = NULL WHERE `row` = {int(entry.row)}"
                )
    return bool(named)


def _can_be_forced(entry: Found[Work]) -> bool:
    conflict = entry.conflict
    gone = conflict.now is None and conflict.before is None
    return bool(entry.work.key) and not (conflict.kind.name in _FINAL or gone)


def _action(conflict: Conflict) -> str:
    """What puts the row back."""
    if conflict.kind.name == "KEY_REUSED":
        return "replace"
    if conflict.now is None:
        return "insert"
    return "update" if conflict.before is not None else "delete"


def _refusal(
    session: Session, works: tuple[Work, ...], left: Sequence[Found[Work]], fingerprint: str, notes: Sequence[str]
) -> UndoOutcome:
    session.run("ROLLBACK TO SAVEPOINT backout_undo")
    undo_rows.drop(session, works)
    conflicts = tuple(entry.conflict for entry in left)
    return UndoOutcome({}, conflicts, HOW, refused=True, fingerprint=fingerprint, notes=tuple(notes))


def _restored(session: Session, works: Sequence[Work]) -> dict[TableName, Counts]:
    restored = {}
    for work in works:
        counts = {
            action: int(count)
            for action, count in session.rows(
                f"SELECT action, COUNT(*) FROM {work.table} WHERE action IS NOT NULL GROUP BY action"
            )
        }
        restored[work.plan.table.name] = Counts(
            inserted=counts.get("insert", 0),
            updated=counts.get("update", 0) + counts.get("replace", 0),
            deleted=counts.get("delete", 0),
        )
    return restored
