"""A URL with several hosts: two real servers of which one is read-only, in whatever order."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from backout.engines import mariadb as engine
from backout.engines.mariadb.address import pinned
from backout.engines.values import Settings
from backout.errors import UsageError
from servers_mariadb import HOST, PASSWORD, MariaDatabase, MariaServer, present


@pytest.fixture(scope="module")
def read_only() -> Iterator[MariaServer]:
    """A server that says what a replica says."""
    if not present():
        pytest.skip("MariaDB is not tested")
    server = MariaServer.start(["--read-only=1"])
    yield server
    server.stop()


def nobodys_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def ports(mariadb: MariaDatabase, read_only: MariaServer) -> dict[str, int]:
    """Where the primary, the read-only server and nobody listen; the account and its database are on both servers."""
    root = read_only.root()
    with root.cursor() as cursor:
        cursor.execute(f"CREATE OR REPLACE USER `{mariadb.login_role}`@`%` IDENTIFIED BY '{PASSWORD}'")
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{mariadb.name}`")
        cursor.execute(f"GRANT ALL ON `{mariadb.name}`.* TO `{mariadb.login_role}`@`%`")
    root.close()
    return {"primary": mariadb.server.port, "read-only": read_only.port, "nobody": nobodys_port()}


def url_of(database: MariaDatabase, ports: dict[str, int], *which: str) -> str:
    places = ",".join(f"{HOST}:{ports[one]}" for one in which)
    return database.login_url.replace(f"{HOST}:{database.server.port}", places)


@pytest.mark.parametrize(
    "which",
    [("primary", "read-only"), ("read-only", "primary"), ("nobody", "read-only", "primary")],
    ids=" then ".join,
)
def test_the_first_that_is_not_read_only_is_chosen_for_all_sessions(
    mariadb: MariaDatabase, ports: dict[str, int], which: tuple[str, ...]
) -> None:
    database = engine.connect(Settings(url_of(mariadb, ports, *which), "test"))
    try:
        facts = database.facts()
        assert (facts.is_primary, facts.host) == (True, HOST)
        database.journal.create()
        transaction = database.transaction([])
        chosen = {one.address.options["port"] for one in (database._control, *database._others)}
        transaction.rollback()
        assert (chosen, len(database._others)) == ({ports["primary"]}, 2)
    finally:
        database.close()


def test_where_all_are_read_only_it_can_be_looked_at_and_says_so(mariadb: MariaDatabase, ports: dict[str, int]) -> None:
    database = engine.connect(Settings(url_of(mariadb, ports, "nobody", "read-only"), "test"))
    assert database.facts().is_primary is False
    database.close()


def test_where_none_answers_the_error_has_no_password(mariadb: MariaDatabase, ports: dict[str, int]) -> None:
    with pytest.raises(UsageError) as caught:
        engine.connect(Settings(url_of(mariadb, ports, "nobody", "nobody"), "test"))
    assert PASSWORD not in str(caught.value)
    assert caught.value.message.startswith(f"unable to connect to mariadb://{HOST}:{ports['nobody']}/")


def test_a_url_with_one_host_is_left_as_it_is(mariadb: MariaDatabase) -> None:
    assert pinned(mariadb.login_url) == mariadb.login_url
