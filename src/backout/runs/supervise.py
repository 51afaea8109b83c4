"""The one place that begins, commits and rolls back.

A run is: number → begin → work → capture → prove → record → commit, or roll back at whatever went wrong. What the work
is (a change, an undo) is the caller's; that nothing is committed which is not captured, proven and recorded is decided
here, for every path.

Invariant: `Transaction.commit` is called in `_commit` alone, right after `record`, and only for a complete proof; a
batch is committed in `commit_batch` alone, in the same way, and only for an exact one.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any

from backout.engines.batches import Batch, BatchRecord
from backout.engines.protocol import Database, Transaction
from backout.engines.values import Capture, Counts, RunRecord, RunStart, RunState, TableName
from backout.errors import BackoutError, Interrupted, OutcomeUnknown, ProofFailed, Refused, RolledBack
from backout.recovery.proof import Tightness, Verdict, prove
from backout.runs.as_json import report_for_journal
from backout.runs.report import RunReport

Reopen = Callable[[], Database]

#: After a lost answer to COMMIT: together 5 s, in which a server that is there has seen that its client is gone.
_ASKS, _BETWEEN_ASKS_S = 20, 0.25


@dataclass(frozen=True)
class Work:
    """What a run does between BEGIN and the end. Each part may raise; the run is then rolled back.

    `apply` writes; `inspect` looks at what was captured and proven, may refuse it, and adds to the report.
    """

    start: RunStart
    known_tables: tuple[tuple[str | None, str], ...]
    apply: Callable[[Transaction, int], RunReport]
    capture: Callable[[Transaction, int], Capture]
    inspect: Callable[[Transaction, Capture, Verdict, RunReport], RunReport]
    keep: bool  # False: a ghost, always rolled back
    least: Tightness = Tightness.BOUNDED
    snapshot: bool = False
    private: bool = False  # of PHI no value may be in an error's text
    lends: bool = False  # a program of another language does it, on the run's session


def supervise(database: Database, reopen: Reopen, work: Work) -> RunReport:
    """Run `work`. Returns its report; raises a BackoutError whose `report` says how far it got and what is true now."""
    began = monotonic()
    number = database.journal.begin_run(work.start)
    report = _blank(database, number, work.start)
    transaction: Transaction | None = None
    try:
        with _interruptible():
            transaction = database.transaction(work.known_tables, snapshot=work.snapshot, to_lend=work.lends)
            report = _merged(report, work.apply(transaction, number))
            capture = work.capture(transaction, number)
            verdict = prove(capture)
            _require(verdict, work.least)
            report = work.inspect(transaction, capture, verdict, report)
        if not work.keep:
            return _finish(database, transaction, number, report, RunState.ROLLED_BACK, began)
        report = replace(report, outcome=RunState.COMMITTED, state="committed", duration_s=monotonic() - began)
        transaction.record(number, RunState.COMMITTED, capture.tables, report_for_journal(report))
        return _commit(database, transaction, reopen, number, report)
    except BackoutError as error:
        if work.private:
            keep_back(error)
        if not isinstance(error, OutcomeUnknown):
            _abandon(database, transaction, number, report, error, began)
        raise
    except BaseException:
        if transaction is not None:
            transaction.rollback()
        raise


def commit_batch(
    batch: Batch, capture: Capture, record: BatchRecord, planned: Mapping[TableName, Counts] | None = None
) -> None:
    """Prove one batch, write its row of the journal, COMMIT. What it raises leaves the batch for the caller to roll back.

    A batch looks at its own rows only: where the images do not explain each write, one may have gone elsewhere.
    """
    require_exact(capture, planned)
    batch.record(record)
    with undisturbed():
        batch.commit()


def require_exact(capture: Capture, planned: Mapping[TableName, Counts] | None = None) -> None:
    """Raise ProofFailed unless every counted write is one captured row, or was logged as it was made.

    An undo that meets conflicts tries, and takes back what it tried: the server counts that as well. It knows which rows
    it has written, and no trigger fires meanwhile: where the images are those rows (`planned`), they are all.
    """
    _require(prove(capture), Tightness.BOUNDED)
    for one in capture.tables:
        verdict, meant = prove(Capture((one,))), (planned or {}).get(one.table.name)
        as_planned = meant is not None and (one.before_rows, one.after_rows) == (
            meant.updated + meant.deleted, meant.inserted + meant.updated,
        )  # fmt: skip
        if planned is not None and meant is None and (one.counted or Counts()).total:
            raise ProofFailed(
                f'the undo wrote to "{one.table.name}", which is not part of it',
                hint="a trigger or a cascade fired during the undo; please report it with the table's definition",
            )
        if verdict.tightness is not Tightness.EXACT and not as_planned and not (one.logged and not one.unlogged):
            raise ProofFailed(
                f'the rows of the batch do not explain every write of "{one.table.name}" that the database counted (the '
                f'proof is "{verdict.level}"): statements of a trigger or a function failed, and went on without them',
                hint="run it without @batch, where every row of the table is looked at",
            )


#: What follows is the words of the server or of a script, which quote values.
_FOREIGN_WORDS = re.compile(
    r"(unable to [^:]*|the script raised \w+|the database refused|the parameters do not fit the statement): .*",
    re.DOTALL,
)

#: Classes of SQLSTATE whose messages name things, not values: constraints, rights, syntax, deadlocks, room, the server.
#: MariaDB's message for a duplicate key quotes it, and that for a mistake in a statement quotes the statement.
_NAMES_ONLY = ("08", "23", "25", "40", "42", "53", "55", "57", "58", "SQLITE_CONSTRAINT")
_QUOTES_ALL_THE_SAME = ("23000", "42000", "SQLITE_CONSTRAINT_TRIGGER")  # the last: RAISE(ABORT, any expression)


def keep_back(error: BackoutError) -> None:
    """Take out of the message what the server or a script said, where that can hold a value of a row."""
    code = getattr(error, "sqlstate", None)
    unreadable = isinstance(error, Refused) and error.gate == "script"  # what could not be read is quoted
    if not isinstance(error, RolledBack) and not unreadable:
        return
    if str(code).startswith(_NAMES_ONLY) and code not in _QUOTES_ALL_THE_SAME:
        return
    kept_back = (
        f"{f'SQLSTATE {code}, ' if code else ''}the words are kept back, since the change says that its rows are PHI"
    )
    error.message = _FOREIGN_WORDS.sub(lambda match: f"{match[1]}: {kept_back}", error.message)
    error.args = (error.message,)


def _require(verdict: Verdict, least: Tightness) -> None:
    if not verdict.complete:
        raise ProofFailed(
            "the completeness proof failed: " + "; ".join(verdict.failures),
            hint="what the change does cannot be taken back for certain: write it with plain INSERT, UPDATE and DELETE",
        )
    if verdict.tightness < least:
        raise ProofFailed(
            f'the completeness proof is only "{verdict.level}", and this environment asks for "{least.name.lower()}"',
            hint="write the change so that no row is touched twice, or lower `min_proof`",
        )


def _finish(
    database: Database, transaction: Transaction, number: int, report: RunReport, state: RunState, began: float
) -> RunReport:
    """The end of a ghost run: roll back, then write down that it was."""
    transaction.rollback()
    notes = (*report.notes, *_left_behind(transaction))
    report = replace(report, outcome=state, state="untouched", duration_s=monotonic() - began, notes=notes)
    database.journal.end_run(number, state, (), report_for_journal(report))
    return report


def _commit(database: Database, transaction: Transaction, reopen: Reopen, number: int, report: RunReport) -> RunReport:
    """COMMIT, undisturbed by signals: one that comes meanwhile is too late, and must not make the run look undone."""
    committed = None
    try:
        with undisturbed():
            committed = _with_times(database, _commit_or_ask(database, transaction, reopen, number, report))
    except KeyboardInterrupt:
        if committed is None:
            raise
        committed = replace(
            committed, notes=(*committed.notes, "the request to stop came too late: the run is committed")
        )
    return committed


def _commit_or_ask(
    database: Database, transaction: Transaction, reopen: Reopen, number: int, report: RunReport
) -> RunReport:
    """COMMIT. An answer that was lost is asked for in the journal, never guessed."""
    try:
        transaction.commit()
        return replace(report, notes=(*report.notes, *_left_behind(transaction)))
    except OutcomeUnknown as unknown:
        database.close()  # as long as a session of ours holds the run, the journal takes it for running
        record = _ask_journal(reopen, number)
        if record is not None and record.state is RunState.COMMITTED:
            return replace(report, notes=(*report.notes, "the answer to COMMIT was lost; the journal has the run"))
        if record is not None and record.state is RunState.INTERRUPTED:
            error: BackoutError = Interrupted(
                "the connection was lost at COMMIT, and the journal says that the run was not committed",
                hint="run it again",
            )
            error.report = replace(report, outcome=RunState.INTERRUPTED, state="rolled back")
            raise error from None
        unknown.report = replace(report, outcome=RunState.UNKNOWN, state=unknown.state)
        raise


def _with_times(database: Database, report: RunReport) -> RunReport:
    """When it began and until when the way back is kept, by the database's clock; the run is committed already."""
    try:
        record = database.journal.run(report.run)
    except BackoutError:
        return report
    if record is None:
        return report
    rescue = tuple(replace(one, expires_at=record.expires_at) for one in report.rescue)
    return replace(report, rescue=rescue, started_at=record.started_at)


