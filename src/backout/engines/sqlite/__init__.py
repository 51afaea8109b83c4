"""SQLite, through apsw and its session extension.

Not for: databases with more than one writer at a time; SQLite has one, and the run is it.
"""

from __future__ import annotations

from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import Settings


def connect(settings: Settings) -> SqliteDatabase:
    """Open the database that `settings.url` names; a file that does not exist is refused, never made.

    Raises UsageError (no such file, not a database) or Busy; the database is untouched.
    """
    return SqliteDatabase(settings)
