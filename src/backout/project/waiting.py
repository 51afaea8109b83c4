"""A session waits: for somebody who watches, and at its end for two people who agree to what it did.

Not for: whether that is enough (`gates/agreement.py`). Invariant: whatever ends the waiting but an agreement raises, so
that the run is rolled back; nothing waits longer than `agree_within`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

from backout.engines.protocol import Paired, Transaction
from backout.engines.values import Capture
from backout.errors import Refused
from backout.gates.agreement import Agreement, Session, judge
from backout.gates.policy import Policy
from backout.ledger.entry import canonical
from backout.project.book import Book
from backout.project.config import Environment
from backout.project.live import ALONE, OPEN, WAITING, Live, Told
from backout.runs.as_json import table_as_json
from backout.runs.report import RunReport, TableReport

_ASK_S = 0.5
_LEDGER_S = 2.0  # how often the ledger is asked for a no while somebody types
_SKEW = timedelta(minutes=5)  # between the clocks of two people

#: Told whenever somebody has said something: the report with its rows, how far the agreement is, and the hash.
Tell = Callable[[RunReport, Agreement, str], None]


def paired(transaction: Transaction) -> Paired:
    """The transaction, if people can be shown it. Raises Refused."""
    if not isinstance(transaction, Paired):
        raise Refused("pair", "sessions are for PostgreSQL", state="rolled back", hint="write a change")
    return transaction


@dataclass
class Waiting:
    """Of one session."""

    book: Book
    policy: Policy
    environment: Environment
    first: str  # who types
    data: str
    say: Callable[[str], None]
    tell: Tell
    _live: Live | None = None
    _run: str = ""
    _asked: float = 0.0
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextmanager
    def shown(self, transaction: Transaction, number: int) -> Iterator[None]:
        """Show the session while somebody types; where the environment asks for it, wait for a watcher. Raises Refused."""
        self._run = f"{self.environment.name}-{number}"
        told, gone_s = Told(self.first, self.data), self.environment.watcher_gone.total_seconds()
        self._live = Live(paired(transaction).pairs, number, told, gone_s)
        try:
            self._begin(self._live)
            yield
        except BaseException:
            self._live.end()
            raise

    def _begin(self, live: Live) -> None:
        environment = self.environment
        self.say(f"session {self._run}; to see it in another terminal: backout watch {self._run}")
        if environment.watcher == "required":
            live.tell(phase=ALONE)
            self.say(f"{environment.name} asks for somebody other than {self.first} who watches")
            deadline = monotonic() + environment.agree_within.total_seconds()
            while not live.is_watched():
                if monotonic() > deadline:
                    raise _ended(f"nobody came to watch within {_words(environment.agree_within)}")
                sleep(_ASK_S)
            live.tell(phase=OPEN)

    def ended(self) -> str | None:
        """Why the session has to end while somebody types, in words; None: it need not."""
        assert self._live is not None, "it has begun"
        left = self._live.departed()
        if left is not None:
            return f"{left}, who watched the session, has left"
        if monotonic() - self._asked < _LEDGER_S:
            return None
        self._asked = monotonic()
        refused = self._judged("").refused
        return f"{refused.person} said no: {refused.detail('why')}" if refused is not None else None

    def so_far(self, tables: Sequence[TableReport]) -> None:
        """Show whoever watches what was changed so far."""
        assert self._live is not None, "it has begun"
        self._live.tell(tables=tuple(table_as_json(one) for one in tables))

    def agree(self, transaction: Transaction, found: Capture, report: RunReport) -> RunReport:
        """Wait until two people have agreed. Raises Refused where they do not."""
        assert self._live is not None, "it has begun"
        try:
            return self._agree(self._live, transaction, found, report)
        finally:
            self._live.end()

    def _agree(self, live: Live, transaction: Transaction, found: Capture, report: RunReport) -> RunReport:
        if not any(one.before_rows or one.after_rows for one in found.tables):
            return replace(report, notes=(*report.notes, "nothing was changed, so nobody was asked to agree"))
        prints = {str(one.table.name): paired(transaction).fingerprint(one) for one in found.tables}
        content = hashlib.sha256(canonical(prints).encode()).hexdigest()
        within = self.environment.agree_within
        deadline, until = (
            monotonic() + within.total_seconds(),
            (datetime.now(UTC) + within).isoformat(timespec="seconds"),
        )
        live.tell(
            phase=WAITING, content=content, until=until,
            tables=tuple(table_as_json(one) for one in report.tables),
        )  # fmt: skip
        last: Agreement | None = None
        while True:
            agreement = self._judged(content)
            if agreement != last:
                live.tell(agreed=agreement.agreed, waits_for=agreement.waits_for)
                self.tell(report, agreement, content)
                if last is None:
                    self.say(f"it waits until {until}, and is rolled back then")
                last = agreement
            if agreement.refused is not None:
                raise _ended(f"{agreement.refused.person} said no: {agreement.refused.detail('why')}")
            if agreement.is_reached:
                return _agreed(report, agreement, content)
            if monotonic() > deadline:
                raise _ended(f"not agreed within {_words(within)}: it waited for {' and '.join(agreement.waits_for)}")
            sleep(_ASK_S)

    def _judged(self, content: str) -> Agreement:
        """What was said since it began: a number may have been another run's, before this database was restored."""
        now = datetime.now(UTC)
        said = self.book.agreements(self.book.read(), self._run, self.environment.name, self.policy, now)
        recent = [one for one in said if one.at > self._began - _SKEW]
        session = Session(self._run, content, self.first)
        return judge(recent, session, self.book.config.people, self.book.owners)


def _agreed(report: RunReport, agreement: Agreement, content: str) -> RunReport:
    people = " and ".join(agreement.agreed)
    kept = {"sha256": content, "people": list(agreement.agreed), "statements": list(agreement.statements)}
    return replace(
        report, agreement=kept, notes=(*report.notes, f"{people} agreed to these rows (sha256 {content[:16]})")
    )


def _ended(why: str) -> Refused:
    return Refused("pair", why, state="rolled back", hint="talk about it, and begin again: nothing was changed")


def _words(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
