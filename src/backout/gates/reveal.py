"""Who may see rows that are PHI as they are [A6].

Not for: masking (`runs/masking.py`). Invariant: where anything is asked of people, nobody sees them but whom the policy
names; it is asked wherever rows could be shown, before any is.
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import SSH, Policy


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied for whom the policy names, and for everybody where it names nobody and asks nothing of people."""
    words, who = policy.reveal, evidence.operator_name or "nobody"
    if not words and not policy.needs_people:
        return Verdict("reveal", satisfied=True, text="nothing is asked of people here")
    if not words:
        return Verdict(
            "reveal", satisfied=False, text=f"nobody may see rows of {evidence.environment} that are PHI",
            hint='its policy must name who may: reveal = ["…"]; without --reveal they are masked',
        )  # fmt: skip
    if policy.identity == SSH and evidence.operator_key is None:
        return Verdict(
            "reveal", satisfied=False, text=f"it is not known for certain who wants to see PHI: {who} has not signed",
            hint="sign with your SSH key: --key, $BACKOUT_KEY, git's user.signingkey, or the agent",
        )  # fmt: skip
    person = evidence.operator
    if (person is None or not person.is_called(words)) and (evidence.people.known or who not in words):
        return Verdict(
            "reveal", satisfied=False, text=f"{who} may not see rows of {evidence.environment} that are PHI",
            hint=f"ask one of these: {', '.join(words)}; without --reveal they are masked", who=" or ".join(words),
        )  # fmt: skip
    return Verdict("reveal", satisfied=True, text=f"{who} may see rows that are PHI")
