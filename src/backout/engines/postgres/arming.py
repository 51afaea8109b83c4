"""What is armed for one transaction: from before its first write until after its end.

Not for: how a table is armed (`armed.py`), or what its log says (`armed_capture.py`). Invariant: after `end`, either
nothing of it is left in the database, or `left_behind` names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backout.engines.postgres.armed import (
    SQL,
    Armed,
    arm,
    disarm,
    leftovers,
    reached,
    require_ours,
    shown_size,
)
from backout.engines.postgres.armed_capture import counted_of, disarmed, tampered
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Counts, Settings, TableName
from backout.errors import BackoutError, Refused


class Arming:
    """The armed tables of one transaction. `latest` is a session outside of it, which sees what is committed."""

    def __init__(self, latest: Session, settings: Settings) -> None:
        self._latest, self._settings = latest, settings
        self._xid: int | None = None  # of the transaction, once something may be armed for it
        self._weighed: frozenset[str] = frozenset()  # oids of the tables that were found small enough at the start
        self._left: tuple[str, ...] = ()
        self.tables: Mapping[str, Armed] = {}  # by oid

    def begin(self, main: Session, xid: int, names: Sequence[tuple[str | None, str]]) -> None:
        """Arm what `names` can reach and is too big to scan. Main has its transaction id, and no lock on any table yet.

        Raises Refused where a right is missing, Busy where a table is not free for a moment; nothing is written then.
        """
        found = reached(self._latest, names, self._settings)
        big = [one for one in found if one.bytes >= self._settings.scan_limit_bytes]
        self._weighed = frozenset(one.oid for one in found) - {one.oid for one in big}
        if big:
            require_ours(big, self._latest.value("SELECT session_user::text"))
            self._xid = xid
            self.tables = arm(self._latest, main, xid, big, self._settings)

    @property
    def logs(self) -> list[str]:
        """The oids of the tables that the triggers write to."""
        return [one.log_oid for one in self.tables.values()]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the armed tables."""
        return tuple(str(one.table.name) for one in self.tables.values())

    def findings(self, counts: Mapping[str, tuple[TableName, str, Counts]]) -> tuple[str, ...]:
        """Why the logs cannot be believed, in words; nothing: they can."""
        logged = ((one, counted_of(counts, oid), counted_of(counts, one.log_oid)) for oid, one in self.tables.items())
        return (*disarmed(self._latest, self.tables), *(text for one in logged for text in tampered(*one)))

    def require_foreseen(self, main: Session, name: TableName, oid: str) -> None:
        """Refuse a table that the run has written, that is too big to scan and that was not armed.

        One that was weighed at the start may have grown since: it is scanned.
        """
        if oid in self.tables or oid in self._weighed:
            return
        rows = main.run(query("family_bytes", SQL), [oid]).rows
        for schema, whole, size in rows:
            if size < self._settings.scan_limit_bytes:
                continue
            raise Refused(
                "scan limit",
                f'table "{name}" has {shown_size(size)} of rows, too big to scan here, and was not armed for this run: '
                "the change does not name it, and writes to it by a trigger or a function",
                state="rolled back",
                hint=f'write arm = ["{schema}.{whole}"] into this environment, or raise its `scan_limit`',
            )

    def end(self) -> None:
        """Take everything away, once the transaction has ended, however it has. Never raises."""
        if self._xid is None:
            return
        try:
            mine = f"armed_{self._xid}_"
            disarm(self._latest, leftovers(self._latest, mine))
            self._left = tuple(one.shown for one in leftovers(self._latest, mine))
        except BackoutError:  # the server is gone: what is there is found by whoever comes next
            self._left = tuple(f'table "{name}" may still have a trigger of this run' for name in self.names)

    def left_behind(self) -> Sequence[str]:
        """After `end`: what could not be taken away, in words."""
        return self._left
