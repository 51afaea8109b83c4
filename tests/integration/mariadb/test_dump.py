"""A dump has all that the database has, or is refused: mariadb-dump leaves out what its account is not shown, silently."""

from __future__ import annotations

import pytest

from backout.engines.mariadb.dump import MariaDump
from backout.engines.values import Settings
from backout.errors import Refused
from servers_mariadb import MariaDatabase

#: One of everything, each with a word that only its definition has.
SCHEMA = """
CREATE TABLE t (id INT PRIMARY KEY, a INT); INSERT INTO t VALUES (4711, 1);
CREATE VIEW v AS SELECT id AS in_view FROM t;
CREATE TRIGGER w BEFORE UPDATE ON t FOR EACH ROW SET NEW.a = OLD.a + 815;
CREATE PROCEDURE p() SELECT 'in procedure';
CREATE FUNCTION f() RETURNS VARCHAR(20) DETERMINISTIC RETURN 'in function';
CREATE EVENT e ON SCHEDULE EVERY 1 YEAR DO DELETE FROM t WHERE id = 1302
"""
PARTS = ("4711", "in_view", "815", "in procedure", "in function", "1302")
ON_DATA = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")


def dump_as(mariadb: MariaDatabase, account: str) -> str:
    with MariaDump(Settings(mariadb.url(account), "test")).reading() as stream:
        return stream.read().decode()


def test_an_account_that_is_shown_everything_dumps_everything(mariadb: MariaDatabase) -> None:
    """The rights that docs/how-to/mariadb.md asks for."""
    mariadb.execute(SCHEMA)
    account = mariadb.create_role("dumps", [f"{', '.join(ON_DATA)} ON `{mariadb.name}`.*", "SELECT ON mysql.proc"])
    dumped = dump_as(mariadb, account)
    assert [] == [part for part in PARTS if part not in dumped]


@pytest.mark.parametrize("lacking", ON_DATA)
def test_an_account_that_is_not_shown_a_kind_of_thing_is_refused(mariadb: MariaDatabase, lacking: str) -> None:
    """With the GRANT that is missing."""
    mariadb.execute(SCHEMA)
    rights = ", ".join(right for right in ON_DATA if right != lacking)
    account = mariadb.create_role("dumps", [f"{rights} ON `{mariadb.name}`.*", "SELECT ON mysql.proc"])
    with pytest.raises(Refused) as raised:
        dump_as(mariadb, account)
    assert "the dump would leave out what this account is not shown" == raised.value.message
    assert raised.value.hint == (
        f"let an administrator run:\n  GRANT {lacking} ON `{mariadb.name}`.* TO `{account}`@`%`;"
    )


def test_an_account_that_is_not_shown_the_bodies_of_routines_is_refused(mariadb: MariaDatabase) -> None:
    """They were made by another account; the dump would be without them, and end well."""
    mariadb.execute(SCHEMA)
    account = mariadb.create_role("dumps", [f"{', '.join(ON_DATA)} ON `{mariadb.name}`.*"])
    with pytest.raises(Refused) as raised:
        dump_as(mariadb, account)
    assert raised.value.hint == f"let an administrator run:\n  GRANT SELECT ON mysql.proc TO `{account}`@`%`;"
