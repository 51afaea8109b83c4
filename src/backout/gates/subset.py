"""A part of it was run here first, and is still there [B5], before the whole of it runs.

Not for: what a subset is (`change/subset.py`). Invariant: what counts is the journal's word, never the ledger's copy of
it, which whoever may write there could have made up.
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where a run of a subset of this very text is committed and not undone, or where this is one."""
    if not policy.subset:
        return Verdict("subset", satisfied=True, text="no run of a subset is asked for")
    if not evidence.has_subset:
        return Verdict("subset", satisfied=True, text="no subset of it is declared: nothing smaller can be run first")
    if evidence.is_subset:
        return Verdict("subset", satisfied=True, text="this is a run of a subset")
    if evidence.subset_runs:
        return Verdict("subset", satisfied=True, text=f"a subset of it was run first: {evidence.subset_runs[0]}")
    return Verdict(
        "subset", satisfied=False, text=f"no subset of it was run on {evidence.environment} first, and stands there now",
        hint=f'backout run {evidence.change} --on {evidence.environment} --subset "50 rows"',
        who=" or ".join(policy.operators) or "anybody who may run there",
    )  # fmt: skip
