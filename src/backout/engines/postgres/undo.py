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
from backout.engines.postgres.undo_sql import CONFLICT_TABLE, KeyedTable, KeylessTable, Rewriting, Statement, chained, strangers
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
    rewritable: frozenset[int] = frozenset()  # places of the tables that may be rewritten; see `undo_sql.Rewriting`
    rewriting: frozenset[int] = frozenset()  # of them, those that are


@dataclass(frozen=True)
class _Hooks:
    """What would fire during an undo of some tables, and what this role may do about it."""

    triggers: tuple[tuple[str, str, bool], ...]  # (name, tgenabled, ours to disable)
    rules: tuple[tuple[str, str], ...]  # (name, ev_enabled)
    unchecked: tuple[str, ...]  # constraints that the replica role does not check
    replica: bool  # the role may take the replica role

    @property
    def way(self) -> Way | None:
        """None: there is none. ALWAYS and REPLICA hooks fire in the replica role, too (manual: ALTER TABLE)."""
        enabled = [how for _, how, _ in self.triggers] + [how for _, how in self.rules]
        if self.replica and set(enabled) <= {"O"} and not self.unchecked:
            return Way.REPLICA
        if any(how != "R" for _, how in self.rules):
            return None
        if not self.triggers:
            return Way.PLAIN
        return Way.OWNER if all(ours for _, _, ours in self.triggers) else None

    def obstacle(self, login: str) -> str | None:
        """What stands in the way of an exact undo, and what would remove it, in words; None: nothing."""
        if self.way is not None:
            return None
        names = sorted({f"trigger {quoted(name)}" for name, _, _ in self.triggers})
        names += sorted({f"rule {quoted(name)}" for name, _ in self.rules})
        grant = f"GRANT SET ON PARAMETER session_replication_role TO {quoted(login)}"
        always = any(how != "O" for _, how, _ in self.triggers) or bool(self.unchecked)
        needs = []
        if not self.replica and not always and not any(how == "A" for _, how in self.rules):
            needs.append(grant)
        if not self.rules:
            needs.append("to own the table")
        how = f"it needs {', or '.join(needs)}" if needs else "disable it for the time of the run and of its undo"
        return f"{comma(names)} would fire, and {quoted(login)} may not keep it out ({how})"


def _hooks(session: Session, oids: Sequence[str]) -> _Hooks:
    triggers = session.run(query("user_triggers"), [list(oids)]).rows
    return _Hooks(
        tuple((name, enabled, owned) for _, name, enabled, owned in triggers),
        tuple((name, enabled) for name, enabled in session.run(query("user_rules"), [list(oids)]).rows),
        tuple(name for (name,) in session.run(query("unchecked_in_replicas"), [list(oids)]).rows),
        bool(session.value(query("may_set_replica_role"))),
    )


def undo_obstacle(session: Session, oids: Sequence[str]) -> str | None:
    """What stands in the way of an exact undo of these tables; None: nothing."""
    return _hooks(session, oids).obstacle(session.value("SELECT session_user::text"))


def revert(
    main: Session, plan: UndoPlan, resolution: Resolution, *, rescue_schema: str
) -> tuple[UndoOutcome, Reverted]:
    """Put back what `plan` says; see `engines.protocol.Transaction.revert`."""
    oids = [undo.table.identifier for undo in plan.tables]
    way, obstacle = _hooks(main, oids).way, undo_obstacle(main, oids)
    if way is None:
        raise Refused("undo rights", f"the undo would not be exact: {obstacle}", hint="give the right, then undo again")
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
    work.rewritable, work.rewriting = _rewritable(work), _renumbered(work)
    work.rewriting &= work.rewritable
    outcome = _optimistic(work) or _careful(work, resolution)
    _let_triggers_in(work)
    locked = oids if way is Way.OWNER else [t.undo.table.identifier for t in work.tables if isinstance(t, KeylessTable)]
    return outcome, Reverted(plan, tuple(work.tables), tuple(locked), tuple(work.savepoints))


# -- triggers ----------------------------------------------------------------------------------------------------------


def _keep_triggers_out(work: _Work) -> None:
    # A constraint that is checked at the end only could not become a conflict.
    work.main.run("SET CONSTRAINTS ALL IMMEDIATE", doing="check the constraints")
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


# -- what no UPDATE can do ---------------------------------------------------------------------------------------------

#: Two rows with one value of a unique index, or in one place of an exclusion constraint (manual, appendix A).
_CIRCLES = {"23505", "23P01"}


