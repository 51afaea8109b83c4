"""What a rehearsal proved, as a value that a gate can judge: which text, where, by whom, on which tables of which shape.

Made by `runs/rehearsal.py`, kept by the ledger. Not for: judging whether a run may start. Invariant: a certificate says
only what was seen; one over no rows at all proves nothing, and `certified_nothing` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from backout.engines.values import Table

REHEARSED, GHOST_UNDO = "rehearsal", "ghost --undo"
SESSION = "session"  # two people did it there, and agreed to what it did


@dataclass(frozen=True)
class Shape:
    """A table as far as a change can depend on it."""

    columns: Mapping[str, str]  # name -> type
    key: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table) -> Shape:
        """The shape of a table as the catalogue describes it."""
        return cls({column.name: column.type for column in table.columns}, table.key, tuple(sorted(table.triggers)))


@dataclass(frozen=True)
class Certificate:
    """One rehearsal that ended well. `rows` has what the real run wrote: table -> rows inserted, updated, deleted."""

    change: str
    digest: str
    environment: str
    person: str  # who rehearsed
    run: str  # the identifier of the real run on that environment
    at: datetime  # by that database's clock
    product: str
    version: str
    rows: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)  # of the same tables
    way: str = REHEARSED
    idempotent: bool | None = None  # whether a second run changed nothing; None: it was not tried, or could not run
    binding: str = ""  # of a `ghost --undo`: the digest of the values that it had; elsewhere those are others anyway
    key: str | None = None  # fingerprint of the key that it is signed with, once somebody has vouched for it

    @property
    def certified_nothing(self) -> bool:
        """Whether no row was written: staging may lack the rows that the change is about."""
        return not any(sum(counts) for counts in self.rows.values())


def shape_differences(rehearsed: Mapping[str, Shape], now: Mapping[str, Shape | None]) -> tuple[str, ...]:
    """What differs between the tables that were rehearsed and the same tables here, in words; none: empty."""
    return tuple(
        text for table, shape in sorted(rehearsed.items()) for text in _differences(table, shape, now.get(table))
    )


def _differences(table: str, rehearsed: Shape, now: Shape | None) -> Iterator[str]:
    if now is None:
        yield f"table {table} is not here"
        return
    for name, type_ in rehearsed.columns.items():
        if name not in now.columns:
            yield f'{table}: column "{name}" is not here'
        elif now.columns[name] != type_:
            yield f'{table}: column "{name}" is {now.columns[name]} here, and was {type_}'
    for name in now.columns:
        if name not in rehearsed.columns:
            yield f'{table}: column "{name}" was not there'
    if rehearsed.key != now.key:
        yield f"{table}: its key is ({', '.join(now.key)}) here, and was ({', '.join(rehearsed.key)})"
    for trigger in sorted(set(now.triggers) ^ set(rehearsed.triggers)):
        where = "was not there" if trigger in now.triggers else "is not here"
        yield f'{table}: trigger "{trigger}" {where}'
