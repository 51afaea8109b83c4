"""`from backout import Project`: what the library promises to programs, on both databases."""

from __future__ import annotations

import getpass
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backout import Project, __version__
from backout.engines.values import Mode, RunState
from backout.errors import AssertionFailed, BackoutError, Conflicts, ExpectationFailed, InvalidFile, Refused, UsageError
from backout.runs.as_json import report_as_json
from servers import PostgresDatabase
from unit.test_as_json import require_valid

CHANGE = """\
-- /// change
-- title = "Close the open orders"
-- [parameters]
-- closed = {type = "text", per_environment = true}
-- ///
-- @expect 2
UPDATE orders SET status = :closed WHERE status = 'open';
-- @assert "none is open"
SELECT count(*) = 0 FROM orders WHERE status = 'open';
"""
TABLES = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL);"
    "INSERT INTO orders VALUES (1, 'open'), (2, 'open'), (3, 'paid')"
)


def yes(_kind: str, _question: str) -> bool:
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with the environment "shop" on SQLite."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    write_project(tmp_path, f'url = "sqlite:///{path}"')
    return tmp_path


def write_project(folder: Path, database: str) -> None:
    (folder / "changes").mkdir()
    (folder / "changes" / "close-orders.sql").write_text(CHANGE)
    parameters = '[environments.shop.parameters]\nclosed = "closed"\n'
    (folder / "backout.toml").write_text(f"[environments.shop]\n{database}\n{parameters}")


