"""The journal: stamp, numbers, lease, what a killed process leaves, and how long rescues are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backout.engines.sqlite import connect
from backout.engines.values import JournalState, Mode, RunState, Settings
from backout.errors import Busy, UsageError
from integration.sqlite.driving import change, dump, elsewhere, make, opened, start, undo

SCHEMA = "CREATE TABLE p (id INTEGER PRIMARY KEY, t); INSERT INTO p VALUES (1, 'a'), (2, 'b');"


def test_a_journal_is_absent_then_present_then_newer(tmp_path: Path) -> None:
    """And a newer one is refused."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = connect(Settings(url=f"sqlite:///{path}", environment="test"))
    assert JournalState.ABSENT is database.journal.state()
    with pytest.raises(UsageError) as met:
        database.journal.begin_run(start())
    assert "backout init --on test" == met.value.hint
    database.journal.create()
    assert JournalState.PRESENT is database.journal.state()
    assert ("test", database.facts().identity) == database.journal.stamp()
    elsewhere(path, "UPDATE backout_meta SET value = '2' WHERE name = 'version'")
    assert JournalState.NEWER is database.journal.state()
    with pytest.raises(UsageError):
        database.journal.begin_run(start())


def test_restamp_gives_a_copy_its_own_identity(tmp_path: Path) -> None:
    """Environment of the settings, another identity."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    before = database.journal.stamp()
    database.journal.restamp()
    assert before != database.journal.stamp()


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Numbers go up, the newest comes first, times have a zone."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    first, capture = change(database, "UPDATE p SET t = 'x'")
    second, _ = change(database, "DELETE FROM p")
    assert [second, first] == database.journal.runs(5)
    assert capture.tables == first.tables
    assert (start(), RunState.COMMITTED) == (first.start, first.state)
    assert first.started_at.tzinfo is not None
    assert first.expires_at is not None
    assert timedelta(days=6.9) < first.expires_at - first.started_at < timedelta(days=7.1)
    assert 2 == len(database.journal.sample(first, first.tables[0], 5))


def test_the_changeset_is_kept_and_is_what_the_session_saw(tmp_path: Path) -> None:
    """zlib over the parts, in order; of a change of the key, which only a session can follow."""
    import zlib

    import apsw

    path = make(tmp_path / "a.db", SCHEMA)
    record, _ = change(opened(path), "UPDATE p SET id = 20 WHERE id = 2")
    parts = apsw.Connection(str(path)).execute(f"SELECT data FROM rescue_run_{record.number}_changeset ORDER BY part")
    changeset = zlib.decompress(b"".join(bytes(part[0]) for part in parts))
    assert {("p", "DELETE", (2, "b")), ("p", "INSERT", None)} == {
        (c.name, c.op, c.old) for c in apsw.Changeset.iter(changeset)
    }


def test_rescue_ends_by_the_databases_clock_unless_conflicts_hold_it(tmp_path: Path) -> None:
    """retain, expired, drop_rescue."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = opened(path)
    record, _ = change(database, "UPDATE p SET t = 'x'")
    assert [] == database.journal.expired()
    database.journal.retain(record.number, datetime(2020, 1, 1, tzinfo=UTC))
    assert [record.number] == [run.number for run in database.journal.expired()]
    elsewhere(path, "UPDATE backout_run SET open_conflicts = 1")
    assert [] == database.journal.expired()
    database.journal.drop_rescue(record.number)
    dropped = database.journal.run(record.number)
    assert dropped is not None
    assert dropped.rescue_dropped_at is not None
    assert () == database.journal.sample(dropped, dropped.tables[0], 5)
    assert [(0,)] == database.query("SELECT count(*) FROM sqlite_master WHERE name GLOB 'rescue_run_*'").rows


