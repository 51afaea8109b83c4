"""What an environment asks of people before a run: plain values, and the three profiles that set them all at once.

Not for: reading them from `backout.toml` (`project/policy.py`), nor for judging by them (the gates beside this file).
Invariant: the value that asks for the least is the default of `Policy`, and is what profile `solo` means; a profile
never asks for less than the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from zoneinfo import ZoneInfo

SOLO, TEAM, HIPAA = "solo", "team", "hipaa"
PROFILE_NAMES = (SOLO, TEAM, HIPAA)
STRICT_NAME = "production"  # an environment of this name, with no profile said, has profile "team"

SSH, OS_USER = "ssh", "os-user"
IDENTITIES = (SSH, OS_USER)

#: What can be asked of a change's metadata.
DOCUMENTS = ("risk", "mitigation", "backout", "request", "requested_by", "date", "links", "author")

REVIEWERS_OF_AN_EMERGENCY = 2  # people who must have read an emergency before the next ordinary run


@dataclass(frozen=True)
class AnnouncePolicy:
    """Who is told, and how long before the run; `to` are names of channels, which `integrations` delivers to."""

    to: tuple[str, ...] = ()
    before: timedelta = timedelta(hours=24)


@dataclass(frozen=True)
class BackupPolicy:
    """The backup that precedes a run. `commands` are the templates of provider "command", by their names."""

    provider: str  # "pg_dump" | "mariadb-dump" | "sqlite" | "command" | "pitr"
    folder: str | None = None  # where files go; relative to the folder of backout.toml
    recipients: tuple[str, ...] = ()  # age recipients that files are encrypted to
    max_age: timedelta | None = None  # a backup that is younger will do; None: a new one for each run
    mirrors: tuple[str, ...] = ()  # the fastest to restore from first
    commands: Mapping[str, str] = field(default_factory=dict)  # "take", "list", "restore", "delete"
    restore_into: bool = False  # a production database may be replaced by a backup


BACKUP_PROVIDERS = ("pg_dump", "mariadb-dump", "sqlite", "command", "pitr")
BACKUP_COMMANDS = ("take", "list", "restore", "delete")


@dataclass(frozen=True)
class Window:
    """A time of the week in which runs are allowed; where `until` is not after `since`, it ends on the next day."""

    days: frozenset[int]  # 0 is Monday
    since: time
    until: time
    zone: ZoneInfo
    text: str  # as it was written


@dataclass(frozen=True)
class Policy:
    """All that one environment asks of people. Names in `operators`, `emergency`, `roles`: a person, a role or a team."""

    profile: str = SOLO
    identity: str = OS_USER
    after: tuple[str, ...] = ()  # environments that must hold a certificate for the digest
    rehearsals: int = 1  # certificates, by as many people, that each of those must hold
    accept_ghost_undo: bool = False  # `ghost --undo` on this very environment stands in for a rehearsal
    approvals: tuple[str, ...] = ()  # kinds; each by another person
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # kind of approval -> any of these may give it
    consent: bool = False  # of the product owner who asked for the change
    documents: tuple[str, ...] = ()
    announce: AnnouncePolicy | None = None
    overrule: tuple[str, ...] = ()  # who may overrule an objection; empty: nobody
    window: tuple[Window, ...] = ()  # empty: at any time
    operators: tuple[str, ...] = ()  # who may run here; empty: everybody who is known
    emergency: tuple[str, ...] = ()  # who may run here without waiting for people; empty: nobody
    subset: bool = False  # before the whole of a change that declares one, a subset of it must have been run here
    reveal: tuple[str, ...] = ()  # who may see rows that are PHI; empty: nobody, or where nobody is asked, everybody
    attest: int = 0  # people who must have looked at the application before a run counts as validated
    hosts: tuple[str, ...] = ()  # host names that the URL may have; empty: any
    backup: BackupPolicy | None = None

    @property
    def needs_people(self) -> bool:
        """Whether anything here is a matter of who said what, so that there must be a ledger."""
        return bool(
            self.approvals or self.after or self.announce or self.consent or self.operators or self.emergency
            or self.attest or self.identity == SSH
        )  # fmt: skip

    @property
    def asks_anything(self) -> bool:
        """Whether any gate can say no, be it about people or not."""
        return bool(self.needs_people or self.window or self.documents or self.subset)

    @property
    def needs_two_people(self) -> bool:
        """Whether somebody other than the operator must have said something."""
        return bool(self.approvals or self.consent or self.attest > 1 or (self.after and self.rehearsals > 1))


_TEAM = Policy(
    profile=TEAM,
    identity=SSH,
    after=("staging",),
    approvals=("correctness", "safety"),
    documents=("risk", "mitigation", "backout", "request", "requested_by"),
    announce=AnnouncePolicy(),
)

PROFILES: Mapping[str, Policy] = {
    SOLO: Policy(),
    TEAM: _TEAM,
    HIPAA: Policy(
        profile=HIPAA,
        identity=SSH,
        after=_TEAM.after,
        rehearsals=2,
        approvals=_TEAM.approvals,
        consent=True,
        documents=(*_TEAM.documents, "date", "author"),
        announce=_TEAM.announce,
        attest=2,
    ),
}


def default_profile(environment: str) -> str:
    """The profile of an environment for which none is said."""
    return TEAM if environment == STRICT_NAME else SOLO
