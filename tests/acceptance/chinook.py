"""The music shop Chinook, real schema and data, on PostgreSQL and on SQLite, as one project of a user.

The changes in `tests/data/chinook/changes` are written once, with PostgreSQL's names (`invoice_line`); SQLite's are the
same without the underscores (`InvoiceLine`). From https://github.com/lerocha/chinook-database, version 1.4.5.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from servers import PostgresDatabase

DATA = Path(__file__).parents[1] / "data" / "chinook"
TABLES = {
    "artist": "artist_id", "album": "album_id", "employee": "employee_id", "customer": "customer_id",
    "genre": "genre_id", "invoice": "invoice_id", "invoice_line": "invoice_line_id", "media_type": "media_type_id",
    "playlist": "playlist_id", "playlist_track": "playlist_id, track_id", "track": "track_id",
}  # fmt: skip
_PARAMETERS = '[environments.shop.parameters]\ngenre = "Blues"\nprice = 1.49\ntracks = 81\n'


@dataclass(frozen=True)
class Shop:
    """The project's folder, with the environment "shop"; and the database past backout, as a colleague uses it."""

    folder: Path
    execute: Callable[[str], None]
    dump: Callable[[], list[str]]
    in_dialect: Callable[[str], str]


def postgres_shop(database: PostgresDatabase, folder: Path) -> Shop:
    """The shop on PostgreSQL; its application owns the tables."""
    text = (DATA / "postgresql.sql").read_text(encoding="utf-8")
    database.as_application("/*" + text[text.index("Create Tables") :])  # what stands before makes a database

    def dump() -> list[str]:
        lines = []
        for table, key in TABLES.items():
            query = sql.SQL("SELECT t::text FROM {} t ORDER BY {}").format(sql.Identifier(table), sql.SQL(key))
            lines += [f"{table} {row}" for (row,) in database.as_application(query)]
        return lines

    def execute(statement: str) -> None:
        database.as_application(statement)

    _write_project(folder, f'url = "{database.login_url}"\nrole = "{database.application_role}"\n', str)
    return Shop(folder, execute, dump, str)


def sqlite_shop(folder: Path) -> Shop:
    """The shop on SQLite."""
    path = folder / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        script = (DATA / "sqlite.sql").read_text(encoding="utf-8")
        connection.executescript(f"PRAGMA synchronous = off; BEGIN; {script}; COMMIT")

    def dump() -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return [
                f"{table} {row}"
                for table, key in TABLES.items()
                for row in connection.execute(without_underscores(f"SELECT * FROM {table} ORDER BY {key}"))
            ]

    def execute(statement: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = on")
            connection.execute(without_underscores(statement))

    _write_project(folder, f'url = "sqlite:///{path}"\n', without_underscores)
    return Shop(folder, execute, dump, without_underscores)


def without_underscores(statement: str) -> str:
    """With SQLite's names of tables and columns."""
    return re.sub(r"(?<=[a-z])_(?=[a-z])(?![^'\n]*@)", "", statement)


def _write_project(folder: Path, database: str, in_dialect: Callable[[str], str]) -> None:
    (folder / "changes").mkdir()
    for source in (DATA / "changes").iterdir():
        metadata, end, statements = source.read_text(encoding="utf-8").partition("-- ///\n")
        text = metadata + end + in_dialect(statements)
        (folder / "changes" / source.name).write_text(text, encoding="utf-8")
    (folder / "backout.toml").write_text(f"[environments.shop]\n{database}{_PARAMETERS}", encoding="utf-8")
