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

    Raises UsageError (no such file, not a database, apsw is not installed) or Busy; the database is untouched.
    """
    try:
        from backout.engines.sqlite.database import SqliteDatabase
    except ModuleNotFoundError as missing:
        if missing.name != "apsw":
            raise
        from backout.errors import UsageError

        raise UsageError("the SQLite engine needs the library apsw", hint="pip install 'backout[sqlite]'") from missing
    return SqliteDatabase(settings)
