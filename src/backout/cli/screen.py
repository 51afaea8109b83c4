"""Where output goes: standard output for results, standard error for everything else, colours on terminals only.

Not for: what is printed. Invariant: a reader that went away (`| head`) changes neither what a run does nor its exit
status, and text from a database reaches a terminal only through `plain`, so that it cannot steer it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NARROWEST, WIDEST = 80, 120  # below, tables break; above, the eye loses the line
_LONGEST_CELL = 40


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def console(stream: IO[str] | None = None, *, width: int | None = None) -> Console:
    """Return a rich console; colours only on a terminal without NO_COLOR (https://no-color.org)."""
    from rich.console import Console

    file = stream if stream is not None else sys.stdout
    colours = file.isatty() and not os.environ.get("NO_COLOR")
    made = Console(
        file=file, no_color=not colours, force_terminal=colours, color_system="auto" if colours else None,
        highlight=False, markup=False, emoji=False, soft_wrap=False,
    )  # fmt: skip
    made.width = width or max(NARROWEST, min(WIDEST, made.width if file.isatty() else WIDEST))
    return made


def show(renderables: Iterable[RenderableType]) -> None:
    """Print a result for a person."""
    out = console()
    with out.capture() as captured:  # rich itself would end the process where nobody reads
        for one in renderables:
            out.print(one)
    show_text("\n".join(line.rstrip() for line in captured.get().removesuffix("\n").split("\n")))


def show_json(value: Mapping[str, Any]) -> None:
    """Print a result for a program: one object."""
    show_text(json.dumps(value, indent=2, ensure_ascii=False))


def show_text(text: str) -> None:
    """Print text as it is."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_went_away()


def show_error(text: str) -> None:
    """Print lines on standard error; the word before the first colon of each is coloured on a terminal."""
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    styles = {"error": "1;31", "state": "33", "hint": "36", "note": "36"}
    for line in text.split("\n"):
        word, separator, rest = line.partition(":")
        shown = f"\x1b[{styles[word]}m{word}\x1b[0m" if colours and word in styles and separator else word
        print(f"{shown}{separator}{plain(rest)}", file=sys.stderr)


def plain(text: str) -> str:
    """Return the text with everything escaped that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cell(value: str | None, longest: int = _LONGEST_CELL) -> str:
    """Return a value of a row as it is shown: NULL bare, ambiguous texts quoted, long ones shortened in the middle."""
    if value is None:
        return "NULL"
    shown = plain(value)
    if value in ("", "NULL") or value != value.strip() or value.startswith('"'):
        shown = f'"{shown}"'
    return shortened(shown, longest)


def shortened(text: str, longest: int) -> str:
    """Return the text with `…` for its middle where it is longer than that."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"


def _reader_went_away() -> None:
    """Let nothing be written any more, also not when Python flushes at its end.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
