"""Pre-images of plain statements, written by temporary triggers of ours straight into the rescue table.

A session keeps every row in memory, and its changeset has to be read row by row. An UPDATE or DELETE of one table that
touches exactly the rows that it names (`intent.is_plain`) needs neither: a trigger `AFTER UPDATE`, `AFTER DELETE` writes
OLD.*. Temporary triggers belong to our connection alone and change nothing in the file's schema; unlike others they
also fire while `SQLITE_DBCONFIG_ENABLE_TRIGGER` is off (https://sqlite.org/c3ref/c_dbconfig_defensive.html).

Proof: a plain statement must have counted (`total_changes`) exactly as many rows as came into the rescue; anything else
is a tripwire. The rows that the triggers themselves wrote, which SQLite counts too, are left out (`handle.Connection`).

Invariant: a table is followed either by the session or by triggers, never by both. A statement that is not plain ends the
triggers on what it writes first: `hand_over` gives the rows to the session, which then follows that table to the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import apsw

from backout.engines.sqlite import images, replay
from backout.engines.sqlite.catalogue import is_own, virtual_tables
from backout.engines.sqlite.guard import Guard
from backout.engines.sqlite.handle import Connection
from backout.engines.sqlite.intent import Intent, Plainness, is_plain, plain_in_undo, plainness
from backout.engines.sqlite.logged import Logged, rows_of
from backout.engines.sqlite.statements import main_table, quote_name
from backout.engines.values import Table

NO_RUN = 0  # runs are numbered from 1: this number is in the names of rescue tables that wait for their run's
Snapshot = Mapping[str, Logged]


class RescueTriggers:
    """Decides for each table who follows it. `tripwires` says what must not have happened."""

    def __init__(self, connection: Connection, guard: Guard) -> None:
        self._connection = connection
        self._guard = guard
        self._logged: dict[str, Logged] = {}
        self._followed: set[str] = set()  # by the session; it never lets go of a table
        self._plain: dict[str, Plainness | None] = {}
        self._writing: frozenset[str] = frozenset()  # the tables whose triggers expect rows now
        self._passing = False  # what is written now will be taken back
        # fts and rtree write their shadow tables whenever they like: the session may not look away for a moment
        self._quiet = not virtual_tables(connection)
        self._session: apsw.Session | None = None
        self._alone = False  # whether triggers capture all that an undo writes
        self._past = 0  # rows that triggers wrote which are off by now
        self.tripwires: list[str] = []

    def attach(self, session: apsw.Session) -> None:
        """Let the session follow what the triggers do not; it asks about a table until it has seen a row of it."""
        self._session = session
        session.table_filter(self._is_followed)

    def _is_followed(self, name: str) -> bool:
        if is_own(name):
            return False
        if name in self._logged:
            if name not in self._writing and not self._passing:
                self.tripwires.append(f'table "{name}" was written by a statement that had not said so')
            return False
        self._followed.add(name)
        return True

    @property
    def logged(self) -> Mapping[str, Logged]:
        """The tables that triggers follow."""
        return self._logged

    def choose(self, intent: Intent) -> str | None:
        """The table whose triggers capture this statement, put on if need be; None: the session captures it.

        Raises what handing over raises; the state is then that of a failed statement.
        """
        if not intent.whole:
            self.hand_over(tuple(self._logged))
            return None
        if len(intent.tables) == 1:
            (name,) = intent.tables
            plain = None if name in self._followed else self._plainness(name)
            if plain is not None and is_plain(intent, plain):
                if name not in self._logged:
                    self._put_on(plain.table)
                known = self._logged[name]
                self._logged[name] = replace(known, columns=known.columns | intent.columns)
                return name
        self.hand_over(tuple(name for name in self._logged if name in intent.tables))
        return None

    def _plainness(self, name: str) -> Plainness | None:
        if name not in self._plain:
            self._plain[name] = plainness(self._connection, name)
        return self._plain[name]

    def _put_on(self, table: Table, *, inserts: bool = False) -> None:
        number = secrets.randbelow(10**9)  # not to be guessed: a temporary table of that name would be found first
        before = images.rescue_name(NO_RUN, number, "before")
        logged = Logged(table, before, inserted=f"temp.{before}_inserted" if inserts else None)
        images.create_before(self._connection, table, before)
        actions = dict.fromkeys(("UPDATE", "DELETE"), _insert(before, [c.name for c in table.restorable], "OLD"))
        if logged.inserted:
            inserted = logged.inserted.removeprefix("temp.")
            key = ", ".join(map(quote_name, table.key))
            self._connection.execute(f"CREATE TEMP TABLE {inserted} ({key})")
            # the first image of a row is told by who came first: nothing may be replaced once there are inserts
            never = f"SELECT RAISE(ABORT, 'a row was replaced after others were inserted') FROM {inserted}; "
            actions = {event: never + action for event, action in actions.items()}
            actions["INSERT"] = _insert(inserted, table.key, "NEW")
        for event, trigger in logged.triggers.items():
            self._guard.own_triggers.add(trigger)
            self._connection.execute(
                f"CREATE TEMP TRIGGER {trigger} AFTER {event} ON {main_table(table.name.name)}"
                f" BEGIN {actions[event]} END"
            )
        self._logged[table.name.name] = logged

    def rows(self) -> int:
        """Rows that triggers wrote; they are left out of what counts."""
        if not self._connection.in_transaction:
            return self._past
        return self._past + sum(rows_of(self._connection, one) for one in self._logged.values() if one.on)

    @contextmanager
    def recording(self, name: str) -> Iterator[None]:
        """The session looks away, the triggers of that table do not; afterwards the counts are compared."""
        logged = self._logged[name]
        self._flush()
        before, counted = rows_of(self._connection, logged), self._connection.total_changes()
        with self._looking_away(alone=True, expected=frozenset([name])):
            yield
        rows, counted = rows_of(self._connection, logged) - before, self._connection.total_changes() - counted
        if rows != counted:
            self.tripwires.append(f'table "{name}": {counted} rows written, {rows} captured')
        self._logged[name] = replace(logged, statements=logged.statements + 1, events=logged.events + rows)

    def _flush(self) -> None:
        """What fts has still to write it writes when a savepoint begins: not in the middle of what is counted."""
        if not self._quiet:
            self._guard.let_own(passing=True)
            self._connection.execute("SAVEPOINT backout_flush", can_cache=False)
            self._connection.execute("RELEASE backout_flush", can_cache=False)
            self._guard.let_own(passing=False)

    @contextmanager
    def undoing(self, names: Sequence[str]) -> Iterator[None]:
        """Capture an undo of these tables, as far as they allow it; the session captures the others.

        An undo deletes rows and inserts them again, with the application's triggers and all actions off.
        """
        for name in names:
            table = None if name in self._followed else plain_in_undo(self._connection, name)
            if table is not None:
                self._put_on(table, inserts=True)
        self._alone = bool(names) and set(names) <= set(self._logged)
        with self._looking_away(alone=self._alone, expected=frozenset(self._logged)):
            yield
        for name, logged in self._logged.items():
            written = frozenset(column.name for column in logged.table.restorable) - set(logged.table.key)
            rows = rows_of(self._connection, logged)
            self._logged[name] = replace(logged, statements=1, events=rows, columns=written)

    def compare(self, counted: int) -> None:
        """With the rows that an undo has written; where the session followed some of them, their sum alone is known."""
        rows = sum(logged.events for logged in self._logged.values())
        if self._alone and rows != counted:
            self.tripwires.append(f"the undo wrote {counted} rows, {rows} captured")

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Only tables of ours are written inside of the block: the session need not be asked row by row."""
        with self._looking_away(alone=True, expected=frozenset()):
            yield

    @contextmanager
    def _looking_away(self, *, alone: bool, expected: frozenset[str]) -> Iterator[None]:
        """Rows of the expected tables come to their triggers; `alone`: no others will come, the session can rest."""
        self._writing = expected
        if self._session is not None:
            self._session.enabled = not (alone and self._quiet)
        try:
            yield
        finally:
            self._writing = frozenset()
            if self._session is not None:
                self._session.enabled = True

    @contextmanager
    def passing(self) -> Iterator[None]:
        """What is written inside of the block will be taken back."""
        self._passing = True
        try:
            yield
        finally:
            self._passing = False

    def snapshot(self) -> Snapshot:
        """To be given to `taken_back` after a ROLLBACK TO a savepoint that begins now."""
        return dict(self._logged)

    def taken_back(self, snapshot: Snapshot) -> tuple[Logged, ...]:
        """After ROLLBACK TO: triggers put on since are gone; returns those that are there again without being wanted."""
        self._logged = {name: one for name, one in snapshot.items() if name not in self._followed}
        return tuple(one for name, one in snapshot.items() if name not in self._logged)

    def drop(self, unwanted: Sequence[Logged]) -> None:
        """Take off the triggers of tables that the session follows, and their rescue."""
        for logged in unwanted:
            self._take_off(logged)
            self._connection.execute(f"DROP TABLE {main_table(logged.before)}")

    def take_off(self) -> tuple[Logged, ...]:
        """End of the change: what was followed, in order of name. The rescue tables stay as they are."""
        found = tuple(self._logged[name] for name in sorted(self._logged) if self._logged[name].on)
        for logged in found:
            self._past += rows_of(self._connection, logged)
            self._take_off(logged)
            self._logged[logged.table.name.name] = replace(logged, on=False)
        return found

    def _take_off(self, logged: Logged) -> None:
        for trigger in logged.triggers.values():
            self._connection.execute(f"DROP TRIGGER temp.{trigger}")

    def stored(self, name: str, before: str | None) -> None:
        """Where the pre-images of a table are now; None: nothing of it had changed."""
        if before is None:
            del self._logged[name]
        else:
            self._logged[name] = replace(self._logged[name], before=before, statements=1)

    def hand_over(self, names: tuple[str, ...]) -> None:
        """Let the session follow these tables, as if it had from the start."""
        for name in names:
            try:
                self._hand_over(name)
            except BaseException:
                if name in self._followed:  # of some rows only: a savepoint that is taken back does not mend that
                    self.tripwires.append(f'table "{name}" was handed over in part')
                raise

    def _hand_over(self, name: str) -> None:
        logged = self._logged[name]
        if logged.on:
            self._past += rows_of(self._connection, logged)
            self._logged[name] = replace(logged, on=False)
            self._take_off(logged)
            images.keep_first(self._connection, logged.table, logged.before)
        with replay.quiet(self._connection):
            self._writing = frozenset([name])
            replay.restore(self._connection, logged)
            self._writing = frozenset()
            del self._logged[name]
            replay.repeat(self._connection, logged)
        if logged.on:
            self._connection.execute(f"DROP TABLE {main_table(logged.before)}")


def _insert(target: str, columns: Sequence[str], side: str) -> str:
    """A trigger's statement; its table must not be qualified (https://sqlite.org/lang_createtrigger.html)."""
    names, values = (", ".join(prefix + quote_name(name) for name in columns) for prefix in ("", f"{side}."))
    return f"INSERT INTO {quote_name(target)} ({names}) VALUES ({values});"
