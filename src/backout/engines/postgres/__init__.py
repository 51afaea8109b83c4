"""PostgreSQL 15 and newer, through psycopg 3."""

from __future__ import annotations

from dataclasses import replace

from backout.engines.postgres.connect import PostgresDatabase
from backout.engines.postgres.session import reached
from backout.engines.values import Settings


def connect(settings: Settings) -> PostgresDatabase:
    """Open the database. Raises UsageError where it cannot be reached, or is too old; nothing is touched."""
    return PostgresDatabase(replace(settings, url=reached(settings.url)))
