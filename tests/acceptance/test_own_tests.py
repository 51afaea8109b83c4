"""A change's own tests: a database is made for them, the change runs there, is asked, undone and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acceptance.program import backout
from backout import Project
from backout.change.read import read_change
from backout.engines.throwaway import Asked
from backout.errors import InvalidFile, UsageError
from backout.runs.own_tests import judge, uses_pgtap
from backout.sql.model import Dialect
from backout.sql.read import read_script
from unit.test_as_json import require_valid

SCHEMA = """-- the tables that the change is about
CREATE TABLE referral (id integer PRIMARY KEY, status text NOT NULL, opened text NOT NULL);
CREATE TABLE clinic (id integer PRIMARY KEY);
"""
SEED = """INSERT INTO referral VALUES (1, 'open', '2026-11-01'), (2, 'open', '2026-11-20'), (3, 'closed', '2026-11-01');
INSERT INTO clinic VALUES (1);
"""
CHANGE = """-- /// change
-- title = "Close the old referrals"
-- dialect = "{dialect}"
-- [parameters]
-- before = {{type = "text", per_environment = true}}
-- [test]
-- schema = "tests/schema.sql"
-- seed = "tests/seed.sql"
-- file = "tests/close.sql"
-- [test.parameters]
-- before = "2026-11-14"
-- ///

-- @expect 1
UPDATE referral SET status = 'closed' WHERE status = 'open' AND opened < :before;

-- @assert "nothing old is open"
SELECT count(*) = 0 FROM referral WHERE status = 'open' AND opened < :before;
"""
TESTS = """-- @assert "the new one stays open"
SELECT status = 'open' FROM referral WHERE id = 2;

