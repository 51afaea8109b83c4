"""Who may tell a database that it is another environment than it says: an operator of both, in their own name.

The stamp decides which policy a database has, so that writing it is a way past every gate. Not for: writing it
(`Journal.restamp`). Invariant: where either environment asks anything of people, the ledger has who did it before it is
done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backout.errors import Refused
from backout.gates import operators, soundness
from backout.gates.evidence import Evidence
from backout.gates.policy import OS_USER, SSH
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book
from backout.project.identity import speaker_of


@dataclass(frozen=True)
class Restamping:
    """`stamped` is what the database says now, `environment` what it is to say; `identity` is its own as it is."""

    stamped: str
    environment: str
    identity: str


def permitted(book: Book, key: Path | None, what: Restamping) -> Signed | None:
    """The operator's statement, which is to be kept before the stamp is written; None where nobody is asked.

    Refused, with nothing written, for whom either environment does not name; UsageError for whom nobody knows.
    """
    config = book.config
    policies = {name: config.policy_for(name) for name in dict.fromkeys((what.stamped, what.environment))}
    asking = {name: one for name, one in policies.items() if one.needs_people}
    if not asking:
        return None
    identity = SSH if any(one.identity == SSH for one in asking.values()) else OS_USER
    speaker = speaker_of(config, identity, key)
    now = datetime.now(UTC)
    signed = speaker.say(
        Statement(
            Kind.RESTAMP, "restamp", "", what.environment, speaker.principal, now,
            {"from": what.stamped, "identity": what.identity}, config.name,
        )
    )  # fmt: skip
    known = book.check([signed])[0].key
    problem = book.read().problem
    for name, policy in asking.items():
        evidence = Evidence(
            "restamp", "", name, operator=config.people.find(speaker.principal), operator_name=speaker.name,
            operator_key=known, people=config.people, tampered=problem,
        )  # fmt: skip
        for judge in (soundness.judge, operators.judge):
            verdict = judge(evidence, policy, now)
            if not verdict.satisfied:
                raise Refused(
                    verdict.gate, f'a stamp from "{what.stamped}" to "{what.environment}": {verdict.text}',
                    hint=verdict.hint,
                )  # fmt: skip
    return signed
