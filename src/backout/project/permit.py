"""The right to begin one run, and what the ledger keeps of the run: that somebody is on it, and how it went.

Not for: deciding whether it may begin (`permission`). Invariant: nothing here can fail a run: what the ledger cannot
take now, the next command on the environment copies from the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic

from backout.engines.protocol import Database
from backout.engines.values import Authority, RunState
from backout.errors import BackoutError
from backout.gates.evidence import Verdict
from backout.ledger.pens import Pens
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book
from backout.project.identity import Speaker
from backout.project.run_entries import run_statement
from backout.runs.report import RunReport

FRESH_S = 5.0  # how long a judgement is good for: longer than it takes to type "y", shorter than to object
_AT_THE_END = 2  # statements: the run, and the release of its claim
LATER = "the ledger could not be written: the next command on this environment brings it up to date"


@dataclass
class Scribe:
    """Writes what one operator does on one database."""

    book: Book
    speaker: Speaker
    database: Database
    claim: Signed
    claimed: bool = False
    pens: Pens | None = None  # for what is said at the end, where it was made ready

    def write_claim(self) -> None:
        """Append the claim; what fails is raised, since no run has begun."""
        self.book.write(self.claim)
        self.claimed = True

    def make_ready(self) -> None:
        """Start what signs at the end: how the run went, and the claim's release."""
        if self.pens is None:
            self.pens = self.speaker.pens(_AT_THE_END)

    def close(self) -> None:
        """End what was made ready and not needed."""
        if self.pens is not None:
            self.pens.close()
            self.pens = None

    def write_run(self, number: int) -> None:
        """Append how the run ended, signed where the key is still to be had. It ends the claim, too."""
        record = self.database.journal.run(number)
        if record is None or record.state is RunState.RUNNING:
            return
        identity = self.database.journal.stamp()[1]
        told = run_statement(record, identity, self.speaker.principal, self.book.config.name, datetime.now(UTC))
        self._say(told, *self._release())

    def release(self) -> None:
        """Give the claim back, if it was this run that took it."""
        self._say(*self._release())

    def _release(self) -> tuple[Statement, ...]:
        if not self.claimed:
            return ()
        self.claimed = False
        return (replace(self.claim.statement, kind=Kind.RELEASE, at=datetime.now(UTC), details={}),)

    def _say(self, *statements: Statement) -> None:
        """Sign them at one time, and keep them in one transaction."""
        if not statements:
            return
        try:
            signed = self.speaker.say_all(statements, self.pens)
        except BackoutError:  # the agent has gone meanwhile; the audit shows that they are unsigned
            signed = [Signed(one, None) for one in statements]
        finally:
            self.close()
        self.book.write_all(signed)


@dataclass
class Permit:
    """Where the environment asks nothing of people and there is no ledger, all of it is empty."""

    authority: Authority | None = None
    verdicts: tuple[Verdict, ...] = ()
    scribe: Scribe | None = None
    judge_again: Callable[[], Permit] | None = None
    judged_at: float = field(default_factory=monotonic)  # by this process's clock

    def person(self, account: str) -> str:
        """Who does it: by the one name that the project knows them by, else by their account."""
        return self.authority.person if self.authority is not None else account

    def claim(self) -> None:
        """Say that the operator is on it, right before the lease.

        Where somebody took their time to answer a question, the gates are asked once more: a person may have objected
        meanwhile, or the window may have closed. Raises what they raise.
        """
        if self.judge_again is not None and monotonic() - self.judged_at > FRESH_S:
            found = self.judge_again()
            self.authority, self.verdicts, self.scribe = found.authority, found.verdicts, found.scribe
            self.judged_at = found.judged_at
        if self.scribe is not None:
            self.scribe.write_claim()

    def begins(self) -> None:
        """The run is about to begin: have ready what signs at its end."""
        if self.scribe is not None:
            self.scribe.make_ready()

    def over(self) -> None:
        """Nothing more is said by this right."""
        if self.scribe is not None:
            self.scribe.close()

    def ended(self, report: RunReport) -> RunReport:
        """Keep the run in the ledger; returns the report, with a note where that has to wait."""
        if self.scribe is None:
            return report
        try:
            self.scribe.write_run(report.run)
        except BackoutError:
            return replace(report, notes=(*report.notes, LATER))
        return report

    def failed(self, error: BaseException) -> None:
        """Keep what became of a run that failed, or give the claim back where none began."""
        if isinstance(error, BackoutError) and isinstance(error.report, RunReport) and error.report.run:
            error.report = self.ended(error.report)
        elif self.scribe is not None:
            try:
                self.scribe.release()
            except BackoutError:
                return  # it holds nobody up for good: a claim can be released by hand, or taken over
