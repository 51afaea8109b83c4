"""A recorded session as a change of its own: what a program did on one environment, statement by statement, on another.

Not for: sending the statements (`endpoint/replay.py`). Invariant: what is not what was recorded is not replayed.
"""

from __future__ import annotations

from pathlib import Path

from backout.change.digest import digest
from backout.change.model import Change, DataClass, Metadata
from backout.endpoint.emitted import Story
from backout.engines.values import RunRecord
from backout.errors import Refused
from backout.gates.policy import Policy
from backout.sql.model import Dialect


def change_of(record: RunRecord, story: Story) -> Change:
    """The session as a change: its digest is that of the transcript. Raises Refused where that was tampered with."""
    if story.broken is not None:
        raise Refused(
            "replay",
            f'the transcript of run "{record.identifier}" is not what was recorded, from statement {story.broken} on',
            hint="look who has changed it: only the login role may write there; run the change itself instead",
        )  # fmt: skip
    if record.batches:
        raise Refused(
            "replay", f'run "{record.identifier}" was a run in batches, which its statements alone do not say',
            hint="run the change itself there",
        )  # fmt: skip
    identifier = f"replay-of-{record.identifier}"
    head = str((record.report.get("transcript") or {}).get("sha256", ""))
    metadata = Metadata(
        f"{record.start.title} (replay of {record.identifier})", data=DataClass(record.report.get("data", "phi")),
        dialect=Dialect.POSTGRES,
    )  # fmt: skip
    return Change(
        identifier, Path(identifier), "program", Dialect.POSTGRES, "", digest(identifier, head), metadata, (),
        is_private=True,
    )  # fmt: skip


def require_nobody_to_ask(policy: Policy, on: str) -> None:
    """Approvals are about texts that people have read, and a transcript is none."""
    if policy.needs_people:
        raise Refused(
            "replay", f'"{on}" asks for people who approve a change, and a replay has no text that they could have read',
            hint="run the change itself there",
        )  # fmt: skip
