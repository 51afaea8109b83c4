"""The verbs on MariaDB, from a change file to its undo, through the library and the command line."""

# ruff: noqa: E501  schemas, statements and messages are read more easily in one line

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from acceptance.program import PROGRAM
from backout import Project
from backout.errors import BackoutError, Conflicts, Refused
from integration.mariadb.driving import dump, make
from servers_mariadb import MariaDatabase

SHOP = (
    "CREATE TABLE customer (id INT PRIMARY KEY, name VARCHAR(50), city VARCHAR(50));"
    "CREATE TABLE orders (id INT PRIMARY KEY, customer INT, total DECIMAL(9, 2),"
    " FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE);"
    "INSERT INTO customer SELECT seq, CONCAT('name ', seq), 'Bern' FROM seq_1_to_50;"
    "INSERT INTO orders SELECT seq, 1 + seq MOD 50, seq FROM seq_1_to_200;"
)
CHANGE = """-- /// change
-- title = "Leave Bern"
-- [parameters]
-- city = {type = "text", per_environment = true}
-- ///
-- @expect 10
UPDATE customer SET city = :city WHERE id <= 10;
-- @expect 1
DELETE FROM customer WHERE id = 50;
-- @assert "nobody of them is left in Bern"
SELECT COUNT(*) = 0 FROM customer WHERE id <= 10 AND city = 'Bern';
"""


HEAD = """-- /// change
-- title = "A change"
-- ///
"""


def yes(_kind: str, _question: str) -> bool:
    return True


def project(folder: Path, database: MariaDatabase, extra: str = "") -> Project:
    (folder / "changes").mkdir(exist_ok=True)
    (folder / "backout.toml").write_text(
        f'{extra}\n[environments.shop]\nurl = "{database.login_url}"\n', encoding="utf-8"
    )
    return Project.find(folder / "backout.toml")


def test_check_ghost_run_show_undo_log_and_clean(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, SHOP)
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    (tmp_path / "changes" / "leave.sql").write_text(CHANGE, encoding="utf-8")
    change = found.change("leave")
    checked = found.check(change, "shop")
    assert checked.missing_tables == ()
    assert [fact.cascades_to for fact in checked.tables] == [(f"{mariadb.name}.orders",)]
    ghost = found.ghost(change, "shop", parameters={"city": "Thun"}, undo=True, ask=yes)
    assert ("proven", before) == (ghost.way_back, dump(mariadb))
    report = found.run(change, "shop", parameters={"city": "Thun"}, ask=yes)
    assert {(t.table, t.updated, t.deleted) for t in report.tables} == {
        (f"{mariadb.name}.customer", 10, 1),
        (f"{mariadb.name}.orders", 0, 4),
    }
    assert report.proof is not None
    assert report.proof.complete
    record, tables = found.show(report.identifier, "shop", rows=3)
    assert [len(table.sample) for table in tables] == [3, 3]
    mariadb.as_application("UPDATE customer SET city = 'Biel' WHERE id = 3")
    with pytest.raises(Conflicts):
        found.undo(report.identifier, "shop", ask=yes)
    found.undo(report.identifier, "shop", partial=True, ask=yes)
    with pytest.raises(Conflicts):
        found.undo(report.identifier, "shop", ask=yes)
    found.undo(report.identifier, "shop", overwrite=(1,), ask=yes)
    assert before == dump(mariadb)
    assert ["undo", "undo", "undo", "undo", "real", "ghost"] == [one.start.mode.value for one in found.log("shop")]
    mariadb.execute(f"UPDATE backout.run SET expires_at = '2000-01-01' WHERE number = {record.number}")
    assert [record.number] == [one.number for one in found.expired("shop")]
    found.clean("shop", [record.number])
    assert mariadb.execute(f"SHOW TABLES FROM rescue LIKE 'run\\_{record.number}\\_%'") == []
    assert [one for one in found.doctor("shop") if one.level == "wrong"] == []


