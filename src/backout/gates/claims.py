"""One person at a time is on a change [C3]: a second one is told who, and since when.

Not for: excluding two runs at one moment, which the lease in the database does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from backout.gates.evidence import Evidence, Said, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind, Signed


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where nobody has claimed it, or the operator has."""
    holder = claimed_by(evidence.claims)
    if holder is None or holder.person == evidence.operator_name:
        return Verdict("claim", satisfied=True, text="nobody else is on it" if holder is None else "you are on it")
    since = holder.at.isoformat(sep=" ", timespec="minutes")
    return Verdict(
        "claim", satisfied=False, busy=True, text=f"{holder.person} is on it since {since}", who=holder.person,
        hint=f"ask {holder.person} to release it, or take it over: "
        f"backout claim {evidence.change} --on {evidence.environment} --take-over --why …",
    )  # fmt: skip


def deciding(claims: Sequence[Signed], name: Callable[[str], str]) -> tuple[list[Signed], list[Signed]]:
    """Split claims and releases, none of which was verified yet: those that decide, and those that need no look.

    The latter were settled by a later release of the same person: if that one counts, nothing before it does, and each
    run of a change leaves a claim and a release. Where somebody was relieved (`take_over`) all of them decide.
    """
    if any(one.statement.details.get("take_over") for one in claims):
        return list(claims), []
    released: dict[str, datetime] = {}
    for one in (one.statement for one in claims if one.statement.kind is Kind.RELEASE):
        person = name(one.person)
        released[person] = max(released.get(person, one.at), one.at)
    decide: list[Signed] = []
    settled: list[Signed] = []
    for signed in claims:
        last = released.get(name(signed.statement.person))
        is_last = last is not None and signed.statement.at == last and signed.statement.kind is Kind.RELEASE
        (decide if last is None or signed.statement.at > last or is_last else settled).append(signed)
    return decide, settled


def claimed_by(claims: Sequence[Said]) -> Said | None:
    """The claim that holds now: the first that was not released, or the last that took over."""
    holder: Said | None = None
    for one in sorted(claims, key=lambda said: said.at):
        if one.kind is Kind.CLAIM:
            if holder is None or one.statement.details.get("take_over") is True:
                holder = one
        elif holder is not None and holder.person == one.person:
            holder = None
    return holder