def _rewritable(work: _Work) -> frozenset[int]:
    """Tables on whose rows no foreign key acts when they are deleted to be inserted anew."""
    by_oid = {table.undo.table.identifier: table for table in work.tables if isinstance(table, KeyedTable)}
    acted = {fk.parent_oid for fk in foreign_keys(work.main, list(by_oid)) if fk.acts}
    return frozenset(t.place for oid, t in by_oid.items() if work.way is Way.REPLICA or oid not in acted)


def _renumbered(work: _Work) -> frozenset[int]:
    """Tables in which the run changed a column that is GENERATED ALWAYS AS IDENTITY."""
    return frozenset(
        table.place for table in work.tables
        if isinstance(table, KeyedTable) and (text := table.has_renumbered()) and work.main.value(text)
    )  # fmt: skip


def _may_be_a_circle(work: _Work, error: DatabaseFailed) -> bool:
    """Whether rewriting may help, and has not been tried yet; from here on it is."""
    if error.sqlstate not in _CIRCLES or work.rewriting >= work.rewritable:
        return False
    work.rewriting = work.rewritable
    return True


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
        return _optimistic(work) if _may_be_a_circle(work, error) else None
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
    steps: list[tuple[int, int, Statement]] = []  # (index of the table, operation 0..2, text)
    for operation in range(3):
        for index, table in enumerate(work.tables):
            if merging and isinstance(table, KeylessTable) and _is_left(work, table):
                continue
            if wanted is not None and not wanted[index][operation]:
                continue
            texts = _texts(work, table, operation, merging=merging)
            steps += [(index, operation, text) for text in texts]
    written = [[0, 0, 0] for _ in work.tables]
    together = work.way is not Way.REPLICA and len(steps) > 1
    if together:
        counts = work.main.one(chained([text for _, _, text in steps]))
    else:
        texts_alone = [text.alone if isinstance(text, Rewriting) else text for _, _, text in steps]
        counts = tuple(work.main.run(text, doing="put the rows back").affected for text in texts_alone)
    for (index, operation, _), count in zip(steps, counts, strict=True):
        written[index][operation] += count
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


def _texts(
    work: _Work, table: KeyedTable | KeylessTable, operation: int, *, merging: bool
) -> Sequence[Statement]:
    found: list[Statement | None]
    if isinstance(table, KeylessTable):
        texts = [table.delete() if table.undo.captured.after_rescue else None, None, table.insert()]
        return [text for text in texts[operation : operation + 1] if text]
    if operation == 0:
        found = [table.delete(merging=merging)]
    elif operation == 1:
        rewriting = table.place in work.rewriting
        update = table.rewrite(merging=merging) if rewriting else table.update(merging=merging)
        found = [update, table.replace_reused() if merging else None]
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
        conflicts, fingerprint, unlisted = _listed(work)
        more = (f"{unlisted} more rows are in conflict than are listed",) if unlisted else ()
        notes = _objections(conflicts, resolution, fingerprint, unlisted=unlisted)
        if notes is not None:
            return UndoOutcome({}, conflicts, work.way.value, True, fingerprint, (*work.plan.notes, *more, *notes))
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
        if isinstance(table, KeyedTable) and table.place not in work.rewritable:
            refused = table.classify_renumbered()
            if refused is not None:
                work.main.run(refused, doing="compare the rows of now")
    while True:
        found = _someone_would_be_hit(work) + _given_to_strangers(work)
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


def _objections(
    conflicts: Sequence[Conflict], resolution: Resolution, fingerprint: str, *, unlisted: int
) -> tuple[str, ...] | None:
    """Why the undo may not go on; None: it may."""
    if resolution.overwrite and resolution.seen != fingerprint:
        return ("the conflicts are not those that were listed: look at the numbers again",)
    if resolution.partial:
        return None
    if not unlisted and all(conflict.number in resolution.overwrite for conflict in conflicts):
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
        if _may_be_a_circle(work, error):
            return _write_or_find(work)
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
                pending[index, 2] = [_WHOLE]
            continue
        for operation in range(3):
            rows = work.main.run(table.identities(operation)).rows
            pending[index, operation] = [identity for (identity,) in rows]
    said: dict[str, str] = {}
    before = -1
    while sum(map(len, pending.values())) != before:
        before = sum(map(len, pending.values()))
        for index, operation in sorted(pending, key=lambda item: (item[1], item[0])):
            table, group, pending[index, operation] = work.tables[index], pending[index, operation], []
            if isinstance(table, KeylessTable):
                pending[index, operation] = group and _try_whole(work, table, written[index], said)
                continue
            texts = _texts(work, table, operation, merging=True)
            for text in texts[:1]:
                count, pending[index, operation] = _try(work, table, operation, text, group, said)
                written[index][operation] += count
            for text in texts[1:]:  # over the rows of reused keys, which are forced and no part of the group
                assert isinstance(text, str)
                written[index][operation] += work.main.run(text, doing="put the rows back").affected
    for (index, _), group in pending.items():
        table = work.tables[index]
        if isinstance(table, KeylessTable):
            if group:
                work.main.run(*table.refuse(said[_WHOLE]))
            continue
        for identity in group:
            work.main.run(
                f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) "
                "VALUES ($1, $2, $3, ARRAY[]::text[], $4)",
                [table.place, identity, ConflictKind.CONSTRAINT.value, said.get(identity)],
            )
    return [(deleted, updated, inserted) for deleted, updated, inserted in written]


