"""A table's definition as the journal keeps it, where the journal is text."""

from __future__ import annotations

import json
from dataclasses import asdict

from backout.engines.values import Column, Table, TableName


def table_as_json(table: Table) -> str:
    """The definition as JSON."""
    return json.dumps(asdict(table), ensure_ascii=False)


def table_of_json(text: str) -> Table:
    """The definition that `table_as_json` wrote."""
    fields = json.loads(text)
    return Table(
        name=TableName(**fields["name"]),
        identifier=fields["identifier"],
        columns=tuple(Column(**column) for column in fields["columns"]),
        key=tuple(fields["key"]),
        triggers=tuple(fields["triggers"]),
    )
