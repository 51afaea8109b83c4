"""What no capture can explain, looked for before any image is read: each finding fails the proof (exit 6).

A change cannot be trusted to contain only what its text shows: a function that it calls may drop a column, write a
foreign table or move a sequence back. What cannot be seen at all is listed in docs/explanation/limits.md.

The findings are computed from values (`findings`); `observe` is the only part that asks the server.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backout.engines.postgres.images import with_ours
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Counts, SequenceMove, TableName

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
class Observed:
    """What the server says of the transaction just before it ends."""

    locks: tuple[HeldLock, ...]
    counts: Mapping[str, tuple[TableName, str, Counts]]  # oid -> (name, relkind, delta)
    sequences: tuple[SequenceMove, ...]
    catalogue_rows: tuple[str, ...]
    track_counts: bool
    replication_role: str
    same_transaction: bool


def read_counts(main: Session) -> dict[str, tuple[TableName, str, Counts]]:
    """The server's running count of this session's row writes, per relation."""
    return {
        oid: (TableName(schema, name), kind, Counts(inserted, updated, deleted))
        for oid, schema, name, kind, inserted, updated, deleted in main.run(query("counts")).rows
    }


def read_sequences(main: Session) -> dict[str, tuple[str, int | None]]:
    """Where each sequence stands."""
    return {oid: (name, last) for oid, name, last in main.run(query("sequences")).rows}


def observe(
    main: Session,
    xid: int,
    counts_before: Mapping[str, tuple[TableName, str, Counts]],
    sequences_before: Mapping[str, tuple[str, int | None]],
    expected_tables: Collection[str],
) -> Observed:
    """Ask the server once for all that `findings` judges."""
    locks = tuple(
        HeldLock(oid, TableName(schema, name), kind, mode)
        for oid, schema, name, kind, mode in main.run(query("locks")).rows
    )
    counts = _delta(counts_before, read_counts(main))
    touches_catalogue = any(name.schema == "pg_catalog" for name, _, _ in counts.values())
    rows: tuple[str, ...] = ()
    if touches_catalogue:
        text = with_ours(query("catalogue_rows_of_ours"), xid)
        rows = tuple(str(what) for (what,) in main.run(text, [list(expected_tables)]).rows)
    moves = _moves(sequences_before, read_sequences(main))
    track_counts, role, now = main.one(
        "SELECT current_setting('track_counts')::boolean, current_setting('session_replication_role'), "
        "pg_catalog.pg_current_xact_id_if_assigned()::text::bigint"
    )
    return Observed(locks, counts, moves, rows, track_counts, role, now == xid)


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


def _moves(
    before: Mapping[str, tuple[str, int | None]], after: Mapping[str, tuple[str, int | None]]
) -> tuple[SequenceMove, ...]:
    return tuple(
        SequenceMove(name, before[oid][1], last)
        for oid, (name, last) in sorted(after.items(), key=lambda item: item[1][0])
        if oid in before and before[oid][1] != last
    )


def findings(observed: Observed, *, rescue_schema: str, expected_tables: Collection[str], replication_role: str) -> tuple[str, ...]:
    """What cannot be captured or proven, in words. `expected_tables`: oids whose triggers the undo itself switches."""
    found: list[str] = []
    if not observed.same_transaction:
        found.append("the transaction that was begun is not the one that is open now")
    if not observed.track_counts:
        found.append("`track_counts` was switched off, so that the server did not count the writes")
    if observed.replication_role != replication_role:
        found.append(f"`session_replication_role` was set to {observed.replication_role!r}")
    own = {"backout", rescue_schema}
    for lock in observed.locks:
        if lock.table.schema in own and lock.mode in WRITING:
            found.append(f'"{lock.table}" belongs to backout and was written to')
        elif lock.kind == "f" and lock.mode in WRITING:
            found.append(f'foreign table "{lock.table}" was written to: its rows are on another server')
        elif lock.mode in DDL_LOCKS and lock.oid not in expected_tables and lock.kind != "S":
            found.append(f'"{lock.table}" is held with {lock.mode}: DDL, TRUNCATE or LOCK TABLE ran in a function')
        elif lock.kind == "m" and lock.mode in WRITING:
            found.append(f'materialised view "{lock.table}" was refreshed')
    for name, _, _ in observed.counts.values():
        if name.schema == "pg_catalog" and name.name.startswith("pg_largeobject"):
            found.append("large objects were written")
        elif name.schema == "pg_catalog" and name.name not in SHARED_WITH_TEMPORARY:
            found.append(f'the catalogue "{name.name}" was written to: DDL ran in a function')
    found += [f"DDL ran in a function: {what} is new or changed" for what in observed.catalogue_rows]
    for move in observed.sequences:
        if move.before is not None and (move.after is None or move.after < move.before):
            found.append(f'sequence "{move.name}" went from {move.before} back to {move.after}')
    return tuple(dict.fromkeys(found))
