"""What only an operator may do past the gates of a run, in their own name: say which environment a database is, or put a
backup in the place of one.

The stamp decides which policy a database has, so that writing it is a way past every gate; a restore replaces every row,
and wants the word of somebody else where the policy asks for approvals. Not for: doing either. Invariant: where any
environment that it is about asks anything of people, the ledger has who did it before it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backout.errors import Refused
from backout.gates import approvals, operators, soundness
from backout.gates.evidence import Evidence
from backout.gates.policy import OS_USER, SSH
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book
from backout.project.identity import speaker_of
from backout.project.subject import Subject


@dataclass(frozen=True)
class Deed:
    """What is to be done, on which environment, and by whose policies: that of each name that the database has."""

    kind: Kind
    environment: str
    names: tuple[str, ...]
    details: Mapping[str, Any]
    words: str  # for an error: "a restore into …"


def restamping(stamped: str, environment: str, identity: str) -> Deed:
    """`stamped` is what the database says now, `environment` what it is to say; `identity` is its own as it is."""
    details = {"from": stamped, "identity": identity}
    words = f'a stamp from "{stamped}" to "{environment}"'
    return Deed(Kind.RESTAMP, environment, (stamped, environment), details, words)


def restoring(backup: str, environment: str, stamped: str | None) -> Deed:
    """A backup in the place of this environment's database; `stamped` is what that says now, None: it has no journal."""
    names = (environment,) if stamped is None else (stamped, environment)
    return Deed(Kind.RESTORE, environment, names, {"backup": backup}, f'a restore into "{environment}"')


def permitted(book: Book, key: Path | None, deed: Deed) -> Signed | None:
    """The operator's statement, which is to be kept before it is done; None where nobody is asked.

    Refused, with nothing written, for whom any of the environments does not name; UsageError for whom nobody knows.
    """
    config = book.config
    policies = {name: config.policy_for(name) for name in dict.fromkeys(deed.names)}
    asking = {name: one for name, one in policies.items() if one.needs_people}
    if not asking:
        return None
    identity = SSH if any(one.identity == SSH for one in asking.values()) else OS_USER
    speaker = speaker_of(config, identity, key)
    now, name_of = datetime.now(UTC), deed.kind.value
    signed = speaker.say(
        Statement(deed.kind, name_of, "", deed.environment, speaker.principal, now, deed.details, config.name)
    )
    known = book.check([signed])[0].key
    reading = book.read()
    for name, policy in asking.items():
        found = book.find(reading, Subject(name_of, ""), name, policy, now, everything=True)
        evidence = Evidence(
            name_of, "", name, operator=config.people.find(speaker.principal), operator_name=speaker.name,
            operator_key=known, people=config.people, said=found.said, owners=book.owners,
            tampered=reading.problem or found.forged,
            restore_of=deed.details["backup"] if deed.kind is Kind.RESTORE and name == deed.environment else None,
        )  # fmt: skip
        for judge in (soundness.judge, operators.judge, approvals.judge_restore):
            verdict = judge(evidence, policy, now)
            if not verdict.satisfied:
                raise Refused(verdict.gate, f"{deed.words}: {verdict.text}", hint=verdict.hint)
    return signed
