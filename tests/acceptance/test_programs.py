"""A change in any language: its program connects to the endpoint, and what it writes is one supervised transaction."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from urllib.parse import quote

import pytest

from backout import Project
from backout.endpoint.child import why_not_closed
from backout.engines.values import RunState
from backout.errors import InvalidFile, Refused, RolledBack
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE patient (id integer PRIMARY KEY, name text NOT NULL, phone text);
CREATE TABLE note (id integer PRIMARY KEY, patient_id integer NOT NULL REFERENCES patient ON DELETE CASCADE);
CREATE TABLE visit (id integer PRIMARY KEY, patient_id integer REFERENCES patient DEFERRABLE INITIALLY DEFERRED);
INSERT INTO patient SELECT g, 'p' || g, '555 ' || g FROM generate_series(1, 5) g;
INSERT INTO note SELECT g, g FROM generate_series(1, 5) g;
"""
EVERYTHING = (
    "SELECT 'p', id, name, phone FROM patient UNION ALL SELECT 'n', id, patient_id::text, '' FROM note ORDER BY 1, 2"
)
Rows = list[tuple[object, ...]]


def yes(_kind: str, _question: str) -> bool:
    return True


class Programs:
    """A project whose changes are programs."""

    def __init__(self, folder: Path, database: PostgresDatabase) -> None:
        self.folder, self.database = folder, database
        (folder / "changes").mkdir()
        settings = f'url = "{database.login_url}"\nrole = "{database.application_role}"\n'
        (folder / "backout.toml").write_text(f"[environments.staging]\n{settings}")
        self.project = Project.find(start=folder)

    def rows(self) -> Rows:
        return [tuple(row) for row in self.database.execute(EVERYTHING)]

    def python(self, text: str, more: str = "") -> None:
        """A program in Python, with psycopg; `connection` is open."""
        head = f'# /// change\n# title = "Mend"\n# run = ["{sys.executable}", "{{file}}"]\n{more}# ///\n'
        body = "import os, psycopg\nconnection = psycopg.connect(os.environ['DATABASE_URL'])\n"
        (self.folder / "changes" / "mend.py").write_text(head + body + textwrap.dedent(text))

    def shell(self, text: str, more: str = "") -> None:
        """A shell script with psql."""
        head = f'# /// change\n# title = "Mend"\n# run = ["sh", "-e", "{{file}}"]\n{more}# ///\n'
        (self.folder / "changes" / "mend.sh").write_text(head + textwrap.dedent(text))


@pytest.fixture
def programs(postgres18: PostgresDatabase, tmp_path: Path) -> Programs:
    postgres18.as_application(SCHEMA)
    return Programs(tmp_path, postgres18)


needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")


def test_program_writes_are_captured_proven_and_undone(programs: Programs) -> None:
    programs.python("""
        connection.execute("UPDATE patient SET phone = replace(phone, ' ', '')")
        connection.execute("DELETE FROM patient WHERE id = 5")
        connection.commit()
        """)
    start = programs.rows()
    project = programs.project

    ghost = project.ghost(project.change("mend"), "staging", undo=True, ask=yes)
    assert ghost.way_back == "proven"
    assert programs.rows() == start

    run = project.run(project.change("mend"), "staging", ask=yes)
    assert run.outcome is RunState.COMMITTED
    assert {one.table: (one.updated, one.deleted) for one in run.tables} == {
        "public.patient": (5, 1),
        "public.note": (0, 1),
    }
    assert {one.table: one.named_in_change for one in run.tables} == {"public.patient": True, "public.note": False}
    assert programs.database.execute("SELECT count(*) FROM patient WHERE phone LIKE '% %'") == [(0,)]

    project.undo(run.identifier, ask=yes)
    assert programs.rows() == start


