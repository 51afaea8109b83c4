"""Those concerned were told, long enough ago [A11], and nobody objects.

The waiting time is between two times of the target database's clock: that in the receipt and `now`. So nobody's own
clock makes it shorter. Not for: telling them (`integrations`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from backout.gates.evidence import SKEW, Evidence, Said, Verdict
from backout.gates.policy import Policy
from backout.ledger.statement import Kind


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:
    """Satisfied where each channel of the policy was told of this very digest, `before` or longer ago."""
    if policy.announce is None:
        return Verdict("announcement", satisfied=True, text="no announcement is asked for")
    by_hand = "" if policy.announce.to else " --told WHOM"  # no channel is named that could be told
    command = f"backout announce {evidence.change} --on {evidence.environment}{by_hand}"
    receipts = tuple(one for one in evidence.about(Kind.ANNOUNCE) if evidence.is_known(one.person))
    told = {name: at for one in receipts if (at := announced_at(one)) for name in _channels(one)}
    times = [at for one in receipts if (at := announced_at(one)) is not None]
    missing = [name for name in policy.announce.to if name not in told]
    if missing or not times:
        whom = f" to {', '.join(missing)}" if missing else ""
        return Verdict(
            "announcement", satisfied=False, text=f"it was not announced{whom}", hint=command, who="any operator"
        )
    since = max(_first(receipts, name) for name in policy.announce.to) if policy.announce.to else min(times)
    submitted = [one.at for one in evidence.said if one.kind is Kind.SUBMIT]
    if submitted:  # nobody can have been told of a text that was not there yet, whatever a receipt says
        since = max(since, min(submitted))
    earliest = since + policy.announce.before
    if now < earliest:
        return Verdict(
            "announcement", satisfied=False,
            text=f"announced at {_shown(since)}, and the policy gives people {_hours(policy.announce.before)} to object",
            hint=f"wait until {_shown(earliest)} (the database's clock)", earliest=earliest,
        )  # fmt: skip
    return Verdict("announcement", satisfied=True, text=f"announced at {_shown(since)}")


def judge_objections(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied where every objection was withdrawn by who made it, or overruled by whom the policy names."""
    open_ones = open_objections(evidence, policy)
    if not open_ones:
        return Verdict("objections", satisfied=True, text="nobody objects")
    one = open_ones[0]
    may = f", or {' or '.join(policy.overrule)}" if policy.overrule else ""
    number = one.statement.identifier[:12]
    return Verdict(
        "objections", satisfied=False, text=f"{one.person} objects: {one.detail('why')}", who=f"{one.person}{may}",
        hint=f"backout withdraw {evidence.change} --on {evidence.environment}, or "
        f"backout overrule {evidence.change} --on {evidence.environment} --objection {number} --why …",
    )  # fmt: skip


def open_objections(evidence: Evidence, policy: Policy) -> tuple[Said, ...]:
    """Objections that still stop a run."""
    overruled = [
        one for one in evidence.about(Kind.OVERRULE)
        if (person := evidence.people.find(one.person)) is not None
        and person.is_called(policy.overrule) and not evidence.is_by_author(one)
    ]  # fmt: skip
    withdrawn = evidence.about(Kind.WITHDRAW)
    return tuple(
        one for one in evidence.about(Kind.OBJECT)
        if not any(_answers(other, one) for other in overruled)
        and not any(_answers(other, one) and other.person == one.person for other in withdrawn)
    )  # fmt: skip


def _answers(said: Said, objection: Said) -> bool:
    """Whether it is about this objection, and not older than it: whose key is of the past could say so."""
    return said.detail("statement") == objection.statement.identifier and said.at >= objection.at - SKEW


def announced_at(said: Said) -> datetime | None:
    """The database's time in a receipt; None where it has none that can be read."""
    try:
        at = datetime.fromisoformat(said.detail("database_at"))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _channels(said: Said) -> tuple[str, ...]:
    names = said.statement.details.get("to")
    return tuple(one for one in names if isinstance(one, str)) if isinstance(names, list) else ()


def _first(receipts: tuple[Said, ...], name: str) -> datetime:
    return min(at for one in receipts if name in _channels(one) and (at := announced_at(one)) is not None)


def _hours(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:g} hours" if hours >= 1 else f"{span.total_seconds():g} seconds"


def _shown(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="minutes")
