"""How long a program may take, be idle, and spend on one statement.

Invariant: a limit that is not given does not end anything, but for idling: an open transaction that does nothing holds
its locks all the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """In seconds; None: no limit."""

    total_s: float | None = None
    idle_s: float | None = 900.0  # a person who thinks about what a prompt shows takes less
    statement_s: float | None = None


@dataclass(frozen=True)
class Activity:
    """What the endpoint is doing, and since when."""

    runs_statement: bool
    since_s: float  # seconds


def exceeded(limits: Limits, took_s: float, activity: Activity) -> str | None:
    """Which limit is reached, in words; None where none is."""
    if limits.total_s is not None and took_s > limits.total_s:
        return f"it took longer than {limits.total_s:g} s"
    if activity.runs_statement:
        if limits.statement_s is not None and activity.since_s > limits.statement_s:
            return f"one statement took longer than {limits.statement_s:g} s"
    elif limits.idle_s is not None and activity.since_s > limits.idle_s:
        return f"it was idle, with the transaction open, for longer than {limits.idle_s:g} s"
    return None
