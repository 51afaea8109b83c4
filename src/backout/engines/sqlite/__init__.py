"""SQLite, through apsw and its session extension.

Not for: databases with more than one writer at a time; SQLite has one, and the run is it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.engines.values import Settings

if TYPE_CHECKING:
    from backout.engines.sqlite.database import SqliteDatabase


def connect(settings: Settings) -> SqliteDatabase:
    """Open the database that `settings.url` names; a file that does not exist is refused, never made.

    Raises UsageError (no such file, not a database) or Busy; the database is untouched. apsw is loaded only now.
    """
    from backout.engines.sqlite.database import SqliteDatabase

    return SqliteDatabase(settings)
