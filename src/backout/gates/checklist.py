"""What a reviewer ticks: the questions of each kind of approval, which become part of the statement.

Not for: other kinds than the two of the profiles, which have the general list. Invariant: a text here never changes its
meaning; a new wording is a new question, and approvals that ticked the old one ask for a new look.
"""

from __future__ import annotations

from collections.abc import Mapping

_EVERY = ("I have read the whole change, its documents and what `backout check` says of it",)

_OF: Mapping[str, tuple[str, ...]] = {
    "correctness": (
        *_EVERY,
        "the statements do what the request asks, and to no other row",
        "the expectations and assertions would fail if they did not",
        "I know how this is taken back, and that the way back is complete",
    ),
    "safety": (
        *_EVERY,
        "the risk is described as it is, and the mitigation is enough for it",
        "the business, its users and its auditors can live with the result, and with its reversal",
        "the data is classified rightly (phi, internal or public)",
    ),
}


def checklist(approval: str) -> tuple[str, ...]:
    """The questions of this kind of approval."""
    return _OF.get(approval, (*_EVERY, f"I approve it as regards {approval}"))
