"""All gates of a run, in the order in which a person would satisfy them.

Not for: the guards of the database, which `judge.py` has. Invariant: a gate that is in the list is asked for every run
on every path; in an emergency those of `SKIPPED` are answered, and stop nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from backout.errors import Busy, Refused
from backout.gates import (
    announcement,
    approvals,
    authorship,
    claims,
    consent,
    documents,
    emergency,
    ladder,
    operators,
    soundness,
    subset,
    window,
)
from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy

Gate = Callable[[Evidence, Policy, datetime], Verdict]

GATES: tuple[Gate, ...] = (
    soundness.judge,
    operators.judge_host,
    emergency.judge,
    emergency.judge_reviews,
    documents.judge,
    authorship.judge,
    ladder.judge,
    approvals.judge,
    consent.judge,
    announcement.judge,
    announcement.judge_objections,
    window.judge,
    subset.judge,
    operators.judge,
    claims.judge,
)


#: An undo needs no ladder and no notice: the change's approvals cover it while its rescue lives.
GATES_OF_UNDO: tuple[Gate, ...] = (
    soundness.judge,
    operators.judge_host,
    emergency.judge,
    approvals.judge_undo,
    operators.judge,
    claims.judge,
)


def judge_all(
    evidence: Evidence, policy: Policy, now: datetime, gates: tuple[Gate, ...] = GATES
) -> tuple[Verdict, ...]:
    """What each gate says; `now` is the database's clock."""
    return tuple(gate(evidence, policy, now) for gate in gates)


def stopping(verdicts: tuple[Verdict, ...], evidence: Evidence) -> tuple[Verdict, ...]:
    """The verdicts that stop this run."""
    skipped = emergency.SKIPPED if evidence.emergency is not None else frozenset()
    return tuple(one for one in verdicts if not one.satisfied and one.gate not in skipped)


def require_all(
    evidence: Evidence, policy: Policy, now: datetime, gates: tuple[Gate, ...] = GATES
) -> tuple[Verdict, ...]:
    """Return what each gate says; raise Refused (Busy for a claim) for the first that stops the run."""
    verdicts = judge_all(evidence, policy, now, gates)
    found = stopping(verdicts, evidence)
    if not found:
        return verdicts
    first, *others = found
    text = first.text + (f" (and {len(others)} more: {', '.join(one.gate for one in others)})" if others else "")
    hint = first.hint
    if first.who and hint:
        hint = f"{hint}  ({first.who})"
    if others:
        hint = f"{hint or first.gate}\nall of them: backout status {evidence.change} --on {evidence.environment}"
    raise Busy(text, hint=hint) if first.busy else Refused(first.gate, text, hint=hint)
