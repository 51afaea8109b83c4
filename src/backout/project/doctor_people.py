"""What `doctor` says of policies, people, keys and the ledger.

Not for: databases (`doctor`). Invariant: "wrong" is what makes a policy impossible to satisfy or worth nothing; "weak" is
what a person should know and may want.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from backout.errors import BackoutError
from backout.gates.operators import other_host
from backout.gates.policy import OS_USER, SSH, STRICT_NAME, Policy
from backout.ledger.signers import AllowedKey, read_allowed_signers
from backout.project.advice import Advice
from backout.project.book import Book
from backout.project.config import Config, Environment
from backout.project.hosts import hosts_of
from backout.project.private import advise_on_readers


def advise_on_people(config: Config) -> Iterator[Advice]:
    """Look at what is asked of people, and at whether they can give it. Writes nothing."""
    for environment in config.environments.values():
        yield from _of_hosts(environment)
        yield from _of_policy(config, environment)
    asking = [one for one in config.environments.values() if one.policy.needs_people]
    if not asking:
        return
    if any(one.policy.identity == SSH for one in asking):
        yield from _of_keys(config)
    yield from _of_ledger(config, two_people=any(one.policy.needs_two_people for one in asking))


def _of_policy(config: Config, environment: Environment) -> Iterator[Advice]:
    name, policy = environment.name, environment.policy
    if not policy.needs_people:
        if name == STRICT_NAME:
            yield Advice("weak", f'"{name}" asks nothing of people before a run', 'profile = "team", once you are two')
        return
    for lower in policy.after:
        if lower not in config.environments:
            yield Advice(
                "wrong", f'"{name}" wants a rehearsal on "{lower}", which is not an environment',
                f"write [environments.{lower}], or after = […] for {name}",
            )  # fmt: skip
    yield from _of_approvals(config, name, policy)
    if len(config.people.known) < policy.attest and policy.identity == SSH:
        text = f'"{name}" wants {policy.attest} people to attest a run, and [people] has {len(config.people.known)}'
        yield Advice("wrong", text, "write [people.NAME] for each, with the address that is in allowed_signers")
    if policy.identity == OS_USER:
        text = f'"{name}" believes the accounts of the operating system: nothing is signed'
        yield Advice("weak", text, 'identity = "ssh", and a file of allowed signers')
    if not policy.operators:
        yield Advice("weak", f'everybody who is known may run on "{name}"', 'operators = ["…"]')
    if not policy.emergency:
        text = f'nobody may run on "{name}" without waiting for people, not even in an emergency'
        yield Advice("weak", text, 'emergency = ["…"]')
    if policy.announce is not None and not policy.overrule:
        yield Advice("weak", f'nobody may overrule an objection to a run on "{name}"', 'overrule = ["…"]')


def _of_hosts(environment: Environment) -> Iterator[Advice]:
    """The text of the URL alone; where a secret of it is missing there is nothing to say."""
    with suppress(BackoutError):
        other = other_host(hosts_of(environment.resolved_url()), environment.policy)
        if other is not None and other != "none":  # without a host the driver's own is meant
            yield Advice(
                "wrong", f'the url of "{environment.name}" has host "{other}", which is not in its `hosts`',
                "nothing can run there: correct one of the two",
            )  # fmt: skip


def _of_approvals(config: Config, name: str, policy: Policy) -> Iterator[Advice]:
    people = config.people.known
    needed = len(policy.approvals) + 1  # the author is none of them
    if policy.approvals and policy.identity == SSH and len(people) < needed:
        yield Advice(
            "wrong", f'"{name}" wants {len(policy.approvals)} approvals by others, and [people] has {len(people)} people',
            "write [people.NAME] for each, with the address that is in allowed_signers",
        )  # fmt: skip
    for kind, words in policy.roles.items():
        if not any(one.is_called(words) for one in people.values()):
            yield Advice(
                "wrong", f'nobody can give the approval "{kind}" on "{name}": nobody is {" or ".join(words)}',
                f'roles = ["{words[0]}"] for somebody',
            )  # fmt: skip


def _of_keys(config: Config) -> Iterator[Advice]:
    if shutil.which("ssh-keygen") is None:
        yield Advice("wrong", "ssh-keygen is not on this machine", "install OpenSSH's client")
    file = config.signers_file
    try:
        keys = read_allowed_signers(file)
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
        return
    if not keys:
        hint = 'a line for each person: ann@example.org namespaces="statement@backout" ssh-ed25519 AAAA…'
        yield Advice("wrong", f'statements have to be signed, and there are no keys in "{file}"', hint)
        return
    yield from _of_lines(config, file, keys)
    have = {config.people.canonical(principal) for one in keys for principal in one.principals}
    for person in config.people.known.values():
        if person.name not in have:
            yield Advice(
                "weak", f'"{person.name}" has no key in "{file.name}", and cannot sign', "add their public key"
            )


def _of_lines(config: Config, file: Path, keys: Sequence[AllowedKey]) -> Iterator[Advice]:
    owners: dict[str, str] = {}
    for one in keys:
        place = f"{file.name}:{one.line}"
        if one.has_pattern:
            yield Advice("wrong", f"{place}: a pattern lets one key speak for many people", "name one address per line")
        if one.is_authority:
            yield Advice(
                "weak", f"{place}: a certificate authority can make keys for anybody", "name people's own keys"
            )
        for principal in one.principals:
            person = config.people.canonical(principal)
            other = owners.setdefault(one.fingerprint, person)
            if other != person:
                text = f'{place}: "{person}" and "{other}" have the same key: they count as one person'
                yield Advice("wrong", text, "each person has a key of their own")
            if config.people.known and config.people.find(principal) is None and not one.has_pattern:
                yield Advice("weak", f'{place}: "{principal}" is nobody in [people]', "write [people.NAME] with it")


def _of_ledger(config: Config, *, two_people: bool) -> Iterator[Advice]:
    try:
        url = config.ledger_url()
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
        return
    if two_people and config.statements != "files" and url.startswith("sqlite:"):
        hint = 'ledger = "postgresql://…", or statements = "files", which git merges'
        if config.ledger is None:
            text = "a policy asks for two people, and the ledger is a file that only this machine has"
            yield Advice("wrong", text, hint)
        else:
            text = "the ledger is a file: that is enough only where everybody works on this machine"
            yield Advice("weak", text, hint)
    try:
        reading = Book(config).read()
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
        return
    if reading.problem:
        yield Advice("wrong", f"the ledger is not as it was written: {reading.problem}", "backout audit")
    else:
        yield Advice("fine", f"the ledger has {reading.count} entries, and its chain holds")
    yield from advise_on_readers(config, reading.entries)
