"""PostgreSQL text to statements: scan, split, replace parameters, parse.

Not for: what a parsed statement means (`postgres_facts`) or whether it may run (`postgres_objections`).
Invariant: what runs is the file's text with `:name` replaced by `$1`; everything else is the author's, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backout.sql.libpg_query import SyntaxProblem, Token, parse, scan, token_kind
from backout.sql.model import Comment, Kind, Script, Statement, Trait
from backout.sql.postgres_facts import Facts, facts_of
from backout.sql.postgres_objections import Scope, judge
from backout.sql.source import Source
from backout.sql.words import FIRST, LATER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_SEMICOLON, _COLON, _OPEN, _CLOSE, _OPEN_BRACKET, _CLOSE_BRACKET = (ord(char) for char in ";:()[]")

_NAME = re.compile(f"{FIRST}{LATER}*")
_UNDECLARED_HINT = "declare it under [parameters] in the metadata block"
_POSITIONAL_HINT = f"write :name, and {_UNDECLARED_HINT}"


@dataclass(frozen=True)
class _Piece:
    """One statement's tokens, without its semicolon, and the line comments before and inside it."""

    tokens: tuple[Token, ...]
    comments: tuple[Comment, ...]
    inner: tuple[Comment, ...]


@dataclass(frozen=True)
class _Filled:
    """A statement's text with placeholders, and where in the file each part of it came from."""

    text: str
    parameters: tuple[str, ...]
    segments: tuple[tuple[int, int], ...]  # (offset in text, offset in the source), ascending

    def origin(self, offset: int) -> int:
        """Return the source's offset of the character at `offset` of the text."""
        start, source = max(segment for segment in self.segments if segment[0] <= max(offset, 0))
        return source + max(offset, 0) - start


