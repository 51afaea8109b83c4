"""Who is one person among those who said something: by name, and by key.

Not for: whether what they said counts. Invariant: two statements that share a name or a key, however indirectly, are one
person's: who has two keys, or signs under two names, is no second pair of eyes.
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.gates.evidence import Said


def one_for_all(said: Said, among: Sequence[Said]) -> str:
    """One name for all who share a person or a key with this statement."""
    names, keys = {said.person}, {said.key} - {None}
    while True:
        more = [one for one in among if one.person in names or one.key in keys]
        found = names | {one.person for one in more}, keys | ({one.key for one in more} - {None})
        if found == (names, keys):
            return min(names)
        names, keys = found


def distinct_people(among: Sequence[Said]) -> tuple[str, ...]:
    """One name for each person who said one of these, in the order of names."""
    return tuple(sorted({one_for_all(one, among) for one in among}))
