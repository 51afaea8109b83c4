"""SQLite text to tokens, by the rules of SQLite's own tokenizer (tokenize.c).

Not for: grammar. Why not sqlglot's tokenizer: it drops the places of comments, and directives are comments; and it
refuses texts that SQLite runs (`/*` without an end, `?1`) [measured with 30.30].
Invariant: the tokens, and the white space between them, are the whole text.
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
    VARIABLE = "variable"
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
        """The identifier that it spells, or None; a single-quoted string is one where a name is expected."""
        if self.kind is TokenKind.WORD:
            return self.text
        if self.kind in (TokenKind.QUOTED, TokenKind.STRING):
            quote = self.text[-1]
            return self.text[1:-1].replace(quote * 2, quote) if quote != "]" else self.text[1:-1]
        return None


_WORD = r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*"
_PATTERN = re.compile(
    rf"""
      (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*(?:.*?\*/|.*\Z))
    | (?P<blob>[xX]'[^']*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
    | (?P<variable>\?[0-9]* | [:@$\#][A-Za-z0-9_$\u0080-\U0010ffff]+)
    | (?P<number>[0-9](?:[A-Za-z0-9_.])*|\.[0-9][A-Za-z0-9_]*)
    | (?P<word>{_WORD})
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\f\r]+")


def scan(source: Source) -> Iterator[Token]:
    """Yield the tokens of a text, comments included; InvalidFile for a quote without its end."""
    at, text = 0, source.text
    while at < len(text):
        space = _SPACE.match(text, at)
        if space:
            at = space.end()
            continue
        match = _PATTERN.match(text, at)
        if match is None or match.lastgroup is None:
            raise source.error(f"unrecognised character U+{ord(text[at]):04X}", at, "delete it")
        if match.lastgroup == "other" and match[0] in "'\"`[":
            raise source.error(f"a quote {match[0]} without its end", at)
        yield Token(TokenKind(match.lastgroup), match[0], at, match.end())
        at = match.end()
