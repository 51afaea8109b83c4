"""A Python change in batches: `for batch in db.batches(…)`, each turn of the loop a batch.

The loop is the script's. What it writes in a turn is captured, proven and committed when it asks for the next one; outside
of the loop the script can only read. A turn may come twice, and after a lock that was not free, or when the run is resumed,
the script begins anew and gets only the batches that are left: what it does outside of the database it must allow for.

Invariant: no statement of the script reaches the server between two batches, but in a transaction that can only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from time import sleep
from types import MappingProxyType
from typing import Any, NoReturn

from backout.errors import AssertionFailed, BackoutError, Refused
from backout.runs.batches_going import Going
from backout.runs.batches_pace import ATTEMPTS, before_attempt
from backout.runs.batches_settle import is_worth_another
from backout.runs.batches_turns import Bounds, Turns
from backout.runs.recorder import told_mode
from backout.runs.report import AssertionReport, shown
from backout.runs.script import guard_for, played


class RunEnds(BaseException):
    """Goes through the script, which is not to catch it, to `run_loop`; what ended the run is in `Turns.failed`."""


def run_loop(going: Going) -> tuple[AssertionReport, ...]:
    """Run `apply`, as often as locks make it begin anew, then `check`. Raises what ended it."""
    attempt, done = 1, going.done
    while True:
        database = LoopedDatabase(going)
        try:
            return _played(going, database)
        except RunEnds:
            assert database.turns.failed is not None
            raise database.turns.failed from None
        except BackoutError as error:
            database.turns.abandon()
            attempt, done = (attempt + 1, done) if going.done == done else (1, going.done)
            if attempt > ATTEMPTS or not is_worth_another(error):
                raise
            going.retries += 1
            going.pace = going.pace.smaller()
            sleep(before_attempt(attempt))
        except BaseException:
            database.turns.abandon()
            raise


def _played(going: Going, database: LoopedDatabase) -> tuple[AssertionReport, ...]:
    change = going.run.change
    with told_mode(going.run.mode), played(change) as (apply, check):
        apply(database)
        turns = database.turns
        if turns.failed is not None:
            raise RunEnds
        if turns.is_open or not turns.over:
            raise Refused(
                "script", "the script left its loop over db.batches before the last batch: the one at hand is rolled back",
                state=going.state, hint="go through the loop to its end; use `continue` for batches with nothing to do",
            )  # fmt: skip
        if check is None:
            return ()
        if not going.keeps:
            going.notes.append("check(db) is asked after the last batch, and was not: each batch was rolled back")
            return ()
        answer = check(database)
    found = AssertionReport("check(db)", answer is not False, shown(answer, private=going.is_private))
    if not found.passed:
        raise AssertionFailed(
            f"{change.path}: check(db) returned False", hint="look at the data, then keep it or take it back"
        )
    return (found,)


class LoopedDatabase:
    """What `apply(db)` gets in a run in batches. `%s` and `%(name)s` parameters, as in the DB-API."""

    def __init__(self, going: Going) -> None:
        assert going.step.batching is not None
        self._going, self._wanted = going, going.step.batching
        self._guard = guard_for(going.run.change.dialect)
        self._reads = False
        self._inner = going.batches.script(self._judged)
        self.turns = Turns(going)
        self.mode = self._inner.mode = going.run.mode.value
        self.parameters = self._inner.parameters = MappingProxyType(going.run.values)

    def batches(self, table: str, by: str | Sequence[str] = (), size: int | None = None) -> Iterator[Bounds]:
        """The batches that are left, in the order of the key; each with `where`, SQL for its rows, `after` and `upto`."""
        given = (table, (by,) if isinstance(by, str) else tuple(by), size)
        if given != (self._wanted.table, self._wanted.by, self._wanted.size):
            raise Refused("script", "db.batches was called with other values than the text of the change says")
        return self._turns()

    def _turns(self) -> Iterator[Bounds]:
        while (bounds := self._next()) is not None:
            yield bounds

    def _next(self) -> Bounds | None:
        try:
            return self.turns.next()
        except BackoutError:
            raise RunEnds from None

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run one statement; returns a cursor. Between batches it can only read."""
        if self.turns.is_open:
            return self._inner.execute(statement, parameters)
        if self.turns.failed is not None:
            raise RunEnds
        self._reads = True
        try:
            with self._going.batches.reading():
                return self._inner.execute(statement, parameters)
        finally:
            self._reads = False

    def _judged(self, text: str) -> None:
        """Every statement passes here, SQLAlchemy's included."""
        if not (self.turns.is_open or self._reads):
            raise Refused(
                "script", "a statement outside of the loop over db.batches", state=self._going.state,
                hint="write in the loop; outside of it, db.execute can read",
            )  # fmt: skip
        self._guard(text)

    def savepoint(self) -> AbstractContextManager[None]:
        """A part of a batch that is taken back when it raises."""
        if not self.turns.is_open:
            raise Refused("script", "a savepoint outside of the loop over db.batches", state=self._going.state)
        savepoint: AbstractContextManager[None] = self._inner.savepoint()
        return savepoint

    def sqlalchemy(self) -> Any:
        """A SQLAlchemy `Connection` for this batch: ask for it in each turn, and end the session's work there."""
        if not self.turns.is_open:
            raise Refused(
                "script", "db.sqlalchemy() outside of the loop over db.batches", state=self._going.state,
                hint="ask for it in each turn of the loop",
            )  # fmt: skip
        return self._inner.sqlalchemy()

    def commit(self) -> NoReturn:
        """Always refused: each batch is committed when the next is asked for."""
        raise Refused("script", "a change may not commit: each batch is, when it is captured and proven", hint=None)

    def rollback(self) -> NoReturn:
        """Always refused: raise an exception instead."""
        raise Refused("script", "a change may not roll back: raise an exception, and the batch is", hint=None)
