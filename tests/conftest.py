"""Fixtures that every test can ask for: real databases, a fresh one for each test."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, settings

import servers_mariadb
from servers import PostgresDatabase, PostgresServers, chosen, describe, in_memory, present
from servers_mariadb import MariaDatabase, MariaServers

if place := in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place)  # where tmp_path is: SQLite's files wait for no disk
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # commands start as they do where pip has compiled them
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, and children inherit that

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile(
    "hunt",
    settings.get_profile("default"),
    derandomize=False,
    max_examples=int(os.environ.get("HUNT_EXAMPLES", "5000")),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong choice of servers before anything runs."""
    try:
        chosen()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header() -> list[str]:
    """Say which databases this run tests, and which it does not and why."""
    return [*describe(), *servers_mariadb.describe(), f"SQLite {apsw.sqlite_lib_version()}: tested (with apsw)"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of `postgres` on each server; without any they are skipped, and say so."""
    if "postgres" in metafunc.fixturenames:
        servers = [*present()]
        either = metafunc.definition.get_closest_marker("either")
        if either or metafunc.definition.get_closest_marker("ends"):
            servers = sorted({*servers[:1], *servers[-1:]}, key=servers.index)
        if either and servers and "BACKOUT_TEST_BOTH" not in os.environ:
            servers = [random.Random(metafunc.definition.nodeid).choice(servers)]
        none = pytest.param("none", marks=pytest.mark.skip(reason="no PostgreSQL to test with"))
        metafunc.parametrize("postgres", servers or [none], indirect=True)


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


@pytest.fixture(scope="session")
def mariadb_servers(worker_id: str) -> Iterator[MariaServers]:
    """The MariaDB server of this process: started when first needed, ended with the process."""
    servers = MariaServers(worker_id)
    yield servers
    servers.stop()


@pytest.fixture
def mariadb(mariadb_servers: MariaServers) -> Iterator[MariaDatabase]:
    """A fresh database on MariaDB; skipped, and said so, where there is none."""
    if not servers_mariadb.present():
        pytest.skip("MariaDB is not tested in this run")
    database = mariadb_servers.create_database()
    yield database
    mariadb_servers.drop_database(database)
