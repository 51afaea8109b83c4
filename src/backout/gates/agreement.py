"""Two people agreed to what a session did: who typed it, and somebody else. Either may say no [C7].

Not for: waiting for them (`project/waiting.py`). Invariant: a yes counts for this very content alone, and a no
is final; one person counts once, with however many names and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backout.gates.distinct import Signed, distinct_people, one_for_all
from backout.gates.evidence import Said
from backout.gates.people import People
from backout.ledger.statement import Kind


@dataclass(frozen=True)
class Session:
    """What is to be agreed to; `content` is the hash of the rows before and after, `first` who typed."""

    run: str
    content: str
    first: str


@dataclass(frozen=True)
class Agreement:
    """How far it is."""

    agreed: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()  # of those who agreed: what the run's report names
    refused: Said | None = None
    waits_for: tuple[str, ...] = ()  # in words; empty: for nobody

    @property
    def is_reached(self) -> bool:
        """Whether it may be committed."""
        return self.refused is None and not self.waits_for


def judge(said: Sequence[Said], session: Session, people: People, known: Sequence[Signed] = ()) -> Agreement:
    """What these statements come to; `known` is what else is known of people's keys."""
    about = [one for one in said if one.detail("run") == session.run and objection_to(one.person, people) is None]
    refused = next((one for one in about if one.kind is Kind.REFUSE), None)
    agreed = [one for one in about if one.kind is Kind.AGREE and one.detail("content") == session.content]
    waits_for = []
    if not any(one.person == session.first for one in agreed):
        waits_for.append(session.first)
    others = [one for one in agreed if not _is_first(one, session.first, (*about, *known))]
    if not others:
        waits_for.append(f"somebody other than {session.first}")
    return Agreement(
        distinct_people(agreed, known), tuple(one.statement.identifier for one in agreed), refused, tuple(waits_for)
    )


def objection_to(person: str, people: People) -> str | None:
    """Why this person's word does not count; None: it does."""
    return f"{person} is nobody in [people]" if people.known and people.find(person) is None else None


def _is_first(one: Said, first: str, among: Sequence[Signed]) -> bool:
    """Whether it is by who typed, under another name or with another key, too."""
    return one.person == first or any(
        other.person == first and one_for_all(one, among) == one_for_all(other, among) for other in among
    )
