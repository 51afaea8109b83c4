"""The ledger on its two databases: one chain, whoever writes and however many at a time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backout.errors import Refused, UsageError
from backout.ledger import version
from backout.ledger.entry import GENESIS, Head, entry_hash, first_break
from backout.ledger.store import Ledger
from servers import PostgresDatabase

WRITERS, EACH = 8, 25


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    database: PostgresDatabase = request.getfixturevalue("postgres18")
    database.execute(f'GRANT CREATE ON SCHEMA public TO "{database.login_role}"')
    return database.login_url


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = Ledger(url)
    yield opened
    opened.close()


def tamper(url: str, statement: str, *parameters: Any, guards: bool = False) -> None:
    """What somebody with rights on the database itself can do; without `guards` the triggers are taken away first."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            if not guards:
                for suffix in ("update", "delete"):
                    file.execute(f"DROP TRIGGER IF EXISTS backout_ledger_entry_no_{suffix}")
            file.execute(statement, parameters)
        file.close()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        if not guards:
            connection.execute("DROP TRIGGER IF EXISTS backout_ledger_entry_no_change ON backout_ledger_entry")
        connection.execute(statement.replace("?", "%s"), parameters)


def fill(ledger: Ledger, count: int) -> None:
    ledger.append_all([f'{{"kind":"statement","n":{number}}}' for number in range(1, count + 1)])


def test_an_empty_ledger_has_the_first_head_and_makes_nothing(ledger: Ledger, url: str) -> None:
    assert (ledger.exists(), ledger.head(), list(ledger.entries())) == (False, Head(0, GENESIS), [])
    if url.startswith("sqlite"):
        assert not Path(url.removeprefix("sqlite:///")).exists()


def test_entries_are_one_chain(ledger: Ledger) -> None:
    first, second = ledger.append("{}"), ledger.append('{"a":"ö"}')
    assert (first.position, first.previous) == (1, GENESIS)
    assert (second.position, second.previous, second.hash) == (2, first.hash, entry_hash(2, first.hash, '{"a":"ö"}'))
    assert list(ledger.entries()) == [first, second]
    assert ledger.head() == Head(2, second.hash)
    assert first_break(ledger.entries()) is None


WRITER = """
import sys
from backout.ledger.store import Ledger
ledger = Ledger(sys.argv[1])
for number in range(int(sys.argv[3])):
    ledger.append('{"writer":%s,"number":%d}' % (sys.argv[2], number))
"""


def test_eight_processes_neither_fork_the_chain_nor_lose_an_entry(ledger: Ledger, url: str) -> None:
    """They begin on a ledger that is not there yet, so that they also compete for making it."""
    commands = [[sys.executable, "-c", WRITER, url, str(number), str(EACH)] for number in range(WRITERS)]
    writers = [subprocess.Popen(command) for command in commands]
    assert [one.wait() for one in writers] == [0] * WRITERS
    entries = ledger.entries()
    assert first_break(entries) is None
    assert len({one.body for one in entries}) == len(entries) == WRITERS * EACH
    for writer in range(WRITERS):  # each one's own order is kept
        mine = [one.content["number"] for one in entries if one.content["writer"] == writer]
        assert mine == list(range(EACH))


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    ledger.append("{}")
    with pytest.raises(UsageError):
        ledger.append_all(["{}", "\x00 no text in PostgreSQL", None])  # type: ignore[list-item]
    assert ledger.head().position == 1


@pytest.mark.parametrize(
    ("statement", "position", "problem"),
    [
        (
            "UPDATE backout_ledger_entry SET body = '{\"kind\":\"statement\",\"n\":7}' WHERE position = 3", 3,
            "altered: its text is not what its hash was made of",
        ),
        (
            f"UPDATE backout_ledger_entry SET hash = '{'0' * 63}1' WHERE position = 3", 3,
            "altered: its text is not what its hash was made of",
        ),
        ("DELETE FROM backout_ledger_entry WHERE position = 3", 3, "removed: entry 3 is not there"),
        ("DELETE FROM backout_ledger_entry WHERE position IN (2, 3)", 2, "removed: entry 2 to 3 is not there"),
        ("DELETE FROM backout_ledger_entry WHERE position = 1", 1, "removed: entry 1 is not there"),
        (
            "UPDATE backout_ledger_entry SET position = CASE position WHEN 3 THEN 40 ELSE position END", 3,
            "removed: entry 3 is not there",
        ),
    ],
)  # fmt: skip
def test_the_first_entry_that_is_not_as_it_was_written_is_named(
    ledger: Ledger, url: str, statement: str, position: int, problem: str
) -> None:
    fill(ledger, 5)
    tamper(url, statement)
    found = first_break(ledger.entries())
    assert found is not None
    assert (found.position, found.problem) == (position, problem)


