"""Other people approved: as many as the policy names kinds, each with the role for it, none of them an author [A8, B1].

Not for: who may run it. Invariant: one person counts once, with however many keys and addresses; one key counts once,
for however many persons; whatever was said before the change failed in earnest counts no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backout.gates.checklist import checklist
from backout.gates.distinct import KeyOwner, Signed, one_for_all
from backout.gates.evidence import SKEW, Evidence, PastRun, Said, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind

UNDO = "undo"  # the kind of approval for an undo that the change's own approvals do not cover
RESTORE = "restore"  # of a backup in the place of a database whose policy asks for approvals


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where every kind of approval has a person of its own, and nobody's rejection stands."""
    if not policy.approvals:
        return Verdict("approvals", satisfied=True, text="no approval is asked for")
    voided = voided_by(evidence)
    if rejected := standing_rejections(evidence):
        one = rejected[0]
        return Verdict(
            "approvals", satisfied=False, text=f"rejected by {one.person}: {one.detail('why')}", who=one.person,
            hint=f"change it and submit it again, or {one.person} approves: "
            f"backout approve {evidence.change} --on {evidence.environment}",
        )  # fmt: skip
    given = {kind: _approvers(evidence, policy, kind, voided) for kind in policy.approvals}
    chosen = _distinct(given, evidence.everything)
    missing = [kind for kind in policy.approvals if kind not in chosen]
    if not missing:
        names = ", ".join(f"{kind} by {chosen[kind].person}" for kind in policy.approvals)
        return Verdict("approvals", satisfied=True, text=f"approved: {names}")
    problems = "; ".join(_why(kind, evidence, policy, given, voided) for kind in missing)
    first = missing[0]
    return Verdict(
        "approvals", satisfied=False, text=problems, who=may_approve(first, policy),
        hint=f"backout approve {evidence.change} --on {evidence.environment} --for {first}",
    )  # fmt: skip


