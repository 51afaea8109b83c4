"""Databases that cannot be reached, are not ours to write, or give too few rights: refused, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backout.errors import (
    Refused,
    UsageError,
)
from integration.postgres.stage import Stage, failure, stage_for, stage_with_two_tables, text_of
from servers import PASSWORD, PostgresDatabase


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """Two tables."""
    return stage_with_two_tables(postgres, tmp_path)


@pytest.mark.parametrize(
    ("change_url", "hint"),
    [
        (
            lambda url: url.replace(PASSWORD.replace(" ", "%20"), "wrong"),
            "check the password: it comes from the url, PGPASSWORD or ~/.pgpass",
        ),
        (lambda url: url + "_gone", "check the name of the database and of the role"),
    ],
    ids=["password", "database"],
)  # fmt: skip
def test_a_connection_that_cannot_be_made_says_why(stage: Stage, change_url: Callable[[str], str], hint: str) -> None:
    """Without the password in the text."""
    stage.options = {"url": f'"{change_url(stage.database.login_url)}"'}
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert isinstance(error, UsageError)
    assert (error.exit_status, error.state, error.hint) == (2, "untouched", hint)
    assert "wrong" not in str(error).replace("password", "")
    assert PASSWORD not in str(error)
    assert PASSWORD.replace(" ", "%20") not in str(error)


def test_a_server_that_is_not_there_is_named(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """Nobody listens on port 1."""
    stage = stage_for(postgres18, tmp_path, url='"postgresql://me:secret@127.0.0.1:1/x"')
    error = failure(stage.log)
    assert isinstance(error, UsageError)
    assert error.hint == "check host and port, and that the server runs"
    assert "secret" not in str(error)


def test_a_read_only_database_is_refused(stage: Stage) -> None:
    """As a replica is."""
    stage.database.execute(f"ALTER DATABASE {stage.database.name} SET default_transaction_read_only = on")
    assert text_of(failure(lambda: stage.run("UPDATE t SET v = 'x'"))) == [
        '"test" is a read-only server (a replica, or in read-only mode)',
        "state: untouched",
        "hint: point the environment's url at the primary",
    ]


@pytest.mark.parametrize("who", ["login", "role"])
def test_a_superuser_is_refused(stage: Stage, who: str) -> None:
    """As the login role or as the role of the environment."""
    options = {"url": f'"{stage.database.superuser_url}"', "role": ""}
    if who == "role":
        stage.database.execute(f"ALTER ROLE {stage.database.application_role} SUPERUSER")
        options = {}
    stage.options = options
    name = "postgres" if who == "login" else stage.database.application_role
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(error) == [
        f'"{name}" is a superuser: a change runs as an ordinary role',
        "state: untouched",
        (
            'hint: connect as an ordinary role, or say superuser = "allow" for this environment (with a URL: '
            "--allow-superuser)"
        ),
    ]
    assert error.exit_status == 3


def test_a_superuser_may_be_allowed(stage: Stage) -> None:
    """By policy; triggers are then kept out by the replica role."""
    stage.options = {"url": f'"{stage.database.superuser_url}"', "role": "", "superuser": '"allow"'}
    assert stage.undo(stage.run("UPDATE t SET v = 'x'")).undo_how == "replica role"


def test_a_role_that_does_not_exist_is_named(stage: Stage) -> None:
    """The whole text."""
    stage.options = {"role": '"nobody_at_all"'}
    assert text_of(failure(lambda: stage.run("UPDATE t SET v = 'x'"))) == [
        'the role "nobody_at_all" does not exist', "state: untouched", "hint: check `role` of this environment",
    ]  # fmt: skip


def test_the_rights_that_are_missing_are_what_must_be_run(stage: Stage) -> None:
    """After an administrator has run the text of the hint, the run works."""
    database = stage.database
    stranger = database.create_role("stranger")
    database.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    stage.options = {"url": f'"{database.url(stranger)}"'}
    role = database.application_role
    first = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(first) == [
        f'"{stranger}" may not act as "{role}"',
        "state: untouched",
        f'hint: let an administrator run: GRANT "{role}" TO "{stranger}"',
    ]
    database.execute(first.hint.removeprefix("let an administrator run: ") if first.hint else "")
    second = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert text_of(second) == [
        "the journal cannot be made: rights are missing",
        "state: untouched",
        "hint: let an administrator run:",
        f'  CREATE SCHEMA IF NOT EXISTS "backout" AUTHORIZATION "{stranger}";',
        f'  CREATE SCHEMA IF NOT EXISTS "rescue" AUTHORIZATION "{stranger}";',
        f'  GRANT TEMPORARY ON DATABASE "{database.name}" TO "{stranger}";',
    ]
    database.execute((second.hint or "").removeprefix("let an administrator run:"))
    before = stage.dump()
    stage.undo(stage.run("UPDATE t SET v = 'x'"))
    assert before == stage.dump()


def test_a_role_that_does_not_inherit_is_told_what_to_run(stage: Stage) -> None:
    """SET ROLE alone is not enough: the login role reads the tables itself."""
    database = stage.database
    stranger = database.create_role("stranger", "LOGIN NOINHERIT")
    database.execute(
        f"GRANT {database.application_role} TO {stranger}; GRANT CREATE ON DATABASE {database.name} TO {stranger}"
    )
    stage.options = {"url": f'"{database.url(stranger)}"'}
    error = failure(lambda: stage.run("UPDATE t SET v = 'x'"))
    assert error.message == f'"{stranger}" may not act as "{database.application_role}" with its rights'
    if database.version < 16:
        assert error.hint == f'let an administrator run: ALTER ROLE "{stranger}" INHERIT'
    database.execute((error.hint or "").removeprefix("let an administrator run: "))
    stage.undo(stage.run("UPDATE t SET v = 'x'"))


def test_the_right_that_an_exact_undo_needs_is_what_must_be_run(stage: Stage) -> None:
    """The tables belong to another role, and have a trigger."""
    database = stage.database
    owner = database.create_role("owner")
    database.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    database.execute(
        "CREATE TABLE o (id int PRIMARY KEY, v text); INSERT INTO o VALUES (1, 'a');"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER tr BEFORE UPDATE ON o FOR EACH ROW EXECUTE FUNCTION f(); "
        f"GRANT ALL ON o TO {database.application_role}",
        role=owner,
    )
    login = database.login_role
    error = stage.refuses("UPDATE o SET v = 'x'")
    assert text_of(error) == [
        (
            f'the undo of this run would not be exact: trigger "tr" would fire, and "{login}" may not keep it out '
            f'(it needs GRANT SET ON PARAMETER session_replication_role TO "{login}", or to own the table)'
        ),
        "state: untouched",
        "hint: give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`",
    ]
    database.execute(f'GRANT SET ON PARAMETER session_replication_role TO "{login}"')
    stage.proves("UPDATE o SET v = 'x'")


def test_rights_that_the_change_misses_are_said_before_it_runs(stage: Stage) -> None:
    """The whole text; with what it says, it runs, and is undone."""
    database = stage.database
    database.execute(
        "CREATE TABLE closed (id int PRIMARY KEY, v int); INSERT INTO closed VALUES (1, 1), (2, 2);"
        f"GRANT SELECT ON closed TO {database.application_role}"
    )
    statements = "DELETE FROM closed WHERE id = 1; UPDATE closed SET v = 3"
    for error in (stage.refuses(statements), failure(lambda: stage.ghost(statements))):
        assert isinstance(error, Refused)
        assert text_of(error) == [
            "rights are missing without which this change cannot run",
            "state: untouched",
            "hint: let an administrator run:",
            f'  GRANT DELETE, UPDATE ON "public"."closed" TO "{database.application_role}";',
        ]
    database.execute("\n".join(text_of(error)[3:]))
    error = stage.refuses(statements)
    assert text_of(error) == [
        "rights are missing without which this run could not be undone",
        "state: untouched",
        "hint: let an administrator run:",
        f'  GRANT INSERT ON "public"."closed" TO "{database.login_role}";',
    ]
    assert stage.journal() == []
    database.execute(text_of(error)[3])
    stage.undo(stage.run(statements))


def test_rights_that_the_undo_of_a_cascade_misses_are_said_before_the_commit(stage: Stage) -> None:
    """The server deletes children with the rights of their owner; who puts them back needs INSERT."""
    database = stage.database
    database.execute(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent "
        "ON DELETE CASCADE); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1); "
        f"GRANT ALL ON parent TO {database.application_role}; GRANT SELECT ON child TO {database.login_role}"
    )
    grant = f'GRANT INSERT ON "public"."child" TO "{database.login_role}";'
    note = f"`run` would refuse: its undo would not be exact: rights are missing: {grant}"
    assert note in stage.ghost("DELETE FROM parent").notes
    error = stage.refuses("DELETE FROM parent")
    assert text_of(error)[:2] == [
        f"the undo of this run would not be exact: rights are missing: {grant}", "state: rolled back",
    ]  # fmt: skip
    database.execute(grant)
    stage.proves("DELETE FROM parent")


def test_columns_that_the_role_may_write_are_enough(stage: Stage) -> None:
    """Nothing is refused that may work."""
    database = stage.database
    database.execute(
        "CREATE TABLE closed (id int PRIMARY KEY, v int, w int); INSERT INTO closed VALUES (1, 1, 1); "
        f"GRANT SELECT, UPDATE (v) ON closed TO {database.application_role}"
    )
    stage.proves("UPDATE closed SET v = 2")
    error = failure(lambda: stage.run("UPDATE closed SET w = 2"))
    assert error.message.endswith("unable to run the statement: permission denied for table closed")


def test_a_table_that_cannot_be_read_is_no_silent_miss(stage: Stage) -> None:
    """A function of another owner writes to a table that we may not SELECT: it cannot be captured."""
    stage.database.execute(
        "CREATE TABLE closed (id int PRIMARY KEY, v int); INSERT INTO closed VALUES (1, 1);"
        "CREATE FUNCTION write_it() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE public.closed SET v = 2'"
    )
    assert text_of(stage.refuses("SELECT write_it()")) == [
        'unable to read the images of table "public.closed": permission denied for table closed',
        "state: rolled back",
        "hint: grant the right to the role, or name another `role` for this environment",
    ]