-- the old one is closed
SELECT count(*) = 1 FROM referral WHERE id = 1 AND status = 'closed';
"""
DIALECTS = pytest.mark.parametrize("dialect", ["sqlite", "postgres"])


def project(folder: Path, dialect: str, **files: str) -> Path:
    texts = {"close": CHANGE.format(dialect=dialect), "schema": SCHEMA, "seed": SEED, "tests": TESTS} | files
    (folder / "changes" / "tests").mkdir(parents=True)
    (folder / "backout.toml").write_text('[environments.production]\nurl = "sqlite:///nowhere.db"\n')
    (folder / "changes" / "close.sql").write_text(texts["close"])
    for name, file in (("schema", "schema"), ("seed", "seed"), ("tests", "close")):
        (folder / "changes" / "tests" / f"{file}.sql").write_text(texts[name])
    return folder


@DIALECTS
def test_change_is_run_asked_undone_and_compared(tmp_path: Path, dialect: str) -> None:
    folder = project(tmp_path, dialect)
    mine = Project.find(start=folder)

    report = mine.test(mine.change("close"))

    assert report.problems == ()
    assert report.run is not None
    assert report.run.state == "committed"
    assert report.run.digest == mine.change("close").digest
    assert [(one.title, one.passed, one.line) for one in report.checks] == [
        ("the new one stays open", True, 2),
        ("the old one is closed", True, 5),
    ]
    assert report.undo is not None
    assert report.compared is not None
    assert {name.rpartition(".")[2]: rows for name, rows in report.compared.items()} == {"referral": 3, "clinic": 1}
    assert not (folder / ".backout").exists()


def test_program_says_each_check_and_prints_stable_json(tmp_path: Path) -> None:
    folder = project(tmp_path, "sqlite")

    told = backout(folder, "check", "close", "--test")
    said = backout(folder, "check", "close", "--test", "--json")

    assert told.status == said.status == 0, told.err
    assert "✓ the new one stays open" in told.out
    assert "tests passed: run, asked, undone, and every table compared" in told.out
    document = json.loads(said.out)
    require_valid(document, "check")
    assert document["tests"]["passed"] is True


@DIALECTS
@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({"schema": "CREATE TABLE t (\n  id integer,\n  nonsense nonsense nonsense,,\n);\n"}, "schema.sql:3:", "refuses it"),
        ({"seed": "\nINSERT INTO nowhere VALUES (1);\n"}, "seed.sql:2:", "nowhere"),
        ({"tests": TESTS.replace("id = 2", "id = 1")}, "tests/close.sql:2:", 'the test "the new one stays open" failed'),
        ({"tests": TESTS + "SELECT nothing FROM referral;\n"}, "tests/close.sql:6:", "nothing"),
        ({"tests": "-- nothing here\n"}, "tests/close.sql:1:", "the test file asks nothing"),
    ],
)  # fmt: skip
def test_failure_names_file_and_line_and_exits_with_3(
    tmp_path: Path, dialect: str, files: dict[str, str], place: str, message: str
) -> None:
    folder = project(tmp_path, dialect, **files)

    ended = backout(folder, "check", "close", "--test", "--json")

    assert ended.status == 3, ended.err
    said = json.loads(ended.out)
    require_valid(said, "check")
    assert said["tests"]["passed"] is False
    (problem,) = said["tests"]["problems"]
    assert f"{problem['file']}:{problem['line']}:".endswith(place)
    assert message in problem["message"]


def test_program_says_what_failed(tmp_path: Path) -> None:
    folder = project(tmp_path, "sqlite", tests="-- never\nSELECT 1 = 2;\n")

    told = backout(folder, "check", "close", "--test")

    assert told.status == 3
    assert "✗ never: its query said 0" in told.out
    assert "tests failed" in told.out


@DIALECTS
def test_expectation_that_is_not_met_fails_at_its_statement(tmp_path: Path, dialect: str) -> None:
    folder = project(tmp_path, dialect, close=CHANGE.format(dialect=dialect).replace("@expect 1", "@expect 5"))

    mine = Project.find(start=folder)
    report = mine.test(mine.change("close"))

    (problem,) = report.problems
    assert (Path(problem.file).name, problem.line) == ("close.sql", 15)
    assert "wrote 1 rows, and 5 were expected" in problem.message
    assert report.checks == ()


def test_failing_test_does_not_keep_the_undo_from_being_tried(tmp_path: Path) -> None:
    folder = project(tmp_path, "sqlite", tests="SELECT 1 = 2;")
    mine = Project.find(start=folder)

    report = mine.test(mine.change("close"))

    assert not report.passed
    assert report.undo is not None
    assert report.compared is not None


def test_tests_that_write_change_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path, "sqlite", tests="DELETE FROM referral;\nSELECT count(*) = 0 FROM referral;\n")
    mine = Project.find(start=folder)

    report = mine.test(mine.change("close"))

    assert report.passed
    assert [one.title for one in report.checks] == ["query in line 2"]


def test_files_of_a_branch_cannot_reach_the_machine(tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    schema = SCHEMA + f"CREATE TABLE x (a text);\nCOPY x TO PROGRAM 'touch {marker}';\n"
    folder = project(tmp_path, "postgres", schema=schema)
    mine = Project.find(start=folder)

    report = mine.test(mine.change("close"))

    (problem,) = report.problems
    assert "permission denied to COPY to or from an external program" in problem.message
    assert not marker.exists()


@pytest.mark.parametrize("statement", ["ATTACH '{}' AS other", "VACUUM INTO '{}'"])
def test_files_of_a_branch_reach_no_other_file(tmp_path: Path, statement: str) -> None:
    marker = tmp_path / "owned.db"
    folder = project(tmp_path, "sqlite", schema=SCHEMA + statement.format(marker) + ";\n")
    mine = Project.find(start=folder)

    report = mine.test(mine.change("close"))

    (problem,) = report.problems
    assert (Path(problem.file).name, problem.line) == ("schema.sql", 4)
    assert "authori" in problem.message  # two of its words for it
    assert not marker.exists()


def test_change_without_tests_says_how_to_write_them(tmp_path: Path) -> None:
    text = CHANGE.format(dialect="sqlite")
    begin, end = text.index("-- [test]"), text.index("-- ///\n\n")
    folder = project(tmp_path, "sqlite", close=text[:begin] + text[end:])

    told = backout(folder, "check", "close", "--test")

    assert told.status == 2
    assert "has no tests" in told.err


def test_test_file_is_part_of_the_digest_and_its_schema_and_seed_are_not(tmp_path: Path) -> None:
    path = project(tmp_path, "sqlite") / "changes" / "close.sql"
    before = read_change(path).digest
    (path.parent / "tests" / "schema.sql").write_text("-- another")
    (path.parent / "tests" / "seed.sql").write_text("-- another")
    assert read_change(path).digest == before
    (path.parent / "tests" / "close.sql").write_text("SELECT true;")
    assert read_change(path).digest != before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('-- test = "x"', 'key "test" must be a table'),
        ('-- [test]\n-- seed = "s.sql"', '[test] has no "schema"'),
        ('-- [test]\n-- schema = "/etc/passwd"', 'key "schema" in [test] must be a path relative to the change'),
        ('-- [test]\n-- schema = "s.sql"\n-- sede = "s.sql"', 'unknown key "sede" in [test]'),
        ('-- [test]\n-- schema = "s.sql"\n-- parameters = 3', 'key "parameters" in [test] must be a table of values'),
    ],
)
def test_table_that_is_wrong_is_explained(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "a.sql"
    path.write_text(f"-- /// change\n-- title = 'x'\n{table}\n-- ///\nDELETE FROM a;\n")
    with pytest.raises(InvalidFile) as invalid:
        read_change(path)
    assert message in invalid.value.message


def test_test_file_that_is_not_there_is_an_error_of_the_change(tmp_path: Path) -> None:
    path = project(tmp_path, "sqlite") / "changes" / "close.sql"
    (path.parent / "tests" / "close.sql").unlink()
    with pytest.raises(UsageError, match="is not there"):
        read_change(path)


# -- pgTAP -------------------------------------------------------------------------------------------------------------

PGTAP = """BEGIN;
SELECT plan(2);
SELECT is((SELECT status FROM referral WHERE id = 2), 'open', 'the new one stays open');
SELECT results_eq(
  'SELECT id FROM referral WHERE status = ''closed'' ORDER BY id', ARRAY[1, 3], 'the old ones are closed');