def judge_undo(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where somebody else approved an undo that overwrites what others wrote, or that undoes an undo."""
    if evidence.undo_of is None or not policy.approvals:
        return Verdict("undo", satisfied=True, text="the change's own approvals cover this undo")
    ended = [one.finished_at for one in evidence.runs if one.identifier == evidence.undo_of and one.finished_at]
    # What was said before is of a run of that number in an earlier database.
    approval = _by_another(evidence, UNDO, "run", evidence.undo_of, max(ended) - SKEW if ended else None)
    if approval is not None:
        return Verdict("undo", satisfied=True, text=f"{approval.person} approved it")
    return Verdict(
        "undo", satisfied=False, text=f"this undo of {evidence.undo_of} wants one more approval",
        hint=f"backout approve {evidence.undo_of} --undo", who="anybody but who runs it",
    )  # fmt: skip


def judge_restore(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where somebody else approved that this backup takes the place of this database, once for each time."""
    if evidence.restore_of is None or not policy.approvals:
        return Verdict("restore", satisfied=True, text="no approval is asked for")
    used = [one.at for one in evidence.about(Kind.RESTORE) if one.detail("backup") == evidence.restore_of]
    approval = _by_another(evidence, RESTORE, "backup", evidence.restore_of, max(used, default=None))
    if approval is not None:
        return Verdict("restore", satisfied=True, text=f"{approval.person} approved it")
    return Verdict(
        "restore", satisfied=False, who="anybody but who runs it",
        text=f"nobody else approved that {evidence.restore_of} takes the place of {evidence.environment}",
        hint=f"backout approve {evidence.restore_of} --restore --on {evidence.environment}",
    )  # fmt: skip


def _by_another(evidence: Evidence, kind: str, about: str, what: str, after: datetime | None) -> Said | None:
    """An approval of this kind by somebody who is not the operator, whatever names and keys they have."""
    operator = KeyOwner(evidence.operator_name, evidence.operator_key)
    everything = (*evidence.everything, operator)
    me = one_for_all(operator, everything)
    given = (
        one for one in evidence.about(Kind.APPROVE) if one.detail("approval") == kind and one.detail(about) == what
    )
    return next(
        (
            one for one in given
            if evidence.is_known(one.person) and one_for_all(one, everything) != me and (after is None or one.at > after)
        ),
        None,
    )  # fmt: skip


def voided_by(evidence: Evidence) -> PastRun | None:
    """The last run here that the change itself failed; what was approved before it is void."""
    last: PastRun | None = None
    for one in evidence.runs:
        if one.digest == evidence.digest and one.failed_itself and one.finished_at is not None:
            last = one if last is None or last.finished_at is None or one.finished_at > last.finished_at else last
    return last


def standing_rejections(evidence: Evidence) -> list[Said]:
    """Rejections after which the same person did not approve."""
    last: dict[str, Said] = {}
    for one in sorted((*evidence.about(Kind.APPROVE), *evidence.about(Kind.REJECT)), key=lambda said: said.at):
        last[one.person] = one
    return [one for one in last.values() if one.kind is Kind.REJECT]


def may_approve(kind: str, policy: Policy) -> str:
    """Who may give this kind of approval, in words."""
    words = policy.roles.get(kind)
    return f"{' or '.join(words)}, not an author" if words else "anybody but the authors"


def objection_to(said: Said, kind: str, evidence: Evidence, policy: Policy) -> str | None:
    """Why this approval does not count for `kind`; None: it does."""
    if evidence.is_by_author(said):
        return f"{said.person} wrote or edited it"
    person = evidence.people.find(said.person)
    if evidence.people.known and person is None:
        return f"{said.person} is nobody in [people]"
    if evidence.is_from_before(said):
        return f"{said.person} approved before the text was submitted"
    words = policy.roles.get(kind, ())
    if words and (person is None or not person.is_called(words)):
        return f"{said.person} is not {' or '.join(words)}"
    if said.detail("parameters") != evidence.binding:
        return f"{said.person} approved other values of its parameters"
    ticked = said.statement.details.get("checklist")
    if not isinstance(ticked, list) or any(question not in ticked for question in checklist(kind)):
        return f"{said.person} left questions of the checklist unanswered"
    return None


def _approvers(evidence: Evidence, policy: Policy, kind: str, voided: PastRun | None) -> list[Said]:
    """The last approval of this kind by each person, where it counts."""
    last = {one.person: one for one in evidence.about(Kind.APPROVE) if one.detail("approval") == kind}
    return [
        one for one in last.values()
        if not _is_void(one, voided) and objection_to(one, kind, evidence, policy) is None
    ]  # fmt: skip


def _is_void(said: Said, voided: PastRun | None) -> bool:
    return voided is not None and voided.finished_at is not None and said.at <= voided.finished_at


def _distinct(given: Mapping[str, Sequence[Said]], everything: Sequence[Signed]) -> dict[str, Said]:
    """Give each kind a person, and a key, of its own; as many kinds as can be: a matching by augmenting paths."""
    taken: dict[str, tuple[str, Said]] = {}  # who -> (kind, what they said)

    def place(kind: str, tried: set[str]) -> bool:
        for said in given[kind]:
            who = one_for_all(said, everything)
            if who in tried:
                continue
            tried.add(who)
            if who not in taken or place(taken[who][0], tried):
                taken[who] = (kind, said)
                return True
        return False

    for kind in given:
        place(kind, set())
    return dict(taken.values())


def _why(
    kind: str, evidence: Evidence, policy: Policy, given: Mapping[str, Sequence[Said]], voided: PastRun | None
) -> str:  # fmt: skip
    """Why a kind has nobody, in words."""
    if given[kind]:
        return f'"{kind}" and another approval are by one person, {given[kind][0].person}'
    reasons = []
    for one in evidence.about(Kind.APPROVE):
        if one.detail("approval") != kind:
            continue
        if _is_void(one, voided) and voided is not None:
            reasons.append(f"the approval by {one.person} is void: run {voided.identifier} failed ({voided.error})")
        else:
            reasons.append(objection_to(one, kind, evidence, policy) or f"{one.person} approved")
    reasons += [
        f"an approval by {one.person} does not count: {one.problem}"
        for one in evidence.ignored if one.kind == Kind.APPROVE.value
    ]  # fmt: skip
    return f'"{kind}" is not approved' + (f": {'; '.join(dict.fromkeys(reasons))}" if reasons else "")
