"""A rehearsal goes there and back, says what it saw, and gives a certificate only for what was proven."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from acceptance.program import backout
from backout import Project
from backout.engines.values import RunState
from backout.errors import CheckAfterFailed, RehearsalFailed
from backout.gates.certificate import Shape, shape_differences
from servers import PostgresDatabase
from unit.test_as_json import require_valid

SCHEMA = """
CREATE TABLE clinic (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE referral (id integer PRIMARY KEY, clinic_id integer NOT NULL REFERENCES clinic, status text NOT NULL);
CREATE TABLE audit_log (line text NOT NULL);
INSERT INTO clinic VALUES (1, 'North'), (2, 'South');
INSERT INTO referral VALUES (1, 1, 'open'), (2, 1, 'open'), (3, 2, 'closed');
"""
HEAD = "-- /// change\n-- title = 'Close the open referrals'\n{more}-- ///\n"
CLOSE = "-- @expect 2\nUPDATE referral SET status = 'closed' WHERE status = 'open';\n"
EVERYTHING = "SELECT 'c', id, name, '' FROM clinic UNION ALL SELECT 'r', id, status, '' FROM referral ORDER BY 1, 2"
Rows = list[tuple[object, ...]]


def yes(_kind: str, _question: str) -> bool:
    return True


class Staging:
    """A project with the environment "staging", and a way to look at its database past backout."""

    def __init__(self, folder: Path, settings: str, execute: Callable[[str], Rows]) -> None:
        self.folder, self.execute = folder, execute
        (folder / "changes").mkdir()
        (folder / "backout.toml").write_text(f'[undo]\nappend_only = ["audit_log"]\n[environments.staging]\n{settings}')
        self.project = Project.find(start=folder)

    def rows(self) -> Rows:
        return self.execute(EVERYTHING)

    def change(self, statements: str, more: str = "") -> None:
        (self.folder / "changes" / "close.sql").write_text(HEAD.format(more=more) + statements)


@pytest.fixture(params=["postgres", "sqlite"])
def staging(request: pytest.FixtureRequest, tmp_path: Path) -> Staging:
    if request.param == "sqlite":
        path = tmp_path / "staging.db"

        def execute(statement: str) -> Rows:
            with closing(sqlite3.connect(path)) as connection, connection:
                return connection.execute(statement).fetchall()

        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(SCHEMA)
        return Staging(tmp_path, f'url = "sqlite:///{path}"\n', execute)
    database: PostgresDatabase = request.getfixturevalue("postgres18")
    database.as_application(SCHEMA)
    settings = f'url = "{database.login_url}"\nrole = "{database.application_role}"\n'
    return Staging(tmp_path, settings, lambda statement: [tuple(row) for row in database.execute(statement)])


def test_change_is_run_and_taken_back_and_certified(staging: Staging) -> None:
    staging.change(CLOSE)
    start = staging.rows()
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert staging.rows() == start
    assert rehearsal.run.outcome is RunState.COMMITTED
    assert rehearsal.undo.undo_of == rehearsal.run.run
    assert rehearsal.is_idempotent is True
    assert rehearsal.again is not None
    assert "line 5 wrote 0 rows, and 2 are expected of a first run" in rehearsal.again.notes
    certificate = rehearsal.certificate
    assert certificate is not None
    assert certificate.digest == project.change("close").digest
    assert list(certificate.rows.values()) == [(0, 2, 0)]
    assert [list(shape.columns) for shape in certificate.shapes.values()] == [["id", "clinic_id", "status"]]
    assert [one.mode.value for one in (rehearsal.bill, rehearsal.run, rehearsal.again, rehearsal.undo)] == [
        "ghost", "real", "ghost", "undo",
    ]  # fmt: skip


def test_change_stays_applied_where_that_is_wanted(staging: Staging) -> None:
    staging.change(CLOSE)
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", reapply=True, ask=yes)

    assert rehearsal.reapplied is not None
    assert staging.execute("SELECT count(*) FROM referral WHERE status = 'open'") == [(0,)]


def test_second_run_that_still_changes_rows_is_told_of(staging: Staging) -> None:
    staging.change("UPDATE clinic SET name = name || '!' WHERE id = 1;\n")
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert rehearsal.is_idempotent is False
    assert rehearsal.certificate is not None
    assert rehearsal.certificate.idempotent is False


def test_second_run_that_sets_what_is_already_there_changes_nothing(staging: Staging) -> None:
    staging.change("UPDATE clinic SET name = 'North and South';\n", more="-- idempotent = true\n")
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert rehearsal.again is not None
    assert rehearsal.again.net_change == {}


def test_change_that_cannot_run_twice_is_certified_and_says_so(staging: Staging) -> None:
    staging.change("INSERT INTO clinic VALUES (9, 'East');\n")
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert rehearsal.again is None
    assert rehearsal.again_failed is not None
    assert rehearsal.certificate is not None
    assert rehearsal.certificate.idempotent is None


@pytest.mark.parametrize(
    "statement", ["INSERT INTO clinic VALUES (9, 'East');\n", "UPDATE clinic SET name = name || '!';\n"]
)
def test_change_that_is_not_idempotent_as_it_says_fails_and_is_put_back(staging: Staging, statement: str) -> None:
    staging.change(statement, more="-- idempotent = true\n")
    start = staging.rows()
    project = staging.project

    with pytest.raises(RehearsalFailed) as caught:
        project.rehearse(project.change("close"), "staging", ask=yes)

    assert 'the change says "idempotent = true", and' in caught.value.message
    assert caught.value.state == "the change was put back"
    assert staging.rows() == start


def test_rehearsal_over_no_rows_gives_no_certificate(staging: Staging) -> None:
    staging.change("UPDATE referral SET status = 'lost' WHERE id = 77;\n")
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert rehearsal.certificate is None
    assert rehearsal.why_none == "no row was written: there was nothing to rehearse on"


def test_failing_check_after_the_commit_puts_the_change_back(staging: Staging) -> None:
    staging.change(CLOSE + "-- @after \"none is closed\"\nSELECT count(*) = 0 FROM referral WHERE status = 'closed';\n")
    start = staging.rows()
    project = staging.project

    with pytest.raises(CheckAfterFailed) as caught:
        project.rehearse(project.change("close"), "staging", ask=yes)

    assert "the change was put back" in str(caught.value.hint)
    assert staging.rows() == start


def test_colleague_who_writes_meanwhile_spoils_the_comparison_and_keeps_the_rows(staging: Staging) -> None:
    staging.change(CLOSE)
    project = staging.project

    def meanwhile(after: str, _report: object) -> None:
        if after == "run":
            staging.execute("INSERT INTO clinic VALUES (5, 'West')")

    with pytest.raises(RehearsalFailed) as caught:
        project.rehearse(project.change("close"), "staging", ask=yes, pause=meanwhile)

    assert "clinic (2 rows, then 3)" in caught.value.message
    assert staging.execute("SELECT count(*) FROM clinic") == [(3,)]
    assert staging.execute("SELECT count(*) FROM referral WHERE status = 'open'") == [(2,)]


def test_conflict_with_a_colleague_is_said_with_what_to_type(staging: Staging) -> None:
    staging.change(CLOSE)
    project = staging.project

    def meanwhile(after: str, _report: object) -> None:
        staging.execute("UPDATE referral SET status = 'reopened' WHERE id = 1")

    with pytest.raises(RehearsalFailed) as caught:
        project.rehearse(project.change("close"), "staging", ask=yes, pause=meanwhile)

    assert caught.value.state == "committed"
    assert "--partial" in str(caught.value.hint)


def test_stop_while_somebody_looks_puts_the_change_back(staging: Staging) -> None:
    staging.change(CLOSE)
    start = staging.rows()
    project = staging.project

    def stop(_after: str, _report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.rehearse(project.change("close"), "staging", ask=yes, pause=stop)

    assert staging.rows() == start


def test_append_only_tables_are_left_out_of_the_comparison(staging: Staging) -> None:
    staging.change(CLOSE + "INSERT INTO audit_log VALUES ('closed');\n")
    project = staging.project

    rehearsal = project.rehearse(project.change("close"), "staging", ask=yes)

    assert rehearsal.certificate is not None
    assert staging.execute("SELECT count(*) FROM audit_log") == [(1,)]


def test_program_prints_the_certificate_and_stable_json(staging: Staging) -> None:
    staging.change(CLOSE)

    shown = backout(staging.folder, "rehearse", "close", "--on", "staging", "--yes")
    said = backout(staging.folder, "rehearse", "close", "--on", "staging", "--yes", "--json")

    assert shown.status == said.status == 0
    assert "a second run changes nothing" in shown.out
    assert "certificate" in shown.out
    document = json.loads(said.out)
    require_valid(document, "rehearse")
    assert document["idempotent"] is True
    assert document["certificate"]["tables"][0]["updated"] == 2


def test_differences_of_shape_are_said_column_by_column() -> None:
    rehearsed = Shape({"id": "integer", "status": "text", "note": "text"}, ("id",), ("touch",))
    now = replace(rehearsed, columns={"id": "bigint", "status": "text", "extra": "text"}, triggers=("audit",))

    assert shape_differences({"t": rehearsed, "gone": rehearsed}, {"t": now}) == (
        "table gone is not here",
        't: column "id" is bigint here, and was integer',
        't: column "note" is not here',
        't: column "extra" was not there',
        't: trigger "audit" was not there',
        't: trigger "touch" is not here',
    )
