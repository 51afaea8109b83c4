"""The second session of a run in batches: it still sees rows as they were, and keeps the past from being cleaned away.

*Why the past is kept.* Once a batch is committed, the versions that it replaced are dead, and each later insert into a full
page of an index looks for such rows to remove (README of nbtree, "Bottom-Up deletion"). Where an index has many rows for
a value, that makes an UPDATE in batches twice as slow as one statement (measured on 18.4 with 200,000 rows: 3.9 s
against 2.0 s, and 2.2 s with an older snapshot open). So the run holds a snapshot as one statement would, but never longer
than `HORIZON_S`, and not while it waits: VACUUM can clean behind it.

Invariant: between two batches this session holds no lock that anybody waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from backout.engines.batches import Key, Keyset
from backout.engines.postgres.batch_questions import EXACTLY
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Answer, Session
from backout.engines.values import Settings, Table
from backout.errors import BackoutError

#: As long as a plain UPDATE of some million rows holds its own; autovacuum looks once in a minute by default (20.10).
HORIZON_S = 60.0


class Past:
    """The session, and since when its snapshot is held."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = Session(settings.url, "before-images")
        self._session.run("SET enable_seqscan = off")  # all that it reads is found by the key
        self._since = 0.0

    @property
    def pid(self) -> int:
        """Of its backend."""
        return self._session.pid

    def hold(self) -> None:
        """Hold a snapshot from now on; a new one where the last was held for long enough."""
        if self._session.in_transaction and monotonic() - self._since < HORIZON_S:
            return
        self.let_go()
        timeout = f"SET LOCAL lock_timeout = '{int(self._settings.lock_timeout_s * 1000)}ms'"
        self._session.run(
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {timeout}; SET LOCAL statement_timeout = 0; "
            f"SET LOCAL idle_in_transaction_session_timeout = 0; {EXACTLY}; "
            "DECLARE backout_horizon NO SCROLL CURSOR FOR SELECT 1",
            doing="begin the batch", state="untouched",
        )  # fmt: skip
        self._since = monotonic()

    def let_go(self, *, held_for_s: float = 0.0) -> None:
        """Give the snapshot back, where it was held for so long."""
        session = self._session
        if not session.lost and session.in_transaction and monotonic() - self._since >= held_for_s:
            session.run("ROLLBACK")

    def next_bound(self, keyset: Keyset, after: str, size: int) -> tuple[Key, int] | None:
        """(the key of the row `size` rows on, how many keys there are up to it); None: no more rows.

        `after`: SQL, the rows `t` that are still to come.
        """
        names = comma(f"t.{quoted(one)}" for one in keyset.by)
        cells = comma(f"t.{quoted(one)}::text" for one in keyset.by)
        # Moved through rather than numbered: 0.2 µs a key, against 0.4 µs with row_number (measured on 18.4).
        _, _, moved, at, *_ = self._and_forget(
            f"DECLARE backout_bound SCROLL CURSOR FOR SELECT {cells} FROM ONLY {qualified(keyset.table.name)} t "
            f"WHERE {after} ORDER BY {names} LIMIT {int(size)}; "
            "MOVE FORWARD ALL IN backout_bound; FETCH PRIOR FROM backout_bound"
        )
        return (tuple(at.rows[0]), moved.affected) if at.rows else None

    @contextmanager
    def look(self, table: Table, *, afresh: bool = False) -> Iterator[Session]:
        """The session, to read the table as it was. Raises Busy where somebody is queued for all of the table.

        `afresh`: in a transaction that is new; in one, `age` counts from the moment of its first use (see `images.py`).
        """
        name = qualified(table.name)
        try:
            if afresh:
                self.let_go()
            self.hold()
            self._session.run(
                f"SAVEPOINT backout_look; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT",
                doing=f"lock table {name}",
            )
            yield self._session
            self._session.run("ROLLBACK TO SAVEPOINT backout_look; RELEASE SAVEPOINT backout_look")
        except BackoutError:
            self.let_go()
            raise

    def vanished(self, oids: list[str]) -> tuple[str, ...]:
        """What these oids were that the run's session does not see any more."""
        return tuple(str(what) for (what,) in self._session.run(query("vanished"), [oids]).rows)

    def _and_forget(self, text: str) -> tuple[Answer, ...]:
        """Ask, and hold no lock of it: rolling back to a savepoint releases what was got since (manual 13.3).

        The answers to each statement, those of the savepoint first and last; its cursors end with it (manual: DECLARE).
        """
        try:
            first = self._session.run(
                f"SAVEPOINT backout_look; {text}; ROLLBACK TO SAVEPOINT backout_look; RELEASE SAVEPOINT backout_look",
                doing="find the next batch", state="untouched",
            )  # fmt: skip
            return first, *first.following
        except BackoutError:
            self.let_go()
            raise

    def close(self) -> None:
        """End the session."""
        self._session.close()
