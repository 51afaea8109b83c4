"""Everything that is known of a change, for its pull request or ticket: what it is, who said what, what was proven where.

Not for: showing it (`cli/report`). Invariant: it only reads; an environment that cannot be reached is part of the answer
and not an error; of PHI it holds no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from backout.change.model import Change, DataClass
from backout.engines.protocol import Database
from backout.engines.values import JournalState, Mode, RunRecord, RunState, ServerFacts
from backout.errors import BackoutError
from backout.gates.attestation import Validation
from backout.gates.certificate import Certificate
from backout.gates.evidence import Ignored, Said
from backout.ledger.reading import Reading
from backout.lint.model import Review
from backout.lint.review import review
from backout.project.attestations import validation
from backout.project.book import Book
from backout.project.certificates import certificates_in
from backout.project.config import Config, Environment
from backout.project.status import Status
from backout.project.subject import documents_of, subject_of
from backout.runs.changes import recorded_tables
from backout.runs.masking import masked_review
from backout.runs.report import TableReport

_LOOKED_AT = 1000  # runs of a journal, the newest first: among them are those of this digest
Look = Callable[[str], AbstractContextManager[tuple[Database, Environment, ServerFacts]]]


@dataclass(frozen=True)
class RunProof:
    """A run of this very digest, as the journal has it; `tables` have rows only where the rescue has them still."""

    record: RunRecord
    tables: tuple[TableReport, ...]
    validation: Validation | None = None  # whether people have looked at it; None: nobody has to

    @property
    def is_undone(self) -> bool:
        """Whether every row of it was put back."""
        return bool(self.record.tables) and all(one.undone for one in self.record.tables)

    @property
    def subset(self) -> str | None:
        """What it was limited to."""
        found = self.record.report.get("subset")
        return str(found) if found else None


@dataclass(frozen=True)
class Rung:
    """One environment: the newest runs there of this digest, and where the change stands."""

    environment: str
    unreachable: str | None = None  # why nothing is known
    product: str = ""  # "PostgreSQL 18.4, database clinic"
    ghost: RunProof | None = None
    real: RunProof | None = None
    undo: RunProof | None = None
    certificates: tuple[Certificate, ...] = ()
    standing: Status | None = None
    keep_days: float = 7.0
    address: str | None = None  # the URL, where the configuration has no name for it

    @property
    def runs(self) -> tuple[RunProof, ...]:
        """Those that there are, in the order of a rehearsal."""
        return tuple(one for one in (self.ghost, self.real, self.undo) if one is not None)

    @property
    def live_run(self) -> RunProof | None:
        """The run that is applied there now, as a whole or up to a batch."""
        real = self.real
        return real if real is not None and _is_applied(real.record) and not real.is_undone else None


def _is_applied(record: RunRecord) -> bool:
    """Committed, or in batches of which some are."""
    return record.state is RunState.COMMITTED or record.batches > 0


@dataclass(frozen=True)
class Heard:
    """A statement of a person; `ignored` is why it does not count."""

    said: Said
    signed: bool


@dataclass(frozen=True)
class Voices:
    """What people said, oldest first; `in_use` is False where nobody has to say anything and there is no ledger."""

    in_use: bool = False
    heard: tuple[Heard, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    head: tuple[int, str] | None = None  # the ledger's last entry: its place and its hash
    problem: str | None = None  # the ledger cannot be read, or is not as it was written


@dataclass(frozen=True)
class Dossier:
    """All of it."""

    change: Change
    review: Review
    documents: tuple[tuple[str, str], ...]  # key of the metadata -> text; those that are not written are empty
    voices: Voices
    rungs: tuple[Rung, ...]
    made_at: datetime
    made_by: str
    project: str | None

    @property
    def is_private(self) -> bool:
        """Whether the rows are PHI."""
        return self.change.metadata.data is DataClass.PHI


@dataclass(frozen=True)
class Sources:
    """Where a dossier's facts come from."""

    config: Config
    book: Book
    look: Look
    status: Callable[[str], Status]


def dossier_of(
    change: Change, environments: Sequence[str], sources: Sources, *, rows: int, now: datetime, person: str
) -> Dossier:
    """Gather it. An environment is a name of the configuration, or a URL."""
    names = list(environments or sources.config.environments)
    voices, certificates = _voices(change, names, sources, now)
    rungs = tuple(_rung(name, change, sources, certificates, rows) for name in names)
    rungs = tuple(_validated(one, voices, sources.config) for one in rungs)
    found = review(change)
    private = change.metadata.data is DataClass.PHI
    documents = tuple((key, _text(value)) for key, value in documents_of(change).items())
    return Dossier(
        change, masked_review(found) if private else found, documents, voices, rungs, now, person, sources.config.name
    )


# -- people ------------------------------------------------------------------------------------------------------------


