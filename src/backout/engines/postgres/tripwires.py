"""What no capture can explain, looked for before any image is read: each finding fails the proof (exit 6).

A change cannot be trusted to contain only what its text shows: a function that it calls may drop a column, write a
foreign table or move a sequence back. What cannot be seen at all is listed in docs/explanation/limits.md.

The findings are computed from values (`findings`); `observe` is the only part that asks the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backout.engines.postgres.images import with_ours
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Counts, SequenceMove, TableName

Rows = Sequence[tuple[Any, ...]]

#: Catalogues that a temporary table writes to as well; their rows are looked at one by one.
#: Source: heap.c, `heap_create_with_catalog`; measured on 15.18, 16.14 and 18.4.
SHARED_WITH_TEMPORARY = frozenset({
    "pg_class", "pg_attribute", "pg_type", "pg_depend", "pg_shdepend", "pg_index", "pg_constraint", "pg_attrdef",
    "pg_statistic", "pg_trigger", "pg_inherits", "pg_sequence", "pg_description", "pg_statistic_ext",
    "pg_statistic_ext_data", "pg_rewrite", "pg_policy", "pg_namespace",
})  # fmt: skip

WRITING = frozenset({
    "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
    "AccessExclusiveLock",
})  # fmt: skip

#: Who waits for a table that we hold so (manual 13.3.1, table 13.2).
WHO_WAITS = {
    "AccessShareLock": "only its removal or rebuilding waits",
    "RowShareLock": "others read and write; DDL waits",
    "RowExclusiveLock": "others read and write other rows; DDL waits",
    "ShareRowExclusiveLock": "others read; writers and DDL wait",
    "AccessExclusiveLock": "everybody waits",
}

#: Locks that only DDL, TRUNCATE and LOCK TABLE take (manual 13.3.1).
DDL_LOCKS = frozenset({"ShareUpdateExclusiveLock", "ShareRowExclusiveLock", "AccessExclusiveLock"})


@dataclass(frozen=True)
class HeldLock:
    """One lock of the run on a permanent relation."""

    oid: str
    table: TableName
    kind: str  # pg_class.relkind
    mode: str


@dataclass(frozen=True)
class Standing:
    """One sequence: its last value (None before the first), and 1 or -1 for its direction, 0 where it starts over."""

    name: str
    last: int | None
    step: int


@dataclass(frozen=True)
class Observed:
    """What the server says of the transaction just before it ends."""

    locks: tuple[HeldLock, ...]
    counts: Mapping[str, tuple[TableName, str, Counts]]  # oid -> (name, relkind, delta)
    sequences: tuple[SequenceMove, ...]
    backwards: tuple[SequenceMove, ...]  # those that nextval cannot have moved so
    catalogue_rows: tuple[str, ...]
    vanished: tuple[str, ...]
    track_counts: bool
    replication_role: str
    same_transaction: bool


def read_counts(main: Session) -> dict[str, tuple[TableName, str, Counts]]:
    """The server's running count of this session's row writes, per relation."""
    return counts_of(main.run(query("counts")).rows)


def counts_of(rows: Rows) -> dict[str, tuple[TableName, str, Counts]]:
    """The answer to the query `counts`."""
    return {
        oid: (TableName(schema, name), kind, Counts(inserted, updated, deleted))
        for oid, schema, name, kind, inserted, updated, deleted in rows
    }


def read_sequences(main: Session) -> dict[str, Standing]:
    """Where each sequence stands, and which way it goes."""
    return sequences_of(main.run(query("sequences")).rows)


def sequences_of(rows: Rows) -> dict[str, Standing]:
    """The answer to the query `sequences`."""
    return {oid: Standing(name, last, step) for oid, name, last, step in rows}


def locks_of(rows: Rows) -> tuple[HeldLock, ...]:
    """The answer to the query `locks`."""
    return tuple(HeldLock(oid, TableName(schema, name), kind, mode) for oid, schema, name, kind, mode in rows)


def observe(
    main: Session,
    aux: Session,
    xid: int,
    next_xid: int,
    counts_before: Mapping[str, tuple[TableName, str, Counts]],
    sequences_before: Mapping[str, Standing],
    expected_tables: Collection[str],
) -> Observed:
    """Ask the server once for all that `findings` judges; `aux` still sees what the run has dropped."""
    locks, after_counts = locks_of(main.run(query("locks")).rows), read_counts(main)
    counts = _delta(counts_before, after_counts)
    rows = catalogue_rows(main, xid, next_xid, expected_tables) if touches_catalogue(counts) else ()
    gone = [oid for (oid,) in main.run(query("vanished_locks")).rows]
    vanished = tuple(str(what) for (what,) in aux.run(query("vanished"), [gone]).rows) if gone else ()
    after, settings = read_sequences(main), main.one(SETTINGS)
    return _observed(locks, counts, (sequences_before, after), rows, vanished, settings, xid)


#: What the proof relies on, and the transaction that is open now.
SETTINGS = (
    "SELECT current_setting('track_counts')::boolean, current_setting('session_replication_role'), "
    "pg_catalog.pg_current_xact_id_if_assigned()::text::bigint"
)


@dataclass(frozen=True)
class Standings:
    """What was true when a transaction, or a batch, began."""

    counts: Mapping[str, tuple[TableName, str, Counts]]
    sequences: Mapping[str, Standing]


def compared(
    before: Standings,
    now: Standings,
    locks: tuple[HeldLock, ...],
    settings: tuple[Any, ...],
    xid: int,
    rows: Callable[[], tuple[str, ...]],
    vanished: tuple[str, ...],
) -> Observed:
    """`observe`, of answers that came together. `rows`: the catalogue's rows of ours, asked for where it was written."""
    counts = _delta(before.counts, now.counts)
    written = rows() if touches_catalogue(counts) else ()
    return _observed(locks, counts, (before.sequences, now.sequences), written, vanished, settings, xid)


