"""Who may write here, and which runs somebody is on: user locks of the server, which end with their session.

One lock per run and session of the run: `settle` calls a run abandoned only when all three are free, since the session
that changes can outlive our process. Names are short hashes: a lock's name is the server's, not a database's.
Source: manual, "GET_LOCK" (released implicitly when the session ends; several at a time since MariaDB 10.0.2).
"""

from __future__ import annotations

import hashlib

from backout.engines.mariadb.names import literal
from backout.engines.mariadb.session import Session

PARTS = ("control", "main", "aux")


def lease_name(target: str) -> str:
    """The lock that is the right to write to a database."""
    return f"backout.lease.{hashlib.sha256(target.encode()).hexdigest()[:24]}"


def run_name(run: int, part: str) -> str:
    """The lock by which one session holds a run."""
    return f"backout.run.{run}.{part}"


def take(session: Session, name: str) -> bool:
    """Take a lock, if it is free."""
    return bool(session.value(f"SELECT GET_LOCK({literal(name)}, 0)") == 1)


def give_back(session: Session, name: str) -> None:
    """Let a lock go."""
    session.value(f"SELECT RELEASE_LOCK({literal(name)})")


def is_held(session: Session, run: int) -> bool:
    """Whether any session is still on the run."""
    return any(session.value(f"SELECT IS_USED_LOCK({literal(run_name(run, part))})") is not None for part in PARTS)


def holder(session: Session, target: str) -> str:
    """Who has the lease, in words; empty where it cannot be said."""
    rows = session.rows(
        "SELECT p.ID, p.USER, p.HOST, p.TIME FROM information_schema.PROCESSLIST p "
        f"WHERE p.ID = IS_USED_LOCK({literal(lease_name(target))})"
    )
    return f": session {rows[0][0]} of {rows[0][1]} on {rows[0][2]}" if rows else ""
