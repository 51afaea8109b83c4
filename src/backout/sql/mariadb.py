"""MariaDB text to statements: scan, split, check parameters. Parameters stay `:name`; the engine puts their values in.

Not for: what a statement means (`mariadb_facts`). Invariant: what runs is the file's text, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backout.sql.mariadb_facts import Scope, judge
from backout.sql.mariadb_scan import Token, TokenKind, scan
from backout.sql.model import Comment, Script, Statement
from backout.sql.source import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_UNDECLARED_HINT = "declare it under [parameters] in the metadata block"


@dataclass
class _Piece:
    """One statement under construction."""

    tokens: list[Token] = field(default_factory=list)
    before: list[Comment] = field(default_factory=list)
    inside: list[Comment] = field(default_factory=list)


def read(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> list[Statement]:
    """Return the statements of `text`; InvalidFile, with the place, where one cannot be classified."""
    return list(read_script(text, parameters, file, first_line).statements)


def read_script(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> Script:
    """Return the statements of `text` and the comments that follow the last one."""
    source = Source(text, file, first_line)
    source.check_characters()
    pieces, trailing = _split(source)
    scope = Scope()
    return Script(tuple(_statement(source, piece, parameters, scope) for piece in pieces), trailing)


def tokens_of(text: str) -> list[Token]:
    """The tokens of one statement, without comments; for the engine. InvalidFile where it cannot be read."""
    comments = (TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT)
    return [token for token in scan(Source(text, "statement")) if token.kind not in comments]


def without_parameters(text: str) -> str:
    """The text with NULL in the place of each placeholder of a script; InvalidFile where it cannot be read."""
    parts, at = [], 0
    for token in tokens_of(text):
        if token.kind is TokenKind.PARAMETER:
            parts += [text[at : token.start], "NULL"]
            at = token.end
    return "".join([*parts, text[at:]])


def _split(source: Source) -> tuple[list[_Piece], tuple[Comment, ...]]:
    pieces: list[_Piece] = []
    piece = _Piece()
    for token in scan(source):
        if token.kind is TokenKind.LINE_COMMENT:
            (piece.inside if piece.tokens else piece.before).append(_comment(source, token))
        elif token.kind is TokenKind.BLOCK_COMMENT:
            continue
        elif token.text != ";" or token.kind is not TokenKind.OTHER:
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


def _statement(source: Source, piece: _Piece, parameters: Collection[str], scope: Scope) -> Statement:
    first, last = piece.tokens[0], piece.tokens[-1]
    used = _parameters(source, piece.tokens, parameters)
    facts = judge(source, piece.tokens, scope)
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