def test_two_entries_that_changed_places_are_named(ledger: Ledger, url: str) -> None:
    """Each keeps its text and hash; only their places are exchanged."""
    fill(ledger, 5)
    for was, becomes in ((2, 99), (3, 2), (99, 3)):
        tamper(url, "UPDATE backout_ledger_entry SET position = ? WHERE position = ?", becomes, was)
    found = first_break(ledger.entries())
    assert found is not None
    assert (found.position, found.problem) == (2, "reordered: it does not follow from the entry before it")


def test_an_entry_whose_hash_was_recomputed_does_not_fit_the_next_one(ledger: Ledger, url: str) -> None:
    fill(ledger, 5)
    before = ledger.entries()[1]
    body = '{"kind":"statement","n":"forged"}'
    tamper(
        url, "UPDATE backout_ledger_entry SET body = ?, hash = ? WHERE position = 3", body,
        entry_hash(3, before.hash, body),
    )  # fmt: skip
    found = first_break(ledger.entries())
    assert found is not None
    assert (found.position, found.problem) == (4, "reordered: it does not follow from the entry before it")


@pytest.mark.parametrize(
    "statement",
    ["UPDATE backout_ledger_entry SET body = '{}' WHERE position = 1", "DELETE FROM backout_ledger_entry"],
)
def test_an_accident_with_sql_is_refused_by_the_database(ledger: Ledger, url: str, statement: str) -> None:
    fill(ledger, 2)
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException), match="the ledger is append-only"):
        tamper(url, statement, guards=True)
    assert first_break(ledger.entries()) is None


def test_a_fork_is_refused_by_the_database(ledger: Ledger, url: str) -> None:
    fill(ledger, 2)
    first = ledger.entries()[0]
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.UniqueViolation)):
        tamper(
            url, "INSERT INTO backout_ledger_entry (position, previous, hash, body) VALUES (3, ?, ?, '{}')",
            first.hash, entry_hash(3, first.hash, "{}"),
        )  # fmt: skip


# -- older and newer code

#: What version 1 wrote, word for word: its tables had no guards yet.
FIRST_VERSION = (
    "CREATE TABLE backout_ledger_version (version bigint PRIMARY KEY, readable_by bigint NOT NULL)",
    "CREATE TABLE backout_ledger_entry (position bigint PRIMARY KEY, previous varchar(64) NOT NULL, "
    "hash varchar(64) NOT NULL, body text NOT NULL, CONSTRAINT backout_ledger_entry_no_fork UNIQUE (previous))",
    "INSERT INTO backout_ledger_version (version, readable_by) VALUES (1, 1)",
)  # fmt: skip
INSERT_OF_VERSION_1 = "INSERT INTO backout_ledger_entry (position, previous, hash, body) VALUES (?, ?, ?, ?)"


def test_the_data_of_an_older_backout_are_read_and_continued(ledger: Ledger, url: str) -> None:
    for statement in FIRST_VERSION:
        tamper(url, statement, guards=True)
    old = entry_hash(1, GENESIS, "{}")
    tamper(url, INSERT_OF_VERSION_1, 1, GENESIS, old, "{}", guards=True)
    assert ledger.head() == Head(1, old)
    new = ledger.append('{"new":true}')
    assert (new.position, new.previous) == (2, old)
    assert first_break(ledger.entries()) is None
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException)):  # it has become version 2
        tamper(url, "DELETE FROM backout_ledger_entry", guards=True)


def test_an_older_backout_goes_on_working_on_the_newer_schema(ledger: Ledger, url: str) -> None:
    head = ledger.append("{}")
    tamper(url, INSERT_OF_VERSION_1, 2, head.hash, entry_hash(2, head.hash, "[1]"), "[1]", guards=True)
    assert ledger.append("{}").position == 3
    assert first_break(ledger.entries()) is None


def test_a_ledger_of_a_newer_backout_that_we_cannot_read_is_refused(ledger: Ledger, url: str) -> None:
    ledger.append("{}")
    tamper(url, "INSERT INTO backout_ledger_version (version, readable_by) VALUES (99, 99)", guards=True)
    for attempt in (ledger.head, ledger.entries, lambda: ledger.append("{}")):
        with pytest.raises(Refused) as caught:
            attempt()
        assert str(caught.value) == (
            f"the ledger was made by a newer backout (its version is 99, ours is {version.VERSION})\n"
            "state: untouched\nhint: upgrade backout on this machine"
        )


# -- what cannot be opened


def test_a_ledger_that_cannot_be_reached_is_named_without_its_password() -> None:
    ledger = Ledger("postgresql://me:s3cret@127.0.0.1:1/ops")
    with pytest.raises(UsageError) as caught:
        ledger.append("{}")
    assert caught.value.message.startswith('unable to use the ledger "postgresql://me:***@127.0.0.1:1/ops"')
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", 'no ledger can be in a database of kind "mysql"'),
        ("what is this", "the ledger's URL is not one"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Ledger(url)
    assert caught.value.message == message


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be read as one" * 30)
    with pytest.raises(UsageError, match="unable to use the ledger"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}").entries()
