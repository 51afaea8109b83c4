"""Whether a run may begin: the evidence is gathered, the gates judge, and a permit is given. Asked on every path.

Not for: the guards of the database (`gates/judge.py`). Invariant: where a policy asks anything of people, no run begins
without a permit; where the ledger cannot be read, only an emergency begins, and the journal keeps its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backout.engines.protocol import Database
from backout.engines.values import Authority, JournalState, Mode, RunRecord, RunState, ServerFacts
from backout.errors import Refused, UsageError
from backout.gates.evidence import Evidence, PastRun, Verdict
from backout.gates.policy import OS_USER, SSH, Policy
from backout.gates.verdicts import GATES, Gate, judge_all, require_all
from backout.ledger.reading import Reading
from backout.ledger.seal import Seal, read_seal
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book, Found
from backout.project.certificates import certificates_in, proven_here, shapes_here
from backout.project.config import Config
from backout.project.identity import Speaker, speaker_of
from backout.project.permit import Permit, Scribe
from backout.project.run_entries import held_against, newest, past_run_of, reconcile
from backout.project.subject import Subject

_LOOKED_AT = 1000  # runs of a journal, the newest first: among them is one of a subset, where there is one


@dataclass(frozen=True)
class Place:
    """Where something is about to happen: an open database behind its guards."""

    database: Database
    environment: str
    facts: ServerFacts
    policy: Policy
    hosts: tuple[str, ...]  # all that the URL names, and the one that we are connected to


@dataclass(frozen=True)
class Wish:
    """What is about to be done there."""

    subject: Subject
    emergency: str | None = None  # why it cannot wait for people
    undo_of: str | None = None  # the run whose undo wants one more approval
    gates: tuple[Gate, ...] = GATES
    is_subset: bool = False  # a part of the change


@dataclass(frozen=True)
class Operator:
    """Who is about to do it; `key` is None where that is not proven by a signature."""

    speaker: Speaker
    key: str | None


@dataclass(frozen=True)
class Gathered:
    """What was found out before anything is judged; `now` is the database's clock."""

    now: datetime
    records: Sequence[
        RunRecord
    ]  # of the journal, without ghosts: the newest, or all where the ledger knows none of these
    reading: Reading | None  # None: there is no ledger to be had
    found: Found
    unknown: Sequence[RunRecord] = ()  # those of them that the ledger does not have yet


@dataclass
class Gatekeeper:
    """Judges the runs of one project; `key` is the SSH key that the operator named."""

    book: Book
    key: Path | None = None

    @contextmanager
    def permitted(self, place: Place, wish: Wish) -> Iterator[Permit]:
        """A permit for as long as the run lasts. Raises Refused, or Busy, for the first gate that says no."""
        permit = self._permit(place, wish)
        permit.judge_again = lambda: self._permit(place, wish)
        try:
            yield permit
        except BaseException as error:
            permit.failed(error)
            raise
        finally:
            permit.over()

    def _permit(self, place: Place, wish: Wish) -> Permit:
        policy, config = place.policy, self.book.config
        if not policy.needs_people and wish.emergency is not None:
            raise Refused(
                "emergency", f"{place.environment} asks nothing of people: there is nothing to skip",
                hint="run it without --emergency",
            )  # fmt: skip
        if not self.book.in_use(policy):
            return Permit(verdicts=self._without_ledger(place, wish)) if policy.asks_anything else Permit()
        speaker = speaker_of(config, policy.identity, self.key)
        with ThreadPoolExecutor(1) as beside:  # ssh-keygen takes as long as reading the ledger does
            proving = beside.submit(self._proven, speaker, _claim(wish, place, speaker, config.name))
            gathered = self._gathered(place, wish, speaker.name)
            claim, operator = proving.result()
        verdicts: tuple[Verdict, ...] = ()
        if policy.asks_anything:
            evidence = self._evidence(place, wish, gathered, operator)
            verdicts = require_all(evidence, policy, gathered.now, wish.gates)
        reading = gathered.reading
        authority = Authority(
            speaker.name, operator.key is not None, policy.profile, self._head(gathered, place), wish.emergency,
            self._seal(gathered) if policy.asks_anything else None, config.policy_digest,
        )  # fmt: skip
        scribe = Scribe(self.book, speaker, place.database, claim) if reading is not None else None
        return Permit(authority, verdicts, scribe)

    def _without_ledger(self, place: Place, wish: Wish) -> tuple[Verdict, ...]:
        """The gates where nothing is a matter of who said what."""
        found = self._gathered(place, wish, with_ledger=False)
        operator = Operator(speaker_of(self.book.config, OS_USER, None), None)
        return require_all(self._evidence(place, wish, found, operator), place.policy, found.now, wish.gates)

    def verdicts(self, place: Place, wish: Wish, operator: Operator) -> tuple[Evidence, tuple[Verdict, ...]]:
        """What each gate would say now; for `status`, which begins nothing."""
        gathered = self._gathered(place, wish)
        evidence = self._evidence(place, wish, gathered, operator)
        return evidence, judge_all(evidence, place.policy, gathered.now, wish.gates)

    def _proven(self, speaker: Speaker, statement: Statement) -> tuple[Signed, Operator]:
        """The operator's statement, signed, and who it proves them to be."""
        signed = speaker.say(statement)
        return signed, Operator(speaker, self.book.check([signed])[0].key)

    def _gathered(self, place: Place, wish: Wish, operator: str | None = None, *, with_ledger: bool = True) -> Gathered:
        """What ledger, files and journal have. Without a ledger (in an emergency) that is what the others have."""
        now, records = place.database.clock(), newest(place.database)
        reading = self._read(wish) if with_ledger else None
        found = Found()
        if reading is not None and place.policy.asks_anything:
            reading.expect(_last_seal(records))
        unknown: Sequence[RunRecord] = ()
        if reading is not None:
            records, unknown = held_against(reading, place.database, records)
        if place.policy.asks_anything:
            found = self.book.find(
                reading or Reading(), wish.subject, place.environment, place.policy, now, operator=operator,
                emergencies=any((one.report.get("authority") or {}).get("emergency") for one in records),
            )  # fmt: skip
        return Gathered(now, records, reading, found, unknown)

    def _evidence(self, place: Place, wish: Wish, gathered: Gathered, operator: Operator) -> Evidence:
        """All that the gates judge by."""
        config, subject, found = self.book.config, wish.subject, gathered.found
        certificates = proven_here(place.database, place.environment, certificates_in(found.said))
        submitters = {one.person for one in found.said if one.kind is Kind.SUBMIT}
        speaker = operator.speaker
        return Evidence(
            change=subject.identifier,
            digest=subject.digest,
            environment=place.environment,
            documents=subject.documents,
            title=subject.title,
            is_link=subject.is_link,
            binding=subject.binding,
            authors=subject.authors | submitters,
            operator=config.people.find(speaker.principal),
            operator_name=speaker.name,
            operator_key=operator.key,
            people=config.people,
            said=found.said,
            claims=found.claims,
            reviews=found.reviews,
            ignored=found.ignored,
            owners=self.book.owners if place.policy.identity == SSH else (),
            certificates=certificates,
            attest_on={one.environment: config.policy_for(one.environment).attest for one in certificates},
            runs=_runs(gathered.records, found),
            shapes=shapes_here(place.database, certificates),
            product=place.facts.product,
            version=place.facts.version,
            hosts=place.hosts,
            tampered=self._tampered(gathered),
            emergency=wish.emergency,
            undo_of=wish.undo_of,
            is_session=subject.is_session,
            has_subset=subject.has_subset,
            is_subset=wish.is_subset,
            subset_runs=_subset_runs(place, wish),
        )

    def _read(self, wish: Wish) -> Reading | None:
        """The ledger; None where it is not to be had and there is no time to wait for it."""
        try:
            return self.book.read()
        except Refused:
            if wish.emergency is None:
                raise
            return None

    def _head(self, gathered: Gathered, place: Place) -> str | None:
        """Bring the ledger up to date, and return what the journal is to remember of it."""
        if gathered.reading is None:
            return None
        head = reconcile(self.book, gathered.reading, place.database, gathered.unknown)
        return None if self.book.is_local else head.hash

    def _seal(self, gathered: Gathered) -> str | None:
        """What spares the next run most of the chain; only where the gates have just found that it holds."""
        seal = gathered.reading.seal if gathered.reading is not None and not self.book.is_local else None
        return seal.text if seal is not None else None

    def _tampered(self, gathered: Gathered) -> str | None:
        reading, found, records = gathered.reading, gathered.found, gathered.records
        if reading is None:
            return None
        if self.book.is_local:
            return reading.problem or found.forged  # what others saw of their ledgers says nothing of ours
        return reading.problem or found.forged or cut_off(reading, records)


