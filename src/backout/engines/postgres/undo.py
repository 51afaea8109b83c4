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
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256

from backout.engines.postgres.catalogue import foreign_keys
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_sql import CONFLICT_TABLE, KeyedTable, KeylessTable, chained
from backout.engines.values import (
    Conflict,
    ConflictKind,
    Counts,
    Resolution,
    UndoOutcome,
    UndoPlan,
)
from backout.errors import Busy, DatabaseFailed, Refused

LISTED_CONFLICTS = 1000
_ROUNDS = 5


class Way(Enum):
    """How the application's triggers are kept out of an undo."""

    PLAIN = "no triggers in the way"
    REPLICA = "replica role"
    OWNER = "triggers disabled by the owner for the length of the transaction"


@dataclass(frozen=True)
class Reverted:
    """What the transaction must write into the journal about an undo, once its capture is proven."""

    plan: UndoPlan
    tables: tuple[KeyedTable | KeylessTable, ...]
    locked: tuple[str, ...]  # oids of the tables whose triggers were switched, or that were locked
    savepoints: tuple[int, ...]  # transaction ids under which rows were written


@dataclass
class _Work:
    """One undo in progress."""

    main: Session
    plan: UndoPlan
    rescue_schema: str
    way: Way
    tables: list[KeyedTable | KeylessTable] = field(default_factory=list)
    disabled: list[tuple[str, str, str]] = field(default_factory=list)  # (table, trigger, tgenabled)
    savepoints: list[int] = field(default_factory=list)  # ids under which rows were written


def undo_way(session: Session, oids: Sequence[str]) -> Way | None:
    """The way that the rights allow for these tables; None: none, and the application's triggers would fire."""
    triggers = session.run(query("user_triggers"), [list(oids)]).rows
    if session.value(query("may_set_replica_role")):
        return Way.REPLICA
    if not triggers:
        return Way.PLAIN
    return Way.OWNER if all(owner for _, _, _, owner in triggers) else None


def revert(
    main: Session, plan: UndoPlan, resolution: Resolution, *, rescue_schema: str
) -> tuple[UndoOutcome, Reverted]:
    """Put back what `plan` says; see `engines.protocol.Transaction.revert`."""
    oids = [undo.table.identifier for undo in plan.tables]
    way = undo_way(main, oids)
    if way is None:
        raise Refused(
            "undo rights",
            "the application's triggers would fire during the undo and spoil it, and this role may not keep them out",
            hint='let an administrator run: GRANT SET ON PARAMETER session_replication_role TO "'
            + str(main.value("SELECT session_user::text")) + '" — or connect as a member of the tables\' owner',
        )
    work = _Work(main, plan, rescue_schema, way)
    for place, undo in enumerate(plan.tables, 1):
        kind = KeyedTable if undo.captured.table.key else KeylessTable
        work.tables.append(kind(undo, place, rescue_schema))
    main.run(f"DROP TABLE IF EXISTS {CONFLICT_TABLE}")
    main.run(
        f"CREATE TEMP TABLE {CONFLICT_TABLE.removeprefix('pg_temp.')} (place int, identity text, kind text, "
        "columns text[], detail text, number bigint, forced boolean NOT NULL DEFAULT false) ON COMMIT DROP"
    )
    _keep_triggers_out(work)
    outcome = _optimistic(work) or _careful(work, resolution)
    _let_triggers_in(work)
    locked = oids if way is Way.OWNER else [t.undo.table.identifier for t in work.tables if isinstance(t, KeylessTable)]
    return outcome, Reverted(plan, tuple(work.tables), tuple(locked), tuple(work.savepoints))


# -- triggers ----------------------------------------------------------------------------------------------------------