def execute(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        return connection.execute(statement).fetchall()


def orders(folder: Path) -> list[tuple[object, ...]]:
    return execute(folder, "SELECT id, status FROM orders ORDER BY id")


BEFORE = [(1, "open"), (2, "open"), (3, "paid")]
AFTER = [(1, "closed"), (2, "closed"), (3, "paid")]


def test_project_is_found_above_the_folder(folder: Path) -> None:
    below = folder / "src" / "deep"
    below.mkdir(parents=True)

    found = Project.find(start=below)

    assert found.config.path == folder / "backout.toml"
    assert found.change("close-orders").path == folder / "changes" / "close-orders.sql"


def test_without_a_configuration_databases_are_urls(folder: Path) -> None:
    (folder / "backout.toml").unlink()
    project = Project.find(start=folder)
    url = f"sqlite:///{folder}/shop.db"

    run = project.run(
        project.change(str(folder / "changes" / "close-orders.sql")), url, parameters={"closed": "done"}, ask=yes
    )

    assert (run.identifier, run.environment) == ("shop-1", "shop")
    assert orders(folder) == [(1, "done"), (2, "done"), (3, "paid")]


def test_check_says_what_is_known_before_anything_runs(folder: Path) -> None:
    project = Project.find(start=folder)

    report = project.check(project.change("close-orders"), "shop")

    assert report.review.passed
    assert [str(one.table.name) for one in report.tables] == ["main.orders"]
    assert report.missing_tables == ()
    assert execute(folder, "SELECT name FROM sqlite_master WHERE name LIKE 'backout%'") == []


def test_ghost_run_and_undo_return_reports(folder: Path) -> None:
    project = Project.find(start=folder)
    change = project.change("close-orders")
    stages: list[str] = []

    ghost = project.ghost(change, "shop", undo=True, ask=yes, progress=stages.append)
    assert (ghost.mode, ghost.outcome, ghost.state) == (Mode.GHOST, RunState.ROLLED_BACK, "untouched")
    assert ghost.way_back == "proven"
    assert stages
    assert orders(folder) == BEFORE

    run = project.run(change, "shop", rows=1, ask=yes)
    assert (run.mode, run.outcome, run.state) == (Mode.REAL, RunState.COMMITTED, "committed")
    assert [(one.table, one.inserted, one.updated, one.deleted) for one in run.tables] == [("main.orders", 0, 2, 0)]
    assert [(one.before, one.after) for one in run.tables[0].sample] == [
        ({"id": "1", "status": "open"}, {"id": "1", "status": "closed"})
    ]
    assert [(one.title, one.passed) for one in run.assertions] == [("none is open", True)]
    assert run.proof is not None
    assert (run.proof.complete, run.proof.level) == (True, "exact")
    assert orders(folder) == AFTER

    undone = project.undo(run.identifier, ask=yes)
    assert (undone.mode, undone.outcome, undone.undo_of) == (Mode.UNDO, RunState.COMMITTED, run.run)
    assert orders(folder) == BEFORE
    for report in (ghost, run, undone):
        require_valid(report_as_json(report), "run")


def test_a_library_does_not_say_yes_by_itself(folder: Path) -> None:
    project = Project.find(start=folder)

    with pytest.raises(UsageError) as caught:
        project.run(project.change("close-orders"), "shop")

    assert str(caught.value) == (
        f'a question needs an answer: make the journal (schema "backout") in {folder}/shop.db as "shop"?\n'
        "state: untouched\n"
        "hint: pass `ask=lambda kind, question: True`, or --yes"
    )
    assert orders(folder) == BEFORE


def test_questions_have_kinds_and_no_is_no(folder: Path) -> None:
    project, change = Project.find(start=folder), "close-orders"
    kinds: list[str] = []

    def only_the_journal(kind: str, question: str) -> bool:
        kinds.append(kind)
        return kind == "create_journal"

    with pytest.raises(Refused, match="not run: you said no"):
        project.run(project.change(change), "shop", ask=only_the_journal)
    run = project.run(project.change(change), "shop", ask=yes)
    with pytest.raises(Refused, match="not undone: you said no"):
        project.undo(run.identifier, ask=only_the_journal)

    assert kinds == ["create_journal", "run", "undo"]
    assert orders(folder) == AFTER


def test_conflicts_are_values(folder: Path) -> None:
    project = Project.find(start=folder)
    run = project.run(project.change("close-orders"), "shop", ask=yes)
    execute(folder, "UPDATE orders SET status = 'sent' WHERE id = 2")

    with pytest.raises(Conflicts) as caught:
        project.undo(run.identifier, ask=yes)
    (conflict,) = caught.value.conflicts
    undone = project.undo(run.identifier, overwrite=[1], ask=yes)

    assert caught.value.state == "untouched"
    assert vars(conflict) | {"detail": ""} == {
        "number": 1, "table": run_table(project, run.identifier), "kind": vars(conflict)["kind"],
        "key": {"id": "2"}, "columns": ("status",), "before": {"id": "2", "status": "open"},
        "ours": {"id": "2", "status": "closed"}, "now": {"id": "2", "status": "sent"}, "detail": "",
    }  # fmt: skip
    assert not undone.conflicts
    assert orders(folder) == BEFORE


def run_table(project: Project, run: str) -> object:
    record, _ = project.show(run)
    return record.tables[0].table.name


def test_a_ghost_of_an_undo_writes_nothing(folder: Path) -> None:
    project = Project.find(start=folder)
    run = project.run(project.change("close-orders"), "shop", ask=yes)

    ghost = project.undo(run.identifier, ghost=True)

    assert (ghost.outcome, ghost.state) == (RunState.ROLLED_BACK, "untouched")
    assert [one.updated for one in ghost.tables] == [2]
    assert orders(folder) == AFTER


@pytest.mark.parametrize(
    ("old", "new", "kind", "status"),
    [
        ("@expect 2", "@expect 5", ExpectationFailed, 4),
        ("count(*) = 0", "count(*) = 1", AssertionFailed, 4),
        ("UPDATE orders SET status = :closed", "DELETE FROM sqlite_sequence", Refused, 3),
        ("@assert", "@asert", InvalidFile, 2),
    ],
)
def test_errors_say_what_is_true_of_the_database(
    folder: Path, old: str, new: str, kind: type[BackoutError], status: int
) -> None:
    path = folder / "changes" / "close-orders.sql"
    path.write_text(path.read_text().replace(old, new))
    project = Project.find(start=folder)

    with pytest.raises(kind) as caught:
        project.run(project.change("close-orders"), "shop", ask=yes)

    assert caught.value.exit_status == status
    assert caught.value.state == ("rolled back" if status == 4 else "untouched")
    assert caught.value.hint
    assert (caught.value.report is not None) == (status == 4)
    assert orders(folder) == BEFORE


def test_log_show_and_clean_look_and_keep(folder: Path) -> None:
    project = Project.find(start=folder)
    run = project.run(project.change("close-orders"), "shop", ask=yes)

    (record,) = project.log("shop", limit=5)
    shown, tables = project.show(run.identifier)

    assert (record.identifier, record.state, record.start.change) == ("shop-1", RunState.COMMITTED, "close-orders")
    assert record.start.operator == getpass.getuser()
    assert record.expires_at is not None
    assert abs(record.expires_at - datetime.now(UTC) - timedelta(days=7)) < timedelta(hours=1)
    assert shown == record
    assert [one.updated for one in tables] == [2]
    assert project.expired("shop") == ()
    with pytest.raises(Refused, match="the rescue of run 1 has not expired"):
        project.clean("shop", [1])


def test_clean_drops_what_has_expired_and_an_undo_says_so(folder: Path) -> None:
    config = folder / "backout.toml"
    config.write_text(config.read_text().replace("[environments.shop]\n", '[environments.shop]\nkeep = "0.001 s"\n'))
    project = Project.find(start=folder)
    run = project.run(project.change("close-orders"), "shop", ask=yes)

    project.clean("shop", [one.number for one in project.expired("shop")])

    assert project.log("shop")[0].rescue_dropped_at is not None
    with pytest.raises(BackoutError) as caught:
        project.undo(run.identifier, ask=yes)
    assert caught.value.state == "untouched"
    assert orders(folder) == AFTER


def test_the_same_on_postgresql(postgres: PostgresDatabase, tmp_path: Path) -> None:
    postgres.as_application(TABLES)
    write_project(tmp_path, f'url = "{postgres.login_url}"\nrole = "{postgres.application_role}"')
    project = Project.find(start=tmp_path)
    change = project.change("close-orders")

    ghost = project.ghost(change, "shop", undo=True, ask=yes)
    run = project.run(change, "shop", ask=yes)
    after = postgres.execute("SELECT id, status FROM orders ORDER BY id")
    project.undo(run.identifier, ask=yes)

    assert ghost.way_back == "proven"
    assert after == AFTER
    assert postgres.execute("SELECT id, status FROM orders ORDER BY id") == BEFORE
    assert [(one.number, one.start.mode) for one in project.log("shop")] == [
        (3, Mode.UNDO), (2, Mode.REAL), (1, Mode.GHOST),
    ]  # fmt: skip


def test_undo_that_leaves_rows_says_so(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """Of very many conflicts a list names the first; to overwrite those is not yet to have restored everything."""
    postgres18.as_application(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL);"
        "CREATE TABLE line (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders ON DELETE CASCADE);"
        "INSERT INTO orders VALUES (1, 'open'), (2, 'open');"
        "INSERT INTO line SELECT n, 1 FROM generate_series(1, 1100) n"
    )
    write_project(tmp_path, f'url = "{postgres18.login_url}"\nrole = "{postgres18.application_role}"')
    change = '-- /// change\n-- title = "Delete an open order"\n-- ///\nDELETE FROM orders WHERE id = 1;\n'
    (tmp_path / "changes" / "delete.sql").write_text(change)
    project = Project.find(start=tmp_path)
    run = project.run(project.change("delete"), "shop", ask=yes)
    postgres18.as_application("INSERT INTO orders VALUES (1, 'of somebody else')")
    listed = project.undo(run.identifier, partial=True, ask=yes).conflicts

    undone = project.undo(run.identifier, partial=True, overwrite=[one.number for one in listed], ask=yes)

    assert bool(undone.conflicts) == (postgres18.execute("SELECT count(*) FROM line") != [(1100,)])


def test_setting_up_in_code(folder: Path, tmp_path: Path) -> None:
    project = Project.find(start=folder)

    dry = project.init_journal("shop", dry_run=True)
    assert execute(folder, "SELECT name FROM sqlite_master WHERE name LIKE 'backout%'") == []
    made = project.init_journal("shop")
    again = project.init_journal("shop")

    assert dry == made == ('made the journal, stamped "shop"',)
    assert again == ('the journal is there, stamped "shop"',)
    assert [one.level for one in project.doctor("shop") if one.level == "wrong"] == []


def test_importing_the_library_is_quick_and_typed() -> None:
    code = "import sys, backout; print(backout.__version__, 'psycopg' in sys.modules, 'rich' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert said == f"{__version__} False False\n"
    assert (Path(sys.modules["backout"].__file__ or "").parent / "py.typed").exists()
