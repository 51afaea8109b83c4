"""Fixtures that every test can ask for: real databases, a fresh one for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, settings

from servers import PostgresDatabase, PostgresServers, chosen, describe, present

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.register_profile("hunt", settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong choice of servers before anything runs."""
    try:
        chosen()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header() -> list[str]:
    """Say which databases this run tests, and which it does not and why."""
    return [*describe(), f"SQLite {apsw.sqlite_lib_version()}: tested (with apsw)"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of `postgres` on each server; without any they are skipped, and say so."""
    if "postgres" in metafunc.fixturenames:
        none = pytest.param("none", marks=pytest.mark.skip(reason="no PostgreSQL to test with"))
        metafunc.parametrize("postgres", [*present()] or [none], indirect=True)


@pytest.fixture(scope="session")
def postgres_servers(worker_id: str) -> Iterator[PostgresServers]:
    """The servers of this process: started when first needed, ended with the process."""
    servers = PostgresServers(worker_id)
    yield servers
    servers.stop()


def _database(servers: PostgresServers, name: str) -> Iterator[PostgresDatabase]:
    database = servers.create_database(name)
    yield database
    servers.drop_database(name, database)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, postgres_servers: PostgresServers) -> Iterator[PostgresDatabase]:
    """A fresh database on each PostgreSQL that this run tests (ids pg18, pg16, pg15)."""
    yield from _database(postgres_servers, request.param)


@pytest.fixture
def postgres18(postgres_servers: PostgresServers) -> Iterator[PostgresDatabase]:
    """A fresh database on PostgreSQL 18, for tests where one version is enough."""
    if "pg18" not in present():
        pytest.skip("PostgreSQL 18 is not tested in this run")
    yield from _database(postgres_servers, "pg18")


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Where a fresh SQLite database can be: nothing is there yet."""
    return tmp_path / "test.db"
