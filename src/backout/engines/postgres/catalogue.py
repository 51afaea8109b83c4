"""What the catalogue says of tables, keys and foreign keys, as values.

Invariant: nothing here depends on search_path, but `resolve`, which is asked under the change's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backout.engines.postgres.names import qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Column, Table, TableName


@dataclass(frozen=True)
class ForeignKey:
    """One foreign key: `columns` of `child` refer to `referenced_columns` of `parent`.

    The oids may be those of partitions; `child` and `parent` are then the partitioned tables that the key is about.
    """

    name: str
    child_oid: str
    child: str  # as SQL, with ONLY where rows of inheritance children do not count
    parent_oid: str
    parent: str
    columns: tuple[str, ...]
    referenced_columns: tuple[str, ...]
    acts: bool  # CASCADE, SET NULL or SET DEFAULT on delete or update
    operators: tuple[str, ...]  # by which the server compares parent with child; not always found by search_path
    child_oids: tuple[str, ...]  # every table that rows of `child` can be in
    child_name: str


def table_by_oid(session: Session, oid: str) -> Table | None:
    """The table as it is now; None where the oid is gone."""
    return table_of(session.run(query("table"), [oid]).rows)


def table_of(rows: Sequence[tuple[Any, ...]]) -> Table | None:
    """The table of the answer to the query `table`."""
    if not rows:
        return None
    schema, name, identifier, _, _, columns, key, triggers = rows[0]
    return Table(
        TableName(schema, name),
        identifier,
        tuple(Column(**column) for column in columns or ()),
        tuple(key or ()),
        tuple(triggers or ()),
    )


def oid_by_name(session: Session, schema: str | None, name: str) -> str | None:
    """What the name means to this session now."""
    text = quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"
    found: str | None = session.value(query("relation_named"), [text])
    return found


def foreign_keys(session: Session, oids: Sequence[str]) -> list[ForeignKey]:
    """Every foreign key that has one of the tables on either side."""
    return [
        ForeignKey(
            name,
            child,
            _rows_of(cs, cn, partitioned=cp),
            parent,
            _rows_of(ps, pn, partitioned=pp),
            tuple(columns),
            tuple(referenced),
            acts,
            tuple(operators),
            tuple(family),
            str(TableName(cs, cn)),
        )
        for _, name, child, cs, cn, cp, parent, ps, pn, pp, columns, referenced, acts, operators, family in session.run(
            query("foreign_keys"), [list(oids)]
        ).rows
    ]


def _rows_of(schema: str, name: str, *, partitioned: bool) -> str:
    return ("" if partitioned else "ONLY ") + qualified(TableName(schema, name))