def _keep_triggers_out(work: _Work) -> None:
    if work.way is Way.REPLICA:
        work.main.run("SET LOCAL session_replication_role = replica")
    if work.way is Way.OWNER:
        oids = [table.undo.table.identifier for table in work.tables]
        for oid, trigger, enabled, _ in work.main.run(query("user_triggers"), [oids]).rows:
            name = next(qualified(t.undo.table.name) for t in work.tables if t.undo.table.identifier == oid)
            work.main.run(f"ALTER TABLE {name} DISABLE TRIGGER {quoted(trigger)}", doing=f'disable trigger "{trigger}"')
            work.disabled.append((name, trigger, enabled))
    for table in work.tables:
        if isinstance(table, KeylessTable):
            name = qualified(table.undo.table.name)
            work.main.run(f"LOCK TABLE ONLY {name} IN SHARE ROW EXCLUSIVE MODE", doing=f"lock table {name}")


def _let_triggers_in(work: _Work) -> None:
    """Back to what was, one trigger at a time: ENABLE TRIGGER USER would turn ALWAYS and REPLICA ones into plain ones."""
    if work.way is Way.REPLICA:
        work.main.run("SET LOCAL session_replication_role = origin")
    if work.disabled:
        work.main.run("SET CONSTRAINTS ALL IMMEDIATE", doing="check the constraints")
    how = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
    for name, trigger, enabled in work.disabled:
        work.main.run(f"ALTER TABLE {name} {how[enabled]} TRIGGER {quoted(trigger)}")


# -- at full speed -----------------------------------------------------------------------------------------------------


def _optimistic(work: _Work) -> UndoOutcome | None:
    """Write all at once; None where a row was not as the run left it, or a constraint refused (nothing is written)."""
    wanted = [work.main.one(table.expected()) for table in work.tables]
    if _someone_would_be_hit(work):
        return None
    work.main.run("SAVEPOINT backout_undo")
    try:
        written = _write(work, merging=False, wanted=wanted)
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        return None
    if written != wanted or _broken_keys(work):
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
        return None
    _note_savepoint(work)
    work.main.run("RELEASE SAVEPOINT backout_undo")
    return _outcome(work, written, ())


def _note_savepoint(work: _Work) -> None:
    """Learn the transaction id of the savepoint that is open, so that capture can look for it: a row made now bears it.

    There is no function that tells it (measured on 15 to 18: pg_current_xact_id is the top-level one).
    """
    (xid,) = work.main.one(
        f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, forced) VALUES (0, '', '', true) "
        "RETURNING xmin::text::bigint"
    )
    work.savepoints.append(xid)


def _write(
    work: _Work, *, merging: bool, wanted: Sequence[tuple[int, int, int]] | None = None
) -> list[tuple[int, int, int]]:
    """Run the writes; (deleted, updated, inserted) per table. Deletes first, then updates, then inserts.

    Where `wanted` says that an operation has no rows, it is left out.
    """
    steps: list[tuple[int, int, str]] = []  # (index of the table, operation 0..2, text)
    for operation in range(3):
        for index, table in enumerate(work.tables):
            if merging and isinstance(table, KeylessTable) and _is_left(work, table):
                continue
            if wanted is not None and not wanted[index][operation]:
                continue
            texts = _texts(table, operation, merging=merging)
            steps += [(index, operation, text) for text in texts]
    written = [[0, 0, 0] for _ in work.tables]
    together = work.way is not Way.REPLICA and len(steps) > 1
    if together:
        counts = work.main.one(chained([text for _, _, text in steps]))
    else:
        counts = tuple(work.main.run(text, doing="put the rows back").affected for _, _, text in steps)
    for (index, operation, _), count in zip(steps, counts, strict=True):
        written[index][operation] += count
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


def _texts(table: KeyedTable | KeylessTable, operation: int, *, merging: bool) -> list[str]:
    if isinstance(table, KeylessTable):
        texts = [table.delete() if table.undo.captured.after_rescue else None, None, table.insert()]
        return [text for text in texts[operation : operation + 1] if text]
    if operation == 0:
        found = [table.delete(merging=merging)]
    elif operation == 1:
        found = [table.update(merging=merging), table.replace_reused() if merging else None]
    else:
        found = [table.insert(merging=merging)]
    return [text for text in found if text]


