"""One line of what `doctor` says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """`level` is "wrong", "weak" or "fine"."""

    level: str
    text: str
    hint: str | None = None
