"""One undo in progress: what its parts share.

Invariant: nothing here writes to a table of the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, Pair
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.values import UndoPlan

#: Columns that may be in a circle of unique values, each with one that no row has, as SQL over `t` and `p`.
Spares = Sequence[tuple[Pair, str]]


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
class Work:
    """One undo in progress."""

    main: Session
    plan: UndoPlan
    rescue_schema: str
    way: Way
    tables: list[KeyedTable | KeylessTable] = field(default_factory=list)
    disabled: list[tuple[str, str, str]] = field(default_factory=list)  # (table, trigger, tgenabled)
    wanted: Sequence[tuple[int, int, int]] = ()  # by table, as far as the images tell: to delete, to update, to insert
    savepoints: list[int] = field(default_factory=list)  # ids under which rows were written
    rewritable: frozenset[int] = frozenset()  # places of tables that may be rewritten; see `undo_statements.Rewriting`
    rewriting: frozenset[int] = frozenset()  # of them, those that are
    putting_aside: Mapping[int, Spares] = field(default_factory=dict)  # by place, where it is done; see `undo_aside.py`
    moved: dict[int, str] = field(default_factory=dict)  # place -> table of the rows whose key the run changed
    in_doubt: Sequence[Sequence[KeyedTable]] = ()  # tables, by family, whose rows may have moved, nobody knows which


def is_left(work: Work, table: KeylessTable) -> bool:
    """A table without a key is put back whole or not at all."""
    return bool(
        work.main.value(
            f"SELECT EXISTS (SELECT FROM {CONFLICT_TABLE} x WHERE x.place = {table.place} AND NOT x.forced)"
        )
    )


def note_savepoint(work: Work) -> None:
    """Learn the transaction id of the savepoint that is open, so that capture can look for it: a row made now bears it.

    There is no function that tells it (measured on 15 to 18: pg_current_xact_id is the top-level one).
    """
    (xid,) = work.main.one(
        f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, forced) VALUES (0, '', '', true) "
        "RETURNING xmin::text::bigint"
    )
    work.savepoints.append(xid)
