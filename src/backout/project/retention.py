"""What must be true before what is kept of a run is dropped, or kept longer. Judges, and does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backout.engines.values import RunRecord, RunState
from backout.errors import Refused
from backout.recovery.backups.model import Backup


def require_expired(
    runs: Sequence[int], due_runs: Mapping[int, RunRecord], backups: Sequence[str], due_backups: Mapping[str, Backup]
) -> None:
    """Refused, naming the first one whose time is not over."""
    for number in runs:
        if number not in due_runs:
            raise Refused("retention", f"the rescue of run {number} has not expired", hint="see `backout log`")
    for identifier in backups:
        if identifier not in due_backups:
            raise Refused("retention", f'backup "{identifier}" has not expired', hint="see `backout backups`")


def require_kept(record: RunRecord, until: datetime, now: datetime) -> None:
    """Refused where there is nothing to keep, or it is kept that long anyway. `now`: the database's clock."""
    if record.rescue_dropped_at is not None:
        raise Refused(
            "retention", f'the rescue of "{record.identifier}" was dropped on {record.rescue_dropped_at:%Y-%m-%d}',
            hint="what it changed can only come back from a backup",
        )  # fmt: skip
    if record.state not in {RunState.COMMITTED, RunState.PARTIAL} or record.expires_at is None:
        raise Refused("retention", f'"{record.identifier}" kept nothing: it is {record.state.value}')
    if until <= max(record.expires_at, now):
        raise Refused(
            "retention", f'"{record.identifier}" is kept until {record.expires_at:%Y-%m-%d %H:%M %Z} already',
            hint="name a later day",
        )  # fmt: skip
