"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.clients import Both
from servers import PostgresDatabase, PostgresServers


@pytest.fixture
def both(postgres18: PostgresDatabase, postgres_servers: PostgresServers, tmp_path: Path) -> Iterator[Both]:
    direct = postgres_servers.create_database("pg18")
    yield Both(tmp_path, postgres18, direct)
    postgres_servers.drop_database("pg18", direct)
