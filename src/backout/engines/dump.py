"""What an engine promises about whole databases: written out as one stream of bytes, and read back from one.

Not for: where the bytes go (`recovery/backups`). Invariant: a stream that ends without an error is whole; whatever goes
wrong, also at its very end, is raised when the `with` block is left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class Reader(Protocol):
    """Where bytes come from; what `pyrage` and `shutil` ask of a file to read."""

    def read(self, size: int = -1, /) -> bytes: ...


class Writer(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


#: Writes a whole dump into what it is given; can be called more than once.
Pour = Callable[[Writer], None]


@dataclass(frozen=True)
class DumpFacts:
    """What is written down with a dump; `now` is the database's clock, with zone."""

    now: datetime
    product: str
    server_version: str
    database: str


@dataclass(frozen=True)
class Arrival:
    """How a dump is to be read back.

    `at_home`: into the environment that it is of: with owners and rights. Elsewhere everything belongs to the target's
    `role`. A target that has a journal keeps it, with its rescue, since a restore must not wipe out what was recorded;
    one that has none gets those of the dump at home only.
    `private`: what programs say of the rows may hold values, and is kept back.
    """

    made_with: str
    server_version: str
    at_home: bool
    private: bool


class Dump(Protocol):
    """The dumping and restoring of one database."""

    def facts(self) -> DumpFacts: ...

    def made_with(self) -> str:
        """The program or library and its version, "pg_dump 18.4"; Refused where none could dump this server."""

    def reading(self) -> AbstractContextManager[Reader]:
        """The database as bytes, of one moment."""

    def restore(self, pour: Pour, arrival: Arrival) -> None:
        """Make the database what it was when the dump was made.

        Raises Refused where a dump of that version cannot be read into this server, or a right is missing; the
        database is then as it was.
        """

    def has_tables(self) -> bool:
        """Whether anything is there that a restore would replace; the journal does not count."""
