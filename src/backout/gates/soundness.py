"""The ledger is as it was written: else nothing in it is evidence.

Not for: recomputing it (`ledger/entry.py`).
"""

from __future__ import annotations

from datetime import datetime

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where the chain holds and nothing that the journal has seen of it is gone."""
    if evidence.tampered is None:
        return Verdict("ledger", satisfied=True, text="the ledger's chain holds")
    return Verdict(
        "ledger", satisfied=False, text=f"the ledger is not as it was written: {evidence.tampered}",
        hint=f"find out who did that: backout audit --on {evidence.environment}",
    )  # fmt: skip
