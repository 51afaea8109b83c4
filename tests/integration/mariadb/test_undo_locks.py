"""What others write while an undo is at work waits for it, or is found by it; it is never overwritten unseen."""

from __future__ import annotations

import threading
import time

import pytest

from integration.mariadb.driving import change, make, opened, undo
from servers_mariadb import MariaDatabase

#: The tables of an undo are judged in order of their names: the row of `b` that is held stops it when `a` is judged, and
#: nothing is put back yet. Rows with a key and rows without one are locked by different statements.
TABLES = (
    "CREATE TABLE a (id INT{key}, v INT); INSERT INTO a VALUES (1, 1), (2, 2), (3, 3);"
    "CREATE TABLE b (id INT{other_key}, v INT); INSERT INTO b VALUES (1, 1)"
)


@pytest.mark.parametrize(("key", "other_key"), [(" PRIMARY KEY", ""), ("", " PRIMARY KEY")], ids=["key", "no key"])
def test_a_row_that_was_judged_is_locked_until_it_is_put_back(mariadb: MariaDatabase, key: str, other_key: str) -> None:
    """The edit of another comes after the undo, on top of what was put back, and is not lost."""
    make(mariadb, TABLES.format(key=key, other_key=other_key))
    holder, writer = (mariadb.connect("application", autocommit=on) for on in (False, True))
    with opened(mariadb, lock_timeout_s=20.0) as engine:
        record, _, _ = change(engine, "UPDATE a SET v = v + 10 WHERE id < 3", "UPDATE b SET v = 9")
        holder.cursor().execute("SELECT * FROM b FOR UPDATE")
        undoing = threading.Thread(target=lambda: undo(engine, record))
        undoing.start()
        _until_waiting(mariadb, 1)
        writing = threading.Thread(target=lambda: writer.cursor().execute("UPDATE a SET v = 500 WHERE id = 1"))
        writing.start()
        _until_waiting(mariadb, 2)
        holder.rollback()
        undoing.join()
        writing.join()
    assert [(1, 500), (2, 2), (3, 3)] == mariadb.execute("SELECT id, v FROM a ORDER BY id")
    assert [(1, 1)] == mariadb.execute("SELECT id, v FROM b")


def _until_waiting(mariadb: MariaDatabase, count: int) -> None:
    """Until that many sessions wait for a lock."""
    deadline = time.monotonic() + 15
    query = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
    while mariadb.execute(query) != [(count,)]:
        assert time.monotonic() < deadline, f"there are no {count} sessions that wait: {mariadb.execute(query)}"
        time.sleep(0.12)  # the view is renewed only where nobody has read it for 0.1 s


FAMILY = (
    "CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p SELECT seq FROM seq_1_to_9;"
    "CREATE TABLE c (id INT{key}, p INT, FOREIGN KEY (p) REFERENCES p (id)); INSERT INTO c VALUES (1, 1), (2, 2), (3, 9)"
)


@pytest.mark.parametrize("statement", ["DELETE FROM c WHERE id = 1", "UPDATE c SET p = NULL WHERE id = 1"])
@pytest.mark.parametrize("key", [" PRIMARY KEY", ""], ids=["key", "no key"])
def test_a_parent_that_somebody_is_deleting_is_waited_for(mariadb: MariaDatabase, key: str, statement: str) -> None:
    """Foreign keys are off for the undo's session: their child would come back to a parent that is gone a moment later."""
    make(mariadb, FAMILY.format(key=key))
    other = mariadb.connect("application", autocommit=False)
    with opened(mariadb, lock_timeout_s=20.0) as engine:
        record, _, _ = change(engine, statement)
        other.cursor().execute("DELETE FROM p WHERE id = 1")
        met: list[str] = []

        def undo_and_tell() -> None:
            outcome, _ = undo(engine, record)
            met.extend(f"{one.kind.name} {one.key['id']}" for one in outcome.conflicts)

        undoing = threading.Thread(target=undo_and_tell)
        undoing.start()
        _until_waiting(mariadb, 1)
        other.commit()
        undoing.join()
        assert ["PARENT_GONE 1"] == met
        assert [] == mariadb.execute("SELECT * FROM c WHERE p = 1")
        mariadb.as_application("INSERT INTO p VALUES (1)")
        undo(engine, record)
    assert [(1, 1), (2, 2), (3, 9)] == mariadb.execute("SELECT id, p FROM c ORDER BY id")


def test_parents_of_other_rows_are_not_waited_for(mariadb: MariaDatabase) -> None:
    make(mariadb, FAMILY.format(key=" PRIMARY KEY"))
    other = mariadb.connect("application", autocommit=False)
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "DELETE FROM c WHERE id = 1")
        other.cursor().execute("DELETE FROM p WHERE id IN (3, 4, 5)")
        outcome, _ = undo(engine, record)
        assert not outcome.refused
    other.rollback()
    assert [(1, 1), (2, 2), (3, 9)] == mariadb.execute("SELECT id, p FROM c ORDER BY id")
