"""What may be shown of a change whose rows are PHI: which rows and columns, and no value of any.

Not for: errors (`supervise.keep_back`). Invariant: what comes out of here holds `•••` where a value was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from backout.change.model import Change, DataClass
from backout.engines.values import RowChange
from backout.lint.model import Review, StatementVerdict
from backout.sql.literals import MASK, masked

CHANGED = f"{MASK} (another value)"  # in the row after, where it differs from the row before

PHI = DataClass.PHI.value


def shown_rows(data: str, rows: Iterable[RowChange], *, reveal: bool = False) -> tuple[RowChange, ...]:
    """The rows as they are, or masked where they are PHI and nobody has asked to see them."""
    return tuple(rows) if data != PHI or reveal else tuple(_masked(one) for one in rows)


def shown_text(change: Change, text: str) -> str:
    """A statement's text, without its constants and comments where the rows are PHI."""
    return masked(text, change.dialect) if change.metadata.data is DataClass.PHI else text


def masked_review(review: Review) -> Review:
    """The review without constants in its statements, where the rows are PHI."""
    if review.change.metadata.data is not DataClass.PHI:
        return review
    return replace(review, verdicts=tuple(_masked_verdict(review.change, one) for one in review.verdicts))


def _masked_verdict(change: Change, verdict: StatementVerdict) -> StatementVerdict:
    step = verdict.step
    if step is None:
        return verdict
    statement = replace(step.statement, text=shown_text(change, step.statement.text))
    return replace(verdict, step=replace(step, statement=statement))


def _masked(row: RowChange) -> RowChange:
    before = dict.fromkeys(row.before, MASK) if row.before is not None else None
    if row.after is None:
        return RowChange(row.table, before, None)
    old: Mapping[str, str | None] = row.before or row.after
    after = {name: MASK if old.get(name) == value else CHANGED for name, value in row.after.items()}
    return RowChange(row.table, before, after)
