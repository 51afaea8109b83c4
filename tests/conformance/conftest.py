"""The one fixture of the suite: `target`, a fresh database on each engine; and the one way in which a test is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import servers_mariadb
from backout.engines.postgres.connect import PostgresDatabase
from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import Capabilities, Missing
from conformance.postgres_target import PostgresTarget
from conformance.sqlite_target import SqliteTarget
from conformance.stage import Stage
from conformance.target import Target
from servers import PostgresServers, present

HERE = Path(__file__).parent


@cache
def targets() -> dict[str, Capabilities]:
    """The targets that this run tests, by the test's id."""
    # The tables' owner is one way past triggers, the replica role the other; versions do not differ in them.
    names = [f"{server}-replica" if server == "pg16" else server for server in present()]
    found = dict.fromkeys(names, PostgresDatabase.capabilities)
    if servers_mariadb.present() and find_spec("backout.engines.mariadb.connect"):
        from conformance.mariadb_target import MariadbTarget

        found["mariadb"] = MariadbTarget.capabilities
    return found | {"sqlite": SqliteDatabase.capabilities}


def pytest_configure(config: pytest.Config) -> None:
    """The marks: what a test needs, and on how many versions it runs."""
    config.addinivalue_line("markers", "newest: of each engine the newest version only, where versions do not differ")
    config.addinivalue_line("markers", "needs(*capabilities): only on engines that have these capabilities")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of `target` on each of them."""
    if "target" in metafunc.fixturenames:
        names = [*targets()]
        if metafunc.definition.get_closest_marker("newest"):
            names = [name for name in names if name in {next(iter(present()), ""), "mariadb", "sqlite"}]
        metafunc.parametrize("target", names, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip a test on an engine that lacks what it names, and on no other; a name that is no capability is an error."""
    known = {one.name for one in fields(Capabilities)}
    for item in items:
        if not item.path.is_relative_to(HERE) or not isinstance(item, pytest.Function):
            continue
        needed = [name for mark in item.iter_markers("needs") for name in mark.args]
        if unknown := set(needed) - known:
            raise pytest.UsageError(f"{item.nodeid} needs {sorted(unknown)}, which are no capabilities")
        capabilities = targets()[str(item.callspec.params["target"])] if hasattr(item, "callspec") else None
        for name in needed if capabilities else ():
            has = getattr(capabilities, name)
            if isinstance(has, Missing):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {has.why}"))


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A fresh database on each engine."""
    name: str = request.param
    if name == "sqlite":
        yield SqliteTarget(tmp_path / "test.db")
        return
    if name == "mariadb":
        from conformance.mariadb_target import MariadbTarget

        yield MariadbTarget(request.getfixturevalue("mariadb"))
        return
    server, _, replica = name.partition("-")
    servers: PostgresServers = request.getfixturevalue("postgres_servers")
    database = servers.create_database(server)
    yield PostgresTarget(name, database, bool(replica))
    servers.drop_database(server, database)


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Stage:
    """A project on that database."""
    return Stage(target, tmp_path)
