"""The built-in prompt's end at the terminal: lines in, rows out.

Not for: what is sent (`endpoint/prompt.py`). Invariant: everything goes to standard error, since standard output is for
the run's result; and what a database says reaches the terminal only through `plain`.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence

from backout.cli.screen import cell, plain

_LONGEST = 60  # characters of one value


class StandardTerminal:
    """Standard input, line by line, without ever waiting longer than it may; see `endpoint.prompt.Terminal`."""

    def __init__(self) -> None:
        self._typed = b""
        self._ended = False

    def line(self, prompt: str | None, patience_s: float) -> str | None:
        """See the protocol. Read by descriptor: lines that Python had buffered would never look ready again."""
        if prompt is not None:
            print(plain(prompt), end="", file=sys.stderr, flush=True)
        if b"\n" not in self._typed and not self._ended:
            if not select.select([0], [], [], patience_s)[0]:
                return None
            received = os.read(0, 1 << 16)
            self._typed += received
            self._ended = not received
        if b"\n" not in self._typed and not self._ended:
            return None
        found, newline, self._typed = self._typed.partition(b"\n")
        if not found and not newline:
            self.say("")
        return (found + newline).decode(errors="replace")

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
        """See the protocol."""
        shown = [[plain(one) for one in columns], *([cell(one, _LONGEST) for one in row] for row in rows)]
        widths = [max(len(row[place]) for row in shown) for place in range(len(columns))]
        for number, row in enumerate(shown):
            self.say(" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
            if number == 0:
                self.say("-+-".join("-" * width for width in widths))

    def say(self, said: str) -> None:
        """See the protocol."""
        print(plain(said), file=sys.stderr, flush=True)
