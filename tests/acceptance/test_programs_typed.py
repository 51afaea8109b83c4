"""`backout endpoint`: a command that the operator types, in place of the change's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import Finished, backout, told
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE patient (id integer PRIMARY KEY, name text NOT NULL);
INSERT INTO patient SELECT g, 'p' || g FROM generate_series(1, 5) g;
"""
PEOPLE = 'approvals = ["correctness"]\nidentity = "ssh"\n'


class Typed:
    """A folder with one program, which raises, so that only another command can do the change."""

    def __init__(self, folder: Path, database: PostgresDatabase) -> None:
        self.folder, self.database = folder, database
        database.as_application(SCHEMA)
        (folder / "changes").mkdir()
        self.configure()
        self.write()

    def configure(self, more: str = "") -> None:
        settings = f'url = "{self.database.login_url}"\nrole = "{self.database.application_role}"\n'
        (self.folder / "backout.toml").write_text(f"[environments.staging]\n{settings}{more}")

    def write(self, more: str = "") -> None:
        head = f'# /// change\n# title = "Mend"\n# run = ["{sys.executable}", "{{file}}"]\n{more}# ///\nraise SystemExit(9)\n'
        (self.folder / "changes" / "mend.py").write_text(head)

    def says(self, schema: str, *words: str, status: int = 0) -> dict[str, Any]:
        """What is answered as JSON, which is asked for before the command and not behind it."""

        def types(folder: Path, *arguments: str) -> Finished:
            place = arguments.index("--") if "--" in arguments else len(arguments) - 1
            return backout(folder, *arguments[:place], "--json", *arguments[place:-1])

        return told(self.folder, schema, *words, status=status, typed=types)

    def types(self, *words: str) -> Finished:
        return backout(self.folder, *words)

    def names(self) -> list[object]:
        return [row[0] for row in self.database.execute("SELECT name FROM patient ORDER BY id")]


@pytest.fixture
def typed(postgres18: PostgresDatabase, tmp_path: Path) -> Typed:
    return Typed(tmp_path, postgres18)


def python(statement: str) -> tuple[str, ...]:
    """A command that runs one statement."""
    text = "import os, psycopg, sys\nwith psycopg.connect(os.environ['DATABASE_URL']) as c: c.execute(sys.argv[1])"
    return "--", sys.executable, "-c", text, statement


MEND = python("UPDATE patient SET name = 'mended' WHERE id < 3")
START = ["p1", "p2", "p3", "p4", "p5"]
MENDED = ["mended", "mended", "p3", "p4", "p5"]
ON = ("endpoint", "mend", "--on", "staging", "--yes")


def test_typed_command_is_captured_proven_committed_and_undone(typed: Typed) -> None:
    run = typed.says("run", *ON, *MEND)

    assert (run["outcome"], run["proof"]["complete"], typed.names()) == ("committed", True, MENDED)
    assert run["transcript"]["command"] == list(MEND[1:])
    assert "in place of the change's own command this was run: " in run["notes"][-2]
    kept = typed.says("show", "show", run["identifier"])["report"]
    assert (kept["transcript"], kept["notes"]) == (run["transcript"], run["notes"])
    typed.says("run", "undo", run["identifier"], "--yes")
    assert typed.names() == START


def test_digest_is_of_the_change_and_the_command(typed: Typed) -> None:
    own = typed.says("check", "check", "mend")["digest"]
    first = typed.says("run", *ON, "--ghost", *MEND)
    again = typed.says("run", *ON, "--ghost", *MEND)
    other = typed.says("run", *ON, "--ghost", *python("SELECT 1"))
    itself = typed.says("run", *ON, "--ghost", "--", sys.executable, "{file}", status=4)

    assert first["digest"] == again["digest"]
    assert len({own, first["digest"], other["digest"]}) == 3
    assert itself["digest"] == own


def test_ghost_run_of_a_command_changes_nothing_and_says_what_comes_next(typed: Typed) -> None:
    said = typed.types(*ON, "--ghost", *MEND)

    assert said.status == 0
    assert "p1 → mended" in said.out
    assert "next: backout endpoint mend --on staging -- " in said.out
    assert typed.names() == START


def test_command_that_fails_changes_nothing(typed: Typed) -> None:
    failing = MEND[3].replace("sys.argv[1])", "sys.argv[1])\nsys.exit(7)")

    run = typed.says("run", *ON, *MEND[:3], failing, MEND[4], status=4)

    assert (run["state"], run["transcript"]) == ("rolled back", None)
    assert "ended with exit status 7" in run["error"]["message"]
    assert typed.names() == START


def test_change_that_a_command_has_done_has_been_done(typed: Typed) -> None:
    first = typed.says("run", *ON, *MEND)["identifier"]

    said = typed.types(*ON, *MEND)

    assert said.status == 3
    assert f'change "mend" has run here already: {first}' in said.err
    assert (
        typed.says("run", *ON, "--again", "three more", *python("DELETE FROM patient WHERE id = 5"))["again"]
        == "three more"
    )


def test_command_that_nobody_approved_is_not_committed_where_people_approve(typed: Typed) -> None:
    typed.configure(PEOPLE)

    said = typed.types(*ON, *MEND)

    assert (said.status, typed.names()) == (3, START)
    assert said.err == (
        'error: "staging" asks for people who approve what runs, and they have not read a command that is typed\n'
        "state: untouched\n"
        'hint: write it into the change, run = ["…"], and submit that; or try it with --ghost\n'
    )
    assert typed.types(*ON, "--ghost", *MEND).status == 0
    assert typed.names() == START


def test_words_of_a_command_on_phi_are_kept_nowhere(typed: Typed) -> None:
    typed.write('# data = "phi"\n')
    mend = python("UPDATE patient SET name = 'Grace Hopper' WHERE id = 1")

    said = typed.types(*ON, "--ghost", *mend)
    run = typed.says("run", *ON, *mend)

    assert "Hopper" not in said.out + said.err + str(run)
    assert "next: backout endpoint mend --on staging -- …" in said.out
    assert (run["transcript"]["command"], run["outcome"]) == (None, "committed")
    assert run["digest"] != typed.says("run", *ON, "--again", "it is a test", *mend)["digest"]
    journal = typed.database.execute("SELECT string_agg(r::text, ' ') FROM backout.run r")[0][0]
    assert "Hopper" not in journal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("endpoint", "mend", "--on", "staging"), "there is no command"),
        (("endpoint", "plain", "--on", "staging", "--", "true"), '"plain" is not a change that a program does'),
        (("endpoint", "typed", "--on", "staging", "--", "true"), '"typed" is not a change that a program does'),
        (("endpoint", "mend", "--", "true"), "where? --on is missing"),
    ],
)
def test_what_is_no_command_for_a_program_is_said(typed: Typed, words: tuple[str, ...], said: str) -> None:
    head = '-- /// change\n-- title = "One"\n{}-- ///\n'
    (typed.folder / "changes" / "plain.sql").write_text(head.format("") + "DELETE FROM patient;\n")
    (typed.folder / "changes" / "typed.sql").write_text(head.format("-- session = true\n"))

    ended = typed.types(*words)

    assert ended.status == 2
    assert ended.err.startswith(f"error: {said}")
    assert "hint: " in ended.err