def _outcome(
    work: _Work, written: Sequence[tuple[int, int, int]], conflicts: Sequence[Conflict], *, fingerprint: str | None = None
) -> UndoOutcome:
    restored = {
        table.undo.table.name: Counts(inserted, updated, deleted)
        for table, (deleted, updated, inserted) in zip(work.tables, written, strict=True)
    }
    return UndoOutcome(restored, tuple(conflicts), work.way.value, False, fingerprint, work.plan.notes)


# -- with conflicts ----------------------------------------------------------------------------------------------------


def _careful(work: _Work, resolution: Resolution) -> UndoOutcome:
    """Name the rows in conflict, then write all but them; repeated where others write at the same time."""
    for _ in range(_ROUNDS):
        _discover(work)
        conflicts, fingerprint = _listed(work)
        notes = _objections(conflicts, resolution, fingerprint)
        if notes is not None:
            return UndoOutcome({}, conflicts, work.way.value, True, fingerprint, (*work.plan.notes, *notes))
        if resolution.overwrite:
            numbers = comma(str(int(number)) for number in sorted(resolution.overwrite))
            work.main.run(f"UPDATE {CONFLICT_TABLE} SET forced = true WHERE number IN ({numbers})")
        known = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}")
        work.main.run("SAVEPOINT backout_undo")
        written = _write_or_find(work)
        broken = _broken_keys(work)
        if work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}") == known and not broken and not _unrestored(work):
            work.main.run("RELEASE SAVEPOINT backout_undo")
            left = tuple(c for c in conflicts if c.number not in resolution.overwrite)
            return _outcome(work, written, left, fingerprint=fingerprint)
        work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
        work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    raise Busy(
        "unable to put the rows back: they keep changing, or an overwritten row breaks a foreign key",
        state="rolled back", hint="try again when it is quieter, or overwrite fewer rows",
    )


def _discover(work: _Work) -> None:
    """Fill the conflict table: first by value, then by trying, until nothing new is found. Nothing stays written."""
    work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    for table in work.tables:
        for text in table.classify():
            work.main.run(text, doing="compare the rows of now")
    while True:
        found = _someone_would_be_hit(work)
        if not found:
            work.main.run("SAVEPOINT backout_undo")
            before = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}")
            _write_or_find(work)
            found = _broken_keys(work) + work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}") - before
            kept = work.main.run(f"SELECT place, identity, kind, columns, detail FROM {CONFLICT_TABLE}").rows if found else []
            work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
            if found:
                _put_back(work, kept)
        if not found:
            break
    work.main.run(
        f"UPDATE {CONFLICT_TABLE} x SET number = n.number FROM (SELECT c.ctid AS at, row_number() OVER "
        f"(ORDER BY c.place, c.identity COLLATE \"C\") AS number FROM {CONFLICT_TABLE} c) n WHERE x.ctid = n.at"
    )


def _put_back(work: _Work, rows: Sequence[tuple[int, str, str, list[str], str | None]]) -> None:
    """The conflict table lost what was found inside of the savepoint; write it anew, one row for each identity."""
    work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    unique = {(place, identity): rest for place, identity, *rest in reversed(rows)}
    for (place, identity), rest in unique.items():
        work.main.run(
            f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) VALUES ($1, $2, $3, $4, $5)",
            [place, identity, *rest],
        )


def _objections(conflicts: Sequence[Conflict], resolution: Resolution, fingerprint: str) -> tuple[str, ...] | None:
    """Why the undo may not go on; None: it may."""
    if resolution.overwrite and resolution.seen != fingerprint:
        return ("the conflicts are not those that were listed: look at the numbers again",)
    if all(conflict.number in resolution.overwrite for conflict in conflicts) or resolution.partial:
        return None
    return ()