def test_the_command_line_runs_and_undoes(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, SHOP)
    before = dump(mariadb)
    project(tmp_path, mariadb)
    (tmp_path / "changes" / "leave.sql").write_text(CHANGE, encoding="utf-8")

    def backout(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAM), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})

    assert backout("init", "--on", "shop").returncode == 0
    assert backout("check", "leave", "--on", "shop").returncode == 0
    ran = backout("run", "leave", "--on", "shop", "--param", "city=Thun", "--yes", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = json.loads(ran.stdout)
    assert said["outcome"] == "committed"
    undone = backout("undo", "shop-1", "--yes", "--json")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert before == dump(mariadb)


def test_a_python_change_with_parameters_and_a_savepoint(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(mariadb, SHOP)
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    (tmp_path / "changes" / "loop.py").write_text(
        """# /// change
# title = "Loop"
# ///
def apply(db):
    for number, name in db.execute("SELECT id, name FROM customer WHERE id < %s ORDER BY id", [4]):
        db.execute("UPDATE customer SET name = %(name)s, city = '%%s ?' WHERE id = %(id)s", {"name": name + "'\\\\", "id": number})
    try:
        with db.savepoint():
            db.execute("UPDATE customer SET city = 'lost'")
            db.execute("INSERT INTO customer VALUES (1, 'again', 'x')")
    except Exception:
        pass
    db.execute("UPDATE customer SET city = ? WHERE id = :id", {"id": 9, "": "Genf"})

def check(db):
    return db.execute("SELECT COUNT(*) FROM customer WHERE city = 'lost'").fetchone()[0] == 0
""",
        encoding="utf-8",
    )
    report = found.run(found.change("loop"), "shop", ask=yes)
    assert [(table.updated, table.inserted) for table in report.tables] == [(4, 0)]
    assert report.proof is not None
    assert report.proof.level == "exact"
    assert mariadb.execute("SELECT name FROM customer WHERE id = 1") == [("name 1'\\",)]
    found.undo(report.identifier, "shop", ask=yes)
    assert before == dump(mariadb)


REFUSED = {
    "UPDATE customer SET city = 'x';\nTRUNCATE orders": "2",
    "UPDATE customer SET city = 'x';\nLOCK TABLES customer WRITE": "2",
    "START TRANSACTION": "1",
    "SET autocommit = 1": "1",
    "UPDATE customer SET city = 'a;b';\nLOAD DATA LOCAL INFILE '/x' INTO TABLE orders": "2",
    "XA START 'x'": "1",
    "PREPARE s FROM 'DELETE FROM orders'": "1",
    "EXECUTE IMMEDIATE 'DELETE FROM orders'": "1",
    "ALTER TABLE orders ADD x INT": "1",
    "DELETE FROM backout.run": "1",
    "SELECT GET_LOCK('x', 1)": "1",
    "SET STATEMENT max_statement_time = 1 FOR DELETE FROM orders": "1",
    "DELIMITER //": "1",
    "SOURCE other.sql": "1",
    "SELECT * FROM orders INTO OUTFILE '/tmp/x'": "1",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_would_commit_is_refused_with_its_line_before_anything_is_written(
    tmp_path: Path, mariadb: MariaDatabase, text: str
) -> None:
    make(mariadb, SHOP)
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    (tmp_path / "changes" / "bad.sql").write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(Refused) as raised:
        found.run(found.change("bad"), "shop", ask=yes)
    assert raised.value.state == "untouched"
    assert f"bad.sql:{3 + int(REFUSED[text])}: not undoable: " in raised.value.message
    assert before == dump(mariadb)


@pytest.mark.parametrize(
    "comment",
    ["/*!50000 DELETE FROM orders */", "/*M! DELETE FROM orders */", "/*!DELETE FROM orders*/", "/*M!100100 DELETE FROM orders */",
     "/*!999999 DELETE FROM orders */", "/*!\nDELETE FROM orders\n*/", "/*! DELETE FROM orders", "/*!*/"],
)  # fmt: skip
def test_executable_comments_are_refused_before_anything_is_parsed(
    tmp_path: Path, mariadb: MariaDatabase, comment: str
) -> None:
    found = project(tmp_path, mariadb)
    (tmp_path / "changes" / "bad.sql").write_text(f"{HEAD}SELECT '/*! fine */';\n{comment};", encoding="utf-8")
    with pytest.raises(BackoutError, match="an executable comment") as raised:
        found.change("bad")
    assert "bad.sql:5:1" in raised.value.message


@pytest.mark.parametrize("hidden", ["DELETE /*! FROM orders */", "SELECT 1 /*!50000 + (SELECT 1) */", "UPDATE orders SET total = 1 /*M! , id = 9 */"])  # fmt: skip
def test_an_executable_comment_inside_of_a_statement_is_refused_in_files_and_scripts(
    tmp_path: Path, mariadb: MariaDatabase, hidden: str
) -> None:
    make(mariadb, SHOP)
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    (tmp_path / "changes" / "bad.sql").write_text(HEAD + hidden, encoding="utf-8")
    with pytest.raises(BackoutError, match="an executable comment"):
        found.change("bad")
    script = f"# /// change\n# title = 'x'\n# ///\ndef apply(db):\n    db.execute({hidden!r})\n"
    (tmp_path / "changes" / "worse.py").write_text(script, encoding="utf-8")
    with pytest.raises(BackoutError, match="an executable comment"):
        found.run(found.change("worse"), "shop", ask=yes)
    assert before == dump(mariadb)


@pytest.mark.parametrize(
    "text",
    ["UPDATE orders SET total = 1; DELETE FROM orders", "SELECT 1; COMMIT", "SET @s = 'x'; TRUNCATE orders",
     "SELECT 'a'';' ; DROP TABLE orders"],
)  # fmt: skip
def test_several_statements_in_one_text_of_a_script_are_refused_by_the_server(
    tmp_path: Path, mariadb: MariaDatabase, text: str
) -> None:
    """The session never allows them (CLIENT_MULTI_STATEMENTS is off); in a parameter they are just text."""
    make(mariadb, SHOP)
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    head = "# /// change\n# title = 'x'\n# ///\ndef apply(db):\n"
    (tmp_path / "changes" / "bad.py").write_text(f"{head}    db.execute({text!r})\n", encoding="utf-8")
    with pytest.raises(BackoutError) as raised:
        found.run(found.change("bad"), "shop", ask=yes)
    assert raised.value.state in {"rolled back", "untouched"}
    assert before == dump(mariadb)
    smuggled = f"{head}    db.execute('UPDATE customer SET city = :c WHERE id = 1', {{'c': {text!r}}})\n"
    (tmp_path / "changes" / "good.py").write_text(smuggled, encoding="utf-8")
    found.run(found.change("good"), "shop", ask=yes)
    assert [(text,)] == mariadb.execute("SELECT city FROM customer WHERE id = 1")


def test_tables_of_other_engines_and_routines_that_commit_are_refused(tmp_path: Path, mariadb: MariaDatabase) -> None:
    make(
        mariadb,
        SHOP + "CREATE TABLE old (id INT) ENGINE=MyISAM; CREATE TABLE aria (id INT) ENGINE=Aria;"
        "CREATE TRIGGER o AFTER INSERT ON orders FOR EACH ROW INSERT INTO old VALUES (NEW.id);"
        "CREATE PROCEDURE p() BEGIN UPDATE customer SET city = 'q'; COMMIT; END;"
        "CREATE PROCEDURE q() BEGIN EXECUTE IMMEDIATE 'DELETE FROM orders'; END; CREATE PROCEDURE r() CALL p();"
        "CREATE TABLE v (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
    )
    before = dump(mariadb)
    found = project(tmp_path, mariadb)
    name = mariadb.name
    for text, reason in {
        "INSERT INTO aria VALUES (1)": f'table {name}.aria, written by the change, is stored by engine "Aria", which cannot roll back',
        "INSERT INTO orders VALUES (999, 1, 1)": f'table {name}.old, written by trigger "o" on {name}.orders, is stored by engine "MyISAM"',
        "CALL p()": f"routine {name}.p contains COMMIT, which ends or alters the transaction",
        "CALL q()": f"routine {name}.q contains EXECUTE, which runs text that cannot be read",
        "CALL r()": f"routine {name}.p contains COMMIT",
        "DELETE FROM v": f"table {name}.v is system-versioned",
    }.items():
        (tmp_path / "changes" / "bad.sql").write_text(HEAD + text, encoding="utf-8")
        with pytest.raises(Refused) as raised:
            found.run(found.change("bad"), "shop", ask=yes)
        assert reason in raised.value.message
        with pytest.raises(Refused):
            found.ghost(found.change("bad"), "shop", ask=yes)
    assert before == dump(mariadb)


def test_check_tells_the_line_of_a_statement_that_writes_what_cannot_roll_back(
    tmp_path: Path, mariadb: MariaDatabase
) -> None:
    """By itself, by a trigger, or through a view; a table that is only read may be of any engine."""
    make(
        mariadb,
        SHOP
        + "CREATE TABLE old (id INT) ENGINE=MyISAM; CREATE TABLE aria (id INT) ENGINE=Aria; CREATE VIEW v AS SELECT * FROM aria;"
        "CREATE TRIGGER o AFTER INSERT ON orders FOR EACH ROW INSERT INTO old VALUES (NEW.id)",
    )
    found = project(tmp_path, mariadb)
    statements = [
        "INSERT INTO aria VALUES (1)", "UPDATE customer SET city = 'x' WHERE id IN (SELECT id FROM old)",
        "INSERT INTO orders VALUES (999, 1, 1)", "DELETE FROM v WHERE id = 1",
    ]  # fmt: skip
    (tmp_path / "changes" / "bad.sql").write_text(HEAD + ";\n".join(statements), encoding="utf-8")
    checked = found.check(found.change("bad"), "shop")
    name = mariadb.name
    assert [
        (4, f'table {name}.aria, written by the change, is stored by engine "Aria", which cannot roll back'),
        (
            6,
            f'table {name}.old, written by trigger "o" on {name}.orders, is stored by engine "MyISAM", which cannot roll back',
        ),
        (7, f'table {name}.aria, written by view {name}.v, is stored by engine "Aria", which cannot roll back'),
    ] == [(one.line, one.problem) for one in checked.misunderstood]
