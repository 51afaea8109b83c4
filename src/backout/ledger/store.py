"""The store of the ledger: an SQLite file, or a PostgreSQL database for a team.

Not for: what an entry means; making the tables (`schema`). Invariant: entries are only appended, each in a transaction
that holds the one lock of the ledger from reading its head until COMMIT, so that writers of any number of processes make
one chain.

Errors of the database end here, as UsageError: the ledger is not the database that a run writes to, which is untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from weakref import finalize

from backout.errors import BackoutError, Refused, UsageError
from backout.ledger.entry import Entry, Head, Row, entry_of, link
from backout.ledger.rows import NotAnswered, PostgresRows, Rows, SqliteRows
from backout.ledger.version import VERSION

_HEAD = "SELECT position, hash FROM backout_ledger_entry ORDER BY position DESC LIMIT 1"
_VERSION = "SELECT version, readable_by FROM backout_ledger_version ORDER BY version DESC LIMIT 1"


class Ledger:
    """An open ledger; `url` as in `backout.toml`. It is made when it is first written to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._rows: Rows = _rows(url)
        self._one_at_a_time = RLock()  # a project may be used by several threads, and the connection is one
        finalize(self, self._rows.close)

    def close(self) -> None:
        """Give the connection back."""
        self._rows.close()

    def exists(self) -> bool:
        """Whether somebody has written there before."""
        with self._answering():
            return self._rows.is_there() and self._version()[0] > 0

    def append(self, body: str) -> Entry:
        """Add an entry; when this returns it is durable, and nobody else has its place."""
        return self.append_all((body,))[0]

    def append_all(self, bodies: Sequence[str]) -> tuple[Entry, ...]:
        """Add entries one after the other in one transaction: all of them, or none."""
        made = []
        with self._writing():
            head = self._head()
            for body in bodies:
                entry = link(head, body)
                self._rows.insert(entry)
                head = Head(entry.position, entry.hash)
                made.append(entry)
        return tuple(made)

    def head(self) -> Head:
        """The last entry's place and hash."""
        with self._answering():
            return self._head() if self._is_readable() else Head()

    def rows(self) -> Sequence[Row]:
        """All entries by position, as one state of the ledger. Bodies and hashes are as stored: nothing is checked."""
        with self._answering():
            return self._rows.all() if self._is_readable() else ()

    def entries(self) -> Sequence[Entry]:
        """The same, as values."""
        return list(map(entry_of, self.rows()))

    # -- transactions --------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._one_at_a_time:
            try:
                yield
            except (NotAnswered, BackoutError) as error:
                raise self._translated(error) from None
            finally:
                self._rows.rest()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that nobody else's is beside."""
        with self._answering():
            if not self._is_readable() or self._version()[0] < VERSION:
                from backout.ledger.schema import bring_up_to_date

                bring_up_to_date(self.url)
            self._rows.begin()
            try:
                self._require_readable(self._version())
                yield
                self._rows.commit()
            except BaseException:
                self._rows.rollback()
                raise

    def _is_readable(self) -> bool:
        """Whether there is one; Refused where it is of a backout that is too new for us."""
        if not self._rows.is_there():
            return False
        found = self._version()
        self._require_readable(found)
        return found[0] > 0

    def _version(self) -> tuple[int, int]:
        """(version, readable_by); (0, 0) where there are no tables."""
        if not self._rows.has_tables():
            return 0, 0
        found = next(iter(self._rows.select(_VERSION)), (0, 0))
        return int(found[0]), int(found[1])

    def _require_readable(self, found: tuple[int, int]) -> None:
        version, readable_by = found
        if readable_by > VERSION:
            raise Refused(
                "ledger", f"the ledger was made by a newer backout (its version is {version}, ours is {VERSION})",
                hint="upgrade backout on this machine",
            )  # fmt: skip

    def _head(self) -> Head:
        found = next(iter(self._rows.select(_HEAD)), None)
        return Head(int(found[0]), str(found[1])) if found is not None else Head()

    def _translated(self, error: Exception) -> BackoutError:
        if isinstance(error, Refused):
            return error
        reason = error.message if isinstance(error, BackoutError) else str(error)
        return UsageError(
            f'unable to use the ledger "{self._rows.shown}": {reason.strip().splitlines()[0]}',
            hint="see `backout doctor`; the ledger is the key `ledger` of [project]",
        )


def _rows(url: str) -> Rows:
    scheme = url.partition(":")[0].lower() if "://" in url else ""
    if scheme == "sqlite" and url.startswith("sqlite:///"):
        return SqliteRows(Path(url.removeprefix("sqlite:///").partition("?")[0]))
    if re.fullmatch(r"postgres(ql)?(\+psycopg)?", scheme):
        return PostgresRows(f"postgresql:{url.partition(':')[2]}")
    if scheme and scheme != "sqlite":
        raise UsageError(
            f'no ledger can be in a database of kind "{scheme}"',
            hint="ledger = \"sqlite:///path/to/file\" or \"postgresql://…\"",
        )  # fmt: skip
    raise UsageError("the ledger's URL is not one", hint='ledger = "postgresql://user@host/database"')
