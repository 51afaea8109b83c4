"""It is known whose text it is, and that it is the text in the project: else nobody can be kept from approving their own.

Not for: who approved (`approvals`).
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where the change was submitted as it is, and is no link to a text that somebody else can exchange."""
    if not policy.approvals:
        return Verdict("author", satisfied=True, text="nobody has to approve: it does not matter who wrote it")
    if evidence.is_link:
        return Verdict(
            "author", satisfied=False, text=f'the file of "{evidence.change}" is reached through a symbolic link',
            hint="put the file itself into the changes folder: a link hides who edited what it points to",
            who="the author",
        )  # fmt: skip
    submitters = sorted({one.person for one in evidence.said if one.kind is Kind.SUBMIT})
    if not submitters:
        return Verdict(
            "author", satisfied=False, text=f'"{evidence.change}" was not submitted as it is now',
            hint=f"backout submit {evidence.change}", who="whoever wrote or edited it last",
        )  # fmt: skip
    return Verdict("author", satisfied=True, text=f"submitted by {', '.join(submitters)}")
