"""Who is one person among those who said something: by name, and by key.

Not for: whether what they said counts. Invariant: two statements that share a name or a key, however indirectly, are one
person's: who has two keys, or signs under two names, is no second pair of eyes. What links them may be said elsewhere, or
by nobody: a key that `allowed_signers` gives to two people makes them one (`KeyOwner`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


class Signed(Protocol):
    """A statement, or what is made of one: who said it, and with which key; None: with none."""

    @property
    def person(self) -> str: ...
    @property
    def key(self) -> str | None: ...


@dataclass(frozen=True)
class KeyOwner:
    """A key of somebody who is known, as `allowed_signers` has it; `key` is its fingerprint."""

    person: str
    key: str | None


def one_for_all(said: Signed, among: Sequence[Signed]) -> str:
    """One name for all who share a person or a key with this statement."""
    names, keys = {said.person}, {said.key} - {None}
    while True:
        more = [one for one in among if one.person in names or one.key in keys]
        found = names | {one.person for one in more}, keys | ({one.key for one in more} - {None})
        if found == (names, keys):
            return min(names)
        names, keys = found


def distinct_people(among: Sequence[Signed], known: Sequence[Signed] = ()) -> tuple[str, ...]:
    """One name for each person who said one of these, in the order of names; `known` is what else is known of keys."""
    return tuple(sorted({one_for_all(one, (*among, *known)) for one in among}))


def is_one_of(said: Signed, people: Collection[str], among: Sequence[Signed]) -> bool:
    """Whether one of these people said it, under whatever name: `among` is everything that is known of their keys."""
    if said.person in people:
        return True
    mine = one_for_all(said, among)
    return any(one.person in people and one_for_all(one, among) == mine for one in among)