def _ask_journal(reopen: Reopen, number: int) -> RunRecord | None:
    """The run as the journal has it; still running while the server has not noticed yet that we went away."""
    record = None
    for _ in range(_ASKS):
        record = _asked_once(reopen, number) or record
        if record is not None and record.state is not RunState.RUNNING:
            break
        sleep(_BETWEEN_ASKS_S)
    return record


def _asked_once(reopen: Reopen, number: int) -> RunRecord | None:
    try:
        database = reopen()
    except BackoutError:
        return None  # not reachable now: the outcome stays unknown, and the error says how to ask later
    try:
        database.journal.settle()
        return database.journal.run(number)
    except BackoutError:
        return None
    finally:
        database.close()


def _abandon(
    database: Database,
    transaction: Transaction | None,
    number: int,
    report: RunReport,
    error: BackoutError,
    began: float,
) -> None:
    """Roll back, and write down why. Where the journal cannot be reached, the next command settles the run."""
    if transaction is not None:
        transaction.rollback()
    state = _state_of(error)
    far = error.report if isinstance(error.report, RunReport) else report  # as far as the work says that it got
    found = replace(_merged(report, far), outcome=state, state=error.state, duration_s=monotonic() - began)
    if transaction is not None:
        found = replace(found, notes=(*found.notes, *_left_behind(transaction)))
    error.report = found
    try:
        database.journal.end_run(number, state, (), {**report_for_journal(found), "error": error.code})
    except BackoutError:
        note = "the journal could not be reached: the next command on this environment settles the run"
        error.report = replace(found, notes=(*found.notes, note))


