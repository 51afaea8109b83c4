"""`[people.NAME]` to `People`: in `backout.toml`, or in the file that `people = "…"` of `[project]` names.

Not for: keys, which are in `allowed_signers` (git's format). Invariant: no address belongs to two people, since each
approval must count for one person.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from backout.change.nearest import suggest
from backout.errors import InvalidFile, Position, UsageError
from backout.gates.people import People, Person
from backout.gates.policy import Policy
from backout.project.toml_table import Table

PERSON_KEYS = ("email", "roles", "teams")


def read_people(root: Table, file: Path | None) -> People:
    """Return the people of both places; InvalidFile or UsageError for what is wrong there."""
    tables = root.tables("people", PERSON_KEYS)
    if file is not None:
        outside = _read_file(file)
        outside.only(("people",))
        tables += outside.tables("people", PERSON_KEYS)
    people: dict[str, Person] = {}
    owners: dict[str, str] = {}
    for name, table in tables:
        if name in people:
            raise table.error(f'person "{name}" is there twice', hint="keep one of them")
        person = _person(name, table)
        for email in person.emails:
            if owners.setdefault(email.lower(), name) != name:
                raise table.error(
                    f'"{email}" is the address of "{owners[email.lower()]}" already', "email",
                    hint="an address belongs to one person, so that approvals are of two",
                )  # fmt: skip
        people[name] = person
    return People(people)


def _person(name: str, table: Table) -> Person:
    value = table.content.get("email", [])
    emails = [value] if isinstance(value, str) else value
    if not isinstance(emails, list) or not all(isinstance(one, str) and "@" in one for one in emails):
        raise table.error('key "email" must be an address, or a list of them', "email", 'email = "you@example.org"')
    return Person(name, tuple(emails), frozenset(table.names("roles")), frozenset(table.names("teams")))


def _read_file(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8")
        return Table(text, str(path), (), tomllib.loads(text))
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to read the people in "{path}": {reason}', hint="[people.NAME] tables") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidFile(f"not valid TOML: {error}", Position(str(path), 1, 1)) from None


def require_known_words(table: Table, policy: Policy, people: People) -> None:
    """Refuse a policy that names a person, role or team that nobody is: a mistyped name would let nobody pass."""
    named: Iterable[tuple[str, tuple[str, ...]]] = (
        ("operators", policy.operators),
        ("emergency", policy.emergency),
        ("overrule", policy.overrule),
        ("reveal", policy.reveal),
        *(("roles", words) for words in policy.roles.values()),
    )
    known = people.words()
    for key, words in named:
        for word in words:
            if people.known and word not in known:
                raise table.error(f'key "{key}" names "{word}", which nobody is', key, suggest(word, known))
