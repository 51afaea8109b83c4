"""The ledger and the statement files of a project, read together: what counts, what does not and why.

Not for: judging (`gates`). Invariant: one reading is one state of the ledger, read whole, whose chain is recomputed behind
what the journal of the database sealed; a statement counts once, wherever it is kept and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backout.errors import BackoutError, Refused
from backout.gates.claims import deciding
from backout.gates.distinct import KeyOwner
from backout.gates.evidence import Ignored, PastRun, Said
from backout.gates.policy import SSH, Policy
from backout.ledger.entry import Entry
from backout.ledger.files import StatementFile, folder_of, read_statements, write_statement
from backout.ledger.reading import ATTESTED, EMERGENCY, REVIEW, Reading, in_a_body
from backout.ledger.signers import read_allowed_signers
from backout.ledger.signing import Verification, verify_all
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.config import LEDGER_FILE, Config
from backout.project.subject import Subject

if TYPE_CHECKING:
    from backout.ledger.store import Ledger

_UNJUDGED = (Kind.REVEAL, Kind.RETAIN, Kind.RESTAMP, Kind.RESTORE, Kind.AGREE, Kind.REFUSE)
_TO_A_SESSION = (Kind.AGREE, Kind.REFUSE)
_SKEW = timedelta(minutes=5)  # between two clocks that are kept right; what is later than that is from the future


@dataclass(frozen=True)
class Found:
    """What people said of a change, as far as it counts, and what else the ledger has that matters for a run."""

    said: tuple[Said, ...] = ()  # of the digest
    claims: tuple[Said, ...] = ()
    reviews: tuple[Said, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    runs: tuple[PastRun, ...] = ()
    forged: str | None = None


@dataclass
class Book:
    """The ledger of a project; opened when it is first needed."""

    config: Config
    _ledger: Ledger | None = field(default=None, repr=False)

    @property
    def ledger(self) -> Ledger:
        """The store; importing it takes a quarter of a second, hence late."""
        if self._ledger is None:
            from backout.ledger.store import Ledger

            self._ledger = Ledger(self.config.ledger_url())
        return self._ledger

    @property
    def is_local(self) -> bool:
        """Whether each machine has a ledger of its own, and people's statements come to it as files."""
        return self.config.statements == "files"

    def in_use(self, policy: Policy) -> bool:
        """Whether there is a ledger to ask and to write to: a policy needs it, it is configured, or it is there."""
        if policy.needs_people or self.config.ledger is not None:
            return True
        return self.config.path is not None and (self.config.folder / LEDGER_FILE).exists()

    def read(self) -> Reading:
        """Read everything. Refused where the ledger cannot be read."""
        try:
            return Reading(self.ledger.rows())
        except BackoutError as error:
            raise Refused("ledger", error.message, hint=error.hint) from None

    def write(self, signed: Signed, change: Path | None = None) -> Entry:
        """Append the statement; also as a file beside the change, where the project keeps them there."""
        return self.write_all((signed,), change)[0]

    def write_all(self, signed: Sequence[Signed], change: Path | None = None) -> Sequence[Entry]:
        """Append several in one transaction."""
        entries = self.ledger.append_all([one.body for one in signed])
        if self.is_local and change is not None:
            for one in signed:
                write_statement(folder_of(change), one)
        return entries

    @property
    def owners(self) -> tuple[KeyOwner, ...]:
        """Whose each key is, of the people whom the project knows; a pattern's and an authority's are nobody's."""
        people = self.config.people
        return tuple(dict.fromkeys(
            KeyOwner(person.name, one.fingerprint)
            for one in read_allowed_signers(self.config.signers_file) if not one.has_pattern and not one.is_authority
            for principal in one.principals if (person := people.find(principal)) is not None
        ))  # fmt: skip

    def files(self, change: Path | None) -> Sequence[StatementFile]:
        """The statement files beside the change."""
        return read_statements(folder_of(change)) if change is not None else ()

    def find(
        self, reading: Reading, subject: Subject, environment: str, policy: Policy, now: datetime, *,
        everything: bool = False, operator: str | None = None, emergencies: bool = False,
    ) -> Found:  # fmt: skip
        """What bears on a run of this change there. Signatures are verified; `now` is the database's clock.

        Only of what a gate judges by, that is; of all that was said of the change, with `everything`. The claims of the
        `operator` stand in nobody's way but others': where nobody else has claimed, they are left out. Reviews are looked for
        where there was an emergency: one that the ledger has, or, with `emergencies`, one that the journal has.
        """
        # What is about the text names the change as well; reviews there are only of emergencies.
        about = f'\\"change\\":{in_a_body(subject.identifier)},\\"details\\":{{'
        mine = self.config.people.names_of(operator) if operator is not None else ()
        signed = reading.marked(about, EMERGENCY, on=None if everything else environment, mine=mine)
        if everything or emergencies or any(one.statement.details.get("emergency") for one in signed):
            signed += reading.marked(REVIEW)
        beside = self.files(subject.path)
        signed += [one.signed for one in beside if one.signed is not None]
        runs = tuple(
            past_run(one.statement.details, one.statement.digest, self.config.people.canonical(one.statement.person))
            for one in signed
            if one.statement.kind is Kind.RUN and one.statement.environment == environment
        )
        wanted = _once(
            one for one in signed
            if one.statement.kind is not Kind.RUN and _matters(one, subject, environment)
            and (everything or _is_judged(one.statement))
        )  # fmt: skip
        settled: list[Signed] = []
        if not everything:
            claims = [one for one in wanted if one.statement.kind in (Kind.CLAIM, Kind.RELEASE)]
            if {self.config.people.canonical(one.statement.person) for one in claims} == {operator}:
                claims = []
            decide, settled = deciding(claims, self.config.people.canonical)
            wanted = [one for one in wanted if one.statement.kind not in (Kind.CLAIM, Kind.RELEASE)] + decide
        said, ignored, forged = self._weigh(wanted, policy, now, lambda: reading.problem)
        released = {one.person for one in said if one.kind is Kind.RELEASE}
        if any(self.config.people.canonical(one.statement.person) not in released for one in settled):
            more = self._weigh(settled, policy, now)  # a release that does not count settles nothing
            said, ignored, forged = said + more[0], ignored + more[1], forged or more[2]
        broken = [Ignored("statement", one.path.name, one.problem) for one in beside if one.problem]
        return Found(
            said=tuple(one for one in said if one.statement.digest == subject.digest and one.kind is not Kind.REVIEW),
            claims=tuple(
                one for one in said
                if one.kind in (Kind.CLAIM, Kind.RELEASE) and one.statement.change == subject.identifier
                and one.statement.environment == environment
            ),
            reviews=tuple(one for one in said if one.kind is Kind.REVIEW and one.statement.environment == environment),
            ignored=(*ignored, *broken), runs=runs, forged=forged,
        )  # fmt: skip

    def attestations(
        self, reading: Reading, changes: Sequence[Path | None], environment: str, policy: Policy, now: datetime
    ) -> tuple[Said, ...]:
        """What people said that they saw of runs there, as far as it counts; `changes` are files of what was run."""
        signed = reading.marked(ATTESTED)
        signed += [one.signed for change in changes for one in self.files(change) if one.signed is not None]
        wanted = _once(
            one for one in signed
            if one.statement.kind is Kind.ATTEST and one.statement.environment == environment
        )  # fmt: skip
        return tuple(self._weigh(wanted, policy, now)[0])

    def agreements(
        self, reading: Reading, run: str, environment: str, policy: Policy, now: datetime
    ) -> tuple[Said, ...]:
        """What people said to what a session did, yes or no, as far as it counts; oldest first."""
        wanted = _once(
            one for one in reading.marked(in_a_body(run))
            if one.statement.kind in _TO_A_SESSION and one.statement.environment == environment
            and one.statement.details.get("run") == run
        )  # fmt: skip
        return tuple(self._weigh(wanted, policy, now)[0])

    def _weigh(
        self, wanted: Sequence[Signed], policy: Policy, now: datetime, meanwhile: Callable[[], object] | None = None
    ) -> tuple[list[Said], list[Ignored], str | None]:
        """Tell what counts from what does not."""
        checked = self.check(wanted, meanwhile)
        said, ignored, forged = [], [], None
        for one, check in zip(wanted, checked, strict=True):
            statement = one.statement
            person = self.config.people.canonical(statement.person)
            problem = check.problem if one.signature is not None or policy.identity == SSH else None
            if problem is None and statement.at > now + _SKEW:
                problem = f"it is from the future: {statement.at.isoformat(sep=' ', timespec='minutes')}"
            if problem is None and statement.project != self.config.name:
                other = f'another project, "{statement.project}"' if statement.project else "a project without a name"
                problem = f"it is of {other}"
            if problem is not None:
                ignored.append(Ignored(statement.kind.value, person, problem))
                if check.forged:
                    forged = f'statement "{statement.kind.value}" by {person}: {check.problem}'
                continue
            said.append(Said(statement, person, check.key))
        return said, ignored, forged

    def check(self, signed: Sequence[Signed], meanwhile: Callable[[], object] | None = None) -> Sequence[Verification]:
        """Verify the signatures; an unsigned statement has a problem, which a policy may not mind."""
        return verify_all(signed, self.config.signers_file, meanwhile)