def _unrestored(work: _Work) -> int:
    return sum(work.main.value(table.unrestored()) for table in work.tables)


def _write_or_find(work: _Work) -> list[tuple[int, int, int]]:
    """Write all at once; where a constraint refuses, row by row, and what it refuses becomes a conflict."""
    work.main.run("SAVEPOINT backout_write")
    try:
        written = _write(work, merging=True)
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_write")
        written = _piecemeal(work)
    work.main.run("RELEASE SAVEPOINT backout_write")
    return written


def _piecemeal(work: _Work) -> list[tuple[int, int, int]]:
    """Ever smaller groups of rows, in passes, until nothing more can be written.

    In passes, since one row may make room for another: undoing `position = position - 1` must go from the top.
    """
    pending: dict[tuple[int, int], list[str]] = {}
    written = [[0, 0, 0] for _ in work.tables]
    for index, table in enumerate(work.tables):
        if isinstance(table, KeylessTable):
            if not _is_left(work, table):
                for operation in (0, 2):
                    for whole in _texts(table, operation, merging=True):
                        written[index][operation] += work.main.run(whole, doing="put the rows back").affected
            continue
        for operation in range(3):
            rows = work.main.run(table.identities(operation)).rows
            pending[index, operation] = [identity for (identity,) in rows]
    said: dict[str, str] = {}
    before = -1
    while sum(map(len, pending.values())) != before:
        before = sum(map(len, pending.values()))
        for index, operation in sorted(pending, key=lambda item: (item[1], item[0])):
            group, pending[index, operation] = pending[index, operation], []
            texts = _texts(work.tables[index], operation, merging=True)
            for text in texts[:1]:
                count, pending[index, operation] = _try(work, work.tables[index], operation, text, group, said)
                written[index][operation] += count
            for text in texts[1:]:  # over the rows of reused keys, which are forced and no part of the group
                written[index][operation] += work.main.run(text, doing="put the rows back").affected
    for (index, _), group in pending.items():
        for identity in group:
            work.main.run(
                f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) "
                "VALUES ($1, $2, $3, ARRAY[]::text[], $4)",
                [work.tables[index].place, identity, ConflictKind.CONSTRAINT.value, said.get(identity)],
            )
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


def _try(
    work: _Work, table: KeyedTable | KeylessTable, operation: int, text: str, group: list[str], said: dict[str, str]
) -> tuple[int, list[str]]:
    """Write the rows of the group; where a constraint refuses, its halves. Returns (written, refused rows)."""
    if not group:
        return 0, []
    work.main.run("SAVEPOINT backout_rows")
    try:
        only = f" AND {table.identity('q' if operation == 0 else 'p')} = ANY ($1)"
        count = work.main.run(text + only, [group], doing="put the rows back").affected
        work.main.run("RELEASE SAVEPOINT backout_rows")
        return count, []
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_rows; RELEASE SAVEPOINT backout_rows")
        if len(group) == 1:
            said[group[0]] = error.message
            return 0, group
    half = len(group) // 2
    first, failed_first = _try(work, table, operation, text, group[:half], said)
    second, failed_second = _try(work, table, operation, text, group[half:], said)
    return first + second, failed_first + failed_second


def _is_left(work: _Work, table: KeylessTable) -> bool:
    """A table without a key is put back whole or not at all."""
    return bool(
        work.main.value(
            f"SELECT EXISTS (SELECT FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced)"
        )
    )


# -- foreign keys ------------------------------------------------------------------------------------------------------


