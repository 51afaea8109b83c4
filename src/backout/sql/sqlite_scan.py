"""SQLite text to tokens, by the rules of SQLite's own tokenizer (tokenize.c).

Not for: grammar. Why not sqlglot's tokenizer: it drops the places of comments, and directives are comments; and it
refuses texts that SQLite runs (`/*` without an end, `?1`) [measured with 30.30].
Invariant: the tokens, and the white space between them, are the whole text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backout.sql.tokens import Lexicon, Token, TokenKind
from backout.sql.words import FIRST, LATER_OR_DOLLAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.sql.source import Source


_WORD = f"{FIRST}{LATER_OR_DOLLAR}*"
_PATTERN = re.compile(
    rf"""
      (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*(?:.*?\*/|.*\Z))
    | (?P<blob>[xX]'[^']*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
    | (?P<parameter>\?[0-9]* | [:@$\#]{LATER_OR_DOLLAR}+)
    | (?P<number>[0-9](?:[A-Za-z0-9_.])*|\.[0-9][A-Za-z0-9_]*)
    | (?P<word>{_WORD})
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\f\r]+")


def _unquoted(kind: TokenKind, text: str) -> str | None:
    """A single-quoted string is a name too, where one is expected."""
    if kind not in (TokenKind.QUOTED, TokenKind.STRING):
        return None
    quote = text[-1]
    return text[1:-1].replace(quote * 2, quote) if quote != "]" else text[1:-1]


_LEXICON = Lexicon(_PATTERN, _SPACE, "'\"`[", _unquoted)


def scan(source: Source) -> Iterator[Token]:
    """Yield the tokens of a text, comments included; InvalidFile for a quote without its end."""
    return _LEXICON.tokens(source)