def read(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> list[Statement]:
    """Return the statements of `text`; InvalidFile, with the place, where PostgreSQL could not parse it."""
    return list(read_script(text, parameters, file, first_line).statements)


def read_script(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> Script:
    """Return the statements of `text` and the comments that follow the last one."""
    source = Source(text, file, first_line)
    source.check_characters()
    pieces, trailing = _split(source)
    scope = Scope()
    statements = tuple(_statement(source, piece, frozenset(parameters), scope) for piece in pieces)
    return Script(statements, trailing)


def _split(source: Source) -> tuple[list[_Piece], tuple[Comment, ...]]:
    pieces: list[_Piece] = []
    before: list[Comment] = []
    inside: list[Comment] = []
    tokens: list[Token] = []
    depth = _Depth(source.text)
    for token in _scan(source):
        if token.kind == token_kind("SQL_COMMENT"):
            (inside if tokens else before).append(_comment(source, token))
        elif token.kind == token_kind("C_COMMENT"):
            continue
        elif token.kind == _SEMICOLON and depth.is_top():
            if tokens:
                pieces.append(_Piece(tuple(tokens), tuple(before), tuple(inside)))
                before, inside, tokens = [], [], []
            depth = _Depth(source.text)
        else:
            tokens.append(token)
            depth.take(token)
    if not tokens:
        return pieces, tuple(before)
    # The last statement has no semicolon: comments after its last token are not inside it.
    end = tokens[-1].end
    last_line = source.position(end).line
    after = tuple(comment for comment in inside if comment.line > last_line)
    inner = tuple(comment for comment in inside if comment.line <= last_line)
    pieces.append(_Piece(tuple(tokens), tuple(before), inner))
    return pieces, after


class _Depth:
    """How deep the text is inside parentheses or a `BEGIN ATOMIC … END` body, where a semicolon ends nothing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parentheses = 0
        self._blocks = 0
        self._previous = self._first = ""

    def is_top(self) -> bool:
        return self._parentheses <= 0 and self._blocks == 0

    def take(self, token: Token) -> None:
        word = self._text[token.start : token.end].lower()
        self._first = self._first or word
        if token.kind in (_OPEN, _CLOSE):
            self._parentheses += 1 if token.kind == _OPEN else -1
        elif word == "atomic" and self._previous == "begin" and self._first == "create":
            self._blocks = 1
        elif self._blocks and word in ("case", "end"):
            self._blocks += 1 if word == "case" else -1
        self._previous = word


def _comment(source: Source, token: Token) -> Comment:
    place = source.position(token.start)
    text = source.text[token.start + 2 : token.end]
    return Comment(text, place.line, place.column, source.stands_alone(token.start))


def _statement(source: Source, piece: _Piece, parameters: frozenset[str], scope: Scope) -> Statement:
    filled = _fill(source, piece.tokens, parameters)
    node = _parse(source, filled)
    facts = facts_of(node, scope.resolvable)
    scope.search_path_is_set |= Trait.SEARCH_PATH in facts.traits
    kind, objection = judge(node, facts, scope)
    place = source.position(piece.tokens[0].start)
    return Statement(
        text=filled.text,
        parameters=filled.parameters,
        line=place.line,
        column=place.column,
        comments=piece.comments,
        kind=kind,
        targets=() if kind is Kind.READ else facts.targets,  # EXPLAIN plans a write without executing it
        functions=facts.functions,
        tables=facts.tables,
        is_single_update=_is_single_update(node, facts, kind),
        objection=objection,
        traits=facts.traits,
        inner_comments=piece.inner,
    )


def _is_single_update(node: Any, facts: Facts, kind: Kind) -> bool:
    return kind is Kind.WRITE and node.WhichOneof("node") == "update_stmt" and len(facts.targets) == 1


def _fill(source: Source, tokens: Sequence[Token], parameters: frozenset[str]) -> _Filled:
    """Replace each declared `:name` among `tokens` by `$1`, `$2` …; one name has one number."""
    names: list[str] = []
    text, at = "", tokens[0].start
    segments = [(0, at)]
    for colon, name in _placeholders(source, tokens):
        word = source.text[name.start : name.end]
        if word not in parameters:
            continue
        if word not in names:
            names.append(word)
        text += source.text[at : colon.start] + f"${names.index(word) + 1}"
        at = name.end
        segments.append((len(text), at))
    text += source.text[at : tokens[-1].end]
    return _Filled(text, tuple(names), tuple(segments))


def _placeholders(source: Source, tokens: Sequence[Token]) -> Iterator[tuple[Token, Token]]:
    """Yield each colon and name that may be a parameter: not a cast, `:=`, or the middle of an array slice."""
    operands = {_CLOSE, _CLOSE_BRACKET, *map(token_kind, ("IDENT", "ICONST", "FCONST", "SCONST", "PARAM"))}
    brackets = 0
    for index, token in enumerate(tokens):
        if token.kind == token_kind("PARAM"):
            raise source.error(
                f'positional parameter "{source.text[token.start : token.end]}"', token.start, _POSITIONAL_HINT
            )
        brackets += {_OPEN_BRACKET: 1, _CLOSE_BRACKET: -1}.get(token.kind, 0)
        if token.kind != _COLON or index + 1 == len(tokens):
            continue
        name = tokens[index + 1]
        is_name = name.start == token.end and _NAME.fullmatch(source.text, name.start, name.end)
        # `x:n` must stay an error: as `x$1` it would be the name of a column.
        before = source.text[token.start - 1] if token.start else ""
        is_attached = before in ("_", "$", ":") or before.isalnum()
        is_slice = brackets > 0 and index > 0 and tokens[index - 1].kind in operands
        if is_name and not is_slice and not is_attached:
            yield token, name


def _scan(source: Source) -> list[Token]:
    try:
        return scan(source.text)
    except SyntaxProblem as problem:
        raise source.error(problem.message, problem.offset) from None


def _parse(source: Source, filled: _Filled) -> Any:
    try:
        return parse(filled.text)
    except SyntaxProblem as problem:
        at = filled.origin(problem.offset)
        name = _NAME.match(source.text, at + 1)
        if source.text[at : at + 1] == ":" and name:
            raise source.error(f'parameter "{name[0]}" is not declared', at, _UNDECLARED_HINT) from None
        raise source.error(problem.message, at) from None
