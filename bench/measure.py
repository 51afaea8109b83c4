"""Alternating rounds, medians and ratios: what every benchmark shares."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

PROGRAM = str(Path(sys.executable).with_name("backout"))
#: As pip installs it: with its modules compiled, whatever this shell says about bytecode.
INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

Prepare = Callable[[], None]
Form = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """One line of the table: `what` took `ours` seconds, `other` took `base`; `bar` is what it should stay under, if any."""

    what: str
    ours: float
    base: float
    bar: float | None = None

    @property
    def value(self) -> float:
        """Ours over theirs."""
        return self.ours / self.base

    def row(self) -> str:
        """As a row of a Markdown table."""
        met = "-" if self.bar is None else "yes" if self.value <= self.bar else "**no**"
        bar = "-" if self.bar is None else f"≤ {self.bar}"
        return f"| {self.what} | {self.ours:.2f} s | {self.base:.2f} s | {self.value:.2f} | {bar} | {met} |"


def typed(folder: Path, *words: str) -> tuple[float, float]:
    """Run the command line as a user does, in that folder. Returns (seconds of the command, its peak memory in MiB)."""
    began = perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([PROGRAM, *words, "--json"], cwd=folder, env=INSTALLED, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"backout {' '.join(words)} failed: {output.read().decode()}")
    return seconds, usage.ru_maxrss / 1024


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
