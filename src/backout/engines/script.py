"""The `db` that a Python change is given: the supervised session, seen through a guard.

Twin: `engines/postgres/script.py`, which offers the same and SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from backout.engines.protocol import Result
from backout.errors import Refused

Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass
class Rows:
    """The answer to one statement of a script, in the manner of a DB-API cursor; all rows are here already."""

    answer: Result
    _left: Iterator[tuple[Any, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._left = iter(self.answer.rows)

    @property
    def rows(self) -> Sequence[tuple[Any, ...]]:
        """All rows, fetched or not."""
        return self.answer.rows

    @property
    def rowcount(self) -> int:
        """Rows that were written, as the engine counts them; of a query, rows that were found."""
        return len(self.answer.rows) if self.answer.columns else self.answer.affected

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, or None after the last."""
        return next(self._left, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        return list(self._left)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._left


class Supervised(Protocol):
    """What a script needs of the transaction."""

    def execute(self, statement: str, parameters: Parameters = ()) -> Result: ...

    def savepoint(self) -> AbstractContextManager[None]: ...


class Script:
    """What `apply(db)` gets, on an engine without `db.sqlalchemy()`. Values never become part of the text."""

    def __init__(self, engine: str, transaction: Supervised, guard: Callable[[str], None]) -> None:
        """`engine` is its name, for messages."""
        self._engine, self._transaction, self._guard = engine, transaction, guard
        self.mode = "real"  # "ghost" in a ghost run
        self.parameters: Mapping[str, Any] = {}  # of the change, with this environment's values

    def execute(self, statement: str, parameters: Parameters = ()) -> Rows:
        """Run one statement; returns a cursor (`fetchone`, `fetchall`, iteration, `rowcount`)."""
        self._guard(statement)
        return Rows(self._transaction.execute(statement, parameters))

    def savepoint(self) -> AbstractContextManager[None]:
        """A part that is taken back when it raises."""
        return self._transaction.savepoint()

    def sqlalchemy(self) -> Any:
        """Always raises Refused: it would go through a driver whose statements could not all be read beforehand."""
        raise Refused(
            "capability",
            f"db.sqlalchemy() is not available on {self._engine}",
            hint='use db.execute("…", parameters); compile a statement with str(statement.compile(…))',
        )

    def batches(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Always refused: a change in batches shows it in its text, and then has a `db` of its own."""
        raise Refused(
            "script", "db.batches was not seen in the text of the change, which runs in one transaction therefore",
            hint='call it in apply itself, by the name of its argument: for batch in db.batches("table", by="id"):',
        )  # fmt: skip

    def commit(self) -> NoReturn:
        """Always refused: the run commits when everything is proven."""
        raise Refused("script", "a change may not commit: the run does, when all is captured and proven", hint=None)

    def rollback(self) -> NoReturn:
        """Always refused: raise an exception instead."""
        raise Refused("script", "a change may not roll back: raise an exception, and the run does", hint=None)
