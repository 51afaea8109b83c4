"""Continuous archiving as a backup: a named restore point of which the server says that its log is archived.

Not for: restoring, which is the administrator's, into a server of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from backout.errors import Refused
from backout.recovery.backups.model import Backup, Request


class ArchiveProvider:
    """See `model.Provider`. `make` makes a backup's restore point; it is the engine's."""

    name = "pitr"

    def __init__(self, make: Callable[[Request], Backup]) -> None:
        self._make = make

    def take(self, request: Request) -> Backup:
        """See the protocol."""
        return self._make(request)

    def holds(self, backup: Backup) -> bool:
        """See the protocol; what is in the archive only its keeper knows."""
        return backup.restore_point is not None

    def restore(self, backup: Backup, environment: str) -> str | None:
        """See the protocol: a server is rolled forward as a whole, which no session in it can do."""
        raise Refused("backup", f'"{environment}" cannot be restored from here: {backup.restore}',
                      hint="restore a base backup into a new server (manual 25.3.5), then clone from it")  # fmt: skip

    def delete(self, backup: Backup) -> None:
        """See the protocol: the archive has its own time; the record alone ends."""
