"""Before the first batch: whether the table and its key are fit, where the key ends, and what the statement will reach.

Names mean what they mean to the environment's role. Invariant: nothing is written, and no lock outlives a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backout.engines.batches import Keyset
from backout.engines.postgres import catalogue
from backout.engines.postgres.batch import SQL
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Table, Write
from backout.errors import Refused


@dataclass(frozen=True)
class Sought:
    """What a change says of the table that its batches go through."""

    schema: str | None
    name: str
    by: tuple[str, ...]
    columns: tuple[str, ...]  # that an UPDATE sets
    update_only: bool  # it is a plain UPDATE, and whole post-images are not asked for
    writes: bool  # False: rows are only read there


def survey(main: Session, role: str | None, sought: Sought) -> Keyset:
    """See `engines.batches.Batches.survey`."""
    name, by = sought.name, sought.by
    with as_role(main, role):
        oid = catalogue.oid_by_name(main, sought.schema, name)
        main.run("SET LOCAL ROLE NONE")
        found = catalogue.table_by_oid(main, oid) if oid else None
        if found is None or oid is None:
            raise _unfit(name, "there is no such table", "check the name and the schema (search_path)")
        estimated = _require_fit(main, found, by, writes=sought.writes)
        narrow = sought.update_only and main.value(query("narrowing"), [oid]) and not {*sought.columns} & {*found.key}
        main.run("SET LOCAL enable_seqscan = off")
        order = comma(f"t.{quoted(one)} DESC" for one in by)
        cells = comma(f"t.{quoted(one)}::text" for one in by)
        last = main.run(f"SELECT {cells} FROM ONLY {qualified(found.name)} t ORDER BY {order} LIMIT 1").rows
    all_columns = tuple(column.name for column in found.restorable)
    touched = tuple(one for one in all_columns if one in sought.columns) if narrow else all_columns
    return Keyset(found, by, tuple(last[0]) if last else None, estimated, touched, sought.writes)


@contextmanager
def as_role(main: Session, role: str | None) -> Iterator[None]:
    """A transaction that can only read (manual: SET TRANSACTION, "READ ONLY"), and is rolled back."""
    main.run("BEGIN READ ONLY")
    try:
        if role:
            main.run(f"SET LOCAL ROLE {quoted(role)}", doing="set the role")
        yield
    finally:
        if not main.lost:
            main.run("ROLLBACK")


def _require_fit(main: Session, table: Table, by: Sequence[str], *, writes: bool) -> int:
    name = str(table.name)
    kind, has_children, estimated = main.one(query("batch_table", SQL), [table.identifier])
    if kind != "r" or has_children:
        raise _unfit(
            name, "it is not a plain table of its own: it has partitions, or tables that inherit from it",
            "name one partition, a change for each",
        )  # fmt: skip
    if writes and not table.key:
        raise _unfit(name, "no key identifies its rows", "give it a primary key")
    for column, there, not_null, built_in in main.run(query("batch_columns", SQL), [table.identifier, list(by)]).rows:
        if not there:
            raise _unfit(name, f'it has no column "{column}"', "name the columns of an index")
        if not not_null:
            raise _unfit(name, f'column "{column}" may be NULL, and such rows are in no batch', "use its primary key")
        if not built_in:
            raise _unfit(name, f'column "{column}" has a type of an extension or of your own', "use another key")
    if not main.value(query("batch_index", SQL), [table.identifier, list(by)]):
        columns = comma(map(quoted, by))
        raise _unfit(
            name, f"no index has its rows in the order of {columns}",
            f"CREATE INDEX CONCURRENTLY ON {qualified(table.name)} ({columns}), or name the columns of the primary key",
        )  # fmt: skip
    return int(estimated)


def foreseen(main: Session, role: str | None, keyset: Keyset, write: Write, columns: Sequence[str]) -> frozenset[str]:
    """See `engines.batches.Batches.foreseen`. Whatever else a batch writes shows when it has written it."""
    if write.operation == "insert":
        with as_role(main, role):
            oid = catalogue.oid_by_name(main, write.schema, write.table)
            kind = main.value(query("relation_kind", SQL), [oid]) if oid else None
        return frozenset([oid] if oid and kind == "r" else [])
    gone, changed = write.operation == "delete", list(columns) if write.operation == "update" else []
    rows = main.run(query("foreseen", SQL), [keyset.table.identifier, gone, changed]).rows
    return frozenset(oid for (oid,) in rows)


def require_by_rows(main: Session, role: str | None, statement: str, parameters: Sequence[Any]) -> None:
    """See `engines.batches.Batches.require_by_rows`. By the planner's own word: EXPLAIN runs nothing (manual: EXPLAIN)."""
    with as_role(main, role):
        main.run("SET LOCAL max_parallel_workers_per_gather = 0")
        plans = main.value(f"EXPLAIN (FORMAT JSON, COSTS OFF) {statement}", parameters)
    for joined in (joins_rows(plan["Plan"]) for plan in plans):
        if joined is not None:
            raise Refused(
                "batches", f"the statement makes one row of several ({joined}): batches would not add up to it",
                hint="run it without @batch",
            )  # fmt: skip


#: What makes one row of several, or leaves some out by their place; as EXPLAIN says it ("Node Type").
_JOINING = {"Aggregate", "Group", "WindowAgg", "Unique", "Limit", "SetOp"}
_LEADING_ON = {
    "Outer",
    "Member",
    "Subquery",
}  # "Parent Relationship": the rows themselves, not what is asked beside them


def joins_rows(plan: Mapping[str, Any]) -> str | None:
    """The first such step between the write and its first join or scan; None: there is none."""
    while True:
        beside = [one.get("Parent Relationship") for one in plan.get("Plans", ())]
        inner = [one for one in plan.get("Plans", ()) if one.get("Parent Relationship") in _LEADING_ON]
        if plan["Node Type"] in _JOINING:
            return str(plan["Node Type"]).lower()
        if len(inner) != 1 or "Inner" in beside:
            return None
        (plan,) = inner


def _unfit(table: str, reason: str, hint: str) -> Refused:
    return Refused("batches", f'table "{table}" is not fit for batches: {reason}', hint=hint)
