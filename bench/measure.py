"""Alternating rounds, medians and ratios: what every benchmark shares."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

Prepare = Callable[[], None]
Form = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """One line of the table: `what` took `ours` seconds, `other` took `base`; `bar` is what it should stay under."""

    what: str
    ours: float
    base: float
    bar: float

    @property
    def value(self) -> float:
        """Ours over theirs."""
        return self.ours / self.base

    def row(self) -> str:
        """As a row of a Markdown table."""
        met = "yes" if self.value <= self.bar else "**no**"
        return f"| {self.what} | {self.ours:.2f} s | {self.base:.2f} s | {self.value:.2f} | ≤ {self.bar} | {met} |"


def medians(forms: Mapping[str, tuple[Prepare, Form]], rounds: int) -> dict[str, float]:
    """Each form once per round, in turn, each after its own preparation; the median of its rounds."""
    seen: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds):
        names = list(forms)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            prepare, form = forms[name]
            prepare()
            began = perf_counter()
            form()
            seen[name].append(perf_counter() - began)
            print(f"  round {number + 1}: {name}: {seen[name][-1]:.2f} s", flush=True)
    return {name: statistics.median(times) for name, times in seen.items()}
