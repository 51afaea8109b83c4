"""A SQLite database as a stream: a copy by the backup API, then its bytes; and back by the same API.

The copy is of one moment, also while others write (https://sqlite.org/backup.html). It is made in memory, so that no
file in clear is ever written where the bytes are to be encrypted: a database must fit twice.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import apsw

from backout.engines.dump import Arrival, DumpFacts, Pour, Reader
from backout.engines.sqlite.errors import UNTOUCHED, translated
from backout.engines.sqlite.handle import Handle, open_handle
from backout.engines.sqlite.records import has_journal
from backout.engines.sqlite.statements import main_table
from backout.engines.values import Settings
from backout.errors import Refused

#: The journal and the rescue tables: they belong to the environment, not to the data.
_OURS = "(name GLOB 'backout_*' OR name GLOB 'rescue_run_*')"


class SqliteDump:
    """See `engines.dump.Dump`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @contextmanager
    def _opened(self) -> Iterator[Handle]:
        handle = open_handle(self._settings)
        try:
            with translated(handle.name, state=UNTOUCHED, lock_timeout_s=handle.lock_timeout_s):
                yield handle
        finally:
            handle.connection.close()

    def facts(self) -> DumpFacts:
        """See the protocol; the library's clock is this machine's."""
        with self._opened() as handle:
            text = str(handle.connection.execute("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')").get)
        now = datetime.fromisoformat(text).replace(tzinfo=UTC)
        return DumpFacts(now, "SQLite", apsw.sqlite_lib_version(), handle.name)

    def made_with(self) -> str:
        """See the protocol."""
        return f"SQLite {apsw.sqlite_lib_version()}"

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """See the protocol."""
        with self._opened() as handle, closing(apsw.Connection(":memory:")) as copy:
            self._require_room(handle)
            _copy(handle.connection, copy)
            content = copy.serialize("main")
        yield io.BytesIO(content)

    def _require_room(self, handle: Handle) -> None:
        (size,) = handle.connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchall()[0]
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if "SC_AVPHYS_PAGES" in os.sysconf_names and 2 * int(str(size)) > free:
            raise Refused(
                "backup", f"the copy of this database needs {2 * int(str(size)) / 2**20:,.0f} MiB of memory, and "
                f"{free / 2**20:,.0f} MiB are free", hint='use provider = "command", with a program of your own',
            )  # fmt: skip

    def restore(self, pour: Pour, arrival: Arrival) -> None:
        """See the protocol: one transaction of the backup API, which other connections see whole or not at all."""
        received = io.BytesIO()
        pour(received)
        with self._opened() as handle, closing(apsw.Connection(":memory:")) as copy:
            copy.deserialize("main", _without_log(received.getvalue()))
            problem = str(copy.execute("PRAGMA quick_check(1)").get)
            if problem != "ok":
                raise Refused("backup", "the backup is damaged: SQLite's quick_check refuses it")
            if not arrival.at_home or has_journal(handle.connection):
                _exchange_journals(copy, handle)
            _copy(copy, handle.connection)

    def has_tables(self) -> bool:
        """See the protocol."""
        with self._opened() as handle:
            query = f"SELECT count(*) FROM main.sqlite_master WHERE type IN ('table', 'view') AND NOT {_OURS}"
            return bool(handle.connection.execute(query).get)


def _without_log(content: bytes) -> bytes:
    """The same database in rollback mode: one in WAL mode cannot be opened in memory.

    Source: bytes 18 and 19 of the header, https://sqlite.org/c3ref/deserialize.html and fileformat2.html, 1.3.2.
    """
    return content[:18] + b"\x01\x01" + content[20:] if len(content) >= 100 else content


def _copy(source: apsw.Connection, target: apsw.Connection) -> None:
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step()  # all pages; raises BusyError after the connection's own time-out


def _exchange_journals(copy: apsw.Connection, handle: Handle) -> None:
    """Give the copy the target's own journal and rescue instead of those that it came with."""
    copy.execute("PRAGMA foreign_keys = OFF")
    for (name,) in copy.execute(f"SELECT name FROM main.sqlite_master WHERE type = 'table' AND {_OURS}").fetchall():
        copy.execute(f"DROP TABLE {main_table(str(name))}")
    tables = handle.connection.execute(
        f"SELECT name, sql FROM main.sqlite_master WHERE type = 'table' AND {_OURS} AND sql IS NOT NULL"
    ).fetchall()
    for name, definition in tables:
        table = main_table(str(name))
        copy.execute(str(definition))
        for row in handle.connection.execute(f"SELECT * FROM {table}").fetchall():
            copy.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    copy.execute("VACUUM")  # no page of the dropped tables, with their rows, comes along