#: Stands for all rows of a table without a key, which is put back as a whole or not at all.
_WHOLE = ""


def _try_whole(work: _Work, table: KeylessTable, written: list[int], said: dict[str, str]) -> list[str]:
    """Write a table without a key. Returns what is refused: all of it, or nothing."""
    work.main.run("SAVEPOINT backout_rows")
    counts = []
    try:
        for operation in (0, 2):
            for text in _texts(work, table, operation, merging=True):
                assert isinstance(text, str)
                counts.append((operation, work.main.run(text, doing="put the rows back").affected))
        work.main.run("RELEASE SAVEPOINT backout_rows")
    except DatabaseFailed as error:
        if not (error.sqlstate or "").startswith("23"):
            raise
        work.main.run("ROLLBACK TO SAVEPOINT backout_rows; RELEASE SAVEPOINT backout_rows")
        said[_WHOLE] = error.message
        return [_WHOLE]
    for operation, count in counts:
        written[operation] += count
    return []


def _try(
    work: _Work, table: KeyedTable, operation: int, text: Statement, group: list[str], said: dict[str, str]
) -> tuple[int, list[str]]:
    """Write the rows of the group; where a constraint refuses, its halves. Returns (written, refused rows)."""
    if not group:
        return 0, []
    work.main.run("SAVEPOINT backout_rows")
    try:
        only = f" AND {table.identity('q' if operation == 0 else 'p')} = ANY ($1)"
        limited = text + only if isinstance(text, str) else text.limited(only).alone
        count = work.main.run(limited, [group], doing="put the rows back").affected
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
        parent = by_oid.get(fk.parent_oid)
        if parent is None or not fk.acts:
            continue
        if isinstance(parent, KeyedTable) and parent.has_after:
            work.main.run(f"SELECT FROM {parent.target} AS t JOIN {parent.after} ON {parent.now_is('q')} FOR UPDATE OF t")
        children = [by_oid[oid] for oid in fk.child_oids if oid in by_oid]
        ours = " OR ".join(
            f"(c.tableoid = {child.undo.table.identifier} AND {child.lets_go('c', fk.columns)})" for child in children
        )
        look = parent.referenced_by_others(fk, ours or "false")
        if look is not None:
            found += work.main.run(look, doing="look for rows that refer to ours").affected
    return found


def _given_to_strangers(work: _Work) -> int:
    """Rows whose parent was deleted by the run and whose parent's key others have used again."""
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        child, parent = by_oid.get(fk.child_oid), by_oid.get(fk.parent_oid)
        if child is None or not isinstance(parent, KeyedTable):
            continue
        look = strangers(child, parent, fk)
        if look is not None:
            found += work.main.run(look, doing="look for rows whose parent is another one now").affected
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
            texts.append(child.orphans(fk, lock))
        if parent is not None:
            texts.append(parent.referenced_by_others(fk, None))
        for text in texts:
            if text is not None:
                found += work.main.run(text, doing=f'check foreign key "{fk.name}"').affected
    return found


# -- what is told and kept ---------------------------------------------------------------------------------------------


def _listed(work: _Work) -> tuple[tuple[Conflict, ...], str, int]:
    """The conflicts, numbered, with their rows; a fingerprint of the list, so that a later answer fits it; how many
    more there are."""
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
    listed = tuple(sorted(conflicts, key=lambda c: c.number))
    return listed, sha256(text.encode()).hexdigest(), total - len(listed)


def _row(names: Sequence[str], cells: Sequence[str | None]) -> dict[str, str | None] | None:
    row = dict(zip(names, cells, strict=True))
    return row if any(value is not None for value in row.values()) else None


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