def test_rollback_of_the_program_takes_back_its_own_transaction_alone(programs: Programs) -> None:
    programs.python("""
        with connection.transaction():
            connection.execute("UPDATE patient SET name = 'kept' WHERE id = 1")
        connection.commit()
        connection.execute("UPDATE patient SET name = 'dropped' WHERE id = 2")
        connection.rollback()
        try:
            with connection.transaction():
                connection.execute("UPDATE patient SET name = 'dropped' WHERE id = 3")
                connection.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        assert connection.execute("SELECT name FROM patient ORDER BY id").fetchall()[:3] == [("kept",), ("p2",), ("p3",)]
        """)
    project = programs.project

    run = project.run(project.change("mend"), "staging", ask=yes)

    assert next((one.table, one.updated) for one in run.tables)[0] == "public.patient"
    assert programs.database.execute("SELECT id FROM patient WHERE name IN ('kept', 'dropped')") == [(1,)]


def test_what_a_program_did_not_commit_is_not_part_of_the_run(programs: Programs) -> None:
    programs.python("""connection.execute("UPDATE patient SET name = 'never'")\n""")
    start = programs.rows()
    project = programs.project

    run = project.run(project.change("mend"), "staging", ask=yes)

    assert run.rescue == ()  # the database counted attempts, and no row of them is left
    assert programs.rows() == start


def test_each_statement_in_autocommit_stands_alone(programs: Programs) -> None:
    programs.python("""
        connection.autocommit = True
        connection.execute("UPDATE patient SET name = 'first' WHERE id = 1")
        try:
            connection.execute("INSERT INTO patient VALUES (1, 'taken')")
        except psycopg.errors.UniqueViolation:
            pass
        connection.execute("UPDATE patient SET name = 'second' WHERE id = 2")
        """)
    project = programs.project

    project.run(project.change("mend"), "staging", ask=yes)

    assert programs.database.execute("SELECT id, name FROM patient WHERE id <= 2 ORDER BY id") == [
        (1, "first"),
        (2, "second"),
    ]


def test_pipelines_copy_cursors_and_prepared_statements_behave_as_directly(programs: Programs) -> None:
    programs.python("""
        connection.prepare_threshold = 1
        for number in range(1, 6):
            connection.execute("UPDATE patient SET phone = %s WHERE id = %s", (f"prepared {number}", number))
        with connection.pipeline():
            for number in range(1, 4):
                connection.execute("UPDATE patient SET name = %s WHERE id = %s", (f"piped {number}", number))
        connection.commit()
        with connection.cursor() as cursor:
            with cursor.copy("COPY patient FROM STDIN") as copy:
                for number in range(100, 2100):
                    copy.write_row((number, "copied", None))
            with cursor.copy("COPY (SELECT id FROM patient WHERE id >= 100) TO STDOUT") as copy:
                assert sum(1 for _ in copy.rows()) == 2000
        connection.commit()
        try:
            with connection.cursor() as cursor, cursor.copy("COPY nothing FROM STDIN") as copy:
                copy.write_row((1,))
        except psycopg.errors.UndefinedTable:
            connection.rollback()
        sent = connection.pgconn
        sent.send_query_params(b"COPY nothing FROM STDIN", [])
        assert b"does not exist" in sent.get_result().error_message
        sent.get_result()
        sent.send_query_params(b"COPY patient FROM STDIN", [])
        sent.get_result()
        sent.put_copy_data(b"5000\\tby hand\\t1\\n")
        sent.put_copy_end()
        assert sent.get_result().command_tuples == 1
        sent.get_result()
        with connection.cursor("a_server_cursor") as cursor:
            cursor.execute("SELECT id FROM patient ORDER BY id")
            assert [row[0] for row in cursor.fetchmany(3)] == [1, 2, 3]
        connection.commit()
        """)
    start = programs.rows()
    project = programs.project

    run = project.run(project.change("mend"), "staging", ask=yes)

    assert programs.database.execute("SELECT count(*) FROM patient WHERE name = 'copied'") == [(2000,)]
    assert programs.database.execute("SELECT count(*) FROM patient WHERE name LIKE 'piped%'") == [(3,)]
    project.undo(run.identifier, ask=yes)
    assert programs.rows() == start


