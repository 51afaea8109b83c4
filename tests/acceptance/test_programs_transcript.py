"""What a program did, statement by statement: kept, shown without values, and done once more on another environment."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.program import backout
from backout import Project
from backout.errors import Refused, RolledBack, UsageError
from backout.sql.libpg_query import without_values
from servers import PostgresDatabase, PostgresServers

SCHEMA = """
CREATE TABLE patient (id integer PRIMARY KEY, name text NOT NULL, photo bytea);
INSERT INTO patient SELECT g, 'p' || g FROM generate_series(1, 40) g;
CREATE TABLE note (id integer PRIMARY KEY, text text);
"""
ROWS = "SELECT id, name, encode(photo, 'hex') FROM patient ORDER BY id"
WORK = """
    connection.prepare_threshold = 1
    for number in range(1, 21):
        connection.execute("SELECT name FROM patient WHERE id = %s", (number,))
        connection.execute("UPDATE patient SET name = %s WHERE id = %s", (f"secret {number}", number))
    connection.execute("SAVEPOINT here")
    try:
        connection.execute("INSERT INTO patient VALUES (1, 'secret')")
    except psycopg.errors.UniqueViolation:
        connection.execute("ROLLBACK TO here")
    connection.commit()
    with connection.cursor() as cursor, cursor.copy("COPY note FROM STDIN") as copy:
        copy.write_row((7, "secret"))
    connection.execute("UPDATE patient SET photo = %s WHERE id = 40", (psycopg.Binary(bytes(range(256))),))
    connection.commit()
    connection.autocommit = True
    connection.execute("UPDATE patient SET name = 'end' WHERE id > 38; DELETE FROM patient WHERE id = 30")
    try:
        connection.execute("TRUNCATE patient")
    except psycopg.errors.FeatureNotSupported:
        pass
    """


def yes(_kind: str, _question: str) -> bool:
    return True


class Two:
    """A project with two environments, and a program."""

    def __init__(self, folder: Path, first: PostgresDatabase, second: PostgresDatabase) -> None:
        self.folder, self.first, self.second = folder, first, second
        (folder / "changes").mkdir()
        text = ""
        for name, one in (("staging", first), ("test", second)):
            one.as_application(SCHEMA)
            text += f'[environments.{name}]\nurl = "{one.login_url}"\nrole = "{one.application_role}"\n'
        (folder / "backout.toml").write_text(text)
        self.project = Project.find(start=folder)

    def python(self, body: str, more: str = "") -> None:
        head = f'# /// change\n# title = "Mend"\n# run = ["{sys.executable}", "{{file}}"]\n{more}# ///\n'
        body = "import os, psycopg\nconnection = psycopg.connect(os.environ['DATABASE_URL'])\n" + textwrap.dedent(body)
        (self.folder / "changes" / "mend.py").write_text(head + body)

    def run(self, *, ghost: bool = False) -> str:
        change = self.project.change("mend")
        done = self.project.ghost if ghost else self.project.run
        return done(change, "staging", ask=yes).identifier

    def typed(self, *arguments: str, status: int = 0) -> str:
        finished = backout(self.folder, *arguments)
        assert finished.status == status, finished.err
        return finished.out


@pytest.fixture
def two(postgres18: PostgresDatabase, postgres_servers: PostgresServers, tmp_path: Path) -> Iterator[Two]:
    second = postgres_servers.create_database("pg18")
    yield Two(tmp_path, postgres18, second)
    postgres_servers.drop_database("pg18", second)


def test_each_statement_is_kept_with_its_parameters_rows_and_outcome(two: Two) -> None:
    two.python(WORK)

    run = two.run()

    _, story = two.project.emitted(run)
    assert story.broken is None
    said = [(one["statement"], one["outcome"]) for one in story.lines]
    assert said.count(("UPDATE patient SET name = $1 WHERE id = $2", "UPDATE 1")) == 20
    assert ("INSERT INTO patient VALUES (1, 'secret')", "ERROR 23505") in said
    assert said[-1] == ("TRUNCATE patient", "refused 0A000")
    assert [one for one in said if one[1] in ("BEGIN", "COMMIT")] == [
        ("BEGIN", "BEGIN"), ("COMMIT", "COMMIT"), ("BEGIN", "BEGIN"), ("COMMIT", "COMMIT"),
    ]  # fmt: skip
    update = next(one for one in story.lines if one["outcome"] == "UPDATE 1")
    assert (update["parameters"][0], update["rows"], update["client"]) == ("secret 1", 1, 1)
    assert update["ms"] > 0
    shown = [json.loads(line) for line in two.typed("show", run, "--statements", "--json").splitlines()]
    assert [one["hash"] for one in shown] == [one["hash"] for one in story.lines]
    (report,) = [one.report["transcript"] for one in two.project.log("staging")]
    assert report == {"statements": len(story.lines), "sha256": shown[-1]["hash"]}


def test_statements_of_a_ghost_run_are_shown_folded_and_without_values(two: Two) -> None:
    two.python(WORK)

    run = two.run(ghost=True)

    shown = two.typed("show", run, "--statements")
    assert "20x" in shown
    assert shown.count("UPDATE patient SET name = $1 WHERE id = $2") == 1
    assert "secret" not in shown
    assert "BEGIN" in shown
    assert two.first.execute("SELECT count(*) FROM patient WHERE name LIKE 'secret%'") == [(0,)]


def test_lines_of_json_have_no_values_where_they_are_phi(two: Two) -> None:
    two.python(WORK, more='# data = "phi"\n')

    run = two.run(ghost=True)

    lines = two.typed("show", run, "--statements", "--json")
    assert "secret" not in lines
    assert '"copied": ' in lines
    assert {json.loads(line)["parameters"] for line in lines.splitlines() if "parameters" in line} == {"•••"}
    report = two.first.execute("SELECT report::text FROM backout.run")
    assert "secret" not in str(report)


def test_a_run_that_ended_without_a_report_is_taken_for_phi(two: Two) -> None:
    """Killed, it could not say of what kind its rows are."""
    two.python(WORK)
    run = two.run(ghost=True)
    two.first.execute("UPDATE backout.run SET report = '{}'")

    assert "secret" not in two.typed("show", run, "--statements", "--json")


def test_whatever_stands_in_a_statement_is_kept_as_it_was(two: Two) -> None:
    said = "SELECT '\\\\. \\\\N \\\\t \t \\r\\n \\u2028 \\x7f \"quoted\" äöü 😀' -- \\\\.\n, %s"
    two.python(f"""
        said, value = {said!r}, "\\\\N \\t \\n \\r \\x01 \\\\. äöü 😀"
        connection.execute(said, (value,))
        open("said", "w", newline="").write(said.replace("%s", "$1") + "\\0" + value)
        """)

    _, story = two.project.emitted(two.run())

    assert story.broken is None
    statement, value = (two.folder / "said").read_bytes().decode().split("\0")
    assert (story.lines[1]["statement"], story.lines[1]["parameters"]) == (statement, [value])


def test_clients_are_called_by_their_names(two: Two) -> None:
    two.python(
        "connection.close(); psycopg.connect(os.environ['DATABASE_URL'], application_name='it').execute('SELECT 1')\n"
    )

    _, story = two.project.emitted(two.run())

    assert [(one["client"], one["name"]) for one in story.lines] == [(2, "it"), (2, "it")]


def test_a_transcript_that_was_tampered_with_is_known_and_not_replayed(two: Two) -> None:
    two.python(WORK)
    run = two.run()
    two.first.execute("UPDATE rescue.transcript SET line = replace(line, 'secret 3', 'secret 4') WHERE place > 5")

    assert "the transcript is not what was written, from statement" in two.typed("show", run, "--statements")
    with pytest.raises(Refused, match="is not what was recorded"):
        two.project.replay(run, "test", ask=yes)


def test_a_transcript_whose_end_was_cut_off_is_known(two: Two) -> None:
    two.python(WORK)
    run = two.run()
    two.first.execute("DELETE FROM rescue.transcript WHERE place > 7")

    _, story = two.project.emitted(run)

    assert story.broken == 8


def test_a_run_that_was_rolled_back_has_its_statements_as_well(two: Two) -> None:
    two.python("connection.execute('DELETE FROM patient'); connection.commit(); raise SystemExit(3)\n")
    with pytest.raises(RolledBack):
        two.run()

    _, story = two.project.emitted("staging-1")

    assert [one["outcome"] for one in story.lines] == ["BEGIN", "DELETE 40", "COMMIT"]


def test_the_transcript_goes_with_the_rescue(two: Two) -> None:
    two.python(WORK)
    run = two.run()
    two.first.execute("UPDATE backout.run SET expires_at = now()")

    two.typed("clean", "--on", "staging", "--yes")

    assert two.first.execute("SELECT count(*) FROM rescue.transcript") == [(0,)]
    with pytest.raises(UsageError, match="it went with the run's rescue"):
        two.project.emitted(run)


def test_a_recorded_session_is_replayed_on_another_environment_and_undone(two: Two) -> None:
    two.python(WORK)
    start = two.second.execute(ROWS)
    run = two.run()

    replayed = two.project.replay(run, "test", exact=True, ask=yes)

    assert two.second.execute(ROWS) == two.first.execute(ROWS) != start
    assert two.second.execute("SELECT * FROM note") == [(7, "secret")]
    assert any(note.startswith("all of ") for note in replayed.notes)
    _, again = two.project.emitted(replayed.identifier)
    _, first = two.project.emitted(run)
    assert [one["outcome"] for one in again.lines[:-1]] == [one["outcome"] for one in first.lines[:-1]]
    assert (again.lines[-1]["statement"], again.lines[-1]["outcome"]) == ("refused: TRUNCATE patient", "refused 42601")

    two.project.undo(replayed.identifier, ask=yes)
    assert two.second.execute(ROWS) == start


def test_a_statement_that_affects_another_number_of_rows_is_reported_and_with_exact_rolled_back(two: Two) -> None:
    two.python(WORK)
    run = two.run()
    two.second.execute("DELETE FROM patient WHERE id = 30")
    start = two.second.execute(ROWS)

    with pytest.raises(RolledBack) as caught:
        two.project.replay(run, "test", exact=True, ask=yes)

    assert 'ended with "DELETE 0", and with "DELETE 1" when it was recorded' in caught.value.message
    assert two.second.execute(ROWS) == start
    replayed = two.typed("replay", run, "--on", "test", "--yes")
    assert "1 of " in replayed
    assert "DELETE FROM patient WHERE id = ?" in replayed


TOGETHER = {
    "a query of several that fails": 'query("INSERT INTO note VALUES (1, 1); SELECT 1/0")',
    "a query of several that is rolled back": """
        query("INSERT INTO note VALUES (1, 1); ROLLBACK; INSERT INTO note VALUES (2, 2)")
        """,
    "a BEGIN behind a statement": """
        query("INSERT INTO note VALUES (1, 1); BEGIN; INSERT INTO note VALUES (2, 2)")
        query("ROLLBACK")
        query("INSERT INTO note VALUES (3, 3); BEGIN; INSERT INTO note VALUES (4, 4)")
        query("COMMIT")
        """,
    "a COMMIT in the middle": 'query("INSERT INTO note VALUES (1, 1); COMMIT; INSERT INTO note VALUES (2, 2); SELECT 1/0")',
    "a pipeline that fails": """
        with suppress(psycopg.Error), connection.pipeline():
            for number in range(5):
                connection.execute("INSERT INTO note VALUES (%s, %s)", (number, number))
            connection.execute("SELECT 1/0")
        connection.execute("INSERT INTO note VALUES (9, 9)")
        """,
    "a pipeline with what is refused": """
        with suppress(psycopg.Error), connection.pipeline():
            connection.execute("INSERT INTO note VALUES (%s, %s)", (1, 1))
            connection.execute("TRUNCATE note")
        connection.execute("INSERT INTO note VALUES (9, 9)")
        """,
    "a transaction with what is refused": """
        with suppress(psycopg.Error), connection.transaction():
            connection.execute("INSERT INTO note VALUES (%s, %s)", (1, 1))
            with suppress(psycopg.Error), connection.transaction():
                connection.execute("TRUNCATE note")
            connection.execute("INSERT INTO note VALUES (2, 2)")
            with suppress(psycopg.Error):
                connection.execute("TRUNCATE note")
            connection.execute("INSERT INTO note VALUES (3, 3)")
        """,
    "values that are none": """
        with suppress(psycopg.Error), connection.transaction():
            connection.execute("INSERT INTO note VALUES (1, 1)")
            with suppress(psycopg.Error):
                connection.execute("INSERT INTO note VALUES (%s, 2)", ("none",))
            connection.execute("INSERT INTO note VALUES (3, 3)")
        """,
    "a transaction that its client leaves open": """
        with psycopg.connect(os.environ["DATABASE_URL"]) as leaves:
            leaves.execute("INSERT INTO note VALUES (1, 1)")
            leaves.pgconn.finish()
        connection.execute("INSERT INTO note VALUES (2, 2)")
        """,
    "a pipeline that its client leaves open": """
        leaves = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        leaves.pgconn.enter_pipeline_mode()
        leaves.pgconn.send_query_params(b"INSERT INTO note VALUES (1, 1)", [])
        leaves.pgconn.send_flush_request()
        leaves.pgconn.flush()
        while not leaves.pgconn.get_result():
            pass
        leaves.pgconn.finish()
        connection.execute("INSERT INTO note VALUES (2, 2)")
        """,
    "clients that each make a table of one name": """
        for number in range(3):
            with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as one:
                connection.close()
                one.execute("CREATE TEMP TABLE made AS SELECT %s::integer AS id" % number)
                one.execute("INSERT INTO note SELECT id, id FROM made")
        """,
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_stood_or_fell_together_does_so_in_its_replay(two: Two, name: str) -> None:
    head = "from contextlib import suppress\nquery = lambda text: connection.pgconn.exec_(text.encode())\n"
    two.python(head + "connection.autocommit = True\n" + textwrap.dedent(TOGETHER[name]))
    run = two.run()
    notes = "SELECT * FROM note ORDER BY 1"
    assert two.second.execute(notes) == []

    replayed = two.project.replay(run, "test", exact=True, ask=yes)

    assert two.second.execute(notes) == two.first.execute(notes)
    assert any(note.startswith("all of ") for note in replayed.notes)


def test_two_clients_of_a_session_are_two_in_its_replay(two: Two) -> None:
    two.python("""
        other = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)
        other.execute("CREATE TEMP TABLE made AS SELECT 1 AS id")
        connection.execute("UPDATE patient SET name = 'one' WHERE id = 1")
        connection.commit()
        other.execute("UPDATE patient SET name = 'two' WHERE id IN (SELECT id + 1 FROM made)")
        """)
    run = two.run()

    two.project.replay(run, "test", exact=True, ask=yes)

    assert two.second.execute("SELECT name FROM patient WHERE id < 3 ORDER BY id") == [("one",), ("two",)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("DO $$ BEGIN PERFORM x('secret'); END $$", "DO ?"),
        ("SET my.user = 'secret'", "SET my.user = ?"),
        ("EXECUTE p('secret', 5)", "EXECUTE p(?, …)"),
        (
            "UPDATE t SET a = $1 -- secret\n WHERE id IN (1, 2,3) /* secret */ AND b = E'sec\\'ret'",
            "UPDATE t SET a = $1 WHERE id IN (?, …) AND b = ?",
        ),
        ("SELECT U&'secret' || $a$secret$a$ || 'secret'\n'secret'", "SELECT ? || ? || ?"),
        ("SELECT 'secret", ""),
    ],
)
def test_no_constant_is_left_in_what_is_shown(text: str, shown: str) -> None:
    assert without_values(text) == shown
