"""The named queries of `queries.sql` and its neighbours, loaded once.

A query begins with `-- name: word` and ends where the next one begins; lines of comment under the name describe it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def _all(file: str) -> dict[str, str]:
    text = files(__package__).joinpath(file).read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].strip().rstrip(";") for part in parts}


def query(name: str, file: str = "queries.sql") -> str:
    """The text of a named query of a file of ours; KeyError for a name that is not there (a bug)."""
    return _all(file)[name]
