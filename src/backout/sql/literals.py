"""Where a statement's text holds values: its constants and its comments. One reading for every dialect.

Not for: what the statement does. Invariant: whatever a text says beyond keywords, names, parameters and operators is a
`LITERAL` or a `COMMENT`; a text that cannot be read is one literal as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from backout.errors import InvalidFile
from backout.sql.model import Dialect
from backout.sql.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backout.sql.tokens import Token

MASK = "•••"


class Part(Enum):
    """What a piece of a text is."""

    LITERAL = "literal"
    COMMENT = "comment"
    NAME = "name"  # a keyword or an identifier
    OTHER = "other"


@dataclass(frozen=True)
class Piece:
    """One token with its offsets in characters; `name` is an identifier without its quotes, else the text as it is."""

    part: Part
    name: str
    start: int
    end: int


def masked(text: str, dialect: Dialect) -> str:
    """The statement with `•••` in the place of each constant, and without its comments."""
    try:
        found = pieces(text, dialect)
    except (InvalidFile, ValueError):
        return MASK
    parts, at = [], 0
    for piece in found:
        if piece.part in (Part.LITERAL, Part.COMMENT):
            parts += [text[at : piece.start], MASK if piece.part is Part.LITERAL else ""]
            at = piece.end
    return "".join([*parts, text[at:]])


def pieces(text: str, dialect: Dialect) -> list[Piece]:
    """The pieces of a statement's text in order. InvalidFile or ValueError where it cannot be read."""
    if dialect is Dialect.POSTGRES:
        return _postgres(text)
    return _mariadb(text) if dialect is Dialect.MARIADB else _sqlite(text)


def _postgres(text: str) -> list[Piece]:
    from backout.sql.libpg_query import SyntaxProblem, scan, token_kind

    literal = {token_kind(name) for name in ("SCONST", "USCONST", "BCONST", "XCONST", "ICONST", "FCONST")}
    comment = {token_kind(name) for name in ("SQL_COMMENT", "C_COMMENT")}
    try:
        tokens = scan(text)
    except SyntaxProblem as error:
        raise ValueError("not readable") from error
    found = []
    for token in tokens:
        part = Part.LITERAL if token.kind in literal else Part.COMMENT if token.kind in comment else None
        found.append(_piece(text, token.start, token.end, part))
    return found


def _sqlite(text: str) -> list[Piece]:
    from backout.sql.sqlite_scan import scan

    # A name in double quotes that is none is a text (https://sqlite.org/quirks.html, 8): nobody can tell from here.
    return _scanned(text, scan(Source(text, "statement")), named='"')


def _mariadb(text: str) -> list[Piece]:
    from backout.sql.mariadb_scan import scan

    return _scanned(text, scan(Source(text, "statement")))


def _scanned(text: str, tokens: Iterable[Token], named: str | None = None) -> list[Piece]:
    """The pieces of a text that our own scanner has read; `named` is the quote of names that may be literals."""
    from backout.sql.tokens import TokenKind

    literal = (TokenKind.STRING, TokenKind.BLOB, TokenKind.NUMBER)
    comment = (TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT)
    found = []
    for token in tokens:
        part = Part.LITERAL if token.kind in literal else Part.COMMENT if token.kind in comment else None
        if named is not None and token.kind is TokenKind.QUOTED and token.text.startswith(named):
            part = Part.LITERAL
        found.append(_piece(text, token.start, token.end, part))
    return found


def _piece(text: str, start: int, end: int, part: Part | None) -> Piece:
    said = text[start:end]
    if part is not None:
        return Piece(part, said.strip('"') if said.startswith('"') else said, start, end)
    if said[:1] in ('"', "`", "["):
        quote = "]" if said[0] == "[" else said[0]
        return Piece(Part.NAME, said[1:-1].replace(quote * 2, quote), start, end)
    is_name = said[:1].isalpha() or said[:1] == "_" or said[:1] > "\x7f"
    return Piece(Part.NAME if is_name else Part.OTHER, said, start, end)
