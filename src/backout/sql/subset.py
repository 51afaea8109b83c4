"""What a statement becomes when it is limited to some keys of a table: the door by dialect.

Not for: which keys (`change/subset.py`). Invariant: where the text alone does not show that the condition stands in the
outermost WHERE, `NotRestrictable` says why.
"""

from __future__ import annotations

from backout.sql.limitable import Limitable
from backout.sql.model import Dialect, Statement
from backout.sql.restrict import NotRestrictable


def limitable(dialect: Dialect, statement: Statement, table: str, key: str) -> Limitable:
    """The statement as one that can be limited to keys of `table`; raises NotRestrictable.

    `table` and `key` are names as the database has them: folded where they were written without quotes.
    """
    if dialect is Dialect.POSTGRES:
        from backout.sql import postgres_subset

        return postgres_subset.limitable(statement, table, key)
    if dialect is Dialect.SQLITE:
        from backout.sql import sqlite_subset

        return sqlite_subset.limitable(statement, table, key)
    raise NotRestrictable(f"subsets are not built for {dialect.value} yet", "take the directive out")
