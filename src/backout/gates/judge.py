"""The gates of a run: each takes facts and says nothing, or raises Refused with a reason and a way out.

Gates judge, they never act: who makes the facts is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backout.engines.values import JournalState, ServerFacts, Settings
from backout.errors import Refused
from backout.gates.operators import other_host
from backout.gates.policy import Policy


@dataclass(frozen=True)
class Stamp:
    """What the database says that it is."""

    environment: str
    identity: str


def require_primary(facts: ServerFacts, environment: str) -> None:
    """Only the primary may be written to."""
    if not facts.is_primary:
        raise Refused(
            "primary", f'"{environment}" is a read-only server (a replica, or in read-only mode)',
            hint="point the environment's url at the primary",
        )  # fmt: skip


def require_hosts(hosts: Sequence[str], policy: Policy, environment: str) -> None:
    """The URL leads to no other server than the policy knows: nothing runs, not even as a ghost, on a mistyped one."""
    other = other_host(hosts, policy)
    if other is not None:
        raise Refused(
            "host", f'the URL has host "{other}", which is not in `hosts`',
            hint=f"{environment} is at: {', '.join(policy.hosts)}",
        )  # fmt: skip


def require_ordinary_role(facts: ServerFacts, settings: Settings) -> None:
    """A superuser passes every guard of the server; a change has no need of that."""
    if facts.is_superuser and not settings.superuser_allowed:
        who = facts.role or facts.login_role
        raise Refused(
            "superuser", f'"{who}" is a superuser: a change runs as an ordinary role',
            hint='connect as an ordinary role, or say superuser = "allow" for this environment '
            "(with a URL: --allow-superuser)",
        )  # fmt: skip


def require_journal(state: JournalState) -> None:
    """A journal made by a newer backout is not ours to write."""
    if state is JournalState.NEWER:
        raise Refused(
            "journal",
            "the journal in this database was made by a newer backout",
            hint="upgrade backout on this machine",
        )


def require_stamp(stamp: Stamp, facts: ServerFacts, settings: Settings) -> None:
    """The database says itself which environment it is; a clone of production is not staging until it is told so."""
    if stamp.environment != settings.environment:
        raise Refused(
            "stamp", f'this database says that it is "{stamp.environment}", not "{settings.environment}"',
            hint="check the url; after a restore or a clone: `backout init --on ENV --restamp`",
        )  # fmt: skip
    if stamp.identity != facts.identity:
        raise Refused(
            "stamp", f'this database is not the one that was stamped "{stamp.environment}": it is a copy',
            hint="check the url; after a restore or a clone: `backout init --on ENV --restamp`",
        )  # fmt: skip


def require_private(facts: ServerFacts) -> None:
    """The rescue of PHI stays in this server: nothing may carry its tables elsewhere."""
    if facts.rescue_goes_to:
        raise Refused(
            "phi", f"the rows are PHI, and {' and '.join(facts.rescue_goes_to)} would carry the rescue tables elsewhere",
            hint="let the publication name tables or schemas instead of all; or take PHI out of the change",
        )  # fmt: skip


def require_room(needed_bytes: int, facts: ServerFacts) -> None:
    """The rescue and the log of the change must fit on the server's disk, where that can be known."""
    if facts.free_bytes is not None and needed_bytes > facts.free_bytes:
        raise Refused(
            "disk", f"the rescue and the log need about {_mib(needed_bytes)}, and {_mib(facts.free_bytes)} are free",
            hint="make room on the server's disk, or make the change smaller",
        )  # fmt: skip


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
