"""What goes wrong on the way: locks, lost connections, servers that are set up differently, rights that are missing."""

# ruff: noqa: E501  schemas, statements and messages are read more easily in one line

from __future__ import annotations

import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backout import Project
from backout.engines.mariadb.progress import StepState
from backout.engines.values import Capture, Resolution, RunState
from backout.errors import Busy, DatabaseFailed, Interrupted, OutcomeUnknown, ProofFailed, Refused, UsageError
from backout.recovery.proof import prove
from backout.runs.report import RunReport
from integration.mariadb.driving import change, dump, make, opened, start, supervise, transaction, undo
from proxy import Cut, Proxy
from servers_mariadb import MariaDatabase

PLAIN = (
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20)); INSERT INTO t SELECT seq, seq, 'x' FROM seq_1_to_20;"
)


def yes(_kind: str, _question: str) -> bool:
    return True


def project(folder: Path, url: str, text: str, more: str = "") -> Project:
    (folder / "backout.toml").write_text(
        f'[environments.shop]\nurl = "{url}"\nlock_timeout = "1s"\n{more}', encoding="utf-8"
    )
    (folder / "change.sql").write_text(f'-- /// change\n-- title = "A change"\n-- ///\n{text}', encoding="utf-8")
    return Project.find(folder / "backout.toml")


