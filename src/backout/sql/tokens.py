"""The tokens of a dialect that is read by a scanner of our own: one pattern per dialect, one loop for all.

Not for: PostgreSQL, whose own parser reads it. Invariant: the tokens, and the white space between them, are the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator

    from backout.sql.source import Source


class TokenKind(Enum):
    """What a token is; the values are the group names of the dialects' patterns."""

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
    """One token with its offsets in characters; `name` is the identifier that it spells, or None."""

    kind: TokenKind
    text: str
    start: int
    end: int
    name: str | None

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, given in upper case."""
        return self.kind is TokenKind.WORD and self.text.upper() in words


@dataclass(frozen=True)
class Lexicon:
    """How a dialect is read: its tokens, its white space, which character begins a quote, what a quoted name spells."""

    pattern: re.Pattern[str]
    space: re.Pattern[str]
    quotes: str
    unquoted: Callable[[TokenKind, str], str | None]

    def tokens(self, source: Source) -> Iterator[Token]:
        """Yield the tokens of a text, comments included; InvalidFile for what begins none, or a quote without its end."""
        at, text = 0, source.text
        while at < len(text):
            blank = self.space.match(text, at)
            if blank:
                at = blank.end()
                continue
            match = self.pattern.match(text, at)
            if match is None or match.lastgroup is None:
                raise source.error(f"unrecognised character U+{ord(text[at]):04X}", at, "delete it")
            kind, found = TokenKind(match.lastgroup), match[0]
            if kind is TokenKind.OTHER and found in self.quotes:
                raise source.error(f"a quote {found} without its end", at)
            yield Token(kind, found, at, match.end(), found if kind is TokenKind.WORD else self.unquoted(kind, found))
            at = match.end()
