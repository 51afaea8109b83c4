"""What a gate judges by: what people said, what was run, and what the change's file and its database are.

Made by `project/permission.py` from ledger, journal and files. Not for: finding any of it. Invariant: a statement that
is here was verified as the policy asks (`Said`), one that could not be is in `ignored` with the reason, and counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from backout.gates.certificate import Certificate, Shape
from backout.gates.distinct import KeyOwner, Signed, is_one_of
from backout.gates.people import People, Person
from backout.ledger.statement import Kind, Statement

#: Errors of a run that say something about the change, not about the moment: they void what was approved before.
FAILED_ITSELF = frozenset({"expectation_failed", "assertion_failed", "proof_failed"})
#: Between a speaker's clock and the database's. Run numbers begin anew in a database that is made anew, and what was said
#: of another run of the same number is older than this run.
SKEW = timedelta(minutes=5)
_MAY_HAVE_WRITTEN = frozenset({"committed", "partial", "unknown"})


@dataclass(frozen=True)
class Said:
    """A statement that counts. `person` is the one name of who said it; `key` is None where it is not signed."""

    statement: Statement
    person: str
    key: str | None = None

    @property
    def kind(self) -> Kind:
        """What is said."""
        return self.statement.kind

    @property
    def at(self) -> datetime:
        """When it was said, by the speaker's clock."""
        return self.statement.at

    def detail(self, name: str) -> str:
        """A detail as text; empty where it is not there."""
        value = self.statement.details.get(name)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Ignored:
    """A statement that does not count, and why."""

    kind: str
    person: str
    problem: str


@dataclass(frozen=True)
class PastRun:
    """A run on the environment in question, as the journal (or the ledger's copy of it) has it."""

    identifier: str
    digest: str
    mode: str
    outcome: str
    person: str
    error: str | None = None  # code of the error that ended it
    finished_at: datetime | None = None  # by the database's clock
    emergency: str | None = None  # why it did not wait for people
    batches: int = 0  # committed ones; 0: the run was one transaction

    @property
    def may_have_written(self) -> bool:
        """Whether rows of it can be there: a run in batches that did not go through to its end has committed some."""
        return self.outcome in _MAY_HAVE_WRITTEN or self.batches > 0

    @property
    def failed_itself(self) -> bool:
        """Whether it was the change that failed, in earnest; a ghost, a lock or a lost connection say nothing of it."""
        return self.mode == "real" and self.error in FAILED_ITSELF


@dataclass(frozen=True)
class Evidence:
    """All that is known when a run of this digest is about to begin on this environment."""

    change: str
    digest: str
    environment: str
    documents: Mapping[str, Any] = field(default_factory=dict)  # key of the metadata -> what is written there
    title: str = ""
    is_link: bool = False  # the file, or a folder above it in the project, is a symbolic link
    binding: str = ""  # digest of the values that are this environment's own; approvals are for these
    authors: frozenset[str] = frozenset()  # who wrote it, edited it last or submitted it
    operator: Person | None = None  # who is about to run it; None: nobody that is known
    operator_name: str = ""  # as they are called, known or not
    operator_key: str | None = None
    people: People = field(default_factory=People)
    said: tuple[Said, ...] = ()  # about this digest, on any environment
    claims: tuple[Said, ...] = ()  # claims and releases of this change here, whatever the digest
    reviews: tuple[Said, ...] = ()  # of emergencies here
    ignored: tuple[Ignored, ...] = ()
    owners: tuple[KeyOwner, ...] = ()  # of the keys in `allowed_signers`: who has two, or shares one, is known by it
    certificates: tuple[Certificate, ...] = ()  # of this digest, on any environment
    attest_on: Mapping[str, int] = field(
        default_factory=dict
    )  # environment -> who must attest a run, by its own policy
    runs: tuple[PastRun, ...] = ()  # on this environment, of any digest
    shapes: Mapping[str, Shape | None] | None = None  # of the certified tables, here and now; None: not looked at
    product: str = ""  # of this environment's database
    version: str = ""
    hosts: tuple[str, ...] = ()  # all that the environment's URL names, and the one that we are connected to
    tampered: str | None = None  # the first thing in the ledger that is not as it was written
    is_session: bool = False  # what it does is typed at a prompt
    has_subset: bool = False  # the change declares what a subset of it is
    is_subset: bool = False  # it is one that is about to run
    subset_runs: tuple[str, ...] = ()  # runs of a subset of this digest here that stand, by the journal; newest first
    undo_of: str | None = None  # the run that is to be undone, in a way that wants one more approval
    restore_of: str | None = None  # the backup that is to take the place of this database
    emergency: str | None = None  # why this run does not wait for people; None: it is an ordinary one

    @property
    def everything(self) -> Sequence[Signed]:
        """All that is known of who has which key: what anybody said, and the file of keys."""
        return (*self.said, *self.claims, *self.reviews, *self.owners)

    def is_from_before(self, said: Said) -> bool:
        """Whether it says of itself that it is older than the text: who has lost their key's time could say so."""
        submitted = [one.at for one in self.said if one.kind is Kind.SUBMIT]
        return bool(submitted) and said.at < min(submitted) - SKEW

    def is_by_author(self, said: Signed) -> bool:
        """Whether an author said it, under whatever name."""
        return is_one_of(said, self.authors, self.everything)

    def is_known(self, person: str) -> bool:
        """Whether they are in [people]; where nobody is, everybody is."""
        return not self.people.known or self.people.find(person) is not None

    def about(self, kind: Kind) -> tuple[Said, ...]:
        """Statements of a kind about this digest on this environment, oldest first."""
        found = (
            one for one in self.said if one.kind is kind and one.statement.environment == self.environment
        )  # fmt: skip
        return tuple(sorted(found, key=lambda one: one.at))


@dataclass(frozen=True)
class Verdict:
    """What one gate says. `text` is a fact in words; `hint` is what would satisfy it, for whom to type what."""

    gate: str
    satisfied: bool
    text: str
    hint: str | None = None
    who: str | None = None  # who may do what the hint says
    earliest: datetime | None = None  # when it can be satisfied by waiting alone
    busy: bool = False  # somebody else is on it: exit status 7 instead of 3
