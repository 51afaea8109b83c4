"""A URL with several hosts: a real primary and its standby, in whatever order, and all sessions at the primary."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from backout.engines import postgres
from backout.engines.postgres.hosts import pinned
from backout.engines.values import JournalState, RunState, Settings
from backout.errors import Refused, UsageError
from backout.project import Project
from integration.postgres import test_batches_replica
from integration.postgres.stage import Stage, yes
from servers import PostgresDatabase

TABLE = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)"
pair = test_batches_replica.pair  # a primary and its standby
Pair = tuple[PostgresDatabase, str]


def port_of(pair: Pair, which: str) -> int:
    if which == "primary":
        port = urlsplit(pair[0].login_url).port
        assert port is not None
        return port
    return int(str(conninfo_to_dict(pair[1])["port"]))


def nobodys_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def url_of(pair: Pair, *which: str, more: str = "") -> str:
    """The login role's URL of the test's database, at these servers; "nobody" is a port where nothing listens."""
    parts = urlsplit(pair[0].login_url)
    account = parts.netloc.rpartition("@")[0]
    ports = [nobodys_port() if one == "nobody" else port_of(pair, one) for one in which]
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://{account}@{places}{parts.path}{more}"


def project(pair: Pair, folder: Path, url: str, **options: str) -> tuple[Stage, Project]:
    stage = Stage(pair[0], folder)
    stage.make(TABLE)
    return stage, Project.find(config=stage.write_config(url=f'"{url}"', **options))


@pytest.mark.parametrize(
    "which",
    [("primary", "standby"), ("standby", "primary"), ("nobody", "standby", "primary"), ("nobody", "primary")],
    ids=" then ".join,
)
def test_the_primary_is_chosen_wherever_it_stands(pair: Pair, tmp_path: Path, which: tuple[str, ...]) -> None:
    stage, found = project(pair, tmp_path, url_of(pair, *which))
    report = found.run(stage.change("UPDATE t SET v = v + 1"), "test", again="the rows are new", ask=yes)
    assert report.outcome is RunState.COMMITTED
    assert stage.rows("SELECT id, v FROM t ORDER BY id") == [(1, 1), (2, 1)]


def test_all_sessions_are_at_the_host_that_was_chosen(pair: Pair) -> None:
    database = postgres.connect(Settings(url_of(pair, "standby", "primary"), "test"))
    try:
        if database.journal.state() is JournalState.ABSENT:
            database.journal.create()
        transaction = database.transaction([])
        ports = {one.connection.info.port for one in (database._control, *database._others)}
        transaction.rollback()
        assert len(database._others) == 2
        assert ports == {port_of(pair, "primary")}
        assert database.facts().host == "127.0.0.1"
    finally:
        database.close()


def test_a_url_of_standbys_alone_is_looked_at_and_not_written_to(pair: Pair, tmp_path: Path) -> None:
    stage, found = project(pair, tmp_path, url_of(pair, "nobody", "standby"))
    assert found.log("test", limit=1) is not None
    with pytest.raises(Refused) as caught:
        found.run(stage.change("UPDATE t SET v = v + 1"), "test", ask=yes)
    assert (caught.value.gate, caught.value.state) == ("primary", "untouched")


@pytest.mark.parametrize(("attributes", "which"), [("standby", "standby"), ("primary", "primary"), ("any", "standby")])
def test_what_the_url_asks_for_is_what_is_chosen(pair: Pair, attributes: str, which: str) -> None:
    """As libpq reads it: manual 32.1.2, target_session_attrs."""
    url = pinned(url_of(pair, "standby", "primary", more=f"?target_session_attrs={attributes}&connect_timeout=3"))
    chosen = conninfo_to_dict(url)
    assert (chosen["port"], chosen["target_session_attrs"], chosen["connect_timeout"]) == (
        str(port_of(pair, which)), attributes, "3",
    )  # fmt: skip


def test_where_no_host_answers_the_error_has_no_password(pair: Pair) -> None:
    with pytest.raises(UsageError) as caught:
        postgres.connect(Settings(url_of(pair, "nobody", "nobody"), "test"))
    password = urlsplit(pair[0].login_url).password
    assert password
    assert password not in str(caught.value)
    assert "unable to connect to postgresql://" in caught.value.message


def test_a_url_with_one_host_is_left_as_it_is(pair: Pair) -> None:
    for url in (pair[0].login_url, "postgresql:///clinic?host=/var/run/postgresql", "postgresql://h/clinic"):
        assert pinned(url) == url


def test_an_account_with_signs_in_its_password_is_put_together_rightly(pair: Pair) -> None:
    password = "p@ss:w/rd?,&%"
    pair[0].execute("DROP ROLE IF EXISTS odd")
    pair[0].execute(f"CREATE ROLE odd LOGIN PASSWORD '{password}'")
    ports = ",".join(f"127.0.0.1:{port_of(pair, one)}" for one in ("standby", "primary"))
    url = pinned(f"postgresql://odd:p%40ss%3Aw%2Frd%3F%2C%26%25@{ports}/test?application_name=a%20b")
    assert conninfo_to_dict(url)["password"] == password
    assert conninfo_to_dict(url)["application_name"] == "a b"
    database = postgres.connect(Settings(url, "test"))
    assert database.facts().login_role == "odd"
    database.close()


@pytest.mark.parametrize(
    ("hosts", "url_host", "refused"),
    [
        ('["127.0.0.1"]', "127.0.0.1", None),
        ('["127.0.0.1", "localhost"]', "localhost", None),
        ('["localhost"]', "localhost", "127.0.0.1"),
        ('["127.0.0.1"]', "localhost", "localhost"),
    ],
)
def test_every_host_of_the_list_is_one_that_the_policy_gives(
    pair: Pair, tmp_path: Path, hosts: str, url_host: str, refused: str | None
) -> None:  # fmt: skip
    """Also of those that are not reached now: after a failover they would be. And a ghost run is no exception."""
    url = url_of(pair, "standby", "primary").replace("@127.0.0.1", f"@{url_host}")
    stage, found = project(pair, tmp_path, url, hosts=hosts)
    change = stage.change("UPDATE t SET v = v + 1")
    if refused is None:
        found.ghost(change, "test", ask=yes)
        return
    with pytest.raises(Refused) as caught:
        found.ghost(change, "test", ask=yes)
    assert (caught.value.gate, caught.value.message) == (
        "host", f'the URL has host "{refused}", which is not in `hosts`',
    )  # fmt: skip


def test_the_host_in_the_query_counts_too(pair: Pair, tmp_path: Path) -> None:
    """libpq goes where `hostaddr` says, whatever name stands in the usual place."""
    parts = urlsplit(pair[0].login_url)
    account = parts.netloc.rpartition("@")[0]
    url = f"postgresql://{account}@db.example.org:{parts.port}{parts.path}?hostaddr=127.0.0.1"
    stage, found = project(pair, tmp_path, url, hosts='["db.example.org"]')
    with pytest.raises(Refused, match=r'the URL has host "127\.0\.0\.1", which is not in `hosts`'):
        found.ghost(stage.change("UPDATE t SET v = v + 1"), "test", ask=yes)
