"""The known word that a mistyped one was meant to be, as part of a hint.

Not for: deciding that a word is unknown.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `did you mean "x"? known are: …`, without the question where nothing is near."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    question = f'did you mean "{prefix}{near[0]}"? ' if near else ""
    return f"{question}known are: {', '.join(prefix + one for one in words)}"
