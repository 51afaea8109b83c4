"""The environments below have a certificate for this very digest [A10, B6], on tables of the shape that they have here.

Not for: rehearsing (`runs/rehearsal.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backout.gates.attestation import Ran, Validation, validation_of
from backout.gates.certificate import GHOST_UNDO, REHEARSED, SESSION, Certificate, shape_differences
from backout.gates.distinct import distinct_people
from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where each environment of `after` has rehearsals by as many people as the policy asks."""
    if not policy.after:
        return Verdict("ladder", satisfied=True, text="no rehearsal is asked for")
    ghosts = _good(evidence, evidence.environment, GHOST_UNDO) if policy.accept_ghost_undo else []
    own = [one for one in ghosts if one.binding == evidence.binding]  # with other values it was another run
    stale = _problem_here(evidence, own)
    if own and stale is None:
        return Verdict("ladder", satisfied=True, text=f"ghost --undo here proved the way back, by {own[0].person}")
    proven = []
    for environment in policy.after:
        good = _good(evidence, environment, SESSION if evidence.is_session else REHEARSED)
        problem = _problem(evidence, policy, environment, good)
        seen = [one for one in good if _validation(evidence, policy, one).is_validated]
        if problem is None and _problem(evidence, policy, environment, seen) is not None:
            return _unvalidated(evidence, policy, next(one for one in good if one not in seen))
        problem = problem or _problem_here(evidence, seen)
        if problem is not None:
            text = f"{problem}; and the ghost --undo here is out of date: {stale}" if stale else problem
            verb = "session" if evidence.is_session else "rehearse"
            here = f", or backout ghost {evidence.change} --on {evidence.environment} --undo"
            return Verdict(
                "ladder", satisfied=False, text=text, who=_who(good),
                hint=f"backout {verb} {evidence.change} --on {environment}{here if policy.accept_ghost_undo else ''}",
            )  # fmt: skip
        proven.append(f"{environment} by {', '.join(sorted({one.person for one in seen}))}")
    return Verdict("ladder", satisfied=True, text=f"rehearsed on {' and '.join(proven)}")


def _good(evidence: Evidence, environment: str, way: str) -> list[Certificate]:
    return [
        one for one in evidence.certificates
        if one.environment == environment and one.digest == evidence.digest and one.way == way
        and not one.certified_nothing and evidence.is_known(one.person)
    ]  # fmt: skip


def _problem(evidence: Evidence, policy: Policy, environment: str, good: Sequence[Certificate]) -> str | None:
    people = distinct_people(good, evidence.everything)
    if not good:
        empty = any(
            one.environment == environment and one.digest == evidence.digest and one.certified_nothing
            for one in evidence.certificates
        )  # fmt: skip
        note = ": a rehearsal over no rows is none" if empty else ""
        return f"it was not rehearsed on {environment}{note}"
    if len(people) < policy.rehearsals:
        return f"rehearsed on {environment} by {', '.join(people)} only, and the policy asks for {policy.rehearsals} people"
    if policy.rehearsals > 1 and all(evidence.is_by_author(one) for one in good):
        return f"rehearsed on {environment} by its authors only"
    return None


def _validation(evidence: Evidence, policy: Policy, one: Certificate) -> Validation:
    """Who looked at the application where it was rehearsed; asked by the stricter of that policy and this one."""
    wanted = max(policy.attest, evidence.attest_on.get(one.environment, 0))
    return validation_of(
        Ran(one.run, one.environment, one.digest, one.at), wanted, evidence.said, evidence.people, evidence.everything
    )


def _unvalidated(evidence: Evidence, policy: Policy, one: Certificate) -> Verdict:
    """What was rehearsed, and not looked at by as many as the policy asks."""
    validation = _validation(evidence, policy, one)
    done = f", other than {', '.join(validation.people)}" if validation.people else ""
    return Verdict(
        "ladder", satisfied=False, text=f"rehearsal {one.run} is {validation.text}",
        hint=f'backout attest {one.run} --saw "…"', who=f"anybody who looked at the application{done}",
    )  # fmt: skip


def _problem_here(evidence: Evidence, good: Sequence[Certificate]) -> str | None:
    """What is different here from where it was rehearsed. One certificate that fits is enough for each table."""
    problems = [_difference(evidence, one) for one in good]
    return None if not problems or None in problems else problems[0]


def _difference(evidence: Evidence, one: Certificate) -> str | None:
    if evidence.product and one.product != evidence.product:
        return f"rehearsed on {one.product}, and {evidence.environment} is {evidence.product}"
    ours, theirs = evidence.version.partition(".")[0], one.version.partition(".")[0]
    if evidence.version and ours != theirs:
        return f"rehearsed on {one.product} {theirs}, and {evidence.environment} is {evidence.product} {ours}"
    if evidence.shapes is not None and (differences := shape_differences(one.shapes, evidence.shapes)):
        return f"the tables of {evidence.environment} differ from {_where(evidence, one)}: {'; '.join(differences)}"
    return None


def _where(evidence: Evidence, one: Certificate) -> str:
    return "what they were" if one.environment == evidence.environment else f"those of {one.environment}"


def _who(good: Sequence[Certificate]) -> str:
    done = {one.person for one in good}
    return f"somebody other than {', '.join(sorted(done))}" if done else "anybody who may run there"
