"""People have looked at the application after a run, and said what they saw [A10].

Not for: stopping a run: nobody can look before it. What it stops is the next rung: a rehearsal that nobody attested gives
no certificate that counts (`ladder`). Invariant: as many as the policy asks are as many people, with keys of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backout.gates.distinct import Signed, distinct_people
from backout.gates.evidence import SKEW, Said
from backout.gates.people import People
from backout.ledger.statement import Kind


@dataclass(frozen=True)
class Ran:
    """A run that people look at; `began` is by the database's clock."""

    identifier: str
    environment: str
    digest: str
    began: datetime


@dataclass(frozen=True)
class Validation:
    """How far a run is validated: `people` have attested it, and the policy asks for `wanted` of them."""

    wanted: int
    people: tuple[str, ...] = ()
    problem: str | None = None  # why nothing can be said

    @property
    def is_validated(self) -> bool:
        """Whether enough people have looked."""
        return self.problem is None and len(self.people) >= self.wanted

    @property
    def text(self) -> str:
        """The same in words."""
        if self.problem is not None:
            return f"unvalidated ({self.problem})"
        if self.is_validated:
            return f"validated by {', '.join(self.people)}"
        return f"unvalidated ({len(self.people)} of {self.wanted} have attested)"


def validation_of(
    run: Ran, wanted: int, said: Iterable[Said], people: People, known: Sequence[Signed] = ()
) -> Validation:  # fmt: skip
    """Who of those that spoke has attested this very run, and is known."""
    attested = [
        one for one in said
        if one.kind is Kind.ATTEST and one.detail("run") == run.identifier and one.detail("saw").strip()
        and one.statement.environment == run.environment and one.statement.digest == run.digest
        and one.at >= run.began - SKEW and (not people.known or people.find(one.person) is not None)
    ]  # fmt: skip
    return Validation(wanted, distinct_people(attested, known))