def _someone_would_be_hit(work: _Work) -> int:
    """Where foreign keys act (not in the replica role): rows to delete that others' rows refer to with CASCADE and such.

    They become conflicts, since deleting them would delete or change rows that are not ours.
    """
    if work.way is Way.REPLICA:
        return 0
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        parent, child = by_oid.get(fk.parent_oid), by_oid.get(fk.child_oid)
        if parent is None or not fk.acts:
            continue
        if isinstance(parent, KeyedTable) and parent.has_after:
            work.main.run(f"SELECT FROM {parent.target} AS t JOIN {parent.after} ON {parent.now_is('q')} FOR UPDATE OF t")
        ours = child.made_by_run("c") if isinstance(child, KeyedTable) else "false"
        look = parent.referenced_by_others(fk.child, fk.columns, fk.referenced_columns, ours)
        if look is not None:
            found += work.main.run(look, doing="look for rows that refer to ours").affected
    return found


def _broken_keys(work: _Work) -> int:
    """In the replica role the server checks no foreign key: do it here, for every row that the undo wrote."""
    if work.way is not Way.REPLICA:
        return 0
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        child, parent = by_oid.get(fk.child_oid), by_oid.get(fk.parent_oid)
        texts = []
        if child is not None:
            may_lock = work.main.value(
                "SELECT pg_catalog.has_any_column_privilege(session_user, $1::oid, 'UPDATE')", [fk.parent_oid]
            )
            lock = "FOR KEY SHARE" if may_lock else ""
            texts.append(child.orphans(fk.columns, fk.parent, fk.referenced_columns, lock))
        if parent is not None:
            texts.append(parent.referenced_by_others(fk.child, fk.columns, fk.referenced_columns, None))
        for text in texts:
            if text is not None:
                found += work.main.run(text, doing=f'check foreign key "{fk.name}"').affected
    return found


# -- what is told and kept ---------------------------------------------------------------------------------------------


def _listed(work: _Work) -> tuple[tuple[Conflict, ...], str]:
    """The conflicts, numbered, with their rows; and a fingerprint of the list, so that a later answer fits it."""
    total = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}")
    conflicts: list[Conflict] = []
    for table in work.tables:
        names = [pair.captured.name for pair in table.pairs]
        key = table.undo.captured.table.key
        ours = names
        if isinstance(table, KeyedTable):
            ours = [p.captured.name for p in table.pairs if p in table.key or p in table.touched]
        for number, kind, columns, detail, *cells in work.main.run(table.rows_in_conflict(LISTED_CONFLICTS)).rows:
            before = _row(names, cells[: len(names)])
            after = _row(ours, cells[len(names) : len(names) + len(ours)])
            now = _row(names, cells[len(names) + len(ours) :])
            if before is not None and after is not None:
                after = {**before, **after}
            known = before or after or now or {}
            identity = {name: known.get(name) for name in (key or names)}
            conflicts.append(
                Conflict(number, table.undo.table.name, ConflictKind(kind), identity, tuple(columns), before, after, now, detail or "")
            )
    text = repr((total, [(c.number, str(c.table), c.kind.value, c.key, c.now) for c in conflicts]))
    return tuple(sorted(conflicts, key=lambda c: c.number)), sha256(text.encode()).hexdigest()


def _row(names: Sequence[str], cells: Sequence[str | None]) -> dict[str, str | None] | None:
    row = dict(zip(names, cells, strict=True))
    return row if any(value is not None for value in row.values()) else None


def save_left(main: Session, reverted: Reverted) -> dict[int, tuple[str | None, int]]:
    """Keep the keys of the rows that the undo has left. Returns place -> (rescue table with the keys, how many)."""
    left: dict[int, tuple[str | None, int]] = {}
    for table in reverted.tables:
        count = main.value(f"SELECT count(*) FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced")
        name = None
        if count and isinstance(table, KeyedTable):
            name = _left_name(reverted.plan.run, table)
            main.run(table.save_left(name))
        left[table.place] = (name, count)
    return left


def _left_name(run: int, table: KeyedTable) -> str:
    """Numbered on from the one that an earlier undo of the run has left."""
    earlier = table.undo.captured.left_rescue
    number = int(earlier.rsplit("_", 1)[1]) + 1 if earlier else 1
    return f"run_{run}_{table.place}_left_{number}"
