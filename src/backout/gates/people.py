"""People as the project knows them, and who is meant by a name in a policy.

Not for: telling who is at the keyboard (`project/identity.py`). Invariant: however many addresses and keys a person
has, there is one `Person` for them; a name that nobody has matches nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Person:
    """`name` is unique; in the mode "os-user" it is the account's name. `emails` are principals of `allowed_signers`."""

    name: str
    emails: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()

    def is_called(self, words: Collection[str]) -> bool:
        """Whether any of these words is this person's name or address, or a role or a team of theirs."""
        return bool({self.name, *self.emails, *self.roles, *self.teams} & set(words))


@dataclass(frozen=True)
class People:
    """Everybody whom `backout.toml` names."""

    known: Mapping[str, Person] = field(default_factory=dict)  # by name

    def find(self, name_or_email: str) -> Person | None:
        """The person of this name or address; letters' case makes no difference in an address."""
        wanted = address(name_or_email)
        return self.known.get(wanted) or self._by_email.get(wanted.lower())

    @cached_property
    def _by_email(self) -> Mapping[str, Person]:
        """Looked up for each of a ledger's statements; an address belongs to one person (`project/people_file.py`)."""
        return {email.lower(): one for one in [*self.known.values()][::-1] for email in one.emails}

    def canonical(self, name_or_email: str) -> str:
        """The person's one name; of somebody unknown the address itself, in lower case."""
        person = self.find(name_or_email)
        return person.name if person is not None else address(name_or_email).lower()

    def names_of(self, name: str) -> tuple[str, ...]:
        """What statements of the person of this one name are signed with."""
        person = self.known.get(name)
        return (name,) if person is None else (name, *person.emails)

    def words(self) -> frozenset[str]:
        """Every name, role and team that a policy may use."""
        return frozenset(
            word for one in self.known.values() for word in (one.name, *one.emails, *one.roles, *one.teams)
        )


def address(text: str) -> str:
    """The address in `Name <address>`; any other text without the space around it."""
    text = text.strip()
    if text.endswith(">") and "<" in text:
        return text[text.rindex("<") + 1 : -1].strip()
    return text
