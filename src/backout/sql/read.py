"""The door of the room: the statements of a text, in the dialect that it is written in.

Not for: files (`change`). Invariant: a parser is imported when the first text is read, so that `--help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.sql.model import Dialect, Script

if TYPE_CHECKING:
    from collections.abc import Collection


def read_script(dialect: Dialect, text: str, parameters: Collection[str], file: str, first_line: int = 1) -> Script:
    """Return the statements and trailing comments of `text`; `parameters` are the names declared for `:name`.

    Errors: InvalidFile, with file, line and column, for whatever cannot be read; nothing else.
    """
    if dialect is Dialect.POSTGRES:
        from backout.sql import postgres

        return postgres.read_script(text, parameters, file, first_line)
    if dialect is Dialect.MARIADB:
        from backout.sql import mariadb

        return mariadb.read_script(text, parameters, file, first_line)
    from backout.sql import sqlite

    return sqlite.read_script(text, parameters, file, first_line)
