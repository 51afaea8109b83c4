"""The directives of a change, `-- @word …` before a statement, and the steps that they make of the statements.

Not for: whether a statement may run (`lint`). Invariant: a comment that looks like a directive either takes effect or
is an error; none is silently ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.change.model import Expectation, Metadata, Step, StepKind
from backout.change.nearest import suggest
from backout.errors import InvalidFile, Position
from backout.sql.model import Comment, Kind, Script, Statement

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_DIRECTIVE = re.compile(r"[ \t]?@([A-Za-z]\w*)(.*)", re.DOTALL)
_TITLED = {"assert": StepKind.ASSERT, "pre": StepKind.PRE, "post": StepKind.POST, "after": StepKind.AFTER}
_LATER = {
    "batch": "split the change by hand",
    "subset": "split the change by hand",
    "undo": "rows are put back from their images; write what rows cannot tell as a change of its own",
}
_KNOWN = ("expect", *_TITLED)
_TITLE = re.compile(r'\s*"([^"]*\S[^"]*)"\s*')
_BOUND = r"(\d+|:[A-Za-z_][A-Za-z0-9_]*)"
_BOUNDS = re.compile(rf"\s*{_BOUND}\s*(?:\.\.\s*{_BOUND}\s*)?")


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
    role: _Directive | None = None
    expectation: Expectation | None = None
    for directive in directives:
        if directive.word == "expect":
            if expectation is not None:
                raise directive.error('a second "@expect" for one statement', "write one: @expect LOW..HIGH")
            _check_expected(directive, statement)
            expectation = _expectation(directive, names)
        elif role is not None:
            raise directive.error(f'directive "@{directive.word}" after "@{role.word}" for one statement', "keep one")
        else:
            role = directive
    if role is None:
        return Step(StepKind.APPLY, statement, None, expectation)
    _check_query(role, statement)
    return Step(_TITLED[role.word], statement, _title(role), expectation)


def _title(directive: _Directive) -> str:
    match = _TITLE.fullmatch(directive.rest)
    if match is None:
        raise directive.error(f'directive "@{directive.word}" has no title', f'@{directive.word} "what it shows"')
    return match[1]


def _expectation(directive: _Directive, names: Collection[str]) -> Expectation:
    match = _BOUNDS.fullmatch(directive.rest)
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