def touches_catalogue(counts: Mapping[str, tuple[TableName, str, Counts]]) -> bool:
    """Whether rows of the catalogue were written, by a temporary table or by DDL."""
    return any(name.schema == "pg_catalog" for name, _, _ in counts.values())


def catalogue_rows(main: Session, xid: int, next_xid: int, expected_tables: Collection[str]) -> tuple[str, ...]:
    """Rows of the catalogue that the transaction wrote for objects that are not temporary."""
    text = with_ours(query("catalogue_rows_of_ours"), xid, next_xid)
    return tuple(str(what) for (what,) in main.run(text, [list(expected_tables)]).rows)


def _observed(
    locks: tuple[HeldLock, ...],
    counts: Mapping[str, tuple[TableName, str, Counts]],
    sequences: tuple[Mapping[str, Standing], Mapping[str, Standing]],
    rows: tuple[str, ...],
    vanished: tuple[str, ...],
    settings: tuple[Any, ...],
    xid: int,
) -> Observed:
    before, after = sequences
    moves = _moves(before, after)
    track_counts, role, now = settings
    backwards = tuple(move for oid, move in moves.items() if _went_back(move, after[oid].step))
    return Observed(locks, counts, tuple(moves.values()), backwards, rows, vanished, track_counts, role, now == xid)


def _delta(
    before: Mapping[str, tuple[TableName, str, Counts]], after: Mapping[str, tuple[TableName, str, Counts]]
) -> dict[str, tuple[TableName, str, Counts]]:
    moved = {}
    for oid, (name, kind, now) in after.items():
        start = before[oid][2] if oid in before else Counts()
        delta = Counts(now.inserted - start.inserted, now.updated - start.updated, now.deleted - start.deleted)
        if delta != Counts():
            moved[oid] = (name, kind, delta)
    return moved


def _moves(before: Mapping[str, Standing], after: Mapping[str, Standing]) -> dict[str, SequenceMove]:
    return {
        oid: SequenceMove(now.name, before[oid].last, now.last)
        for oid, now in sorted(after.items(), key=lambda item: item[1].name)
        if oid in before and before[oid].last != now.last
    }


def _went_back(move: SequenceMove, step: int) -> bool:
    """Against its direction, or to before its first value; what was never asked for cannot go back."""
    return move.before is not None and (move.after is None or (move.after - move.before) * step < 0)


def _of_locks(
    observed: Observed, own: Collection[str], expected_tables: Collection[str], logs: Collection[str]
) -> list[str]:
    found = []
    for lock in observed.locks:
        if lock.oid in logs and lock.mode == "RowExclusiveLock":
            continue
        if lock.table.schema in own and lock.mode in WRITING:
            found.append(f'"{lock.table}" belongs to backout and was written to')
        elif lock.kind == "f" and lock.mode in WRITING:
            found.append(f'foreign table "{lock.table}" was written to: its rows are on another server')
        elif lock.mode in DDL_LOCKS and lock.oid not in expected_tables and lock.kind != "S":
            found.append(f'"{lock.table}" is held with {lock.mode}: DDL, TRUNCATE or LOCK TABLE ran in a function')
        elif lock.kind == "m" and lock.mode in WRITING:
            found.append(f'materialised view "{lock.table}" was refreshed')
    return found


def _of_counts(observed: Observed) -> list[str]:
    found = []
    for name, _, _ in observed.counts.values():
        if name.schema == "pg_catalog" and name.name.startswith("pg_largeobject"):
            found.append("large objects were written")
        elif name.schema == "pg_catalog" and name.name not in SHARED_WITH_TEMPORARY:
            found.append(f'the catalogue "{name.name}" was written to: DDL ran in a function')
    return found


def findings(
    observed: Observed,
    *,
    rescue_schema: str,
    expected_tables: Collection[str],
    replication_role: str,
    logs: Collection[str] = (),
) -> tuple[str, ...]:
    """What cannot be captured or proven, in words.

    `expected_tables`: oids whose triggers the undo itself switches; `logs`: those of the logs that armed triggers write.
    """
    found: list[str] = []
    if not observed.same_transaction:
        found.append("the transaction that was begun is not the one that is open now")
    if not observed.track_counts:
        found.append("`track_counts` was switched off, so that the server did not count the writes")
    if observed.replication_role != replication_role:
        found.append(f"`session_replication_role` was set to {observed.replication_role!r}")
    found += _of_locks(observed, {"backout", rescue_schema}, expected_tables, logs)
    found += _of_counts(observed)
    found += [f"DDL ran in a function: {what} is new or changed" for what in observed.catalogue_rows]
    found += [f"DDL ran in a function: {what} is gone" for what in observed.vanished]
    for move in observed.backwards:
        found.append(f'sequence "{move.name}" went from {move.before} back to {move.after}')
    return tuple(dict.fromkeys(found))
