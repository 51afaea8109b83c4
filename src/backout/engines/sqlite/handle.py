"""From a URL to an open connection: which file, and how it behaves.

Invariant: a file is never created, and a connection has foreign keys ON unless the URL says `?foreign_keys=off`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

import apsw

from backout.engines.sqlite.errors import UNTOUCHED, translated
from backout.engines.values import Settings
from backout.errors import UsageError

MEMORY = ":memory:"


class Connection(apsw.Connection):
    """A connection that counts what a change or an undo wrote, and not what rescue triggers wrote beside it."""

    aside: Callable[[], int] = staticmethod(lambda: 0)  # rows of the triggers so far

    def total_changes(self) -> int:
        """Rows written, cascades and the application's triggers included; attempts that were taken back too."""
        return super().total_changes() - self.aside()


@dataclass(frozen=True)
class Handle:
    """An open connection with what its users need to know of it."""

    connection: Connection
    name: str  # for messages: the file as the URL names it
    path: Path | None  # None: in memory
    foreign_keys: bool
    settings: Settings

    @property
    def lock_timeout_s(self) -> float:
        """How long to wait for SQLite's one write lock."""
        return self.settings.lock_timeout_s


def parse_url(url: str) -> tuple[str, bool]:
    """(file or `:memory:`, foreign keys enforced) of `sqlite:///relative`, `sqlite:////absolute` or `sqlite:path`.

    The form with slashes is SQLAlchemy's: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#connect-strings.
    """
    scheme, separator, rest = url.partition(":")
    if scheme != "sqlite" or not separator:
        raise UsageError(
            f'"{url}" is not a SQLite URL', hint="sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    rest, _, query = rest.partition("?")
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise UsageError(f'"{url}" names a host', hint="SQLite URLs have three slashes: sqlite:///relative/path.db")
        rest = rest[3:]
    options = parse_qs(query, keep_blank_values=True)
    unknown = sorted(set(options) - {"foreign_keys"})
    if unknown:
        raise UsageError(f'"{unknown[0]}" is not an option of a SQLite URL', hint="known: foreign_keys=on|off")
    wanted = options.get("foreign_keys", ["on"])[-1].lower()
    if wanted not in ("on", "off"):
        raise UsageError(f'foreign_keys is "{wanted}"', hint="foreign_keys=on or foreign_keys=off")
    file = unquote(rest) or MEMORY
    return file, wanted == "on"


def open_handle(settings: Settings) -> Handle:
    """Open the database; raises UsageError or Busy, with nothing made and nothing written."""
    file, foreign_keys = parse_url(settings.url)
    path = None if file == MEMORY else Path(file)
    if path is not None and not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f'database "{file}" {what}', hint="check the path in the URL: backout never creates a database file"
        )
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if path is None else 0)
    with translated(file, state=UNTOUCHED, lock_timeout_s=settings.lock_timeout_s):
        connection = Connection(file if path is None else str(path), flags=flags)
        try:
            connection.set_busy_timeout(round(settings.lock_timeout_s * 1000))
            # Outside of a transaction both ways work; this one also works inside, which the undo needs.
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, int(foreign_keys))
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # reads the header: is it a database?
        except BaseException:
            connection.close()
            raise
    return Handle(connection, file, path, foreign_keys, settings)
