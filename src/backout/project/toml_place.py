"""Where a key stands in the text of a TOML file, which `tomllib` does not tell.

Not for: parsing TOML. Invariant: a place that exists in the text; where the key is spelled in a way that is not looked
for (inside an inline table), the place of the table that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_KEY})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY})\s*=")


def place(text: str, path: Sequence[str]) -> tuple[int, int]:
    """Return line and column (from 1) of the key; of its nearest enclosing table where it is not found itself."""
    best = (0, 1, 1)  # parts of the path that match, line, column
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _HEADER.match(line):
            table = _parts(match[1])
            key = table
        elif match := _ASSIGNMENT.match(line):
            key = (*table, *_parts(match[1]))
        else:
            continue
        shared = _shared(key, path)
        if shared > best[0] and (shared == len(key) or shared == len(path)):
            best = (shared, number, match.start(1) + 1)
    return best[1:]


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


def _shared(key: Sequence[str], path: Sequence[str]) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(key, path, strict=False)) if a != b), min(len(key), len(path))
    )