SELECT * FROM finish();
ROLLBACK;
"""
HAS_PGTAP = Path("/usr/share/postgresql/15/extension/pgtap.control").is_file() and "pg15" in {
    f"pg{one}" for one in (15,) if Path("/usr/lib/postgresql/15/bin/postgres").is_file()
}


@pytest.mark.skipif(not HAS_PGTAP, reason="postgresql-15-pgtap is not on this machine")
def test_pgtap_file_runs_on_the_postgresql_that_has_it(tmp_path: Path) -> None:
    folder = project(tmp_path, "postgres", tests=PGTAP)
    mine = Project.find(start=folder)

    good = mine.test(mine.change("close"))
    (folder / "changes" / "tests" / "close.sql").write_text(PGTAP.replace("ARRAY[1, 3]", "ARRAY[1]"))
    bad = mine.test(mine.change("close"))

    assert good.problems == ()
    assert good.database.startswith("PostgreSQL 15")
    assert [one.title for one in good.checks] == ["the new one stays open", "the old ones are closed"]
    (problem,) = bad.problems
    assert problem.line == 4
    assert 'the test "the old ones are closed" failed' in problem.message
    assert "differ" in problem.message


def tap(*answers: list[str]) -> list[tuple[str, bool]]:
    text = "SELECT plan(1);\n" * len(answers)
    statements = read_script(Dialect.POSTGRES, text, (), "f").statements
    asked = [Asked(("x",), [(line,) for line in lines]) for lines in answers]
    return [(one.title, one.passed) for one in judge(statements, asked)]


def test_tap_is_read_with_its_plan_todo_and_skip() -> None:
    assert uses_pgtap("SELECT plan( 3 );")
    assert not uses_pgtap("SELECT planned FROM t;")
    assert tap(["1..2"], ["ok 1 - a"], ["not ok 2 - b\n# Failed test 2"]) == [("a", True), ("b", False)]
    assert tap(["1..1"], ["not ok 1 - b # TODO later"]) == [("b # TODO later", True)]
    assert tap(["1..3"], ["ok 1 - a"]) == [("a", True), ("the plan", False)]