def test_a_constraint_that_is_checked_at_commit_fails_the_commit_of_the_client(programs: Programs) -> None:
    programs.python("""
        connection.execute("INSERT INTO visit VALUES (1, 77)")
        try:
            connection.commit()
        except psycopg.errors.ForeignKeyViolation:
            connection.execute("INSERT INTO visit VALUES (2, 1)")
            connection.commit()
        connection.autocommit = True
        try:
            connection.execute("INSERT INTO visit VALUES (3, 78)")
        except psycopg.errors.ForeignKeyViolation:
            connection.execute("INSERT INTO visit VALUES (4, 2)")
        """)
    project = programs.project

    project.run(project.change("mend"), "staging", ask=yes)

    assert programs.database.execute("SELECT id FROM visit ORDER BY id") == [(2,), (4,)]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("TRUNCATE patient", "TRUNCATE cannot be captured"),
        ("CREATE INDEX ON patient (name)", "a change of the schema is not a change of rows"),
        ("LISTEN mail", "LISTEN has no meaning in a change"),
        ("PREPARE TRANSACTION 'x'", "two-phase commit cannot be part of a run"),
        ("SELECT setval('s', 1)", 'function "setval" may not be called'),
        ("SET session_replication_role = replica", 'setting "session_replication_role"'),
        ("COPY patient TO PROGRAM 'cat'", "COPY … PROGRAM runs a program on the server"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "the run's isolation level is not serializable"),
        ("DELETE FROM backout.run", 'schema "backout" is backout\'s own'),
        ("SELEC 1", "syntax error"),
    ],
)
def test_what_would_blind_the_guard_is_refused_with_a_reason(programs: Programs, statement: str, said: str) -> None:
    programs.python(f"""
        connection.autocommit = True
        try:
            connection.execute({statement!r})
        except psycopg.Error as error:
            assert {said!r} in str(error), error
            connection.execute("UPDATE patient SET name = 'refused' WHERE id = 1")
        """)
    project = programs.project

    project.run(project.change("mend"), "staging", ask=yes)

    assert programs.database.execute("SELECT name FROM patient WHERE id = 1") == [("refused",)]


def test_program_that_fails_changes_nothing(programs: Programs) -> None:
    programs.python("""
        connection.execute("UPDATE patient SET name = 'half'")
        connection.commit()
        raise SystemExit(3)
        """)
    start = programs.rows()
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert "ended with exit status 3" in caught.value.message
    assert programs.rows() == start


def test_program_that_never_connects_fails_the_run(programs: Programs) -> None:
    programs.shell("true\n")
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert '"sh" never connected to the endpoint' in caught.value.message


PAST = """
    import subprocess, sys
    past = "import psycopg, time; c = psycopg.connect('{url}'); print(flush=True); time.sleep({seconds})"
    child = subprocess.Popen([sys.executable, "-c", past], stdout=subprocess.PIPE, start_new_session=True)
    said = child.stdout.readline()
    """


@pytest.mark.parametrize("name", ["worker", "backout: a name is anybody's"])
def test_program_that_goes_past_the_endpoint_is_noticed(programs: Programs, name: str) -> None:
    url = programs.database.application_url + f"?application_name={quote(name)}"
    past = PAST.format(url=url, seconds=9)
    programs.python(past, more='# network = "open"\n')
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert "may have written outside of the guard" in caught.value.message


def test_a_session_past_the_endpoint_is_noticed_while_it_lasts(programs: Programs) -> None:
    """The program itself goes on until it is ended: at its end nothing of the session would be left to see."""
    past = PAST.format(url=programs.database.login_url.strip("'"), seconds=2)
    programs.python(past + "child.wait()\n    import time; time.sleep(60)\n", more='# network = "open"\n')
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert "may have written outside of the guard" in caught.value.message


