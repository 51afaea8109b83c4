"""The person at the keyboard is one who may run something here [B1], and is who they say.

Not for: whether what they run is approved.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import SSH, Policy


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where the operator is known, has signed where the policy asks for it, and is one of `operators`."""
    if not policy.needs_people and evidence.emergency is None:
        return Verdict("operator", satisfied=True, text="nothing is asked of people here")
    words = policy.operators if evidence.emergency is None else policy.emergency
    who = evidence.operator_name or "nobody"
    if policy.identity == SSH and evidence.operator_key is None:
        return Verdict(
            "operator", satisfied=False, text=f"it is not known for certain who runs this: {who} has not signed",
            hint="sign with your SSH key: --key, $BACKOUT_KEY, git's user.signingkey, or the agent",
        )  # fmt: skip
    if evidence.people.known and evidence.operator is None:
        return Verdict("operator", satisfied=False, text=f'"{who}" is nobody in [people]', hint="add them, reviewed")
    if words and (evidence.operator is None or not evidence.operator.is_called(words)) and who not in words:
        return Verdict(
            "operator", satisfied=False, text=f"{who} may not run anything on {evidence.environment}",
            hint=f"let one of these do it: {', '.join(words)}", who=" or ".join(words),
        )  # fmt: skip
    return Verdict("operator", satisfied=True, text=f"{who} may run it")


def judge_host(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where every host of the URL, and the one that we are connected to, is one that the policy gives."""
    other = other_host(evidence.hosts, policy)
    if other is None:
        return Verdict("host", satisfied=True, text="the host is one that the policy gives")
    return Verdict(
        "host", satisfied=False, text=f'the URL has host "{other}", which is not in `hosts`',
        hint=f"{evidence.environment} is at: {', '.join(policy.hosts)}",
    )  # fmt: skip


def other_host(hosts: Sequence[str], policy: Policy) -> str | None:
    """The first of these that the policy does not give; "none" where there is none at all, None where all is well."""
    given = {one.lower() for one in policy.hosts}
    return next((one for one in hosts or ("none",) if one.lower() not in given), None) if given else None
