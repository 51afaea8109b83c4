"""What is known of a backup: plain values, and their form as JSON.

Not for: making one (`provider`). Invariant: nothing here holds a value of a row, nor a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol


@dataclass(frozen=True)
class Backup:
    """One backup. Times are the database's clock, with zone. `places` are in the order of restoring, fastest first."""

    identifier: str  # "production-20261121T053012Z": the environment, and when
    environment: str
    provider: str
    taken_at: datetime
    product: str
    server_version: str
    database: str
    made_with: str
    operator: str
    places: tuple[str, ...]
    restore: str  # how to restore it, in words that can be typed
    size_bytes: int | None = None  # of the file as it is kept; None: it is not a file of ours
    sha256: str | None = None  # same
    encrypted: bool = False
    held_as: str | None = None  # the name that a provider's own tool has for it
    restore_point: str | None = None  # of continuous archiving
    lsn: str | None = None  # same
    expires_at: datetime | None = None
    deleted_at: datetime | None = None

    def at_home_on(self, environment: str) -> bool:
        """Whether it is of this environment."""
        return self.environment == environment


@dataclass(frozen=True)
class Request:
    """What a provider is asked for. `private`: the rows are PHI, so that nothing may be written in clear."""

    environment: str
    operator: str
    keep: timedelta
    private: bool = False


class Provider(Protocol):
    """A way to make backups. Each method raises Refused where it cannot do it; the database is then as it was."""

    @property
    def name(self) -> str:
        """As `provider = "…"` names it."""

    def take(self, request: Request) -> Backup:
        """Make one, and return only when it is whole and safe."""

    def holds(self, backup: Backup) -> bool:
        """Whether it can be found where it is recorded to be."""

    def restore(self, backup: Backup, environment: str) -> str | None:
        """Restore into the database that this provider serves; returns a note, where one is needed."""

    def delete(self, backup: Backup) -> None:
        """Remove it, wherever it is."""


def identifier_of(environment: str, taken_at: datetime) -> str:
    """The name of a backup: runs are `production-41`, which this cannot be taken for."""
    return f"{environment}-{taken_at:%Y%m%dT%H%M%S%fZ}"


def as_json(backup: Backup) -> dict[str, Any]:
    """Return the backup as a JSON object, as it is recorded and printed."""
    return {
        "id": backup.identifier,
        "environment": backup.environment,
        "provider": backup.provider,
        "taken_at": backup.taken_at.isoformat(),
        "product": backup.product,
        "server_version": backup.server_version,
        "database": backup.database,
        "made_with": backup.made_with,
        "operator": backup.operator,
        "places": list(backup.places),
        "restore": backup.restore,
        "size_bytes": backup.size_bytes,
        "sha256": backup.sha256,
        "encrypted": backup.encrypted,
        "held_as": backup.held_as,
        "restore_point": backup.restore_point,
        "lsn": backup.lsn,
        "expires_at": backup.expires_at.isoformat() if backup.expires_at else None,
        "deleted_at": backup.deleted_at.isoformat() if backup.deleted_at else None,
    }


def from_json(value: Mapping[str, Any]) -> Backup:
    """Return the backup that `as_json` wrote; KeyError, TypeError or ValueError for anything else."""
    plain = {("identifier" if key == "id" else key): one for key, one in value.items()}
    for key in ("taken_at", "expires_at", "deleted_at"):
        plain[key] = datetime.fromisoformat(plain[key]) if plain[key] else None
    return Backup(**{**plain, "places": tuple(plain["places"])})
