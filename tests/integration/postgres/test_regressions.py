"""What the hunts in tests/properties and tests/crash have found, each as the smallest case that shows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from backout import Project
from backout.engines.postgres.account import identity, server_account
from backout.engines.postgres.embedded import EmbeddedServer
from backout.engines.postgres.programs import within_reach
from backout.engines.values import RunState
from backout.errors import CheckAfterFailed
from backout.project.config import Config, Environment
from properties.driving import dump, finish, images, opened, start, transaction, undo
from servers import PASSWORD, SETTINGS, PostgresDatabase, present


def made(database: PostgresDatabase, *statements: str) -> None:
    database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO "{database.application_role}"')
    database.as_application("CREATE SCHEMA app")
    for text in statements:
        database.as_application(text)


def project_of(database: PostgresDatabase, folder: Path, change: str, isolation: str = "read committed") -> Project:
    (folder / "change.sql").write_text(f'-- /// change\n-- title = "T"\n-- ///\n{change}\n')
    environment = Environment("test", database.login_url, role=database.application_role, isolation=isolation)
    return Project(Config(folder=folder, changes=folder, environments={"test": environment}))


def yes(_kind: str, _question: str) -> bool:
    return True


def test_a_run_under_repeatable_read_can_be_recorded(postgres18: PostgresDatabase) -> None:
    """Its row in the journal may not be written by another session once the run's snapshot is taken."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")

    with opened(postgres18) as engine:
        number = engine.journal.begin_run(start())
        with transaction(engine, snapshot=True) as run:
            run.execute("DELETE FROM app.t", ())
            finish(engine, run, number, run.capture(number, (), keep=True))
        record = engine.journal.run(number)

    assert record is not None
    assert RunState.COMMITTED is record.state


@pytest.mark.parametrize("savepoint", ["", "SAVEPOINT s"])
def test_under_repeatable_read_a_row_of_somebody_who_began_earlier_is_not_taken_for_ours(
    postgres18: PostgresDatabase, savepoint: str
) -> None:
    """Written by an older transaction, in a savepoint or not, committed after the snapshot, and locked by a third."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY, v int)", "INSERT INTO app.t VALUES (1, 1), (2, 2)")
    older = postgres18.connect("application", autocommit=False)
    older.execute("SELECT pg_current_xact_id()")
    older.execute(savepoint.encode() or b"SELECT")
    older.execute("INSERT INTO app.t VALUES (3, 3)")

    with opened(postgres18) as engine:
        number = engine.journal.begin_run(start())
        with transaction(engine, snapshot=True) as run:
            run.execute("UPDATE app.t SET v = 9 WHERE id = 1", ())
            run.execute("UPDATE app.t SET v = 8 WHERE id = 1", ())  # twice: the general form
            older.execute("COMMIT")
            postgres18.connect("application", autocommit=False).execute("SELECT FROM app.t WHERE id = 3 FOR UPDATE")
            ran = finish(engine, run, number, run.capture(number, (), keep=True))
    before, after = images(postgres18.connect(), ran)["t"]

    assert {"(1,1)": 1} == before
    assert {"(1,8)": 1} == after


def test_the_way_back_under_repeatable_read_is_proven_with_the_rows_before(
    postgres18: PostgresDatabase, tmp_path: Path
) -> None:
    """The rescue is committed after the run's snapshot: a run that cannot see it would compare nothing with nothing."""
    made(postgres18, "CREATE TABLE app.t (id int)", "INSERT INTO app.t VALUES (1)")
    project = project_of(postgres18, tmp_path, "INSERT INTO app.t VALUES (1);", "repeatable read")

    report = project.ghost(project.change("change"), "test", undo=True, ask=yes)

    assert "proven" == report.way_back


def test_a_key_with_a_generated_column_identifies_no_row(postgres18: PostgresDatabase) -> None:
    """No image keeps the generated part, so that the rows are put back as whole rows."""
    made(
        postgres18,
        "CREATE TABLE app.t (id int, v int, g int GENERATED ALWAYS AS (v * 2) STORED, PRIMARY KEY (id, g))",
        "INSERT INTO app.t VALUES (1, 1), (1, 2), (2, 1)",
    )
    before = dump(postgres18, "app")

    with opened(postgres18) as engine:
        number = engine.journal.begin_run(start())
        with transaction(engine) as run:
            run.execute("UPDATE app.t SET v = v + 5", ())
            ran = finish(engine, run, number, run.capture(number, (), keep=True))
        undo(engine, ran)

    assert [()] == [one.table.key for one in ran.capture.tables]
    assert before == dump(postgres18, "app")