def _left_behind(transaction: Transaction) -> tuple[str, ...]:
    return tuple(f"{what}; the next command on this environment takes it away" for what in transaction.left_behind())


def _state_of(error: BackoutError) -> RunState:
    if isinstance(error, Interrupted):
        return RunState.INTERRUPTED
    return RunState.REFUSED if isinstance(error, Refused) or error.exit_status == 5 else RunState.ROLLED_BACK


def _blank(database: Database, number: int, start: RunStart) -> RunReport:
    facts = database.facts()
    about: dict[str, Any] = {
        "product": facts.product, "version": facts.version, "name": facts.database,
        "role": facts.role or facts.login_role, "free_bytes": facts.free_bytes,
    }  # fmt: skip
    return RunReport(
        number, f"{start.environment}-{number}", start.change, start.title, start.digest, start.environment, start.mode,
        RunState.RUNNING, "untouched", undo_of=start.undo_of, authority=start.authority, database=about,
    )  # fmt: skip


def _merged(blank: RunReport, applied: RunReport) -> RunReport:
    """What the work reports, under the run's own name."""
    return replace(
        applied, run=blank.run, identifier=blank.identifier, undo_of=blank.undo_of, authority=blank.authority,
        database=blank.database,
    )  # fmt: skip


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM between two statements end the run like one during a statement."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint="nothing was changed; run it again when you are ready") from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals wait while COMMIT is on its way, so that its answer is heard; and while what was open is closed."""
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
