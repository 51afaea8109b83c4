"""Lengths of time as people write them: "5 seconds", "2 min", or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_UNITS = {
    "milliseconds": ("ms", "millisecond"),
    "seconds": ("s", "sec", "second"),
    "minutes": ("min", "minute"),
    "hours": ("h", "hour"),
    "days": ("d", "day"),
    "weeks": ("week",),
}
_UNIT_OF = {alias: unit for unit, aliases in _UNITS.items() for alias in (unit, *aliases)}


def parse_duration(value: object) -> timedelta | None:
    """Return what "5 seconds", "2 min" or a number of seconds stands for; None where it is no time above zero."""
    if isinstance(value, bool):
        return None
    seconds = value if isinstance(value, int | float) else None
    try:
        if seconds is None:
            match = _DURATION.fullmatch(str(value).strip().lower())
            if match is None or match[2] not in _UNIT_OF:
                return None
            duration = timedelta(**{_UNIT_OF[match[2]]: float(match[1])})
        else:
            duration = timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None
    return duration if duration > timedelta(0) else None