def _last_seal(records: Sequence[RunRecord]) -> Seal | None:
    """The seal that the newest run left here, of those that left one."""
    seals = (read_seal((one.report.get("authority") or {}).get("ledger_seal")) for one in records)
    return next((one for one in seals if one is not None), None)


def cut_off(reading: Reading, records: Sequence[RunRecord]) -> str | None:
    """What the journal has seen of the ledger and is there no more, in words."""
    for record in records:
        seen = (record.report.get("authority") or {}).get("ledger_head")
        if seen and not reading.has_been(seen):
            return (
                f"its last entry when {record.identifier} began, {seen[:12]}…, is gone: "
                "its end was cut off, or this is another ledger"
            )
    return None


def _runs(records: Sequence[RunRecord], found: Found) -> tuple[PastRun, ...]:
    """Runs of the environment; the journal's word before the ledger's.

    What the ledger says of a run that the journal's newest are not among is all kept: nobody's second entry on a run makes
    the first one unsaid.
    """
    there = {one.identifier: past_run_of(one) for one in records if one.state is not RunState.RUNNING}
    return (*(one for one in found.runs if one.identifier not in there), *there.values())


def operator_asking(config: Config, policy: Policy, key: Path | None) -> Operator:
    """Who asks for a status: nobody signs anything for that, so a key that could sign is taken for a signature."""
    try:
        speaker = speaker_of(config, policy.identity, key)
    except UsageError:
        return Operator(speaker_of(config, OS_USER, None), None)
    return Operator(speaker, str(speaker.signer.key) if speaker.signer is not None else None)


def _subset_runs(place: Place, wish: Wish) -> tuple[str, ...]:
    """Runs of a subset of this text that wrote rows and of which nothing was undone, where that is asked for."""
    if (
        not place.policy.subset
        or not wish.subject.has_subset
        or place.database.journal.state() is not JournalState.PRESENT
    ):
        return ()
    return tuple(
        one.identifier for one in place.database.journal.runs(_LOOKED_AT)
        if one.start.digest == wish.subject.digest and one.start.mode is Mode.REAL and one.state is RunState.COMMITTED
        and one.report.get("subset") and one.tables and not any(table.undone for table in one.tables)
    )  # fmt: skip


def _claim(wish: Wish, place: Place, speaker: Speaker, project: str | None) -> Statement:
    """The operator's claim: what proves who they are. It is written only when the gates have said yes."""
    details = {"why": wish.emergency or "run", "take_over": False}
    return Statement(
        Kind.CLAIM, wish.subject.identifier, wish.subject.digest, place.environment, speaker.principal,
        datetime.now(UTC), details, project,
    )  # fmt: skip
