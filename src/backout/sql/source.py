"""A text and its places: offsets to lines and columns, and the characters that no SQL text may hold.

Not for: what the text means. Invariant: a line ends at LF and only there; columns count characters.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from backout.errors import InvalidFile, Position

# NUL, lone CR, surrogates, and the characters that change the order in which a reader sees a text, but not the order
# in which it runs (CVE-2021-42574).
_MISLEADING = re.compile("[\0\r\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Source:
    """A text with the name of its file; `first_line` is the line of the file at which the text begins."""

    def __init__(self, text: str, file: str, first_line: int = 1) -> None:
        self.text = text
        self.file = file
        self._first_line = first_line
        self._starts = [0] + [index + 1 for index, char in enumerate(text) if char == "\n"]

    def position(self, offset: int) -> Position:
        """Return the place of the character at `offset`."""
        row = bisect_right(self._starts, offset) - 1
        return Position(self.file, self._first_line + row, offset - self._starts[row] + 1)

    def stands_alone(self, offset: int) -> bool:
        """Whether nothing but white space stands before `offset` on its line."""
        row = bisect_right(self._starts, offset) - 1
        return not self.text[self._starts[row] : offset].strip()

    def error(self, message: str, offset: int, hint: str | None = None) -> InvalidFile:
        """Return the error that says `message` about the character at `offset`."""
        return InvalidFile(message, self.position(offset), hint=hint)

    def check_characters(self) -> None:
        """Raise InvalidFile at the first character that would run differently from how it reads."""
        match = _MISLEADING.search(self.text)
        if match is None:
            return
        code = f"U+{ord(match[0]):04X}"
        if match[0] == "\0":
            message, hint = "a NUL character", "save the file as UTF-8 text"
        elif match[0] == "\r":
            # PostgreSQL ends a line comment at CR, SQLite and most editors do not.
            message, hint = "a carriage return outside a line end", "save the file with LF line ends"
        elif "\ud800" <= match[0] <= "\udfff":
            message, hint = f"a surrogate, {code}, is not a character", "save the file as UTF-8"
        else:
            message = f"an invisible character that changes the reading direction, {code}"
            hint = "delete it, or write it as an escape: U&'\\202E'"
        raise self.error(message, match.start(), hint)
