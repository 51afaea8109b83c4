"""The review of a change: every rule on every statement, before anything runs and without a database.

Not for: what a catalogue knows (keys, triggers, cascades). Invariant: rules do not know of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backout.change.model import Change, Step
from backout.lint import every_row, forbidden, no_check, opaque, outside, replace, search_path, sequence, volatile
from backout.lint.model import Finding, Level, Review, StatementVerdict

Rule = Callable[[Change, Step], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    forbidden.check,
    outside.check,
    opaque.check,
    every_row.check,
    volatile.check,
    sequence.check,
    search_path.check,
    replace.check,
    no_check.check,
)

_PYTHON = Finding(
    "python",
    Level.EXACT_IF,
    "the script does nothing outside of the transaction",
    "its statements show in the ghost run; mail, files and requests to other systems are not taken back",
    1,
    1,
)


_PROGRAM = Finding(
    "program",
    Level.EXACT_IF,
    "the program writes to the database through the endpoint alone, and does nothing outside of it",
    "its statements show in the ghost run; mail, files and requests to other systems are not taken back",
    1,
    1,
)


def review(change: Change) -> Review:
    """Return the verdict on each statement of the change."""
    if change.language == "program":
        return Review(change, (StatementVerdict(None, 1, (_PROGRAM,)),))
    if change.language == "python":
        return Review(change, (StatementVerdict(None, 1, (_PYTHON,)),))
    return Review(change, tuple(_verdict(change, step) for step in change.steps))


def _verdict(change: Change, step: Step) -> StatementVerdict:
    findings = tuple(finding for rule in RULES for finding in rule(change, step))
    return StatementVerdict(step, step.statement.line, findings)
