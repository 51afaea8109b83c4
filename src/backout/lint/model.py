"""What a review says: how surely each statement can be undone, and why.

Not for: finding it out. Invariant: a level only gets worse by a finding, and the worst finding is the review's level.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backout.change.model import Change, Step


class Level(Enum):
    """How surely a statement can be undone."""

    EXACT = "exact"
    EXACT_IF = "exact if"
    NOT_UNDOABLE = "not undoable"


_ORDER = (Level.EXACT, Level.EXACT_IF, Level.NOT_UNDOABLE)


def worst(levels: Iterable[Level]) -> Level:
    """Return the worst of the levels; EXACT for none."""
    return max(levels, key=_ORDER.index, default=Level.EXACT)


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found; EXACT is a note, which leaves the verdict as it is.

    An EXACT_IF message is the condition, and reads after "exact if". Findings about the catalogue of a database use
    the same value.
    """

    rule: str
    level: Level
    message: str
    hint: str | None
    line: int
    column: int


@dataclass(frozen=True)
class StatementVerdict:
    """The verdict on one step; `step` is None for a Python change, whose statements are known only when it runs."""

    step: Step | None
    line: int
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst level of its findings."""
        return worst(finding.level for finding in self.findings)


@dataclass(frozen=True)
class Review:
    """The verdicts on all steps of a change."""

    change: Change
    verdicts: tuple[StatementVerdict, ...]

    @property
    def level(self) -> Level:
        """The worst level of its verdicts."""
        return worst(verdict.level for verdict in self.verdicts)

    @property
    def passed(self) -> bool:
        """Whether the change may go on: nothing in it is not undoable."""
        return self.level is not Level.NOT_UNDOABLE

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order of the file."""
        return tuple(finding for verdict in self.verdicts for finding in verdict.findings)
