"""How large the next batch is, and when a run in batches waits: computed from what was measured, with the clock passed in.

Not for: reading anything from a database. Invariant: a run never looks at fewer than `LEAST` keys at a time for speed
alone, and never waits without a reason that can be shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from backout.engines.batches import Pressure

#: The first batch, the step up, and the least: at 10,000 rows a second and more, which plain updates reach on small
#: machines, 1,000 rows take a tenth of a second at most. The most keeps the memory of both sides flat.
FIRST, STEP, LEAST, MOST = 1_000, 1_000, 50, 200_000
#: The least that is left of a size, and how much of the time a batch of the next size would take where one took too long:
#: a size that is always halved is at three quarters of what is in time, and each batch costs 10 ms beside its rows.
_DOWN, _ROOM = 0.5, 0.9

#: How often what a run gives way to is read, and how long it waits before it is read again, in seconds.
READ_EVERY_S, WAIT_S = 0.5, 0.2

#: Attempts at one batch that met a lock, a deadlock or a serialization failure.
ATTEMPTS = 6
_RETRY_S = 0.05


@dataclass(frozen=True)
class Pace:
    """The size of the next batch. A size that the author wrote stays."""

    size: int = FIRST
    fixed: bool = False
    found: bool = False  # a batch has come near the time that it may take: from then on by steps

    def after(self, seconds: float, target_s: float, *, in_the_way: bool) -> Pace:
        """Additive increase, multiplicative decrease: half of it where somebody had to wait for us, and as much less as it
        took too long, down to half of it.

        In the beginning it doubles as long as a batch of twice the size would still be in time.
        """
        if self.fixed:
            return self
        if in_the_way or seconds > target_s:
            part = _DOWN if in_the_way else max(_DOWN, _ROOM * target_s / seconds)
            return Pace(max(LEAST, int(self.size * part)), found=True)
        if not self.found and seconds <= target_s / 2:
            return Pace(min(MOST, self.size * 2))
        return Pace(min(MOST, self.size + STEP), found=True)

    def smaller(self) -> Pace:
        """After an attempt that met somebody's lock."""
        return self if self.fixed else Pace(max(LEAST, int(self.size * _DOWN)), found=True)


def too_much(pressures: Sequence[Pressure]) -> Pressure | None:
    """The first thing to wait for; None: go on."""
    return next((one for one in pressures if one.too_much), None)


def before_attempt(attempt: int) -> float:
    """Seconds to wait before an attempt at the same batch: longer each time, and different for each who waits."""
    chance = random.uniform(0.5, 1.5)  # noqa: S311 -- not a secret
    return chance * _RETRY_S * float(2 ** (attempt - 1))


@dataclass(frozen=True)
class Progress:
    """How far a run in batches is."""

    batch: int
    looked_at: int
    estimated: int
    written: int
    seconds: float  # since it began or was resumed, pauses included: the rate is what it really is
    since: int  # keys looked at in that time
    waits_for: str | None = None

    def __str__(self) -> str:
        rate = self.since / self.seconds if self.seconds > 0 else 0.0
        parts = [f"batch {self.batch:,}: {self.written:,} rows written"]
        if self.estimated:
            share = min(self.looked_at / self.estimated, 1.0)
            parts.append(f"{self.looked_at:,} of about {self.estimated:,} looked at ({share:.1%})")
            if rate and self.looked_at < self.estimated:
                parts.append(f"about {_duration((self.estimated - self.looked_at) / rate)} left")
        parts.append(f"{rate:,.0f} rows/s")
        return ", ".join(parts) + (f"; waits: {self.waits_for}" if self.waits_for else "")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
