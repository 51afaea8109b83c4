"""Statement by statement: what was applied of work that no transaction holds together, since its DDL commits.

Before a statement runs it is written down as `begun`, after it as `applied` or `failed`, each durable at once. After a
kill the last row says which statement that was: `applied`, or `begun` and not known to have ended, so that the schema has
to be asked. No verb uses it yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from backout.engines.mariadb.names import literal
from backout.engines.mariadb.records import NOW, values
from backout.engines.mariadb.session import Session


class StepState(Enum):
    """Where a statement stands."""

    BEGUN = "begun"
    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True)
class StepRecord:
    """One statement of a run, by its place from 1; times are the database's clock."""

    run: int
    place: int
    statement: str
    state: StepState
    begun_at: datetime
    ended_at: datetime | None
    error: str | None


class Progress:
    """The journal's part for it. `control` is in autocommit."""

    def __init__(self, control: Session) -> None:
        self._control = control

    def begin_step(self, run: int, place: int, statement: str) -> None:
        """Durable before the statement runs."""
        row = values(run, place, statement, StepState.BEGUN.value)
        self._control.run(
            f"INSERT INTO backout.progress (run, place, statement, state, begun_at) VALUES ({row}, {NOW})"
        )

    def end_step(self, run: int, place: int, error: str | None = None) -> None:
        """Durable after the statement has run, or failed."""
        state = StepState.APPLIED if error is None else StepState.FAILED
        self._control.run(
            f"UPDATE backout.progress SET state = {literal(state.value)}, ended_at = {NOW}, error = {literal(error)} "
            f"WHERE run = {int(run)} AND place = {int(place)}"
        )

    def steps(self, run: int) -> list[StepRecord]:
        """In the order in which they ran."""
        rows = self._control.rows(
            "SELECT run, place, statement, state, begun_at, ended_at, error FROM backout.progress "
            f"WHERE run = {int(run)} ORDER BY place"
        )
        return [
            StepRecord(
                int(number), int(place), statement, StepState(state), begun.replace(tzinfo=UTC),
                None if ended is None else ended.replace(tzinfo=UTC), error,
            )
            for number, place, statement, state, begun, ended, error in rows
        ]  # fmt: skip
