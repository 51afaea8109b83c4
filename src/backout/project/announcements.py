"""What people are told of a change, and by which channels: before it runs, when it is done, before what is kept of it goes.

Not for: delivering (`integrations`), nor for whether somebody had to be told (`gates/announcement.py`). Invariant: where
the rows are PHI, a message holds no free text of anybody's: names of changes, tables and environments, and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from backout.change.model import Change, DataClass
from backout.engines.values import Mode
from backout.errors import BackoutError, Refused
from backout.gates.policy import Policy
from backout.integrations.deliver import deliver
from backout.integrations.model import Channel, Message, Receipt
from backout.project.config import Config
from backout.project.statements import Statements
from backout.project.subject import Subject
from backout.runs.report import RunReport

_PHI = DataClass.PHI.value
_KEPT_BACK = "Its title and documents are not in this message, since the change says that its rows are PHI."


@dataclass(frozen=True)
class Announced:
    """What came of an announcement. `told` are the channels that count: at least one recipient of theirs has it."""

    receipts: tuple[Receipt, ...]
    told: tuple[str, ...]
    at: datetime  # the database's clock
    earliest: datetime | None  # when the policy lets the run begin
    recorded: bool = False  # in the ledger

    @property
    def refused(self) -> tuple[Receipt, ...]:
        """The recipients who were not told."""
        return tuple(one for one in self.receipts if not one.delivered)


def channels_of(config: Config, policy: Policy) -> tuple[Channel, ...]:
    """The channels that a policy names. Refused where it names one that there is not."""
    names = policy.announce.to if policy.announce is not None else ()
    for name in names:
        if name not in config.channels:
            raise Refused(
                "announcement", f'there is no channel "{name}"',
                hint=f'write [channels.{name}] with its kind: "webhook", "slack" or "email"',
            )  # fmt: skip
    return tuple(config.channels[name] for name in names)


def require_channels(config: Config, policy: Policy, environment: str) -> tuple[Channel, ...]:
    """The same, where there must be one."""
    channels = channels_of(config, policy)
    if not channels:
        raise Refused(
            "announcement", f'nobody is named who is to be told of changes on "{environment}"',
            hint=f'write announce = {{to = ["dev-team"]}} for "{environment}", and [channels.dev-team]',
        )  # fmt: skip
    return channels


def told(receipts: Sequence[Receipt]) -> tuple[str, ...]:
    """The channels of which at least one recipient was reached."""
    return tuple(dict.fromkeys(one.channel for one in receipts if one.delivered))


def not_told(receipts: Sequence[Receipt]) -> tuple[str, ...]:
    """A note for each recipient who was not reached."""
    return tuple(
        f'"{one.recipient}" was not told: {one.answer} ({one.attempts} attempts)'
        for one in receipts
        if not one.delivered
    )


def of_change(change: Change, environment: str, operator: str, earliest: datetime | None) -> Message:
    """That a change is about to run."""
    private = change.metadata.data is DataClass.PHI
    when = f"It will not run before {earliest:%Y-%m-%d %H:%M %Z}." if earliest else "It may run at any time."
    lines = [
        f'The change "{change.identifier}" is to run on {environment}. {when}',
        "",
        *([_KEPT_BACK] if private else _documents(change)),
        "",
        f"Announced by: {operator}",
        f"Digest: {change.digest}",
        f'To object: backout object {change.identifier} --on {environment} --why "…"',
    ]
    facts = {
        "change": change.identifier,
        "digest": change.digest,
        "environment": environment,
        "operator": operator,
        "earliest": earliest.isoformat() if earliest else None,
    }
    title = "" if private else f": {change.metadata.title}"
    return Message("announce", f"[{environment}] to be run: {change.identifier}{title}", "\n".join(lines), facts)


def _documents(change: Change) -> list[str]:
    one = change.metadata
    named: Mapping[str, str | None] = {
        "What": one.title,
        "What could go wrong": one.risk,
        "What is done about that": one.mitigation,
        "Request": one.request,
        "Requested by": one.requested_by,
    }
    return [f"{name}: {value}" for name, value in named.items() if value]


def of_run(report: RunReport, operator: str) -> Message:
    """That a run, or an undo, is committed."""
    what = f"undone: run {report.environment}-{report.undo_of} of" if report.mode is Mode.UNDO else "done:"
    what = "some of it is done:" if report.subset else what
    title = "" if report.data == _PHI else f": {report.title}"
    tables = [
        f"  {one.table}: {one.inserted} inserted, {one.updated} updated, {one.deleted} deleted" for one in report.tables
    ]
    lines = [
        f'Run {report.identifier} of "{report.change}" is committed on {report.environment}.',
        *(tables or ["  It wrote nothing."]),
        "",
        *([f"Only a subset was run: {report.subset}"] if report.subset else []),
        f"By: {operator}",
        f"Digest: {report.digest}",
        f"To take it back: backout undo {report.identifier}",
    ]
    facts = {
        "change": report.change,
        "digest": report.digest,
        "environment": report.environment,
        "operator": operator,
        "run": report.identifier,
        "mode": report.mode.value,
        **({"subset": report.subset} if report.subset else {}),
    }
    return Message("done", f"[{report.environment}] {what} {report.change}{title}", "\n".join(lines), facts)


def of_cleanup(environment: str, runs: Sequence[str], backups: Sequence[str], operator: str) -> Message:
    """That what is kept of these runs is about to be dropped."""
    lines = [
        f"The time of these is over on {environment}; after this they cannot be taken back any more.",
        *(f"  the rescue tables of run {one}" for one in runs),
        *(f"  backup {one}" for one in backups),
        "",
        f"By the account: {operator}",
        'To keep one from the next time on: backout retain RUN --until DATE --why "…"',
    ]
    facts = {"environment": environment, "operator": operator, "runs": list(runs), "backups": list(backups)}
    count = len(runs) + len(backups)
    return Message("cleanup", f"[{environment}] to be dropped: {count} rescues and backups", "\n".join(lines), facts)


def of_emergency(change: Change, environment: str, operator: str) -> Message:
    """That somebody runs a change without waiting for people."""
    lines = [
        f'{operator} runs "{change.identifier}" on {environment} as an emergency, without waiting for approvals.',
        "It is captured, proven and journalled like any other run, and two people have to review it afterwards.",
        "",
        f"Digest: {change.digest}",
    ]
    facts = {"change": change.identifier, "digest": change.digest, "environment": environment, "operator": operator}
    return Message("emergency", f"[{environment}] EMERGENCY: {change.identifier}", "\n".join(lines), facts)


@dataclass(frozen=True)
class Herald:
    """Tells people what happens on an environment. Nothing here fails a run: what goes wrong is a note."""

    config: Config
    policy: Policy
    statements: Statements
    environment: str
    subject: Subject

    @contextmanager
    def crying(self, message: Message | None) -> Iterator[None]:
        """Tell it while the block goes on: an emergency waits for nobody's server."""
        if message is None:
            yield
            return
        with ThreadPoolExecutor(1) as thread:
            telling = thread.submit(self.tell, message)
            try:
                yield
            finally:
                telling.result()

    def tell(self, message: Message) -> tuple[str, ...]:
        """Tell whom the policy names, keep the receipts in the ledger; returns notes on what went wrong."""
        try:
            receipts = deliver(message, channels_of(self.config, self.policy))
        except BackoutError as error:
            return (f"people could not be told: {error.message}",)
        return (*self._keep(receipts, message), *not_told(receipts))

    def before_cleanup(self, message: Message) -> tuple[str, ...]:
        """Tell it, and return notes. Refused where there are channels and none could be reached: it can wait."""
        receipts = deliver(message, channels_of(self.config, self.policy))
        if receipts and not told(receipts):
            raise Refused(
                "announcement", f"nothing was dropped, since nobody could be told: {not_told(receipts)[0]}",
                hint="mend the channel, and clean again",
            )  # fmt: skip
        return (*self._keep(receipts, message), *not_told(receipts))

    def _keep(self, receipts: Sequence[Receipt], message: Message) -> tuple[str, ...]:
        try:
            if receipts and self.statements.book.in_use(self.policy):
                said = [one.as_json() for one in receipts]
                self.statements.told(self.subject, self.environment, message.event, said)
        except BackoutError as error:
            return (f"the ledger could not keep who was told: {error.message}",)
        return ()

    def done(self, report: RunReport, operator: str) -> RunReport:
        """Tell that a run is committed."""
        return replace(report, notes=(*report.notes, *self.tell(of_run(report, operator))))
