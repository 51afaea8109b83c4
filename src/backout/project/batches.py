"""Runs in batches, as the project begins, resumes and undoes them.

Not for: the gates that they pass first (`project.py`), or the batches themselves (`runs/batches.py`).
"""

from __future__ import annotations

from datetime import timedelta

from backout.engines.batches import Batched, Limits, Wanted, in_batches
from backout.engines.protocol import Database
from backout.engines.values import Mode, RunRecord, RunState
from backout.errors import Refused, UsageError
from backout.project.config import Environment
from backout.runs.changes import ChangeRun

#: Where nobody has set one. VACUUM cannot clean behind it in the whole database; batches would add to that.
_LONG_TRANSACTION = timedelta(hours=1)


def limits_of(environment: Environment) -> Limits:
    """What a run in batches gives way to there."""
    return Limits(
        row_locks_s=environment.batch_time.total_seconds(),
        replica_lag_s=environment.replica_lag.total_seconds(),
        replicas=environment.replicas,
        long_transaction_s=(environment.long_transaction or _LONG_TRANSACTION).total_seconds(),
        needs_transactions=environment.long_transaction is not None,
        flag_file=environment.pause_file,
        wal_rate_bytes=environment.wal_rate_bytes,
        archive_backlog_bytes=environment.archive_backlog_bytes,
        commit_latency_s=environment.commit_latency.total_seconds() if environment.commit_latency else None,
        analyze=environment.analyze,
        ghost_batches=environment.ghost_batches,
        rows_at_once=environment.batch_above,
    )


def require_resumable(database: Database, record: RunRecord) -> Batched:
    """The run's batches; Refused where there is nothing to go on with."""
    batched = in_batches(database).batch_journal.batched(record.number)
    name = record.identifier
    if batched is None:
        raise Refused("resume", f'run "{name}" was no run in batches', hint="run the change again")
    if record.start.mode is Mode.UNDO:
        raise Refused("resume", f'run "{name}" is an undo', hint=f"go on with it: backout undo {record.start.undo_of}")
    if not batched.batches:
        raise Refused("resume", f'run "{name}" has committed no batch', hint="run the change again")
    if batched.finished:
        raise Refused("resume", f'run "{name}" went through to its end', hint="see `backout log`")
    if batched.cancelled:
        raise Refused("resume", f'run "{name}" was cancelled', hint=f"backout undo {name}, or run the change anew")
    if batched.undone:
        raise Refused(
            "resume", f'batches of run "{name}" are undone', hint=f"backout undo {name}, or run the change anew"
        )
    if record.rescue_dropped_at is not None:
        raise Refused("resume", f'the rescue of run "{name}" was dropped', hint="run the change anew")
    return batched


def require_same(record: RunRecord, run: ChangeRun, batched: Batched) -> None:
    """A run is resumed as it began: the same text, the same parameters."""
    if run.change.digest != record.start.digest:
        raise Refused(
            "digest", f'change "{run.change.identifier}" is not what run "{record.identifier}" began with',
            hint="bring its file back as it was, or undo the run and run the change anew",
        )  # fmt: skip
    from backout.runs.batches import fingerprint

    if fingerprint(run.values) != batched.parameters:
        raise Refused(
            "parameters", f'run "{record.identifier}" began with other values of its parameters',
            hint="give the same: --param name=value",
        )  # fmt: skip


def tell(database: Database, record: RunRecord, wanted: Wanted) -> str:
    """Tell a run to pause or to end; what that means for it, in words."""
    journal = in_batches(database).batch_journal
    batched = journal.batched(record.number)
    if batched is None:
        raise UsageError(f'run "{record.identifier}" is no run in batches', hint="end its process with Ctrl-C")
    if record.state is RunState.RUNNING:
        journal.tell(record.number, wanted)
        return (
            f"{record.identifier}: to be {'paused' if wanted is Wanted.PAUSE else 'cancelled'} after the batch at hand"
        )
    if wanted is Wanted.CANCEL and not batched.finished and not batched.cancelled and batched.batches:
        journal.end(record.number, RunState.PARTIAL, dict(record.report), finished=False, cancelled=True)
        return f"{record.identifier}: cancelled, committed up to batch {batched.batches}"
    raise Refused(
        "state", f'run "{record.identifier}" is not running: it is {record.state.value}', hint="see `backout log`"
    )