def test_a_lock_wait_rolls_back_the_whole_run_and_is_exit_7(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    before = dump(mariadb)
    other = mariadb.connect("application", autocommit=False)
    other.cursor().execute("SELECT * FROM t WHERE id = 7 FOR UPDATE")
    found = project(tmp_path, mariadb.login_url, "UPDATE t SET a = 0 WHERE id < 3;\nUPDATE t SET a = 0;")
    with pytest.raises(Busy) as raised:
        found.run(found.change(str(tmp_path / "change.sql")), "shop", ask=yes)
    assert (7, "rolled back") == (raised.value.exit_status, raised.value.state)
    assert "a lock was not got in time" in raised.value.message
    assert "of app_" in raised.value.message
    assert before == dump(mariadb)
    assert [RunState.ROLLED_BACK] == [one.state for one in found.log("shop")]


def test_a_deadlock_rolls_back_and_what_comes_after_it_writes_nothing(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    before = dump(mariadb)
    other = mariadb.connect("application", autocommit=False)
    with opened(mariadb, lock_timeout_s=20.0) as engine, transaction(engine) as found:
        found.execute("UPDATE t SET a = 1 WHERE id = 1")
        with other.cursor() as cursor:  # the heavier transaction is not the victim
            cursor.execute("UPDATE t SET a = 5 WHERE id > 10")
            cursor.execute("UPDATE t SET a = 2 WHERE id = 2")
        waiting = threading.Thread(target=lambda: other.cursor().execute("UPDATE t SET a = 3 WHERE id = 1"))
        waiting.start()
        while not mariadb.execute("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"):
            time.sleep(0.12)  # the view is renewed only where nobody has read it for 0.1 s
        with pytest.raises(DatabaseFailed) as raised:
            found.execute("UPDATE t SET a = 4 WHERE id = 2")
        assert raised.value.sqlstate == "40001"
        with pytest.raises(DatabaseFailed):
            found.execute("UPDATE t SET a = 99 WHERE id = 20")
        waiting.join()
    other.rollback()
    assert before == dump(mariadb)


def test_a_session_that_is_ended_during_the_run_leaves_nothing(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    before = dump(mariadb)
    with opened(mariadb) as engine, transaction(engine) as found:
        found.execute("UPDATE t SET a = 0")
        mariadb.execute(f"KILL {found._main.number}")
        with pytest.raises(Interrupted, match="the connection to the server was lost"):
            found.execute("UPDATE t SET b = 'y'")
    assert before == dump(mariadb)


@pytest.mark.parametrize("cut", ["before the server has it", "before the client has the answer"])
def test_after_a_lost_commit_the_journal_is_asked(tmp_path: Path, mariadb: MariaDatabase, cut: Cut) -> None:
    make(mariadb, PLAIN)
    port = urlsplit(mariadb.login_url).port
    assert port is not None
    with Proxy(port, b"SET SESSION autocommit = 0", b"\x07\x00\x00\x00\x03COMMIT", cut) as proxy:
        through = mariadb.login_url.replace(f":{port}/", f":{proxy.own_port}/")
        found = project(tmp_path, through, "UPDATE t SET a = 0;")
        found.init_journal("shop")

        def run() -> RunReport:
            return found.run(found.change(str(tmp_path / "change.sql")), "shop", ask=yes)

        if cut == "before the server has it":
            with pytest.raises(Interrupted, match="the journal says that the run was not committed"):
                run()
            assert mariadb.execute("SELECT COUNT(*) FROM t WHERE a = 0") == [(0,)]
            assert mariadb.execute("SHOW TABLES FROM rescue") == []
        else:
            report = run()
            assert "the answer to COMMIT was lost; the journal has the run" in report.notes
            assert mariadb.execute("SELECT COUNT(*) FROM t WHERE a = 0") == [(20,)]
            found.undo(report.identifier, "shop", ask=yes)
            assert mariadb.execute("SELECT COUNT(*) FROM t WHERE a = id") == [(20,)]


def test_a_lost_commit_with_nobody_to_ask_is_exit_11(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    port = urlsplit(mariadb.login_url).port
    assert port is not None
    message, caller = b"\x07\x00\x00\x00\x03COMMIT", b"SET SESSION autocommit = 0"
    with Proxy(port, caller, message, "before the client has the answer", for_good=True) as proxy:
        through = mariadb.login_url.replace(f":{port}/", f":{proxy.own_port}/")
        found = project(tmp_path, through, "UPDATE t SET a = 0;")
        found.init_journal("shop")
        with pytest.raises(OutcomeUnknown) as raised:
            found.run(found.change(str(tmp_path / "change.sql")), "shop", ask=yes)
        assert raised.value.exit_status == 11


def test_two_runs_at_a_time_are_refused_by_name(mariadb: MariaDatabase) -> None:
    with opened(mariadb) as first, opened(mariadb) as second:
        first.lease("a change", "ada")
        with pytest.raises(Busy, match="another run holds this database: session"):
            second.lease("another", "bob")


def test_a_run_whose_process_is_gone_is_settled(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine:
        number = engine.journal.begin_run(start())
        found = engine.transaction([])
        found.execute("UPDATE t SET a = 0")
        found.capture(number, (), keep=True)
        with opened(mariadb) as other:
            assert other.journal.settle() == []  # its sessions live
        engine.close()
        with opened(mariadb) as other:
            deadline = time.monotonic() + 20
            settled = other.journal.settle()
            while not settled and time.monotonic() < deadline:
                time.sleep(0.05)  # the server has to see that its clients are gone
                settled = other.journal.settle()
            assert [(number, RunState.INTERRUPTED)] == [(one.number, one.state) for one in settled]
    assert mariadb.execute("SHOW TABLES FROM rescue") == []
    assert mariadb.execute("SELECT COUNT(*) FROM t WHERE a = 0") == [(0,)]


def test_a_run_whose_changing_session_alone_lives_is_not_settled(mariadb: MariaDatabase) -> None:
    """It can still commit, and does: nobody may call it interrupted, nor drop its rescue."""
    make(mariadb, PLAIN)
    with opened(mariadb) as engine, transaction(engine) as found:
        number = engine.journal.begin_run(start())
        found.execute("UPDATE t SET a = 0 WHERE id < 4")
        capture = found.capture(number, (), keep=True)
        found.record(number, RunState.COMMITTED, capture.tables, {})
        mariadb.execute(f"KILL {engine._control.number}")
        _until_gone(mariadb, engine._control.number)
        with opened(mariadb) as other:
            assert other.journal.settle() == []
            found.commit()
            record = other.journal.run(number)
            assert record is not None
            assert RunState.COMMITTED is record.state
            undo(other, record)
    assert [(0,)] == mariadb.execute("SELECT COUNT(*) FROM t WHERE a = 0")


def _until_gone(mariadb: MariaDatabase, session: int) -> None:
    deadline = time.monotonic() + 20
    while mariadb.execute(f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {session}"):
        assert time.monotonic() < deadline, "the session is still there"
        time.sleep(0.02)  # polled with a deadline


def test_a_zero_length_run_is_committed_and_has_nothing_to_show(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine:
        record, capture, verdict = change(engine, "UPDATE t SET a = 0 WHERE id = 999", "SELECT 1")
        assert ((), "exact", RunState.COMMITTED) == (capture.tables, verdict.level, record.state)


@pytest.mark.parametrize("mode", ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ORACLE", "ANSI"])
def test_whatever_the_servers_sql_mode_the_run_is_strict_and_reads_text_in_one_way(
    mariadb: MariaDatabase, mode: str
) -> None:
    make(mariadb, PLAIN)
    before_mode = mariadb.execute("SELECT @@GLOBAL.sql_mode")[0][0]
    mariadb.execute(f"SET GLOBAL sql_mode = '{mode}'")
    try:
        with opened(mariadb) as engine:
            change(engine, r"""UPDATE t SET b = "it\'s; -- /* " WHERE id = 1""")
            assert mariadb.execute("SELECT b FROM t WHERE id = 1") == [("it's; -- /* ",)]
            with pytest.raises(DatabaseFailed, match="Data too long"):
                change(engine, "UPDATE t SET b = REPEAT('x', 30)")
    finally:
        mariadb.execute(f"SET GLOBAL sql_mode = '{before_mode}'")


def test_a_server_that_is_read_only_is_refused(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    found = project(tmp_path, mariadb.login_url, "UPDATE t SET a = 0;")
    found.init_journal("shop")
    mariadb.execute("SET GLOBAL read_only = 1")
    try:
        with pytest.raises(Refused) as raised:
            found.run(found.change(str(tmp_path / "change.sql")), "shop", ask=yes)
        assert raised.value.exit_status == 3
    finally:
        mariadb.execute("SET GLOBAL read_only = 0")


def test_a_server_that_becomes_read_only_before_the_commit_rolls_back(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    before = dump(mariadb)
    with opened(mariadb) as engine, transaction(engine) as found:
        number = engine.journal.begin_run(start())
        found.execute("UPDATE t SET a = 0")
        capture = found.capture(number, (), keep=True)
        found.record(number, RunState.COMMITTED, capture.tables, {})
        mariadb.execute("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(DatabaseFailed, match=r"unable to commit: .*read-only") as raised:
                found.commit()
        finally:
            mariadb.execute("SET GLOBAL read_only = 0")
        assert "rolled back" == raised.value.state
        record = engine.journal.run(number)
        assert record is not None
        assert RunState.RUNNING is record.state  # the run's end went with the rows
    assert before == dump(mariadb)


def test_a_statement_beyond_max_allowed_packet_rolls_back(mariadb: MariaDatabase) -> None:
    make(mariadb, "CREATE TABLE t (id INT PRIMARY KEY, b LONGTEXT); INSERT INTO t VALUES (1, 'x')")
    before = dump(mariadb)
    with opened(mariadb) as engine:
        with pytest.raises((DatabaseFailed, Interrupted)):
            supervise(engine, lambda found: found.execute("UPDATE t SET b = :b", {"b": "x" * 20_000_000}))
        # A value near the limit is captured, hashed and put back.
        record, _, _ = supervise(engine, lambda found: found.execute("UPDATE t SET b = :b", {"b": "y" * 9_000_000}))
        undo(engine, record)
    assert before == dump(mariadb)


def test_a_value_of_a_row_is_in_no_message(mariadb: MariaDatabase) -> None:
    make(
        mariadb,
        "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(99) UNIQUE); INSERT INTO t VALUES (1, 'secret'), (2, 'other')",
    )
    with opened(mariadb) as engine:
        with pytest.raises(DatabaseFailed) as raised:
            change(engine, "UPDATE t SET s = 'secret'")
        assert "secret" not in raised.value.message
        assert "unable to run the statement: Duplicate entry '…' for key 's'" == raised.value.message


def test_missing_rights_are_named_as_grants(tmp_path: Path, mariadb: MariaDatabase) -> None:
    name = mariadb.create_role("weak", [f"SELECT, INSERT, UPDATE ON `{mariadb.name}`.*"])
    found = project(tmp_path, mariadb.url(name), "UPDATE t SET a = 0;")
    with pytest.raises(Refused) as raised:
        found.init_journal("shop")
    account = f"`{name}`@`%`"
    assert raised.value.hint == (
        "let an administrator run:\n"
        f"  GRANT PROCESS ON *.* TO {account};\n"
        f"  GRANT ALL ON `backout`.* TO {account};\n"
        f"  GRANT ALL ON `rescue`.* TO {account};\n"
        f"  GRANT DELETE, TRIGGER, SHOW VIEW, CREATE TEMPORARY TABLES ON `{mariadb.name}`.* TO {account};"
    )


def test_a_role_is_refused_and_so_is_another_isolation(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    found = project(tmp_path, mariadb.login_url, "UPDATE t SET a = 0;", 'role = "app"\n')
    with pytest.raises(Refused, match="SET ROLE adds rights on MariaDB"):
        found.init_journal("shop")
    found = project(tmp_path, mariadb.login_url, "UPDATE t SET a = 0;", 'isolation = "repeatable read"\n')
    with pytest.raises(Refused, match="not possible on MariaDB"):
        found.run(found.change(str(tmp_path / "change.sql")), "shop", ask=yes)


def test_a_database_that_is_not_there_is_said_without_the_password(mariadb: MariaDatabase) -> None:
    from backout.engines import mariadb as engine
    from backout.engines.values import Settings

    with pytest.raises(UsageError) as raised:
        engine.connect(Settings(mariadb.login_url.replace(mariadb.name, "nowhere"), "test"))
    assert "accounts" not in str(raised.value)


def test_an_implicit_commit_that_slipped_through_is_told_at_once(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    with opened(mariadb) as engine, transaction(engine) as found:
        found.execute("UPDATE t SET a = 0 WHERE id = 1")
        found._main.run("CREATE TABLE sneaked (id INT)")
        with pytest.raises(DatabaseFailed, match="a statement has ended the transaction") as raised:
            found.check("SELECT 1")
        assert raised.value.state == "partly committed: look at the tables that the change names"
        with pytest.raises(DatabaseFailed):
            found.execute("UPDATE t SET a = 0 WHERE id = 2")
    assert mariadb.execute("SELECT a FROM t WHERE id = 2") == [(2,)]


def test_rows_that_nothing_explains_fail_the_proof(mariadb: MariaDatabase) -> None:
    """More images than the server has counted cannot be: here the count is made too small."""
    make(mariadb, PLAIN)
    with opened(mariadb) as engine, transaction(engine) as found:
        number = engine.journal.begin_run(start())
        found.execute("UPDATE t SET a = 0 WHERE id < 4")
        found._statements.own_rows = 1
        capture: Capture = found.capture(number, (), keep=True)
        assert prove(capture).failures != ()


def test_a_table_that_nothing_named_is_found_by_its_counter(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN + "CREATE TABLE hidden (id INT PRIMARY KEY, a INT); INSERT INTO hidden VALUES (1, 1)")
    before = dump(mariadb)
    with opened(mariadb) as engine:

        def act(found):  # type: ignore[no-untyped-def]
            found.execute("UPDATE t SET a = 0 WHERE id < 4")
            found._main.run("UPDATE hidden SET a = 2")  # past everything that reads statements

        record, capture, verdict = supervise(engine, act)
        assert ["hidden", "t"] == sorted(one.table.name.name for one in capture.tables)
        assert verdict.level == "exact"
        undo(engine, record)
    assert before == dump(mariadb)


def test_someone_who_reads_the_servers_count_all_the_time_does_not_make_it_wrong(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    ended = threading.Event()

    def monitor() -> None:
        session = mariadb.connect()
        with session.cursor() as cursor:
            while not ended.is_set():
                cursor.execute("SELECT * FROM information_schema.INNODB_TRX")
                time.sleep(0.03)

    thread = threading.Thread(target=monitor)
    thread.start()
    try:
        with opened(mariadb) as engine, transaction(engine) as found:
            number = engine.journal.begin_run(start())
            found.execute("UPDATE t SET a = 0")
            try:
                capture = found.capture(number, (), keep=True)
            except ProofFailed as error:
                assert error.message.startswith("the server does not tell how many rows the transaction has written")
            else:  # on a busy machine the monitor sleeps longer than it wanted to, and the view was renewed meanwhile
                assert (20, ()) == (capture.counted_in_sum, capture.tripwires)
    finally:
        ended.set()
        thread.join()


def test_the_journal_says_which_statement_was_the_last(mariadb: MariaDatabase) -> None:
    """DDL commits: a kill between two statements, or in one, is told by what was written down before and after each."""
    with opened(mariadb) as engine:
        number = engine.journal.begin_run(start())
        progress = engine.journal.progress
        progress.begin_step(number, 1, "CREATE TABLE one (id INT)")
        mariadb.as_application("CREATE TABLE one (id INT)")
        progress.end_step(number, 1)
        progress.begin_step(number, 2, "CREATE TABLE one (id INT)")
        progress.end_step(number, 2, "table 'one' already exists")
        progress.begin_step(number, 3, "CREATE TABLE two (id INT)")
        engine.close()
    with opened(mariadb) as engine:
        steps = engine.journal.progress.steps(number)
        assert [(1, StepState.APPLIED), (2, StepState.FAILED), (3, StepState.BEGUN)] == [
            (s.place, s.state) for s in steps
        ]
        assert (None, "CREATE TABLE two (id INT)") == (steps[2].ended_at, steps[2].statement)
        assert steps[1].error == "table 'one' already exists"


def test_references_are_conflicts_in_both_directions(mariadb: MariaDatabase) -> None:
    make(mariadb, "CREATE TABLE p (id INT PRIMARY KEY, a INT); CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE);"
         "INSERT INTO p VALUES (1, 1), (2, 2), (3, 3); INSERT INTO c VALUES (1, 1), (2, 2)")  # fmt: skip
    with opened(mariadb) as engine:
        record, _, _ = change(
            engine, "INSERT INTO p VALUES (9, 9)", "DELETE FROM c WHERE id = 1", "UPDATE p SET a = 5 WHERE id = 3"
        )
        mariadb.as_application("INSERT INTO c VALUES (50, 9); DELETE FROM p WHERE id = 1")
        outcome, _ = undo(engine, record)
        assert [("PARENT_GONE", "c"), ("REFERENCED", "p")] == [(c.kind.name, c.table.name) for c in outcome.conflicts]
        undo(engine, record, Resolution(partial=True))
        assert mariadb.execute("SELECT id, a FROM p ORDER BY id") == [(2, 2), (3, 3), (9, 9)]
        assert mariadb.execute("SELECT id, p FROM c ORDER BY id") == [(2, 2), (50, 9)]


def test_a_unique_value_taken_since_is_a_constraint_conflict(mariadb: MariaDatabase) -> None:
    make(
        mariadb,
        "CREATE TABLE t (id INT PRIMARY KEY, u INT UNIQUE, c INT, CHECK (c < 10)); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)",
    )
    with opened(mariadb) as engine:
        record, _, _ = change(engine, "UPDATE t SET u = u + 10 WHERE id < 3", "DELETE FROM t WHERE id = 3")
        mariadb.as_application("INSERT INTO t VALUES (7, 1, 1), (8, 3, 1)")
        outcome, _ = undo(engine, record)
        assert [("CONSTRAINT", "1"), ("CONSTRAINT", "3")] == [(c.kind.name, c.key["id"]) for c in outcome.conflicts]
        undo(engine, record, Resolution(partial=True))
        assert mariadb.execute("SELECT id, u FROM t ORDER BY id") == [(1, 11), (2, 2), (7, 1), (8, 3)]


def test_a_routine_that_cannot_be_looked_into_is_refused(mariadb: MariaDatabase) -> None:
    make(mariadb, PLAIN)
    before = dump(mariadb)
    with opened(mariadb) as engine:
        for statement, name in {"CALL nobody(1)": f"{mariadb.name}.nobody", "SELECT package.f(1)": "package.f"}.items():
            with pytest.raises(Refused) as raised:
                change(engine, statement)
            assert raised.value.message == f'"{name}" is no procedure or function that this account can look into'
    assert before == dump(mariadb)


def test_a_function_that_writes_while_a_temporary_table_is_made_is_not_missed(mariadb: MariaDatabase) -> None:
    make(
        mariadb,
        PLAIN
        + "CREATE FUNCTION f(x INT) RETURNS INT MODIFIES SQL DATA BEGIN UPDATE t SET a = 0 WHERE id = x; RETURN x; END",
    )
    before = dump(mariadb)
    with opened(mariadb) as engine, transaction(engine) as found:
        number = engine.journal.begin_run(start())
        found.execute("CREATE TEMPORARY TABLE z AS SELECT f(id) AS x FROM (SELECT 1 AS id UNION SELECT 2) s")
        capture = found.capture(number, (), keep=True)
        assert prove(capture).failures != () or [one.before_rows for one in capture.tables] == [2]
    assert before == dump(mariadb)
