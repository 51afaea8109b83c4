"""Runs begin inside the hours that the policy gives them, by the database's clock.

Not for: how long a run takes.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta

from backout.gates.evidence import Evidence, Verdict
from backout.gates.policy import Policy, Window


def judge(evidence: Evidence, policy: Policy, now: datetime) -> Verdict:  # noqa: ARG001  as every gate
    """Satisfied inside one of the windows, and where there is none."""
    if not policy.window:
        return Verdict("window", satisfied=True, text="runs may begin at any time")
    texts = " or ".join(f'"{one.text}"' for one in policy.window)
    if any(is_open(one, now) for one in policy.window):
        return Verdict("window", satisfied=True, text=f"it is inside {texts}")
    opening = min(next_opening(one, now) for one in policy.window)
    return Verdict(
        "window", satisfied=False, text=f"it is outside {texts}", earliest=opening,
        hint=f"wait until {opening.isoformat(sep=' ', timespec='minutes')}",
    )  # fmt: skip


def is_open(window: Window, now: datetime) -> bool:
    """Whether `now` is inside."""
    here = now.astimezone(window.zone)
    clock, day, before = here.time(), here.weekday(), (here.weekday() - 1) % 7
    if window.since < window.until:
        return day in window.days and window.since <= clock < window.until
    evening = day in window.days and clock >= window.since
    return evening or (before in window.days and clock < window.until)


def next_opening(window: Window, now: datetime) -> datetime:
    """When it opens next, in its own time zone."""
    here = now.astimezone(window.zone)
    for ahead in range(8):
        day = here.date() + timedelta(days=ahead)
        opening = datetime.combine(day, time(window.since.hour, window.since.minute), window.zone)
        if day.weekday() in window.days and opening > here:
            return opening
    raise AssertionError("a window has a day of the week")
