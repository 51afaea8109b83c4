"""The completeness proof: do the rows captured explain the writes that the database counted?

Pure judgement over a `Capture`; the counting and reading is the engine's. Per table with counted
inserts I, updates U and deletes D, captured pre-images P and post-images Q, always: P <= U + D and Q <= I + U, since a
row cannot be replaced or made without a write. How tight it is tells the level:

- `exact`: P = U + D and Q = I + U. Every counted write is one captured row.
- `repeated n`: both sides exceed by the same n: n writes touched a row that an earlier write of the run had touched.
- `bounded`: anything else within the bounds: savepoints rolled back, exceptions caught, rows inserted and deleted
  again; for a table that was armed with triggers also any write that is not in its log.

Where the engine counts in sum only, the sums over all tables are judged, as far as sums can tell: see `_judge_sum`.
Source: PostgreSQL manual 28.2.2 and measurements in docs/explanation/proof.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from backout.engines.values import Capture, CapturedTable, Counts


class Tightness(IntEnum):
    """Ordered: a policy names the least that it takes."""

    BOUNDED = 0
    REPEATED = 1
    EXACT = 2


@dataclass(frozen=True)
class Verdict:
    """What the proof says. `failures` is empty exactly when it is complete."""

    tightness: Tightness
    repeated: int
    checked: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the run may be committed, as far as capture goes."""
        return not self.failures

    @property
    def level(self) -> str:
        """In words: "exact", "repeated 3", "bounded"."""
        return f"repeated {self.repeated}" if self.tightness is Tightness.REPEATED else self.tightness.name.lower()


def prove(capture: Capture) -> Verdict:
    """Judge a capture."""
    failures = list(capture.tripwires)
    levels = [(Tightness.EXACT, 0)]
    levels += [_judge(one, one.counted, failures) for one in capture.tables if one.counted is not None]
    if capture.counted_in_sum is not None:
        levels.append(_judge_sum(capture, capture.counted_in_sum, failures))
    tightness = min(level for level, _ in levels)
    repeated = sum(times for level, times in levels if level is Tightness.REPEATED)
    return Verdict(tightness, repeated, tuple(str(one.table.name) for one in capture.tables), tuple(failures))


def _judge(captured: CapturedTable, counted: Counts, failures: list[str]) -> tuple[Tightness, int]:
    replaced, made, name = counted.replaced, counted.made, captured.table.name
    if captured.before_rows > replaced:
        failures.append(_mismatch(f"{name}", "updated or deleted", replaced, captured.before_rows, "before"))
    if captured.after_rows > made:
        failures.append(_mismatch(f"{name}", "inserted or updated", made, captured.after_rows, "after"))
    if captured.unlogged:  # armed: a write that is in no log may be one that was rolled back, and counts do not tell
        return Tightness.BOUNDED, 0
    # Each write can only swap images: P - Q = D - I whatever was touched twice, but for attempts that were rolled back.
    return _tightness(replaced - captured.before_rows, made - captured.after_rows)


def _judge_sum(capture: Capture, counted: int, failures: list[str]) -> tuple[Tightness, int]:
    """Each row that is there now needs a counted write; rows that are gone may need none (SQLite's REPLACE).

    A key that changed is one write and two rows, one gone and one new: where a table has both, a sum cannot tell that
    from a row deleted and another inserted, hence not whether a write is missing.
    """
    made = sum(one.after_rows for one in capture.tables)
    if made > counted:
        failures.append(_mismatch("all tables together", "written", counted, made, "after"))
    least = sum(max(one.before_rows, one.after_rows) for one in capture.tables)
    most = sum(one.before_rows + one.after_rows - one.both_rows for one in capture.tables)
    return (Tightness.EXACT, 0) if least == most == counted else (Tightness.BOUNDED, 0)


def _tightness(before_missing: int, after_missing: int) -> tuple[Tightness, int]:
    if before_missing == after_missing == 0:
        return Tightness.EXACT, 0
    if before_missing == after_missing > 0:
        return Tightness.REPEATED, before_missing
    return Tightness.BOUNDED, 0


def _mismatch(table: str, operation: str, counted: int, captured: int, side: str) -> str:
    return f'"{table}": the database counted {counted} rows {operation}, and {captured} {side}-images were captured'
