"""What an emergency may skip, and what it owes afterwards.

It skips people and time. It never skips what keeps the data safe, nor who it is, nor the ledger's own soundness. Before
the next ordinary run there, two people other than its operator have reviewed it.

Not for: the guards of the database (stamp, primary, role, capture, proof), which know of no emergency.
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.distinct import distinct_people, is_one_of
from backout.gates.evidence import SKEW, Evidence, PastRun, Verdict
from backout.gates.policy import REVIEWERS_OF_AN_EMERGENCY, Policy

#: Gates that an emergency does not wait for.
SKIPPED = frozenset(
    {"author", "approvals", "consent", "announcement", "objections", "window", "ladder", "review", "undo", "subset"}
)


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where the policy knows emergencies at all, and this one says why."""
    if evidence.emergency is None:
        return Verdict("emergency", satisfied=True, text="this is no emergency")
    if not policy.emergency:
        return Verdict(
            "emergency", satisfied=False, text=f"{evidence.environment} knows no emergency",
            hint='its policy must name who may: emergency = ["…"]',
        )  # fmt: skip
    if len(set(evidence.emergency.split())) < 3:  # a reason that is read at the review has a few words
        return Verdict(
            "emergency", satisfied=False, text=f'the reason of the emergency says too little: "{evidence.emergency.strip()}"',
            hint='say in at least three words why nobody can be waited for, since people will review it: --why "…"',
        )  # fmt: skip
    return Verdict("emergency", satisfied=True, text=f"emergency: {evidence.emergency}")


def judge_reviews(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where every emergency of the past was reviewed by two people who did not run it."""
    for run in evidence.runs:
        if run.emergency is None or not run.may_have_written:
            continue
        reviewers = reviewers_of(run, evidence)
        if len(reviewers) < REVIEWERS_OF_AN_EMERGENCY:
            by = f" (so far: {', '.join(reviewers)})" if reviewers else ""
            return Verdict(
                "review", satisfied=False,
                text=f"emergency run {run.identifier} owes a review by {REVIEWERS_OF_AN_EMERGENCY} people{by}",
                hint=f"backout approve {run.identifier} --emergency", who=f"anybody but {run.person}",
            )  # fmt: skip
    return Verdict("review", satisfied=True, text="no emergency waits for its review")


def reviewers_of(run: PastRun, evidence: Evidence) -> list[str]:
    """Who reviewed this emergency: people, with keys, of their own."""
    began_anew = run.finished_at - SKEW if run.finished_at is not None else None
    return list(distinct_people([
        one for one in evidence.reviews
        if one.detail("run") == run.identifier and evidence.is_known(one.person)
        and (began_anew is None or one.at >= began_anew)  # else it is of a run of that number in an earlier database
        and not is_one_of(one, {run.person}, evidence.everything)
    ], evidence.everything))  # fmt: skip
