"""What a run in batches gives way to, read from the server: each signal anew, and an error where it cannot be read.

Not for: waiting (`runs/batches_waits.py`). Invariant: a signal that was asked for and cannot be read any more is an error,
never "no pressure".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from backout.engines.batches import Limits, Pressure
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.errors import DatabaseFailed, Refused

SQL = "batches.sql"
_MB = 2**20


class Gauge:
    """Reads the signals by the journal's session, which is in no transaction."""

    def __init__(self, control: Session) -> None:
        self._control = control
        self._log: tuple[float, int] | None = None  # when the log's end was read last, and where it was
        self._seen = Counter[str]()  # replicas by name: as many as ever were there at a time

    def read(self, limits: Limits, ours: Sequence[int], run: int | None) -> Sequence[Pressure]:
        """All that the limits name; `ours`: backends whose transactions do not count; `run`: None in a ghost."""
        found = [*self._replicas(limits), *self._transactions(limits, ours)]
        if limits.flag_file is not None:
            found.append(Pressure(f'flag file "{limits.flag_file}"', float(_is_there(limits.flag_file)), 0, ""))
        if limits.wal_rate_bytes is not None:
            found.append(Pressure("WAL rate", self._wal_rate() / _MB, limits.wal_rate_bytes / _MB, "MB/s"))
        if limits.archive_backlog_bytes is not None:
            found.append(Pressure("archive backlog", self._backlog() / _MB, limits.archive_backlog_bytes / _MB, "MB"))
        if limits.commit_latency_s is not None and run is not None:
            found.append(Pressure("commit latency", self._latency(run) * 1000, limits.commit_latency_s * 1000, "ms"))
        return found

    def _replicas(self, limits: Limits) -> list[Pressure]:
        """The greatest lag of those that count; and those that were there before and are not any more.

        Nobody knows how far behind one is that is gone: it is waited for until it is back. Who resumes the run begins anew
        with those that are there then.
        """
        rows = self._control.run(query("replica_lag", SQL)).rows
        if any(hidden for _, hidden, _, _ in rows):
            raise _unreadable("the lag of the replicas", "a run in batches gives way to replicas")
        counted = [row for row in rows if not limits.replicas or row[0] in limits.replicas]
        there = Counter(name for name, _, lasting, _ in counted if lasting or limits.replicas)
        for name in limits.replicas:
            if not there[name] and not self._seen[name]:
                raise Refused(
                    "throttle", f'replica "{name}" is not connected: its lag cannot be read',
                    hint="its name is `application_name` in pg_stat_replication; start it, or take it out of `replicas`",
                )  # fmt: skip
        self._seen |= there
        found = [Pressure(f'replica "{name}" is gone', number, 0, "") for name, number in (self._seen - there).items()]
        if counted:
            lag = max(lag for _, _, _, lag in counted)
            found.append(Pressure("replica lag", round(lag, 1), limits.replica_lag_s, "s"))
        return found

    def _transactions(self, limits: Limits, ours: Sequence[int]) -> list[Pressure]:
        """The oldest of another session; where this role may not see them and nobody has asked for it, nothing."""
        oldest, visible = self._control.one(query("oldest_transaction", SQL), [list(ours)])
        if visible:
            return [Pressure("oldest transaction", round(oldest, 1), limits.long_transaction_s, "s")]
        if limits.needs_transactions:
            raise _unreadable("the transactions of others", "`long_transaction` is set for this environment")
        return []

    def _wal_rate(self) -> float:
        """Bytes a second of all sessions since the last reading; 0 at the first."""
        now, end = monotonic(), int(self._control.value(query("log_end", SQL)))
        before, self._log = self._log, (now, end)
        return round((end - before[1]) / max(now - before[0], 0.001)) if before else 0.0

    def _backlog(self) -> int:
        """Bytes of complete segments that wait to be archived; 0 where nothing is archived."""
        try:
            return int(self._control.value(query("archive_backlog", SQL)))
        except DatabaseFailed as error:
            if error.sqlstate != "42501":
                raise
            raise _unreadable("the archive's backlog", "`archive_backlog` is set for this environment") from None

    def _latency(self, run: int) -> float:
        """Seconds that a commit of one small row takes at this moment, durable as the session's commits are."""
        began = monotonic()
        self._control.run("UPDATE backout.batched SET pause_reason = pause_reason WHERE run = $1", [run])
        return round(monotonic() - began, 4)


def _is_there(path: str) -> bool:
    """Whether the file is there. Raises Refused where nobody can tell."""
    try:
        return Path(path).exists()
    except OSError as error:  # a folder that may not be searched, a network drive that is away
        raise Refused(
            "throttle", f'flag file "{path}" cannot be looked for: {error.strerror}',
            hint="see to its folder, or take out `pause_file`",
        ) from None  # fmt: skip


def _unreadable(what: str, why: str) -> Refused:
    return Refused("throttle", f"{what} cannot be read", hint=f"GRANT pg_monitor to the login role: {why}")
