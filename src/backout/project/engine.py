"""Which engine serves which URL. The only place that knows them all; each is imported when it is needed."""

from __future__ import annotations

from collections.abc import Iterable

from backout.engines.protocol import Database
from backout.engines.values import Settings
from backout.errors import UsageError
from backout.project.config import Environment
from backout.sql.model import Dialect

_SCHEMES = {
    "postgres": Dialect.POSTGRES,
    "postgresql": Dialect.POSTGRES,
    "sqlite": Dialect.SQLITE,
    "mariadb": Dialect.MARIADB,
    "mysql": Dialect.MARIADB,
}


def dialect_of(url: str) -> Dialect:
    """The language that the database behind the URL speaks; UsageError for a scheme that no engine serves."""
    scheme = url.partition(":")[0].lower()
    if scheme not in _SCHEMES:
        raise UsageError(
            f'no engine for URLs that begin with "{scheme}:"',
            hint="known are postgresql://, mariadb:// and sqlite:///path/to/file",
        )
    return _SCHEMES[scheme]


def usual_dialect(environments: Iterable[Environment]) -> Dialect:
    """What all the databases speak whose URLs can be read now; PostgreSQL's where there is none, or more than one."""
    found = {dialect_of(url) for url in (one.known_url() for one in environments) if url}
    return found.pop() if len(found) == 1 else Dialect.POSTGRES


def open_database(settings: Settings) -> Database:
    """Connect. Raises UsageError where the database cannot be reached."""
    if dialect_of(settings.url) is Dialect.POSTGRES:
        from backout.engines import postgres

        return postgres.connect(settings)
    if dialect_of(settings.url) is Dialect.MARIADB:
        from backout.engines import mariadb

        return mariadb.connect(settings)
    from backout.engines import sqlite

    return sqlite.connect(settings)