def test_the_lease_names_its_holder_and_ends_with_close(tmp_path: Path) -> None:
    """One at a time, also within one process."""
    path = make(tmp_path / "a.db", SCHEMA)
    first, second = opened(path), opened(path)
    first.lease("close-referrals", "ann@example.org")
    first.lease("close-referrals", "ann@example.org")
    with pytest.raises(Busy) as met:
        second.lease("other", "bob@example.org")
    assert (
        f'database "{path}" is in use: ann@example.org for change "close-referrals" (process {os.getpid()} on '
        in str(met.value)
    )
    first.close()
    second.lease("other", "bob@example.org")
    second.close()


KILLED = """
import os, sys
sys.path[:0] = sys.argv[2:]
from integration.sqlite.driving import opened, start
from backout.engines.values import RunState
database = opened(sys.argv[1])
database.lease("c", "o")
run = database.journal.begin_run(start())
transaction = database.transaction(())
transaction.execute("DELETE FROM p", ())
capture = transaction.capture(run, (), keep=True)
transaction.record(run, RunState.COMMITTED, capture.tables, {})
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_run_is_settled_as_interrupted_and_its_lease_is_free(tmp_path: Path) -> None:
    """Killed just before COMMIT: neither the change nor its record are there."""
    path = make(tmp_path / "a.db", SCHEMA)
    before = dump(path)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert "ready\n" == child.stdout.readline()
    database = connect(Settings(url=f"sqlite:///{path}", environment="test", lock_timeout_s=0.05))
    with pytest.raises(Busy):
        database.journal.settle()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert [(1, RunState.INTERRUPTED)] == [(run.number, run.state) for run in database.journal.settle()]
    assert [] == database.journal.settle()
    database.lease("c", "o")
    assert before == dump(path)
    database.close()


def test_a_living_run_is_not_settled(tmp_path: Path) -> None:
    """Between its number and its transaction nothing is locked, and its process lives."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    database.journal.begin_run(start())
    assert [] == database.journal.settle()


def test_an_undo_is_a_run_that_knows_what_it_undid(tmp_path: Path) -> None:
    """And marks the tables of the run as undone."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    record, _ = change(database, "UPDATE p SET t = 'x'")
    _, undone = undo(database, record)
    assert undone is not None
    assert replace(start(Mode.UNDO), undo_of=record.number) == undone.start
    again = database.journal.run(record.number)
    assert again is not None
    assert [True] == [table.undone for table in again.tables]


def test_table_facts_tell_size_cascades_and_what_stands_in_the_way(tmp_path: Path) -> None:
    """For `check --on`."""
    path = make(
        tmp_path / "a.db",
        SCHEMA + "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE); CREATE TABLE k (a);"
        "CREATE TABLE d (c REFERENCES c ON DELETE SET NULL); CREATE VIRTUAL TABLE f USING fts5 (x);"
        "CREATE TRIGGER trg AFTER UPDATE ON p BEGIN SELECT 1; END",
    )
    database = opened(path)
    facts = database.table_facts(None, "P")
    assert facts is not None
    assert ("p", ("id",), ("trg",)) == (facts.table.name.name, facts.table.key, facts.table.triggers)
    assert (2, ("c", "d"), None) == (facts.estimated_rows, facts.cascades_to, facts.undo_needs)
    keyless = database.table_facts("main", "k")
    assert keyless is not None
    assert ("no primary key: its rows are told apart by all their values",) == keyless.notes
    assert database.table_facts(None, "f") is not None
    assert database.table_facts(None, "nothing") is None
    assert database.table_facts("other", "p") is None


def test_facts_say_whether_the_file_can_be_written(tmp_path: Path) -> None:
    """And which version is at work; an in-memory database is fresh."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    facts = database.facts()
    assert ("SQLite", True, False) == (facts.product, facts.is_primary, facts.is_superuser)
    assert facts.free_bytes is not None
    memory = connect(Settings(url="sqlite:///:memory:", environment="test"))
    assert "" == memory.facts().identity
    memory.close()