def past_run(details: Any, digest: str, person: str) -> PastRun:
    """A run as a statement of kind "run" tells it; see `run_entries`. It may be anybody's words: none of them is an error."""
    error, emergency, batches = details.get("error"), details.get("emergency"), details.get("batches")
    return PastRun(
        str(details.get("run")), digest, str(details.get("mode")), str(details.get("outcome")), person,
        error if isinstance(error, str) else None, _time(details.get("finished_at")),
        emergency if isinstance(emergency, str) else None, batches if isinstance(batches, int) else 0,
    )  # fmt: skip


def _time(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _is_judged(one: Statement) -> bool:
    """Whether any gate asks for it; that others were told of something is no announcement, see `Statements.told`."""
    return one.kind not in _UNJUDGED and (one.kind is not Kind.ANNOUNCE or "database_at" in one.details)


def _matters(one: Signed, subject: Subject, environment: str) -> bool:
    statement = one.statement
    if statement.kind is Kind.REVIEW:
        return statement.environment == environment
    if statement.kind in (Kind.CLAIM, Kind.RELEASE):
        return statement.change == subject.identifier and statement.environment == environment
    return statement.digest == subject.digest and statement.change == subject.identifier


def _once(signed: Iterable[Signed]) -> list[Signed]:
    """Each statement once; a signed copy rather than an unsigned one."""
    found: dict[str, Signed] = {}
    for one in signed:
        identifier = one.statement.identifier
        if identifier not in found or found[identifier].signature is None:
            found[identifier] = one
    return list(found.values())
