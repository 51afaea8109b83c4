"""The known word that a mistyped one was meant to be, as part of a hint.

Not for: deciding that a word is unknown.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_READABLE = 20  # words in a list


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `did you mean "x"? known are: …`, without the question where nothing is near.

    Without the list where something is near, and the list would be too long to be read.
    """
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    question = f'did you mean "{prefix}{near[0]}"? ' if near else ""
    if near and len(words) > _READABLE:
        return question.strip()
    return f"{question}known are: {', '.join(prefix + one for one in words)}"