def _voices(
    change: Change, names: Sequence[str], sources: Sources, now: datetime
) -> tuple[Voices, tuple[Certificate, ...]]:
    environments = [sources.config.environment(name) for name in names]
    if not any(sources.book.in_use(one.policy) for one in environments):
        return Voices(), ()
    try:
        reading = sources.book.read()
        subject = subject_of(change, sources.config)
        found = [
            (one, sources.book.find(reading, subject, one.name, one.policy, now, everything=True))
            for one in environments
        ]
    except BackoutError as error:
        return Voices(in_use=True, problem=error.message), ()
    heard: dict[str, Said] = {}
    ignored: dict[Ignored, None] = {}
    for environment, what in found:
        for said in (*what.said, *what.claims):
            if said.statement.environment in ("", environment.name):
                heard.setdefault(said.statement.identifier, said)
        ignored |= dict.fromkeys(what.ignored)
    in_order = sorted(heard.values(), key=lambda one: one.at)
    certificates = certificates_in(in_order)
    voices = Voices(
        in_use=True,
        heard=tuple(Heard(one, one.key is not None) for one in in_order),
        ignored=tuple(ignored),
        head=_head(reading),
        problem=reading.problem,
    )
    return voices, certificates


def _head(reading: Reading) -> tuple[int, str] | None:
    return (reading.head.position, reading.head.hash) if reading.count else None


# -- environments ------------------------------------------------------------------------------------------------------


def _rung(name: str, change: Change, sources: Sources, certificates: Sequence[Certificate], rows: int) -> Rung:
    environment = sources.config.environment(name)
    own = tuple(one for one in certificates if one.environment == environment.name)
    address = None if name in sources.config.environments else name
    rung = Rung(environment.name, certificates=own, keep_days=environment.keep_days, address=address)
    try:
        with sources.look(name) as (database, _, facts):
            product = f"{facts.product} {facts.version}, database {_file(facts.database)}"
            found = _runs(database, change, rows)
    except BackoutError as error:
        return replace(rung, unreachable=error.message)
    return replace(
        rung, product=product, ghost=found.get(Mode.GHOST), real=found.get(Mode.REAL), undo=found.get(Mode.UNDO),
        standing=_standing(name, sources),
    )  # fmt: skip


def _validated(rung: Rung, voices: Voices, config: Config) -> Rung:
    """The rung, with how far its run is validated by what people said."""
    if rung.real is None:
        return rung
    found = validation(config, rung.real.record, tuple(one.said for one in voices.heard))
    if found is not None and voices.problem is not None:
        found = Validation(found.wanted, problem=f"the ledger is not sound: {voices.problem}")
    return replace(rung, real=replace(rung.real, validation=found))


def _standing(name: str, sources: Sources) -> Status | None:
    """What its gates say; None where that cannot be told: no journal yet, or no key to ask with."""
    try:
        return sources.status(name)
    except BackoutError:
        return None


def _runs(database: Database, change: Change, rows: int) -> dict[Mode, RunProof]:
    """The newest of each kind that ended well; where none did, the newest that ended."""
    if database.journal.state() is not JournalState.PRESENT:
        return {}
    records = [
        one for one in database.journal.runs(_LOOKED_AT)
        if one.start.digest == change.digest and one.state is not RunState.RUNNING
    ]  # fmt: skip
    found: dict[Mode, RunProof] = {}
    for mode in Mode:
        of_mode = [one for one in records if one.start.mode is mode]
        good = [one for one in of_mode if _went_well(one)]
        record = next(iter(good or of_mode), None)
        if record is not None:
            full = database.journal.run(record.number) or record
            found[mode] = RunProof(full, _tables(database, change, full, rows))
    return found


def _went_well(record: RunRecord) -> bool:
    """A ghost run is rolled back by its nature; the second one of a rehearsal is about something else."""
    if record.start.mode is not Mode.GHOST:
        return _is_applied(record)
    return not record.report.get("error") and record.report.get("net_change") is None


def _tables(database: Database, change: Change, record: RunRecord, rows: int) -> tuple[TableReport, ...]:
    named = frozenset(name for step in change.steps for name in step.statement.tables)
    if not record.tables:  # a ghost leaves no rescue
        return tuple(_from_journal(one) for one in record.report.get("tables") or ())
    is_kept = record.rescue_dropped_at is None and change.metadata.data is not DataClass.PHI and rows > 0

    samples = {one.table.name: database.journal.sample(record, one, rows) for one in record.tables if is_kept}
    return recorded_tables(record, samples, named)


def _from_journal(one: dict[str, Any]) -> TableReport:
    return TableReport(
        str(one.get("table")), int(one.get("inserted") or 0), int(one.get("updated") or 0), int(one.get("deleted") or 0),
        str(one.get("captured_by")), bool(one.get("named_in_change")), key=tuple(one.get("key") or ()),
    )  # fmt: skip


def _file(database: str) -> str:
    """A database's name; of a file not the folders, which are of this machine."""
    return database.replace("\\", "/").rpartition("/")[2] or database


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