def test_a_run_whose_transaction_is_still_open_is_not_settled(postgres18: PostgresDatabase) -> None:
    """The journal's session dies first, somebody looks at the log, and then the run commits."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")

    with opened(postgres18) as engine, opened(postgres18) as looking:
        number = engine.journal.begin_run(start())
        with transaction(engine) as run:
            run.execute("DELETE FROM app.t", ())
            capture = run.capture(number, (), keep=True)
            engine.journal._control.close()
            settled = looking.journal.settle()
            ran = finish(looking, run, number, capture)
        undo(looking, ran)

    assert [] == settled
    assert [("1",)] == [tuple(row.values()) for row in dump(postgres18, "app")["t"]]


def test_a_run_that_committed_while_the_log_was_read_stays_committed(
    postgres18: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list of running runs and the look at one of them, it can have ended."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")

    with opened(postgres18) as looking:
        with opened(postgres18) as engine:
            number = engine.journal.begin_run(start())
            with transaction(engine) as run:
                run.execute("DELETE FROM app.t", ())
                ran = finish(engine, run, number, run.capture(number, (), keep=True))
        control = looking.journal._control
        plain = control.run

        def stale(text: str, parameters: Sequence[object] = (), **named: str) -> object:
            if text.endswith("ORDER BY number"):
                text = f"SELECT {number}"
            return plain(text, parameters, **named)

        monkeypatch.setattr(control, "run", stale)
        settled = looking.journal.settle()
        monkeypatch.undo()
        undo(looking, ran)

    assert [] == settled


def test_a_check_after_the_commit_that_fails_does_not_say_rolled_back(
    postgres18: PostgresDatabase, tmp_path: Path
) -> None:
    """Whatever goes wrong with the check itself: the run is committed, and exit status 9 says so."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")
    text = 'DELETE FROM app.t;\n-- @after "it can be asked"\nSELECT 1 / count(*) = 1 FROM app.t;'
    project = project_of(postgres18, tmp_path, text)

    with pytest.raises(CheckAfterFailed) as failed:
        project.run(project.change("change"), "test", ask=yes)

    assert "committed" == failed.value.state
    assert 'the check "it can be asked" after the commit could not be made: ' in failed.value.message
    assert RunState.COMMITTED is project.log("test")[0].state


def test_rows_frozen_two_thousand_million_transactions_ago_do_not_disturb() -> None:
    """Freezing leaves the old transaction id in the row, and seen from far enough it looks like one of the future."""
    if "pg18" not in present():
        pytest.skip("PostgreSQL 18 is not tested in this run")
    place = Path(tempfile.mkdtemp(prefix="backout-old-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o711)
    server = _server(place)
    try:
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
            session.execute(f"CREATE ROLE login LOGIN PASSWORD '{PASSWORD}' IN ROLE app")
            session.execute("CREATE DATABASE test")
            session.execute("GRANT CREATE ON DATABASE test TO app, login")
            session.execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        database = PostgresDatabase(server, "test", "login", "app")
        made(database, "CREATE TABLE app.t (id int PRIMARY KEY, v int)", "INSERT INTO app.t VALUES (1, 1), (2, 2)")
        for xid in (1_500_000_000, 3_000_000_000):
            _freeze(server)
            server.stop()
            _grow_to(server, xid)
            server = database.server = _server(place)
        before = dump(database, "app")

        with opened(database) as engine:
            number = engine.journal.begin_run(start())
            with transaction(engine) as run:
                run.execute("UPDATE app.t SET v = 9 WHERE id = 1", ())
                run.execute("UPDATE app.t SET v = 8 WHERE id = 1", ())  # twice: the general form
                ran = finish(engine, run, number, run.capture(number, (), keep=True))
            undo(engine, ran)

        assert before == dump(database, "app")
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)


def _server(place: Path) -> EmbeddedServer:
    return EmbeddedServer.start(place / "server", programs=present()["pg18"], settings=SETTINGS)


def _freeze(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url(), autocommit=True) as session:
        names = [row[0] for row in session.execute("SELECT datname FROM pg_database")]
    for name in names:
        with psycopg.connect(server.url(name), autocommit=True) as session:
            session.execute("VACUUM FREEZE")


def _grow_to(server: EmbeddedServer, xid: int) -> None:
    """Go on at this transaction id, as pg_resetwal's manual says (-x): with a page of statuses made for it."""
    account, cluster = server_account(), server.data_directory / "cluster"
    segment = cluster / "pg_xact" / f"{xid >> 20:04X}"
    segment.write_bytes(bytes(2**18))
    if account is not None:
        os.chown(segment, account.uid, account.gid)
    command = [str(within_reach(server.programs, account).path("pg_resetwal")), "-x", str(xid), "-D", str(cluster)]
    subprocess.run(command, check=True, capture_output=True, cwd="/", **identity(account))


def test_a_partial_undo_can_be_undone_and_done_again(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """What the first one has left is kept under a name that the second one may not take again."""
    made(postgres18, "CREATE TABLE app.t (id int PRIMARY KEY, v int)", "INSERT INTO app.t VALUES (1, 1), (2, 2)")
    project = project_of(postgres18, tmp_path, "UPDATE app.t SET v = v + 10;")
    run = project.run(project.change("change"), "test", ask=yes).identifier
    postgres18.as_application("UPDATE app.t SET v = 99 WHERE id = 2")

    first = project.undo(run, partial=True, ask=yes)
    project.undo(first.identifier, ask=yes)
    second = project.undo(run, partial=True, ask=yes)

    assert [{"id": "2"}] == [dict(one.key) for one in second.conflicts]
    assert [("1", "1"), ("2", "99")] == [tuple(row.values()) for row in dump(postgres18, "app")["t"]]
