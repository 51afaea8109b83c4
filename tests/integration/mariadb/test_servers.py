"""Servers that are set up in other ways: letter case of names, time zone, character set, and one that is no MariaDB."""

# ruff: noqa: E501  schemas and statements are read more easily in one line

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from backout.engines import mariadb as engine_of
from backout.engines.values import Settings
from backout.errors import Refused, UsageError
from backout.project.engine import open_database
from integration.mariadb.driving import change, dump, make, opened, undo
from servers_mariadb import MariaDatabase, MariaServers, present

Started = Callable[..., MariaDatabase]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """A database on a server of its own, started with these options and this environment."""
    if not present():
        pytest.skip("MariaDB is not tested")
    running: list[MariaServers] = []

    def start(*options: str, **environment: str) -> MariaDatabase:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        running.append(MariaServers("odd", options))
        return running[0].create_database()

    yield start
    for servers in running:
        servers.stop()


def there_and_back(database: MariaDatabase, *statements: str) -> list[tuple[str, str]]:
    """Run, undo, compare; returns (table, how it was captured)."""
    before = dump(database)
    with opened(database) as engine:
        record, capture, verdict = change(engine, *statements)
        assert before != dump(database)
        assert verdict.complete
        outcome, _ = undo(engine, record)
        assert not outcome.refused
    assert before == dump(database)
    return [(one.table.name.name, one.captured_by) for one in capture.tables]


def test_where_letter_case_does_not_tell_tables_apart_each_spelling_means_the_same_table(started: Started) -> None:
    """`lower_case_table_names = 1`: what a change calls ORDERS is orders in the catalogue."""
    database = started("--lower-case-table-names=1")
    make(
        database,
        "CREATE TABLE Orders (id INT PRIMARY KEY, a INT); INSERT INTO Orders SELECT seq, seq FROM seq_1_to_9000;"
        "CREATE TABLE Item (id INT PRIMARY KEY, o INT, FOREIGN KEY (o) REFERENCES Orders (id) ON DELETE CASCADE);"
        "INSERT INTO Item VALUES (1, 1), (2, 2); CREATE TABLE My (id INT) ENGINE=MyISAM; CREATE VIEW Vw AS SELECT * FROM Orders;"
        "CREATE PROCEDURE P() UPDATE OrDers SET a = 7 WHERE id < 5",
    )
    general, quick = "two sessions", "two sessions, quick form"
    assert [("item", general), ("orders", general)] == there_and_back(database, "DELETE FROM ORDERS WHERE id = 1")
    assert [("orders", general)] == there_and_back(database, "UPDATE VW SET a = 9 WHERE id < 9")
    assert [("orders", general)] == there_and_back(database, "CALL p()")
    make(database, "DROP TABLE Item")
    assert [("orders", quick)] == there_and_back(
        database, f"UPDATE {database.name.upper()}.ORDERS SET a = 0 WHERE id > 99"
    )
    with opened(database) as engine, pytest.raises(Refused, match='is stored by engine "MyISAM"'):
        change(engine, "INSERT INTO MY VALUES (2)")


def test_times_in_the_hour_that_comes_twice_are_put_back_exactly(started: Started) -> None:
    """In Berlin there were two 02:30 on that day; a TIMESTAMP knows which, also where a condition speaks of it."""
    database = started(TZ="Europe/Berlin")
    make(
        database,
        "SET time_zone = '+00:00'; CREATE TABLE k (id INT PRIMARY KEY, a INT, ts TIMESTAMP(3) NULL, "
        "u TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP); INSERT INTO k "
        "SELECT seq, seq, '2020-10-25 00:00:00' + INTERVAL seq SECOND, '2020-10-25 00:30:00' + INTERVAL seq SECOND FROM seq_1_to_9000;"
        "CREATE TABLE t (ts TIMESTAMP NOT NULL PRIMARY KEY, a INT); INSERT INTO t SELECT ts, 1 FROM k",
    )
    quick = "two sessions, quick form"
    assert [("k", quick)] == there_and_back(database, "UPDATE k SET a = 0 WHERE id > 100")
    assert [("k", quick)] == there_and_back(database, "DELETE FROM k WHERE id > 100")
    assert [("k", quick)] == there_and_back(database, "UPDATE k SET ts = NULL WHERE id > 100")
    assert [("t", quick)] == there_and_back(database, "UPDATE t SET a = a + 1 WHERE a = 1")
    assert [("k", "two sessions")] == there_and_back(database, "UPDATE k SET ts = NULL WHERE id < 9")


def test_texts_of_other_character_sets_and_collations_than_the_servers_are_put_back_exactly(started: Started) -> None:
    database = started("--character-set-server=latin1", "--collation-server=latin1_german2_ci",
                       "--skip-character-set-client-handshake=0")  # fmt: skip
    database.execute(f"ALTER DATABASE `{database.name}` CHARACTER SET cp1251 COLLATE cp1251_bulgarian_ci")
    make(
        database,
        "CREATE TABLE t (k VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci PRIMARY KEY, c VARCHAR(20), "
        "l VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_german2_ci, n VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin, "
        "s VARCHAR(20) CHARACTER SET sjis, u CHAR(9) CHARACTER SET utf16, b VARBINARY(20), e ENUM('ä', 'я') CHARACTER SET utf8mb4, UNIQUE (l));"
        "INSERT INTO t VALUES ('straße', 'привет', 'Müller', 'a ', 'ﾃｽﾄ', '𝄞', x'ff00', 'я'), ('b', NULL, 'mx', '🦜', '表', 'é', '', 'ä'), ('c', '', NULL, 'a', NULL, '', NULL, NULL)",
    )
    general = "two sessions"
    assert [("t", general)] == there_and_back(
        database, "UPDATE t SET k = 'STRASSE', c = 'Привет', l = 'Mueller', n = 'a', s = 'テ', u = 'x', b = x'ff', e = 'ä' WHERE k = 'straße'",
        "DELETE FROM t WHERE n = '🦜'", "INSERT INTO t (k, l) VALUES ('🦜', 'ñ')",
    )  # fmt: skip


def test_a_server_that_is_no_mariadb_is_refused(started: Started) -> None:
    """MySQL has other names for the views that the proof asks; this server only says that it is one."""
    database = started("--version=8.0.36")
    with pytest.raises(UsageError) as raised:
        engine_of.connect(Settings(database.login_url, "test"))
    assert "the server is MySQL 8.0.36" in raised.value.message
    assert "only MariaDB was tested" in raised.value.message


@pytest.mark.parametrize("scheme", ["mariadb", "mysql"])
def test_both_schemes_of_a_url_mean_mariadb(mariadb: MariaDatabase, scheme: str) -> None:
    database = open_database(Settings(mariadb.login_url.replace("mariadb://", f"{scheme}://"), "test"))
    try:
        assert "MariaDB" == database.facts().product
    finally:
        database.close()
