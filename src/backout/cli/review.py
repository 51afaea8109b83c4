"""The review of a change on the screen: each statement's verdict, and what the database says of its tables.

Not for: judging. Invariant: a statement that cannot be undone is never shown without its reason and a way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from backout.cli.bill import many, section, size
from backout.cli.screen import plain, shortened
from backout.engines.values import TableFacts
from backout.lint.model import Finding, Level, Review, StatementVerdict

if TYPE_CHECKING:
    from backout.project.reading import Misunderstood

_STYLES = {Level.EXACT: "green", Level.EXACT_IF: "yellow", Level.NOT_UNDOABLE: "red"}
_MEANS = {
    Level.EXACT: "every row that it writes can be put back as it was",
    Level.EXACT_IF: "every row can be put back; what the conditions above name is not taken back by rows alone",
    Level.NOT_UNDOABLE: "it may not run: what it does could not be taken back",
}


def review_text(
    review: Review, tables: Sequence[TableFacts] = (), missing: Sequence[str] = (),
    misunderstood: Sequence[Misunderstood] = (), *, on: str | None = None,
) -> Iterator[RenderableType]:  # fmt: skip
    """Yield the verdicts in the order of the file, the tables' facts, and the verdict on the whole."""
    change = review.change
    yield Text(plain(f"{change.identifier}: {change.metadata.title}"), style="bold")
    yield Text(f"digest {change.digest[:16]}", style="dim")
    yield from section("statements", (part for verdict in review.verdicts for part in _verdict(verdict)))
    yield from section(f"tables on {on}", (part for facts in tables for part in _facts(facts)))
    yield from section("missing", (Text(f'no table "{plain(name)}" on {on}', style="red") for name in missing))
    yield from section(f"not understood on {on}", map(_misunderstood, misunderstood))
    yield Text()
    if missing and review.passed:
        yield Text(f"not ready: {many(len(missing), 'table')} of the change is not on {on}", style="red")
        return
    if misunderstood and review.passed:
        yield Text(f"not ready: {on} does not understand {many(len(misunderstood), 'statement')}", style="red")
        return
    yield Text(review.level.value, style=_STYLES[review.level]).append(f": {_MEANS[review.level]}", style="none")


def _misunderstood(one: Misunderstood) -> Text:
    return Text(f"line {one.line:<4} ", style="dim").append(plain(one.problem), style="red")


def _verdict(verdict: StatementVerdict) -> Iterator[RenderableType]:
    step = verdict.step
    text = plain(" ".join(step.statement.text.split())) if step else "the script's own statements"
    role = f"@{step.kind.value} " if step and step.kind.value != "apply" else ""
    line = Text(f"line {verdict.line:<4} ", style="dim").append(f"{verdict.level.value:<12}  ", _STYLES[verdict.level])
    yield line.append(role + shortened(text, 70), style="none")
    for finding in verdict.findings:
        yield from _finding(finding)


def _finding(finding: Finding) -> Iterator[RenderableType]:
    prefix = {Level.EXACT: "note", Level.EXACT_IF: "if", Level.NOT_UNDOABLE: "no"}[finding.level]
    place = f"{finding.line}:{finding.column}"
    body = Text(f"{prefix}: ", style=_STYLES[finding.level]).append(plain(finding.message), style="none")
    yield Padding(body.append(f"  [{finding.rule}, {place}]", style="dim"), (0, 0, 0, 10), expand=False)
    if finding.hint:
        yield Padding(
            Text("hint: ", style="cyan").append(plain(finding.hint), style="none"), (0, 0, 0, 10), expand=False
        )


def _facts(facts: TableFacts) -> Iterator[RenderableType]:
    about = [f"key {', '.join(facts.table.key)}" if facts.table.key else "no key"]
    if facts.estimated_rows is not None:
        about.append(f"about {many(facts.estimated_rows, 'row')}")
    if facts.bytes is not None:
        about.append(size(facts.bytes))
    yield Text(plain(str(facts.table.name)), style="bold").append(f"  {plain(', '.join(about))}", style="none")
    notes = [f"cascades to {', '.join(facts.cascades_to)}"] if facts.cascades_to else []
    notes += [f"triggers: {', '.join(facts.table.triggers)}"] if facts.table.triggers else []
    notes += [f"its undo would not be exact: {facts.undo_needs}"] if facts.undo_needs else []
    for note in (*notes, *facts.notes):
        yield Padding(Text(plain(note)), (0, 0, 0, 2), expand=False)
