"""What each batch asks the server anew: prepared once for the session, and asked in two messages.

Planning these queries of the catalogue takes several times as long as answering them (measured on 18.4: 12 ms of 15 ms a
batch), and each message costs a round trip. A plan is kept as long as `search_path` is what it was made under (manual:
PREPARE, "Notes"), hence two of each: for the beginning, and for behind the statement.

Not for: judging the answers. Invariant: what is asked is what `tripwires.observe` asks of a run in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from backout.engines.postgres import tripwires
from backout.engines.postgres.armed_batches import entries_of
from backout.engines.postgres.catalogue import table_of
from backout.engines.postgres.names import literal
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import EXACT_TEXT, Answer, Session
from backout.engines.values import Counts, Table

#: Names of the engine's own things alone: what the author's statement has set must not lead ours astray.
OWN_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"

EXACTLY = "; ".join(
    f"SET LOCAL {name} = '{value}'" for name, value in {**EXACT_TEXT, "row_security": "off", "TimeZone": "UTC"}.items()
)

_AT_THE_BEGINNING = ("begin_facts", "counts", "sequences")
_NO_LOGS = "SELECT WHERE false"
_BEHIND = ("table", "narrowing", "locks", "counts", "vanished_locks", "sequences")


@dataclass(frozen=True)
class Beginning:
    """What is true when a batch begins."""

    xid: int
    multixact: int
    track_counts: bool
    replication_role: str
    standings: tripwires.Standings
    entries: tripwires.Rows  # of the logs of armed tables; see `Logs.question`


@dataclass(frozen=True)
class Behind:
    """What is true behind the batch's statement."""

    table: Table | None
    narrow: bool
    observed: tripwires.Observed
    entries: Mapping[str, Counts]  # by the log's oid: what the batch has written to it


class Questions:
    """The questions about one table, prepared in the run's session."""

    def __init__(self, main: Session, table_oid: str) -> None:
        self._main = main
        oid = literal(table_oid)
        texts = []
        for when, names in (("begin", _AT_THE_BEGINNING), ("behind", _BEHIND)):
            texts += ["BEGIN"] + ([OWN_PATH] if when == "behind" else [])
            texts += [f"PREPARE {_name(one, when)} AS {query(one).replace('$1', oid)}" for one in names]
            texts += ["COMMIT"]
        main.run("; ".join(["DEALLOCATE ALL", *texts]), doing="prepare the questions", state="untouched")
        self.scans: str = main.value("SELECT current_setting('enable_seqscan')")

    def begin(self, begin: str, logs: str | None = None) -> Beginning:
        """Begin the transaction with these statements, and ask; `logs`: how the logs of armed tables stand."""
        asked = "; ".join(f"EXECUTE {_name(one, 'begin')}" for one in _AT_THE_BEGINNING)
        answer = self._main.run(f"{begin}; {asked}; {logs or _NO_LOGS}", doing="begin the batch", state="untouched")
        facts, counts, sequences, entries = (one.rows for one in answer.following[-4:])
        ((xid, multixact, track_counts, replication_role),) = facts
        standings = tripwires.Standings(tripwires.counts_of(counts), tripwires.sequences_of(sequences))
        return Beginning(xid, multixact, track_counts, replication_role, standings, entries)

    def behind(
        self, beginning: Beginning, expected: Collection[str], next_xid: Callable[[], int],
        gone: Callable[[list[str]], tuple[str, ...]], logs: str | None = None,
    ) -> Behind:  # fmt: skip
        """Check what is deferred, give back the role, and ask; `gone` says what these vanished oids were."""
        asked = "; ".join(f"EXECUTE {_name(one, 'behind')}" for one in _BEHIND)
        answer = self._main.run(
            f"SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL ROLE NONE; {OWN_PATH}; SET LOCAL enable_seqscan = off; {EXACTLY}; "
            f"{asked}; {tripwires.SETTINGS}; {logs or _NO_LOGS}",
            doing="check the deferred constraints",
        )
        table, narrow, locks, counts, vanished, sequences, settings, entries = answer.following[-8:]
        now = tripwires.Standings(tripwires.counts_of(counts.rows), tripwires.sequences_of(sequences.rows))
        xid = beginning.xid
        observed = tripwires.compared(
            beginning.standings, now, tripwires.locks_of(locks.rows), settings.rows[0], xid,
            lambda: tripwires.catalogue_rows(self._main, xid, next_xid(), expected),
            gone([oid for (oid,) in vanished.rows]) if vanished.rows else (),
        )  # fmt: skip
        return Behind(table_of(table.rows), _only(narrow), observed, entries_of(beginning.entries, entries.rows))


def _only(answer: Answer) -> bool:
    return bool(answer.rows and answer.rows[0][0])


def _name(question: str, when: str) -> str:
    return f"backout_{when}_{question}"
