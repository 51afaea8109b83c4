"""One person at a time is on a change [C3]: a second one is told who, and since when.

Not for: excluding two runs at one moment, which the lease in the database does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backout.gates.evidence import Evidence, Said, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind


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
