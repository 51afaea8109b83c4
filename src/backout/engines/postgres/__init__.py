"""PostgreSQL 15 and newer, through psycopg 3."""

from __future__ import annotations

from backout.engines.postgres.connect import PostgresDatabase
from backout.engines.values import Settings


def connect(settings: Settings) -> PostgresDatabase:
    """Open the database. Raises UsageError where it cannot be reached, or is too old; nothing is touched."""
    return PostgresDatabase(settings)
