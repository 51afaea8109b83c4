"""The statements that a program emitted, from its transcript: verified, and folded where an object mapper repeats itself.

Statements are alike where they differ in constants and parameters only. What is folded has no values left in it, so
that it may be shown of PHI as well.

Not for: how they are written on a screen (`cli/emitted.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backout.endpoint.transcript import START, chained
from backout.sql.libpg_query import without_values


@dataclass(frozen=True)
class Emitted:
    """Statements one after the other that are alike."""

    first: int
    last: int
    text: str  # with ? for constants
    outcome: str  # of all of them, without the number of rows
    rows: int | None
    milliseconds: float
    client: int

    @property
    def times(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Story:
    """All of a run's statements. `broken` is the number of the first line that is not what was written; None: none."""

    lines: tuple[Mapping[str, Any], ...]
    broken: int | None = None

    def folded(self) -> tuple[tuple[tuple[Emitted, ...], int], ...]:
        """Groups of statements with how often the group comes one after the other."""
        return _grouped(_alike(self.lines))


def story(kept: Sequence[tuple[int, str, str]], head: str | None) -> Story:
    """Read what was kept; `head` is the last hash as the run's report has it, None where it has none."""
    before, found, broken = START, [], None
    for place, (number, line, hashed) in enumerate(kept, 1):
        before = chained(before, line)
        if broken is None and (number != place or before != hashed):
            broken = place
        found.append({**json.loads(line), "hash": hashed})
    if broken is None and head is not None and before != head:
        broken = len(kept) + 1
    return Story(tuple(found), broken)


def _alike(lines: Sequence[Mapping[str, Any]]) -> list[Emitted]:
    found: list[Emitted] = []
    for line in lines:
        rows = line["rows"]
        outcome = line["outcome"] if rows is None else line["outcome"].rstrip("0123456789 ")
        text = without_values(line["statement"])
        last = found[-1] if found else None
        if last and (last.text, last.outcome, last.client) == (text, outcome, line["client"]):
            total = None if rows is None or last.rows is None else last.rows + rows
            found[-1] = Emitted(
                last.first, line["n"], text, outcome, total, last.milliseconds + line["ms"], line["client"]
            )
        else:
            found.append(Emitted(line["n"], line["n"], text, outcome, rows, line["ms"], line["client"]))
    return found


_LONGEST = 8  # statements of one pass through a loop: an object mapper loads, checks, writes and touches


def _grouped(emitted: Sequence[Emitted]) -> tuple[tuple[tuple[Emitted, ...], int], ...]:
    """What an object mapper does for each row is a few statements again and again: the same few are one group."""
    kinds = [(one.text, one.outcome, one.client) for one in emitted]
    found = []
    at = 0
    while at < len(emitted):
        length, times = max(
            ((length, _repeats(kinds, at, length)) for length in range(1, _LONGEST + 1)),
            key=lambda one: (one[0] * one[1] if one[1] > 1 else 1, -one[0]),
        )
        if times == 1:
            length = 1
        rounds = [emitted[at + step * length : at + (step + 1) * length] for step in range(times)]
        found.append((tuple(_summed(column) for column in zip(*rounds, strict=True)), times))
        at += length * times
    return tuple(found)


def _repeats(kinds: Sequence[tuple[str, str, int]], at: int, length: int) -> int:
    first = kinds[at : at + length]
    times = 1
    while len(first) == length and kinds[at + times * length : at + (times + 1) * length] == first:
        times += 1
    return times


def _summed(alike: Sequence[Emitted]) -> Emitted:
    rows = None if any(one.rows is None for one in alike) else sum(one.rows or 0 for one in alike)
    first, last = alike[0], alike[-1]
    took = sum(one.milliseconds for one in alike)
    return Emitted(first.first, last.last, first.text, first.outcome, rows, took, first.client)
