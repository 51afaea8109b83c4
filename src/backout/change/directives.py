"""The directives of a change, `-- @word …` before a statement, and the steps that they make of the statements.

Not for: whether a statement may run (`lint`). Invariant: a comment that looks like a directive either takes effect or
is an error; none is silently ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.change.model import Batching, Expectation, Metadata, Step, StepKind, SubsetKey
from backout.change.nearest import suggest
from backout.errors import InvalidFile, Position
from backout.sql.model import Comment, Kind, Script, Statement
from backout.sql.words import FIRST, LATER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_DIRECTIVE = re.compile(r"[ \t]?@([A-Za-z]\w*)(.*)", re.DOTALL)
_TITLED = {"assert": StepKind.ASSERT, "pre": StepKind.PRE, "post": StepKind.POST, "after": StepKind.AFTER}
_LATER = {
    "undo": "rows are put back from their images; write what rows cannot tell as a change of its own",
}
_KNOWN = ("expect", "batch", "subset", *_TITLED)
_TOTAL = re.compile(r"\s*total\b")
_TITLE = re.compile(r'\s*"([^"]*\S[^"]*)"\s*')
_BOUND = r"(\d+|:[A-Za-z_][A-Za-z0-9_]*)"
_BOUNDS = re.compile(rf"\s*(?:total\s+)?{_BOUND}\s*(?:\.\.\s*{_BOUND}\s*)?")
_NO_UPPER_BOUND = re.compile(rf"\s*(?:total\s+)?{_BOUND}\s*\.\.\s*")


_WORD = f"{FIRST}{LATER}*"
_NAME = rf'(?:{_WORD}|"(?:[^"]|"")+")'
_BATCH = re.compile(
    rf"\s+(?P<table>{_NAME}(?:\.{_NAME})?)\s+by=(?P<by>{_NAME}(?:,{_NAME})*)(?:\s+size=(?P<size>auto|\d+))?\s*"
)
_SUBSET = re.compile(rf"\s+(?P<table>{_NAME}(?:\.{_NAME})?)\s+by=(?P<by>{_NAME})\s*")
_BATCH_HINT = "@batch table by=key, or @batch table by=key,key size=1000"


@dataclass(frozen=True)
class _Directive:
    word: str
    rest: str
    place: Position

    def error(self, message: str, hint: str | None = None) -> InvalidFile:
        return InvalidFile(message, self.place, hint=hint)


def steps_of(script: Script, metadata: Metadata, file: str) -> tuple[Step, ...]:
    """Return one step per statement, with its directives; InvalidFile for a directive that has no effect."""
    steps: list[Step] = []
    names = frozenset({*metadata.parameters, *metadata.declarations})
    for statement in script.statements:
        for inner in _directives(statement.inner_comments, metadata, file):
            raise inner.error(f'directive "@{inner.word}" stands inside a statement', "write it on a line before it")
        step = _step(statement, _directives(statement.comments, metadata, file), names)
        _check_titles(step, steps, file)
        steps.append(step)
    for trailing in _directives(script.trailing_comments, metadata, file):
        raise trailing.error(f'directive "@{trailing.word}" has no statement after it', "write it before its statement")
    return tuple(steps)


def _directives(comments: Sequence[Comment], metadata: Metadata, file: str) -> list[_Directive]:
    found = []
    for comment in comments:
        match = _DIRECTIVE.fullmatch(comment.text)
        if match is None or metadata.first_line <= comment.line <= metadata.last_line:
            continue
        place = Position(file, comment.line, comment.column + 2 + comment.text.index("@"))
        directive = _Directive(match[1], match[2], place)
        if directive.word in _LATER:
            raise directive.error(f'directive "@{directive.word}" is not in this version', _LATER[directive.word])
        if directive.word not in _KNOWN:
            raise directive.error(f'unknown directive "@{directive.word}"', suggest(directive.word, _KNOWN, "@"))
        if not comment.own_line:
            hint = "write it on a line of its own, before its statement"
            raise directive.error(f'directive "@{directive.word}" stands behind a statement', hint)
        found.append(directive)
    return found


def _step(statement: Statement, directives: Sequence[_Directive], names: Collection[str]) -> Step:
    found = _slots(directives)
    role = found.get("role")
    _check_together(found)
    for slot in ("expect", "expect total"):
        if slot in found:
            _check_expected(found[slot], statement)
    expectation, total = (
        _expectation(found[slot], names) if slot in found else None for slot in ("expect", "expect total")
    )
    batching = _batching(found["batch"], statement) if "batch" in found else None
    subset = _subset(found["subset"], statement) if "subset" in found else None
    if role is None:
        return Step(StepKind.APPLY, statement, None, expectation, batching, total, subset)
    _check_query(role, statement)
    return Step(_TITLED[role.word], statement, _title(role), expectation, subset=subset)


def _slots(directives: Sequence[_Directive]) -> dict[str, _Directive]:
    """The directives by what they say of the statement: "expect", "expect total", "batch", "subset", "role"."""
    found: dict[str, _Directive] = {}
    for directive in directives:
        slot = "role" if directive.word in _TITLED else directive.word
        slot = "expect total" if slot == "expect" and _TOTAL.match(directive.rest) else slot
        if slot in found:
            if slot == "role":
                message = f'directive "@{directive.word}" after "@{found[slot].word}" for one statement'
                raise directive.error(message, "keep one")
            hint = f"write one: @{slot} LOW..HIGH" if slot.startswith("expect") else "keep one"
            raise directive.error(f'a second "@{slot}" for one statement', hint)
        found[slot] = directive
    return found


def _check_together(found: dict[str, _Directive]) -> None:
    """Refuse directives that say nothing together."""
    role = found.get("role")
    if "expect total" in found and "batch" not in found:
        total = found["expect total"]
        place = Position(total.place.file, total.place.line, 1)
        raise InvalidFile('"@expect total" without "@batch"', place, hint="write @expect LOW..HIGH")
    if role is not None and "batch" in found:
        raise role.error(f'directive "@{role.word}" and "@batch" for one statement', "keep one")
    if "subset" in found and "batch" in found:
        raise found["subset"].error('directive "@batch" and "@subset" for one statement', "keep one")
    if "subset" in found and role is not None and role.word in ("pre", "post"):
        raise found["subset"].error(f'directive "@{role.word}" and "@subset" for one statement', "keep one")


def _batching(directive: _Directive, statement: Statement) -> Batching:
    match = _BATCH.fullmatch(directive.rest)
    if match is None:
        raise directive.error('directive "@batch" is not understood', _BATCH_HINT)
    if statement.kind not in (Kind.WRITE, Kind.FORBIDDEN):
        raise directive.error('"@batch" stands before a statement that writes nothing', "write it before the statement")
    by = tuple(_name(one) for one in re.findall(_NAME, match["by"]))
    if len(set(by)) < len(by):
        raise directive.error('"@batch" names a column twice', _BATCH_HINT)
    size = None if match["size"] in (None, "auto") else int(match["size"])
    if size == 0:
        raise directive.error('"@batch" with size=0 can never end', _BATCH_HINT)
    return Batching(".".join(_name(one) for one in re.findall(_NAME, match["table"])), by, size, directive.place.line)


def _subset(directive: _Directive, statement: Statement) -> SubsetKey:
    match = _SUBSET.fullmatch(directive.rest)
    if match is None:
        raise directive.error('directive "@subset" is not understood', "@subset table by=key")
    if statement.kind not in (Kind.WRITE, Kind.READ, Kind.FORBIDDEN):
        hint = "write it before an UPDATE or DELETE, or before the query of a check"
        raise directive.error('"@subset" stands before a statement that has no rows', hint)
    table = ".".join(_name(one) for one in re.findall(_NAME, match["table"]))
    return SubsetKey(table, _name(match["by"]), directive.place.line)


def _name(text: str) -> str:
    """What the name means: in quotes as it is, else folded to lower case."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


