"""What a session shows of itself to whoever watches: one value, in JSON, in the database.

Not for: its statements, which the transcript has. Invariant: of PHI it holds no value, since its rows are those of the
report, which are masked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

from backout.engines.protocol import Pairs
from backout.errors import BackoutError

ALONE, OPEN, WAITING = "waiting for a watcher", "open", "waiting for people"
_LOOK_S = 0.5  # how often the heartbeats are asked for


@dataclass(frozen=True)
class Told:
    """`tables` are before → after, as in a report; `until` is when it is rolled back, in words of ISO 8601."""

    first: str  # who types
    data: str
    phase: str = OPEN
    content: str | None = None
    until: str | None = None
    tables: tuple[Mapping[str, Any], ...] = ()
    agreed: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()


def read_told(text: str | None) -> Told | None:
    """What `Live` wrote; None: there is no session."""
    if text is None:
        return None
    value = json.loads(text)
    return Told(**{**value, **{name: tuple(value[name]) for name in ("tables", "agreed", "waits_for")}})


class Live:
    """The session's own side of it: tells, and looks who watches."""

    def __init__(self, pairs: Pairs, run: int, told: Told, gone_s: float) -> None:
        self._pairs, self._run, self._told, self._gone_s = pairs, run, told, gone_s
        self._looked = monotonic() - _LOOK_S
        pairs.tell(run, json.dumps(asdict(told)))

    def tell(self, **news: Any) -> None:
        """Write what has changed."""
        told = replace(self._told, **news)
        if told != self._told:
            self._told = told
            self._pairs.tell(self._run, json.dumps(asdict(told)))

    def is_watched(self) -> bool:
        """Whether somebody else is there now."""
        return any(seconds <= self._gone_s for seconds in self._watchers().values())

    def departed(self) -> str | None:
        """Who watched, and nobody does any more; None: it is not so, or nobody ever did."""
        if monotonic() - self._looked < _LOOK_S:
            return None
        self._looked = monotonic()
        found = self._watchers()
        return min(found) if found and min(found.values()) > self._gone_s else None

    def _watchers(self) -> Mapping[str, float]:
        return {who: seconds for who, seconds in self._pairs.watchers(self._run).items() if who != self._told.first}

    def end(self) -> None:
        """Nothing is told any more; the run's report has it. Where that fails, the next session takes it away."""
        with suppress(BackoutError):
            self._pairs.untell(self._run)
