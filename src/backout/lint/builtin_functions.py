"""The functions that come with a database, so that a call of any other is known to be somebody's own code.

Not for: what they do. The names are in the `.txt` files beside this one: from PostgreSQL 18's pg_proc.dat (support
functions of types and indexes left out) and from sqlite.org/lang_corefunc.html and its siblings. A newer function that
is missing there gives a needless condition, no more.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from backout.sql.model import Dialect


def is_built_in(dialect: Dialect, name: str) -> bool:
    """Whether the database itself brings the function `name` (lower-case, qualified if written so)."""
    if dialect is Dialect.SQLITE:
        return name in _names("sqlite_functions.txt")
    if dialect is Dialect.MARIADB:
        return name in _names("mariadb_functions.txt")
    schema, _, bare = name.rpartition(".")
    return schema in ("", "pg_catalog") and bare in _names("postgres_functions.txt")


@cache
def _names(file: str) -> frozenset[str]:
    return frozenset(Path(__file__).with_name(file).read_text(encoding="utf-8").split())
