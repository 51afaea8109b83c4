"""Where a change stands on an environment: what each gate says, and what to do next, by whom, and when at the earliest.

Not for: judging. Invariant: the next command is that of the first gate which stops the run, in the gates' own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backout.engines.values import RunRecord
from backout.gates.attestation import Validation
from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy
from backout.gates.repetition import way_on


@dataclass(frozen=True)
class Status:
    """All of it; `next_command` is None where there is nothing but waiting."""

    change: str
    digest: str
    environment: str
    profile: str
    identity: str
    verdicts: tuple[Verdict, ...]
    ignored: tuple[str, ...]
    next_command: str
    who: str
    earliest: datetime | None  # None: now, as far as time alone goes
    run: str | None = None  # the last run of this text there that people have to look at
    validation: Validation | None = None  # whether they have
    ran: RunRecord | None = None  # the run of the change there that stands in the way of another one

    @property
    def may_run(self) -> bool:
        """Whether nothing stands in the way."""
        return self.ran is None and all(one.satisfied for one in self.verdicts)

    @property
    def was_edited(self) -> bool:
        """Whether it was another text of the change that has run there."""
        return self.ran is not None and self.ran.start.digest != self.digest


def status_of(
    evidence: Evidence, policy: Policy, verdicts: Sequence[Verdict], last: RunRecord | None = None,
    validation: Validation | None = None, ran: RunRecord | None = None,
) -> Status:  # fmt: skip
    """Return the status that these verdicts mean. The gate "operator" is about who asks, so it comes last.

    `last` is the newest run of this text there, and `validation` says how far people have looked at it. `ran` is the
    one that has run and is not undone: the next step is not to run it again, and no gate of a run says when. Where the
    change was edited since, what people have to say of its new text comes first.
    """
    stopping = [one for one in verdicts if not one.satisfied]
    others = [one for one in stopping if one.gate != "operator"]
    first = next(iter(others or stopping), None)
    operators = " or ".join(policy.operators) or "anybody who is known"
    run = f"backout {'session' if evidence.is_session else 'run'} {evidence.change} --on {evidence.environment}"
    waits = [one.earliest for one in stopping if one.earliest is not None]
    command, who = (run, operators) if first is None else (first.hint or run, first.who or operators)
    if others and all(one.earliest is not None for one in others):
        command, who = run, operators  # nothing is left but to wait
    if ran is not None and (ran.start.digest == evidence.digest or not others):
        again = f'{run} --again "…"'
        back = again if ran.rescue_dropped_at is not None else way_on(ran)
        is_edited = ran.start.digest != evidence.digest and back != again
        command, who, waits = f"{back}, or {again}" if is_edited else back, operators, []
    if last is not None and validation is not None and not validation.is_validated:
        command, who = f'backout attest {last.identifier} --saw "…"', "anybody who looked at the application"
    return Status(
        evidence.change, evidence.digest, evidence.environment, policy.profile, policy.identity, tuple(verdicts),
        tuple(f"{one.kind} by {one.person} does not count: {one.problem}" for one in evidence.ignored),
        command, who, max(waits, default=None), last.identifier if last is not None and validation else None, validation,
        ran,
    )  # fmt: skip
