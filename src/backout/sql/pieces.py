"""Tokens to statements: split at semicolons, comments kept with what they stand before, parameters checked.

Not for: what a statement means (`mariadb_facts`, `sqlite_facts`). Invariant: what runs is the file's text, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backout.sql.model import Comment, Kind, Objection, Script, Statement, Trait, WriteTarget
from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from backout.sql.source import Source

_UNDECLARED_HINT = "declare it under [parameters] in the metadata block"


@dataclass(frozen=True)
class Facts:
    """What the tokens of one statement say."""

    kind: Kind
    targets: tuple[WriteTarget, ...] = ()
    objection: Objection | None = None
    traits: frozenset[Trait] = frozenset()
    functions: tuple[str, ...] = ()
    tables: tuple[tuple[str | None, str], ...] = ()


@dataclass
class _Piece:
    """One statement under construction."""

    tokens: list[Token] = field(default_factory=list)
    before: list[Comment] = field(default_factory=list)
    inside: list[Comment] = field(default_factory=list)


def script_of(
    source: Source,
    tokens: Iterable[Token],
    judge: Callable[[Sequence[Token]], Facts],
    parameters: Collection[str],
    ends: Callable[[Sequence[Token]], bool] = lambda _: True,
) -> Script:
    """The statements, and the comments after the last one. `ends` says whether a semicolon ends what was read so far."""
    pieces, trailing = _split(source, tokens, ends)
    return Script(tuple(_statement(source, piece, judge, parameters) for piece in pieces), trailing)


def _split(
    source: Source, tokens: Iterable[Token], ends: Callable[[Sequence[Token]], bool]
) -> tuple[list[_Piece], tuple[Comment, ...]]:
    pieces: list[_Piece] = []
    piece = _Piece()
    for token in tokens:
        if token.kind is TokenKind.LINE_COMMENT:
            (piece.inside if piece.tokens else piece.before).append(_comment(source, token))
        elif token.kind is TokenKind.BLOCK_COMMENT:
            continue
        elif token.text != ";" or (piece.tokens and not ends(piece.tokens)):
            piece.tokens.append(token)
        elif piece.tokens:
            pieces.append(piece)
            piece = _Piece()
    if not piece.tokens:
        return pieces, tuple(piece.before)
    # The last statement has no semicolon: comments after its last token are not inside it.
    last_line = source.position(piece.tokens[-1].end).line
    after = tuple(comment for comment in piece.inside if comment.line > last_line)
    piece.inside = [comment for comment in piece.inside if comment.line <= last_line]
    return [*pieces, piece], after


def _comment(source: Source, token: Token) -> Comment:
    place = source.position(token.start)
    text = token.text[1:] if token.text.startswith("#") else token.text[2:]
    return Comment(text, place.line, place.column, source.stands_alone(token.start))


def _statement(
    source: Source, piece: _Piece, judge: Callable[[Sequence[Token]], Facts], declared: Collection[str]
) -> Statement:
    first, last = piece.tokens[0], piece.tokens[-1]
    used = _parameters(source, piece.tokens, declared)
    facts = judge(piece.tokens)
    place = source.position(first.start)
    return Statement(
        text=source.text[first.start : last.end],
        parameters=used,
        line=place.line,
        column=place.column,
        comments=tuple(piece.before),
        kind=facts.kind,
        targets=facts.targets,
        functions=facts.functions,
        tables=facts.tables,
        is_single_update=[target.operation for target in facts.targets] == ["update"],
        objection=facts.objection,
        traits=facts.traits,
        inner_comments=tuple(piece.inside),
    )


def _parameters(source: Source, tokens: Sequence[Token], declared: Collection[str]) -> tuple[str, ...]:
    used: dict[str, None] = {}
    for token in tokens:
        if token.kind is not TokenKind.PARAMETER:
            continue
        if not token.text.startswith(":"):
            hint = f"write :name, and {_UNDECLARED_HINT}"
            raise source.error(f'parameter "{token.text}" is not written :name', token.start, hint)
        name = token.text[1:]
        if name not in declared:
            raise source.error(f'parameter "{name}" is not declared', token.start, _UNDECLARED_HINT)
        used[name] = None
    return tuple(used)