needs_closed_network = pytest.mark.skipif(why_not_closed() is not None, reason=f"NOT TESTED: {why_not_closed()}")


@needs_closed_network
def test_program_reaches_nothing_but_the_endpoint(programs: Programs) -> None:
    past = PAST.format(url=programs.database.login_url.strip("'"), seconds=9)
    programs.python(
        past
        + """assert said == b'', said
    connection.execute('DELETE FROM note WHERE id = 5')
    connection.commit()
    """
    )
    project = programs.project

    run = project.run(project.change("mend"), "staging", ask=yes)

    assert [(one.table, one.deleted) for one in run.tables] == [("public.note", 1)]


@needs_closed_network
def test_program_that_is_not_there_is_said_in_a_closed_network_as_well(programs: Programs) -> None:
    programs.shell("true\n")
    path = programs.folder / "changes" / "mend.sh"
    path.write_text(path.read_text().replace('"sh"', '"no-such-program"'))
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.ghost(project.change("mend"), "staging", ask=yes)

    assert caught.value.message == 'unable to start "no-such-program": no such file or directory'


def test_ghost_run_that_would_send_mail_is_refused(programs: Programs) -> None:
    with (programs.folder / "backout.toml").open("a") as file:
        file.write('outbound = "real"\n')
    programs.project = project = Project.find(start=programs.folder)
    programs.python("connection.execute('SELECT 1')\n", more='# network = "open"\n')

    with pytest.raises(Refused) as caught:
        project.ghost(project.change("mend"), "staging", ask=yes)

    assert caught.value.message == (
        '"mend" could tell other systems what a ghost run rolls back: outbound is "real" on "staging", and the change '
        'says network = "open"'
    )
    programs.python("connection.execute('SELECT 1')\n", more='# network = "open"\n# outbound = "handled"\n')
    assert project.ghost(project.change("mend"), "staging", ask=yes).state == "untouched"


@needs_closed_network
def test_ghost_run_in_a_closed_network_sends_no_mail(programs: Programs) -> None:
    with (programs.folder / "backout.toml").open("a") as file:
        file.write('outbound = "real"\n')
    programs.project = project = Project.find(start=programs.folder)
    programs.python("connection.execute('SELECT 1')\n")

    assert project.ghost(project.change("mend"), "staging", ask=yes).state == "untouched"


@pytest.mark.parametrize(
    ("limit", "body", "said"),
    [
        ('total = "1 s"', "import time; time.sleep(60)", "it took longer than 1 s"),
        ('idle = "1 s"', "import time; time.sleep(60)", "it was idle, with the transaction open, for longer than 1 s"),
        ('statement = "1 s"', "connection.execute('SELECT pg_sleep(60)')", "one statement took longer than 1 s"),
    ],
)
def test_program_that_takes_too_long_is_ended(programs: Programs, limit: str, body: str, said: str) -> None:
    programs.python(
        f"connection.execute(\"UPDATE patient SET name = 'half'\"); connection.commit()\n{body}\n",
        more=f"# limits = {{{limit}}}\n",
    )
    start = programs.rows()
    project = programs.project

    with pytest.raises(RolledBack) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert caught.value.message.endswith(f"was ended: {said}")
    assert programs.rows() == start


def test_limits_of_the_environment_hold_where_the_change_has_none(programs: Programs) -> None:
    with (programs.folder / "backout.toml").open("a") as file:
        file.write('program_idle = "1 s"\n')
    programs.project = project = Project.find(start=programs.folder)
    programs.python("import time; time.sleep(60)\n")

    with pytest.raises(RolledBack, match="idle"):
        project.run(project.change("mend"), "staging", ask=yes)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('network = "closed"', 'key "network" may not be "closed"'),
        ('outbound = "real"', 'key "outbound" may not be "real"'),
        ("limits = {long = 5}", '"limits" has an unknown key "long"'),
        ('limits = {total = "soon"}', '"total" is not a length of time'),
    ],
)
def test_metadata_of_a_program_that_is_mistyped_is_an_error(programs: Programs, written: str, said: str) -> None:
    programs.python("pass\n", more=f"# {written}\n")

    with pytest.raises(InvalidFile) as caught:
        programs.project.change("mend")

    assert said in caught.value.message