def _title(directive: _Directive) -> str:
    match = _TITLE.fullmatch(directive.rest)
    if match is None:
        raise directive.error(f'directive "@{directive.word}" has no title', f'@{directive.word} "what it shows"')
    return match[1]


def _expectation(directive: _Directive, names: Collection[str]) -> Expectation:
    match = _BOUNDS.fullmatch(directive.rest)
    if match is None and (open_end := _NO_UPPER_BOUND.fullmatch(directive.rest)):
        raise directive.error(
            f'"@expect {open_end[1]}.." has no upper bound, which is what stops a condition that is too wide',
            f"write the most rows that it may be: @expect {open_end[1]}..HIGH",
        )
    if match is None:
        raise directive.error(
            'directive "@expect" has no number of rows', "@expect 12, @expect 10..20 or @expect :name"
        )
    low, high = (_bound(directive, text, names) for text in (match[1], match[2] or match[1]))
    if isinstance(low, int) and isinstance(high, int) and low > high:
        raise directive.error(f'"@expect {low}..{high}" can never be met', f"@expect {high}..{low}")
    return Expectation(low, high, directive.place.line)


def _bound(directive: _Directive, text: str, names: Collection[str]) -> int | str:
    if not text.startswith(":"):
        return int(text)
    if text[1:] not in names:
        raise directive.error(
            f'parameter "{text[1:]}" is not declared', "declare it under [parameters] in the metadata block"
        )
    return text[1:]


def _check_expected(directive: _Directive, statement: Statement) -> None:
    if statement.kind is Kind.WRITE and not statement.targets:
        raise directive.error('"@expect" stands before a statement that reports no rows', "use @assert with a query")
    if statement.kind not in (Kind.WRITE, Kind.FORBIDDEN):
        hint = "write it before the INSERT, UPDATE or DELETE; for a query use @assert"
        raise directive.error('"@expect" stands before a statement that writes nothing', hint)


def _check_query(directive: _Directive, statement: Statement) -> None:
    if statement.kind not in (Kind.READ, Kind.FORBIDDEN):
        raise directive.error(f'"@{directive.word}" stands before a statement that is not a query', "give it a SELECT")


def _check_titles(step: Step, earlier: Sequence[Step], file: str) -> None:
    if any(step.title is not None and (step.kind, step.title) == (other.kind, other.title) for other in earlier):
        place = Position(file, step.statement.line, step.statement.column)
        raise InvalidFile(f'a second "@{step.kind.value}" with the title "{step.title}"', place, hint="name it apart")
