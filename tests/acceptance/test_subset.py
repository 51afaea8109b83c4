"""`--subset` runs some of a change on real databases: what is written, what is recorded, and that it can be undone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from acceptance.program import backout
from backout import Project
from backout.engines.values import RunState
from backout.errors import AssertionFailed, Refused, UsageError
from backout.project.announcements import of_run
from backout.project.run_entries import run_statement
from servers import PostgresDatabase
from unit.test_as_json import require_valid

SCHEMA = """
CREATE TABLE referral (id integer PRIMARY KEY, status text NOT NULL);
CREATE TABLE note (line integer PRIMARY KEY, id integer NOT NULL, text text);
"""
FILL = """
INSERT INTO referral SELECT n, CASE WHEN n % 2 = 0 THEN 'open' ELSE 'closed' END FROM numbers WHERE n <= 200;
INSERT INTO note SELECT n, n, 'x' FROM numbers WHERE n <= 200;
"""
HEAD = "-- /// change\n-- title = 'Close the open referrals'\n{more}-- ///\n"
CLOSE = """
-- @subset referral by=id
-- @expect 100
UPDATE referral SET status = 'done' WHERE status = 'open' OR status = 'lost';
-- @subset note by=id
DELETE FROM note WHERE id IN (SELECT id FROM referral WHERE status = 'done');
-- @subset referral by=id
-- @assert "none is left open"
SELECT count(*) = 0 FROM referral WHERE status = 'open';
-- @subset referral by=id
-- @after "none is left open afterwards"
SELECT count(*) = 0 FROM referral WHERE status = 'open';
"""
Rows = list[tuple[object, ...]]


def yes(_kind: str, _question: str) -> bool:
    return True


class Place:
    """A project with one environment, and a way to its database past backout."""

    def __init__(self, folder: Path, settings: str, execute: Callable[[str], Rows]) -> None:
        self.folder, self.execute = folder, execute
        (folder / "changes").mkdir()
        (folder / "backout.toml").write_text(f"[environments.dev]\n{settings}")
        self.project = Project.find(start=folder)
        self.write(CLOSE)

    def write(self, statements: str, more: str = "") -> None:
        (self.folder / "changes" / "close.sql").write_text(HEAD.format(more=more) + statements)

    def done(self) -> list[object]:
        return [row[0] for row in self.execute("SELECT id FROM referral WHERE status = 'done' ORDER BY id")]

    def notes(self) -> int:
        return int(str(self.execute("SELECT count(*) FROM note")[0][0]))


@pytest.fixture(params=["postgres", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        path = tmp_path / "dev.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(SCHEMA + "CREATE VIEW numbers(n) AS SELECT 0;DROP VIEW numbers;")
            numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200) "
            for statement in FILL.strip().split("\n"):
                connection.execute(numbers + statement)
            connection.commit()

        def execute(statement: str) -> Rows:
            with closing(sqlite3.connect(path)) as connection:
                rows = connection.execute(statement).fetchall()
                connection.commit()
                return rows

        yield Place(tmp_path, f'url = "sqlite:///{path}"\n', execute)
    else:
        database: PostgresDatabase = request.getfixturevalue("postgres18")
        database.as_application(SCHEMA)
        for statement in FILL.strip().split("\n"):
            database.as_application(statement.replace("numbers", "generate_series(1, 200) AS s(n)"))
        settings = f'url = "{database.login_url}"\nrole = "{database.application_role}"\n'
        yield Place(tmp_path, settings, database.as_application)


def test_condition_limits_every_statement_and_its_checks_and_the_run_is_undone(place: Place) -> None:
    change = place.project.change("close")

    report = place.project.run(change, "dev", subset="id <= 10", ask=yes)

    assert report.outcome is RunState.COMMITTED
    assert report.subset == "id <= 10"
    assert place.done() == [2, 4, 6, 8, 10]
    assert place.notes() == 195
    assert [one.affected for one in report.statements] == [5, 5]
    assert [one.passed for one in report.assertions] == [True, True]
    assert report.proof is not None
    assert report.proof.complete
    assert report.digest == change.digest
    assert '("referral"."id" <= 10)' in report.statements[0].text
    assert "wrote 5 rows of a subset, and 100 are expected of the whole" in " ".join(report.notes)
    (record,) = place.project.log("dev", limit=1)
    assert record.report["subset"] == "id <= 10"

    place.project.undo(report.identifier, "dev", ask=yes)
    assert place.done() == []
    assert place.notes() == 200


def test_number_of_rows_takes_the_first_keys_that_match_and_the_same_in_each_statement(place: Place) -> None:
    report = place.project.run(place.project.change("close"), "dev", subset="3 rows", ask=yes)

    assert report.subset == "3 rows by id"
    assert place.done() == [2, 4, 6]
    assert place.notes() == 197
    literals = "'2', '4', '6'" if "'2'" in report.statements[0].text else "2, 4, 6"
    assert all(f"IN ({literals})" in one.text for one in report.statements)


def test_subset_after_subset_goes_on_where_the_first_ended_and_the_whole_ends_it(place: Place) -> None:
    place.write(CLOSE.replace("-- @expect 100\n", ""))
    change = place.project.change("close")

    place.project.run(change, "dev", subset="3 rows", ask=yes)
    place.project.run(change, "dev", subset="2 rows", ask=yes)
    assert place.done() == [2, 4, 6, 8, 10]

    whole = place.project.run(change, "dev", ask=yes)
    assert whole.subset is None
    assert len(place.done()) == 100


def test_ghost_of_a_subset_with_undo_proves_the_way_back_and_leaves_nothing(place: Place) -> None:
    report = place.project.ghost(place.project.change("close"), "dev", subset="id IN (2, 3, 4)", undo=True, ask=yes)

    assert report.way_back == "proven"
    assert {one.table.rpartition(".")[2]: (one.updated, one.deleted) for one in report.tables} == {
        "referral": (2, 0), "note": (0, 2),
    }  # fmt: skip
    assert place.done() == []


def test_condition_that_matches_nothing_writes_nothing(place: Place) -> None:
    place.execute("UPDATE referral SET status = 'closed'")

    report = place.project.run(place.project.change("close"), "dev", subset="5 rows", ask=yes)

    assert report.tables == ()
    assert place.notes() == 200


def test_author_s_or_does_not_let_other_rows_through(place: Place) -> None:
    place.write(
        "-- @subset referral by=id\nUPDATE referral SET status = 'done' WHERE status = 'open' OR status = 'closed' -- all\n"
    )

    place.project.run(place.project.change("close"), "dev", subset="id = 7", ask=yes)

    assert place.done() == [7]


def test_parameters_reach_the_query_for_the_keys(place: Place) -> None:
    more = '-- parameters = {new = "done", old = "closed"}\n'
    place.write("-- @subset referral by=id\nUPDATE referral SET status = :new WHERE status = :old;\n", more)

    place.project.run(place.project.change("close"), "dev", subset="2 rows", ask=yes)

    assert place.done() == [1, 3]


def test_assertion_without_subset_is_about_everything_and_is_enforced(place: Place) -> None:
    place.write(CLOSE.replace("-- @subset referral by=id\n-- @assert", "-- @assert"))

    with pytest.raises(AssertionFailed):
        place.project.run(place.project.change("close"), "dev", subset="3 rows", ask=yes)

    assert place.done() == []


def test_unknown_column_and_undeclared_key_write_nothing(place: Place) -> None:
    change = place.project.change("close")
    with pytest.raises(UsageError):
        place.project.run(change, "dev", subset="status = 'open'", ask=yes)
    place.write("UPDATE referral SET status = 'done';\n")
    with pytest.raises(Refused):
        place.project.run(place.project.change("close"), "dev", subset="3 rows", ask=yes)

    assert place.done() == []


def test_private_keys_are_in_no_report(place: Place) -> None:
    place.write(CLOSE, "-- data = 'phi'\n")

    rows = backout(place.folder, "run", "close", "--on", "dev", "--subset", "3 rows", "--yes", "--json")
    told = backout(place.folder, "ghost", "close", "--on", "dev", "--subset", "id = 198", "--yes")

    said = json.loads(rows.out)
    require_valid(said, "run")
    assert said["subset"] == "3 rows by id"
    assert "IN (•••)" in said["statements"][0]["text"]
    assert told.status == 0, told.err
    assert "198" not in told.out


def test_program_says_that_it_was_a_subset_and_what_to_type_next(place: Place) -> None:
    told = backout(place.folder, "ghost", "close", "--on", "dev", "--subset", "id <= 4", "--yes")

    assert told.status == 0, told.err
    assert "subset     id <= 4" in told.out
    assert "next: backout run close --on dev --subset 'id <= 4'" in told.out


def test_nobody_is_told_that_a_subset_is_the_whole(place: Place) -> None:
    report = place.project.run(place.project.change("close"), "dev", subset="3 rows", ask=yes)
    (record,) = place.project.log("dev", limit=1)

    told = of_run(report, "ada")
    entry = run_statement(record, "identity", "ada", None, record.started_at)

    assert "some of it is done: close" in told.subject
    assert "Only a subset was run: 3 rows by id" in told.text
    assert entry.details["subset"] == "3 rows by id"
