"""A session's changeset: streamed to a temporary file, read from there, kept compressed in the database.

Never whole in memory: SQLite streams it in pieces (https://sqlite.org/session/sqlite3changegroup_add_strm.html).
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import apsw

from backout.engines.sqlite.images import changeset_name
from backout.engines.sqlite.statements import main_table

_IN_MEMORY_BYTES = 16 * 1024 * 1024  # a small change never touches the disk
_PART_BYTES = 4 * 1024 * 1024  # far below SQLite's greatest blob of 1,000,000,000 bytes


class SpooledChangeset:
    """The net changes of a session, which can be read more than once."""

    def __init__(self, session: apsw.Session) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, mode="w+b")  # noqa: SIM115  closed by exit
        try:
            session.changeset_stream(self._write)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def _write(self, data: Any) -> None:
        self._file.write(bytes(data))

    def changes(self) -> Iterator[apsw.TableChange]:
        """Each change, table after table."""
        self._file.seek(0)
        return iter(apsw.Changeset.iter(self._file.read))

    def keep(self, connection: apsw.Connection, run: int) -> None:
        """Store it, compressed with zlib, in parts that follow each other."""
        table = main_table(changeset_name(run))
        connection.execute(f"CREATE TABLE {table} (part INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        connection.executemany(f"INSERT INTO {table} (data) VALUES (?)", self._compressed())

    def _compressed(self) -> Iterator[tuple[bytes]]:
        self._file.seek(0)
        packer = zlib.compressobj()
        waiting = bytearray()
        while data := self._file.read(_PART_BYTES):
            waiting += packer.compress(data)
            if len(waiting) >= _PART_BYTES:
                yield (bytes(waiting),)
                waiting.clear()
        waiting += packer.flush()
        yield (bytes(waiting),)
