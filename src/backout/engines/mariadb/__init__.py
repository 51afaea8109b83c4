"""MariaDB with InnoDB, through PyMySQL: two ordinary sessions, one that changes and one that sees all as it was.

Not for: other storage engines, which commit row by row, nor MySQL, which was not tested (docs/decisions/0008-mariadb.md).
"""

from __future__ import annotations

from dataclasses import replace

from backout.engines.mariadb.address import pinned
from backout.engines.mariadb.connect import MariaDatabase
from backout.engines.values import Settings


def connect(settings: Settings) -> MariaDatabase:
    """Open the database that `settings.url` names. Raises UsageError or Refused; nothing is touched."""
    return MariaDatabase(replace(settings, url=pinned(settings.url)))
