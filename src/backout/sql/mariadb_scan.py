"""MariaDB text to tokens, by the rules of the server's own lexer (sql_lex.cc) without ANSI_QUOTES and NO_BACKSLASH_ESCAPES.

The engine's sessions switch those two modes off, so that the text means to the server what it means here.
Not for: grammar. Invariants: the tokens and the white space between them are the whole text; an executable comment
(`/*! … */`, `/*M! … */`), which the server runs, is never a token: it ends the reading with an error.
Source: MariaDB manual, "Comment Syntax", "String Literals", "Identifier Names".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.sql.source import Source


class TokenKind(Enum):
    """What a token is; the values are the group names of the pattern below."""

    LINE_COMMENT = "line_comment"
    BLOCK_COMMENT = "block_comment"
    STRING = "string"
    QUOTED = "quoted"
    BLOB = "blob"
    USER_VARIABLE = "user_variable"
    PARAMETER = "parameter"
    NUMBER = "number"
    WORD = "word"
    OTHER = "other"


@dataclass(frozen=True)
class Token:
    """One token with its offsets in characters."""

    kind: TokenKind
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, given in upper case."""
        return self.kind is TokenKind.WORD and self.text.upper() in words

    @property
    def name(self) -> str | None:
        """The identifier that it spells, or None."""
        if self.kind is TokenKind.WORD:
            return self.text
        if self.kind is TokenKind.QUOTED:
            return self.text[1:-1].replace("``", "`")
        return None


# `--` begins a comment only before white space, a control character or the end: `5--3` is 8.
_PATTERN = re.compile(
    r"""
      (?P<line_comment>(?:\#|--(?=[\x00-\x20]|\Z))[^\n]*)
    | (?P<block_comment>/\*.*?(?:\*/|\Z))
    | (?P<blob>[xXbB]'[^']*'|0[xX][0-9a-fA-F]+(?![\w$]))
    | (?P<string>[nN]?'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*")
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<user_variable>@@?(?:`(?:[^`]|``)*`|'[^']*'|"[^"]*"|[\w.$\u0080-\U0010ffff]*))
    | (?P<parameter>\?|:[A-Za-z_][A-Za-z0-9_]*|%s(?!\w)|%\([A-Za-z_]\w*\)s)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z_$\u0080-\U0010ffff]))
    | (?P<word>[A-Za-z0-9_$\u0080-\U0010ffff]+)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_EXECUTABLE = re.compile(r"/\*M?!")


def scan(source: Source) -> Iterator[Token]:
    """Yield the tokens of a text, comments included; InvalidFile for what has no end, and for executable comments."""
    at, text = 0, source.text
    while at < len(text):
        space = _SPACE.match(text, at)
        if space:
            at = space.end()
            continue
        match = _PATTERN.match(text, at)
        if match is None or match.lastgroup is None:
            raise source.error(f"unrecognised character U+{ord(text[at]):04X}", at, "delete it")
        kind = TokenKind(match.lastgroup)
        _require_whole(source, kind, match[0], at)
        yield Token(kind, match[0], at, match.end())
        at = match.end()


def _require_whole(source: Source, kind: TokenKind, text: str, at: int) -> None:
    if kind is TokenKind.OTHER and text in "'\"`":
        raise source.error(f"a quote {text} without its end", at)
    if kind is not TokenKind.BLOCK_COMMENT:
        return
    if _EXECUTABLE.match(text):
        hint = "write the statement without the comment, or take it out"
        raise source.error("an executable comment: a reader takes it for a comment, and the server runs it", at, hint)
    if not text.endswith("*/") or len(text) < 4:
        raise source.error("a comment /* without its end", at)
    if "/*" in text[2:]:  # the server does not nest them, some clients do
        raise source.error("a comment inside of a comment", at, "end the outer one first")
