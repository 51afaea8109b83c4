"""A run of a subset: the statements that declare `@subset` get the condition on their key, all the others stay.

Not for: parsing what a person typed (`change/subset.py`), nor for where the condition stands (`sql/subset.py`).
Invariant: the keys of `--subset "50 rows"` are asked for once, and are the same literals in every statement of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backout.change.model import Change, DataClass, Step, StepKind
from backout.change.subset import Subset
from backout.engines.protocol import Transaction
from backout.errors import UsageError
from backout.sql.limitable import Limitable
from backout.sql.model import Dialect
from backout.sql.restrict import NotRestrictable
from backout.sql.subset import limitable


@dataclass
class Subsetting:
    """The subset of one run; `subset` becomes a list of keys when the first statement needs it."""

    change: Change
    values: Mapping[str, Any]
    subset: Subset

    def limited(self, step: Step, transaction: Transaction | None = None) -> Step:
        """The step with its text limited; as it is where it declares no `@subset`.

        Without a transaction (a check after the commit) the keys must be known already.
        """
        if step.subset is None:
            return step
        found = self._limitable(step)
        if self.subset.rows is not None and transaction is not None:
            self.subset = self.subset.of(self._first_keys(self.subset.rows, transaction))
        text = found.limited(self.subset.condition(found.column))
        return replace(step, statement=replace(step.statement, text=text))

    def recorded(self, step: Step) -> str:
        """The text of a limited step as it may be written down: of PHI without the values of the key."""
        if step.subset is None or self.change.metadata.data is not DataClass.PHI:
            return self.limited(step).statement.text
        found = self._limitable(step)
        return found.limited(self.subset.condition(found.column, private=True))

    def _limitable(self, step: Step) -> Limitable:
        assert step.subset is not None
        try:
            return limitable(self.change.dialect, step.statement, step.subset.table, step.subset.by)
        except NotRestrictable as refused:  # reading the change has refused it already
            raise UsageError(f"line {step.statement.line}: {refused.reason}", hint=refused.hint) from None

    def _first_keys(self, count: int, transaction: Transaction) -> list[str]:
        """Keys, as literals, of the rows that the first limited statement would write now."""
        writes = (one for one in self.change.steps if one.kind is StepKind.APPLY and one.subset is not None)
        keys = self._limitable(next(writes)).keys
        assert keys is not None, "a statement that writes has them"
        parameters: Any = {name: self.values[name] for name in keys.parameters}
        if self.change.dialect is Dialect.POSTGRES:
            parameters = list(parameters.values())
        return [str(row[0]) for row in transaction.check(keys.first(count), parameters).rows]
