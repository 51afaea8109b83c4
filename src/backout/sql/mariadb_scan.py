"""MariaDB text to tokens, by the rules of the server's own lexer (sql_lex.cc) without ANSI_QUOTES and NO_BACKSLASH_ESCAPES.

The engine's sessions switch those two modes off, so that the text means to the server what it means here.
Not for: grammar. Invariants: the tokens and the white space between them are the whole text; an executable comment
(`/*! … */`, `/*M! … */`), which the server runs, is never a token: it ends the reading with an error.
Source: MariaDB manual, "Comment Syntax", "String Literals", "Identifier Names".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backout.sql.tokens import Lexicon, Token, TokenKind
from backout.sql.words import FIRST, LATER_OR_DOLLAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.sql.source import Source


# `--` begins a comment only before white space, a control character or the end: `5--3` is 8.
_PATTERN = re.compile(
    rf"""
      (?P<line_comment>(?:\#|--(?=[\x00-\x20]|\Z))[^\n]*)
    | (?P<block_comment>/\*.*?(?:\*/|\Z))
    | (?P<blob>[xXbB]'[^']*'|0[xX][0-9a-fA-F]+(?![\w$]))
    | (?P<string>[nN]?'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*")
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<user_variable>@@?(?:`(?:[^`]|``)*`|'[^']*'|"[^"]*"|(?:{LATER_OR_DOLLAR}|\.)*))
    | (?P<parameter>\?|:[A-Za-z_][A-Za-z0-9_]*|%s(?!\w)|%\([A-Za-z_]\w*\)s)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?!{FIRST}|\$))
    | (?P<word>{LATER_OR_DOLLAR}+)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_EXECUTABLE = re.compile(r"/\*M?!")


def _unquoted(kind: TokenKind, text: str) -> str | None:
    return text[1:-1].replace("``", "`") if kind is TokenKind.QUOTED else None


_LEXICON = Lexicon(_PATTERN, _SPACE, "'\"`", _unquoted)


def scan(source: Source) -> Iterator[Token]:
    """Yield the tokens of a text, comments included; InvalidFile for what has no end, and for executable comments."""
    for token in _LEXICON.tokens(source):
        if token.kind is TokenKind.BLOCK_COMMENT:
            _require_plain(source, token)
        yield token


def _require_plain(source: Source, comment: Token) -> None:
    if _EXECUTABLE.match(comment.text):
        hint = "write the statement without the comment, or take it out"
        message = "an executable comment: a reader takes it for a comment, and the server runs it"
        raise source.error(message, comment.start, hint)
    if not comment.text.endswith("*/") or len(comment.text) < 4:
        raise source.error("a comment /* without its end", comment.start)
    if "/*" in comment.text[2:]:  # the server does not nest them, some clients do
        raise source.error("a comment inside of a comment", comment.start, "end the outer one first")