def test_passwords_of_our_own_environment_do_not_reach_the_program(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCTION_DATABASE_URL", "postgresql://real")
    monkeypatch.setenv("PGHOST", "real.example.org")
    programs.python(
        """
        assert "PRODUCTION_DATABASE_URL" not in os.environ
        assert os.environ["PGHOST"] == "127.0.0.1"
        assert os.environ["DB_PORT"] == os.environ["PGPORT"]
        assert os.environ["BACKOUT_MODE"] == "ghost"
        """,
        more='# env = {DB_PORT = "{port}"}\n',
    )
    project = programs.project

    project.ghost(project.change("mend"), "staging", ask=yes)

    assert os.environ["PGHOST"] == "real.example.org"


def test_wrong_password_and_another_database_are_turned_away(programs: Programs) -> None:
    programs.python("""
        from psycopg.conninfo import make_conninfo
        url = os.environ["DATABASE_URL"]
        for wrong, said in (({"password": "guess"}, "wrong password"), ({"dbname": "other"}, "not the one of this run"),
                            ({"user": "postgres"}, "not the one of this run")):
            try:
                psycopg.connect(url, **wrong)
            except psycopg.OperationalError as error:
                assert said in str(error), error
            else:
                raise AssertionError(wrong)
        """)
    project = programs.project

    project.ghost(project.change("mend"), "staging", ask=yes)


@needs_psql
def test_psql_script_with_transactions_of_its_own(programs: Programs) -> None:
    programs.shell(r"""
        psql -X -v ON_ERROR_STOP=1 <<'SQL'
        BEGIN; UPDATE patient SET name = 'one' WHERE id = 1; ROLLBACK;
        BEGIN;
        UPDATE patient SET name = 'two' WHERE id = 2;
        SAVEPOINT here;
        DELETE FROM patient;
        ROLLBACK TO here;
        COMMIT;
        INSERT INTO patient VALUES (6, 'six', NULL)\; UPDATE patient SET phone = '1' WHERE id = 6;
        SQL
        """)
    project = programs.project

    project.run(project.change("mend"), "staging", ask=yes)

    assert programs.database.execute("SELECT id, name FROM patient WHERE id IN (1, 2, 6) ORDER BY id") == [
        (1, "p1"),
        (2, "two"),
        (6, "six"),
    ]
    assert programs.database.execute("SELECT count(*) FROM patient") == [(6,)]


def test_program_without_a_way_to_run_is_explained(programs: Programs) -> None:
    (programs.folder / "changes" / "mend.rb").write_text('# /// change\n# title = "Mend"\n# ///\nputs 1\n')

    with pytest.raises(InvalidFile) as caught:
        programs.project.change("mend")

    assert "the metadata does not say how to run this program" in caught.value.message


def test_program_on_sqlite_is_refused(tmp_path: Path) -> None:
    import sqlite3

    sqlite3.connect(tmp_path / "a.db").execute("CREATE TABLE t (id integer PRIMARY KEY)")
    (tmp_path / "mend.sh").write_text('# /// change\n# title = "Mend"\n# run = ["true"]\n# ///\n')
    project = Project.find(start=tmp_path)

    with pytest.raises(Refused) as caught:
        project.ghost(project.change(str(tmp_path / "mend.sh")), f"sqlite:///{tmp_path}/a.db", ask=yes)

    assert "run on PostgreSQL only" in caught.value.message
