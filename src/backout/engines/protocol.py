"""What every engine promises. Whoever drives an engine knows these protocols and nothing of drivers.

Who owns what: a `Database` owns the connections; its `Journal` owns the `backout` and rescue schemas; a
`Transaction` is the one supervised transaction, and only `runs/supervise.py` calls `commit` and `rollback`.
Driver errors never pass this seam: each engine translates them into `backout.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from socket import socket
from typing import Any, Protocol, runtime_checkable

from backout.engines.values import (
    Capabilities,
    Capture,
    CapturedTable,
    Contents,
    Foreseen,
    JournalState,
    Resolution,
    RowChange,
    RunRecord,
    RunStart,
    RunState,
    ServerFacts,
    Settings,
    Table,
    TableFacts,
    TableName,
    UndoOutcome,
    UndoPlan,
    UpdateHint,
    Write,
)


class Result(Protocol):
    """The answer to one statement."""

    @property
    def affected(self) -> int:
        """Rows in the command tag; 0 where there is none."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Empty where the statement returns no rows."""

    @property
    def rows(self) -> Sequence[tuple[Any, ...]]: ...


class Transaction(Protocol):
    """The supervised transaction. Nothing that it does is visible to others before `commit`."""

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Result:
        """Run one statement of the change, under the environment's role.

        Raises DatabaseFailed, Busy or Interrupted; the transaction can then only be rolled back.
        """

    def check(self, query: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Result:
        """Run an assertion's query; whatever it writes is taken back at once."""

    def script(self, guard: Callable[[str], None]) -> Any:
        """The `db` that a Python change is given; `guard` raises Refused for a statement that it may not run."""

    def capture(self, run: int, hints: Sequence[UpdateHint], *, keep: bool) -> Capture:
        """End the change's part: fire deferred constraints, look at the tripwires, put all images into rescue tables.

        With `keep` the rescue is durable when this returns or becomes so in the same atom as the commit; without it
        (ghost) it vanishes with the rollback. After this, `execute` is not allowed any more.
        """

    def sample(self, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Up to `limit` rows of a captured table before and after, in the order of the key."""

    def revert(self, plan: UndoPlan, resolution: Resolution) -> UndoOutcome:
        """Put rows back as `plan` says, inside this transaction; see `UndoOutcome`.

        Raises Refused, with nothing written, where a right is missing without which the undo would not be exact.
        """

    def differing(self, captured: CapturedTable) -> int:
        """Rows in which the images of a table, captured after `revert`, differ: 0 where it is as it was at the start."""

    def record(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Write the run's end into the journal, in this transaction: it commits with the change or not at all."""

    def commit(self) -> None:
        """Raises OutcomeUnknown where the answer was lost, DatabaseFailed where the server refused (rolled back)."""

    def rollback(self) -> None:
        """Never raises: a lost connection rolls back as well."""

    def left_behind(self) -> Sequence[str]:
        """After the end: what of the run's own could not be taken away yet, in words; `Journal.settle` tries again."""


@runtime_checkable
class Foresees(Protocol):
    """A database that has rights on tables, and can be asked for them (PostgreSQL)."""

    def foresee(self, writes: Sequence[Write]) -> Foreseen:
        """What is missing now for these writes and for their undo, as far as it is certain."""


@runtime_checkable
class Tracked(Protocol):
    """What hands out rows one by one as text, at constant memory: a transaction, and a database behind one (PostgreSQL)."""

    def stream(
        self, query: str, parameters: Sequence[Any], begin: Callable[[Sequence[str]], None],
        take: Callable[[Sequence[str | None]], None],
    ) -> None:  # fmt: skip
        """Ask a query: the names of its columns to `begin`, then each row to `take`. What it writes is taken back."""

    def changes(
        self, captured: CapturedTable, columns: Sequence[str],
        take: Callable[[Sequence[str | None], Sequence[str | None] | None, Sequence[str | None] | None], None],
    ) -> None:  # fmt: skip
        """Each row of a captured table to `take`: its key, and these columns before and after; None where it was not."""


class Loan(Protocol):
    """The supervised session as a socket, at rest: whoever speaks the wire protocol on it gives it back so."""

    @property
    def socket(self) -> socket: ...

    @property
    def database(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """What a server tells a client at log-in."""

    @property
    def deferred(self) -> tuple[str, ...]:
        """Names of the constraints that are checked at COMMIT, quoted."""

    @property
    def isolation(self) -> str:
        """The transaction's level, in the server's words."""

    def cancel(self) -> None:
        """Ask the server to end the statement that it is at."""

    def at_home(self) -> AbstractContextManager[None]:
        """For a moment, in which it is at rest, the session is the transaction's again."""


@runtime_checkable
class Lends(Protocol):
    """A transaction whose session can be lent to clients of other languages (PostgreSQL)."""

    def lend(self) -> AbstractContextManager[Loan]:
        """Raises Refused, with nothing written, where that is not possible."""

    def newcomers(self, since_s: float) -> Sequence[str]:
        """Other sessions of this machine that have appeared in the last seconds."""

    def transcribe(self, run: int, lines: Sequence[tuple[int, str, str]]) -> None:
        """Keep lines of the run's transcript (number, line, hash), whatever becomes of the transaction."""


@runtime_checkable
class Transcribes(Protocol):
    """A journal that has the transcripts of what clients of the endpoint did (PostgreSQL)."""

    def transcript(self, run: int) -> Sequence[tuple[int, str, str]]:
        """(number, line, hash) in their order; empty where there are none, or they were dropped with the rescue."""


@runtime_checkable
class Pairs(Protocol):
    """A journal through which two people see one session while it is open (PostgreSQL). All of it is durable at once."""

    def tell(self, run: int, told: str) -> None:
        """What the session says of itself now, in place of what it said before."""

    def told(self, run: int) -> str | None:
        """What it says; None: it is not open any more, or never was."""

    def watched(self, run: int, person: str) -> None:
        """A sign of life of somebody who watches."""

    def watchers(self, run: int) -> Mapping[str, float]:
        """Who has watched, and how many seconds ago they did so last."""

    def untell(self, run: int) -> None:
        """Take all of that away: the session has ended."""


@runtime_checkable
class Paired(Protocol):
    """A transaction that two people can see and agree to (PostgreSQL)."""

    @property
    def pairs(self) -> Pairs:
        """Through which others see it."""

    def look(self, run: int, limit: int) -> Sequence[tuple[CapturedTable, Sequence[RowChange]]]:
        """What it has changed so far, with some rows of each table before and after. Nothing of the look stays.

        It reads what `capture` reads. Raises what that raises; the transaction goes on.
        """

    def fingerprint(self, captured: CapturedTable) -> str:
        """SHA-256 over the sorted rows of a table before, and after; of whole images, behind `capture`."""


class Journal(Protocol):
    """The `backout` schema of one database: the truth about its runs. Every method commits what it writes."""

    def state(self) -> JournalState: ...

    def missing_rights(self) -> Sequence[str]:
        """The exact GRANT (or CREATE SCHEMA) statements that an administrator must run first; empty: none."""

    def create(self) -> None:
        """Make schema, tables and the database's stamp."""

    def stamp(self) -> tuple[str, str]:
        """(environment, identity) as written by `create`; compare with `Settings.environment`, `ServerFacts.identity`."""

    def restamp(self) -> None:
        """Write the stamp anew, after a restore or a clone."""

    def begin_run(self, start: RunStart) -> int:
        """Number the run; durable before its transaction begins."""

    def end_run(self, run: int, state: RunState, tables: Sequence[CapturedTable], report: Mapping[str, Any]) -> None:
        """Record the end of a run whose transaction is not there to do it (ghost, rolled back, refused)."""

    def runs(self, limit: int, change: str | None = None) -> Sequence[RunRecord]:
        """The newest first; of that change alone, where one is named."""

    def run(self, number: int) -> RunRecord | None: ...

    def settle(self) -> Sequence[RunRecord]:
        """Find runs that say `running` and are not: decide from the database's own word whether they committed.

        Drops the rescue tables of those that did not, and takes away what ended runs have left (`left_behind`). Returns
        the runs that were settled.
        """

    def left_behind(self) -> Sequence[str]:
        """What runs that have ended left in the application's schemas, in words; `settle` tries to take it away."""

    def sample(self, record: RunRecord, captured: CapturedTable, limit: int) -> Sequence[RowChange]:
        """Rows of a finished run from its rescue tables."""

    def expired(self) -> Sequence[RunRecord]:
        """Runs whose rescue is past its time by the database's clock and no conflict holds it."""

    def retain(self, run: int, until: datetime) -> None: ...

    def certify(self, run: int, certificate: Mapping[str, Any]) -> None:
        """Keep what a run has proven with its row, as `certificate` in its report."""

    def drop_rescue(self, run: int) -> None:
        """Drop the rescue tables of a run and record it."""


class Database(Protocol):
    """One open target."""

    @property
    def engine(self) -> str:
        """Its folder's name."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def journal(self) -> Journal: ...

    def facts(self) -> ServerFacts: ...

    def clock(self) -> datetime:
        """The database's own time, with zone: what waiting times are measured by."""

    def lease(self, change: str, operator: str) -> None:
        """Take the right to write here until `close`; raises Busy, naming the holder."""

    def table(self, name: TableName, identifier: str | None = None) -> Table | None:
        """The table as it is now, found by identifier first and by name else."""

    def undo_obstacle(self, tables: Sequence[Table]) -> str | None:
        """The right that is missing for an exact undo of rows of these tables, in words; None: nothing is missing."""

    def table_facts(self, schema: str | None, name: str) -> TableFacts | None:
        """For `check --on`; None: no such table."""

    def transaction(
        self, known_tables: Sequence[tuple[str | None, str]], *, snapshot: bool = False, to_lend: bool = False
    ) -> Transaction:
        """Begin the supervised transaction. `known_tables` are those that the change names, for early locks.

        `to_lend`: its session will be asked for (`Lends`), where the engine has that.
        """

    def query(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Result:
        """A query outside of any run (`@after` checks); read-only where the engine has that."""

    def understand(self, statement: str, parameters: Sequence[str]) -> None:
        """Have the server read a statement (SELECT, INSERT, …), which is not run; `parameters` are the names in it.

        Errors: as of `query`, where it does not understand it: a column that there is not, say. What it can only tell
        once the parameters have values is no error here.
        """

    def contents(self, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
        """Every table of the application with its number of rows; those in `exactly` also with a fingerprint of them.

        Read in one snapshot. Tables that the login role may not read are left out.
        """

    def close(self) -> None: ...
