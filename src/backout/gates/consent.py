"""The product owner who asked for the change consents to it here [C9].

Not for: approvals of reviewers.
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.approvals import voided_by
from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where `requested_by` consented to this very digest, and it has not failed since."""
    if not policy.consent:
        return Verdict("consent", satisfied=True, text="no consent is asked for")
    asked = str(evidence.documents.get("requested_by") or "").strip()
    if not asked:
        return Verdict(
            "consent", satisfied=False, text="nobody is named who asked for it", who="the author",
            hint="write requested_by into its metadata",
        )  # fmt: skip
    owner = evidence.people.canonical(asked)
    failed = voided_by(evidence)
    said = [one for one in evidence.about(Kind.CONSENT) if one.person == owner]
    if owner in evidence.authors or any(evidence.is_by_author(one) for one in said):
        return Verdict(
            "consent", satisfied=False, text=f"{owner} asked for it and wrote it: nobody consents to their own text",
            who="the author", hint="name in requested_by who asked for it, or let somebody else write and submit it",
        )  # fmt: skip
    given = [
        one for one in said
        if not evidence.is_from_before(one)
        and (failed is None or failed.finished_at is None or one.at > failed.finished_at)
    ]  # fmt: skip
    if given:
        return Verdict("consent", satisfied=True, text=f"{owner} consents")
    return Verdict(
        "consent", satisfied=False, text=f"{owner}, who asked for it, has not consented", who=owner,
        hint=f"backout consent {evidence.change} --on {evidence.environment}",
    )  # fmt: skip
