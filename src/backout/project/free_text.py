"""What people write about a run whose rows are PHI holds no value of such a row, as far as that can be told cheaply.

Such a text goes into the ledger, for ever. Not for: texts about a change that has not run, of which there are no rows yet;
nor for columns that are not declared PHI: a state like "closed" is a value of a row, too, and what people saw. Invariant:
no message holds the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backout.engines.protocol import Journal
from backout.engines.values import CapturedTable, RunRecord
from backout.errors import Refused

_LOOKED_AT = 1000  # rows of each table: a person who writes of one has seen one of the first
_TELLING = 3  # characters; a shorter value is in too many words


def require_no_value(journal: Journal, record: RunRecord, text: str, phi: Mapping[str, tuple[str, ...]]) -> None:
    """Refused where the text has a value that the run captured, of a column that is declared PHI (`Config.phi`)."""
    if record.rescue_dropped_at is not None:
        return
    words = text.casefold()
    for table in record.tables:
        declared = _columns(table, phi)
        for column, value in _values(journal, record, table, declared) if declared else ():
            if len(value) >= _TELLING and value.casefold() in words:
                where = f'the column "{column}" of "{table.table.name.name}"'
                raise Refused(
                    "phi", f"the text holds a value of {where}, which is declared PHI",
                    hint="say it without that: what is written here is kept for ever, and read by many",
                )  # fmt: skip


def _columns(table: CapturedTable, phi: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    name = table.table.name
    return frozenset(
        one.lower() for key in (name.name, str(name), f"{name.schema}.{name.name}") for one in phi.get(key, ())
    )


def _values(
    journal: Journal, record: RunRecord, table: CapturedTable, declared: frozenset[str]
) -> Iterator[tuple[str, str]]:
    for change in journal.sample(record, table, _LOOKED_AT):
        for row in (change.before or {}, change.after or {}):
            yield from ((name, text.strip()) for name, text in row.items() if text and name.lower() in declared)
