"""The supervised transaction: what it refuses, counts, checks and translates."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from backout.engines.sqlite import connect
from backout.engines.values import RowChange, Settings, TableName
from backout.errors import BackoutError, Busy, DatabaseFailed, Refused, UsageError
from integration.sqlite.driving import change, dump, elsewhere, make, opened

SCHEMA = """
CREATE TABLE p (id INTEGER PRIMARY KEY, u UNIQUE, t NOT NULL CHECK (t <> 'no'));
CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p DEFERRABLE INITIALLY DEFERRED);
INSERT INTO p VALUES (1, 1, 'a'), (2, 2, 'b');
"""


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE backout_check",
        "ATTACH ':memory:' AS x",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA writable_schema = ON",
        "CREATE TABLE x (a)",
        "DROP TABLE c",
        "ALTER TABLE p ADD COLUMN z",
        "CREATE INDEX i ON p (t)",
        "CREATE TEMP TRIGGER x AFTER INSERT ON p BEGIN SELECT 1; END",
        "ANALYZE",
        "REINDEX",
        "VACUUM",
        "DELETE FROM backout_run",
        "UPDATE backout_meta SET value = 'x'",
        "INSERT INTO p VALUES (5, 5, 'x'); COMMIT",
        "CREATE TRIGGER x AFTER INSERT ON p BEGIN SELECT 1; END",
        "CREATE VIEW v AS SELECT 1",
        "DETACH main",
        "UPDATE sqlite_master SET sql = ''",
        "CREATE TABLE x AS SELECT * FROM p",
        "CREATE VIRTUAL TABLE x USING fts5 (a)",
    ],
)
def test_what_cannot_be_captured_is_refused(statement: str, tmp_path: Path) -> None:
    """The authorizer denies it, whoever says it and however it is hidden; the transaction can only be rolled back."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = opened(path)
    before = dump(path)
    transaction = database.transaction(())
    with pytest.raises(BackoutError) as met:
        transaction.execute(statement, ())
    assert isinstance(met.value, Refused | DatabaseFailed)
    with pytest.raises(BackoutError):
        transaction.execute("SELECT 1", ())
    transaction.rollback()
    assert before == dump(path)


def test_the_text_of_a_refusal_says_what_and_why(tmp_path: Path) -> None:
    """Fact, state, hint."""
    transaction = opened(make(tmp_path / "a.db", SCHEMA)).transaction(())
    with pytest.raises(Refused) as met:
        transaction.execute("DROP TABLE c", ())
    transaction.rollback()
    assert str(met.value) == (
        "the change changes the schema\nstate: untouched\n"
        "hint: a change writes rows, which can be taken back; do the rest in a migration of your application"
    )


def test_temporary_tables_and_telling_pragmas_are_allowed(tmp_path: Path) -> None:
    """They leave nothing behind; a temporary table that hides one of the user's changes nothing."""
    path = make(tmp_path / "a.db", SCHEMA)
    record, capture = change(
        opened(path),
        "CREATE TEMP TABLE p AS SELECT 1 AS id",
        "INSERT INTO p VALUES (7)",
        "PRAGMA foreign_key_check",
        "UPDATE main.p SET t = 'x' WHERE id IN (SELECT id FROM temp.p)",
        "DROP TABLE temp.p",
    )
    assert [(1, 1)] == [(table.before_rows, table.after_rows) for table in capture.tables]
    assert record.tables == capture.tables


def test_a_check_takes_back_what_it_writes_and_counts_nothing(tmp_path: Path) -> None:
    """In a savepoint of its own."""
    transaction = opened(make(tmp_path / "a.db", SCHEMA)).transaction(())
    assert 2 == transaction.execute("UPDATE p SET t = 'x'", ()).affected
    assert [(1,)] == transaction.check("DELETE FROM p WHERE id = 1 RETURNING id", ()).rows
    result = transaction.check("SELECT count(*) AS n FROM p WHERE t = :t", {"t": "x"})
    assert (("n",), [(2,)], 0) == (result.columns, result.rows, result.affected)
    capture = transaction.capture(1, (), keep=False)
    transaction.rollback()
    assert 2 == capture.counted_in_sum


def test_a_query_without_rows_still_names_its_columns(tmp_path: Path) -> None:
    """apsw forgets them; the engine does not."""
    transaction = opened(make(tmp_path / "a.db", SCHEMA)).transaction(())
    assert ("id", "t") == transaction.execute("SELECT id, t FROM p WHERE 0", ()).columns
    transaction.rollback()


def test_a_constraint_is_translated(tmp_path: Path) -> None:
    """Whole text, and SQLite's name of the error."""
    transaction = opened(make(tmp_path / "a.db", SCHEMA)).transaction(())
    with pytest.raises(DatabaseFailed) as met:
        transaction.execute("UPDATE p SET u = 1", ())
    transaction.rollback()
    assert "SQLITE_CONSTRAINT_UNIQUE" == met.value.sqlstate
    assert str(met.value) == "the database refused: UNIQUE constraint failed: p.u\nstate: rolled back"


def test_a_deferred_foreign_key_fails_at_the_capture(tmp_path: Path) -> None:
    """Before COMMIT, while it is a failure of the change."""
    transaction = opened(make(tmp_path / "a.db", SCHEMA)).transaction(())
    transaction.execute("INSERT INTO c VALUES (1, 99)", ())
    with pytest.raises(DatabaseFailed) as met:
        transaction.capture(1, (), keep=True)
    transaction.rollback()
    assert 'the database refused: FOREIGN KEY constraint failed in table "c"' == met.value.message


def test_foreign_keys_are_as_the_url_says(tmp_path: Path) -> None:
    """ON, unless the application has them off and the URL says so."""
    path = make(tmp_path / "a.db", SCHEMA)
    change(opened(path, options="?foreign_keys=off"), "INSERT INTO c VALUES (1, 99)")
    assert ["(1, 99)"] == dump(path)["c"]


def test_on_conflict_rollback_does_not_let_later_statements_escape(tmp_path: Path) -> None:
    """SQLite ends the transaction by itself; what came after would have been committed at once."""
    path = make(tmp_path / "a.db", SCHEMA)
    before = dump(path)
    transaction = opened(path).transaction(())
    with pytest.raises(DatabaseFailed):
        transaction.execute("INSERT OR ROLLBACK INTO p VALUES (1, 5, 'x')", ())
    with pytest.raises(DatabaseFailed):
        transaction.script(lambda _: None).execute("DELETE FROM p")
    transaction.rollback()
    assert before == dump(path)


def test_a_busy_database_is_named_with_the_time_waited(tmp_path: Path) -> None:
    """BEGIN IMMEDIATE waits for the lock timeout."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = opened(path)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy) as met:
        database.transaction(())
    other.close()
    assert str(met.value) == (
        f'unable to lock database "{path}" within 0.1 s: another connection holds it\nstate: untouched\n'
        "hint: wait until that program has finished, or raise lock_timeout for this change"
    )


def test_a_reader_that_does_not_let_go_rolls_the_commit_back(tmp_path: Path) -> None:
    """Outside of WAL a COMMIT needs the file for itself."""
    path = make(tmp_path / "a.db", SCHEMA)
    before = dump(path)
    database = opened(path)
    transaction = database.transaction(())
    transaction.execute("DELETE FROM p", ())
    reader = apsw.Connection(str(path))
    rows = reader.execute("SELECT * FROM p")
    next(rows)
    with pytest.raises(Busy) as met:
        transaction.commit()
    reader.close(True)
    assert "rolled back" == met.value.state
    assert before == dump(path)


def test_a_statement_past_its_time_is_ended(tmp_path: Path) -> None:
    """statement_timeout by SQLite's progress handler."""
    database = opened(make(tmp_path / "a.db", SCHEMA), statement_timeout_s=0.05)
    transaction = database.transaction(())
    with pytest.raises(DatabaseFailed) as met:
        transaction.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", ())
    transaction.rollback()
    assert "the statement took longer than 0.05 s" == met.value.message


def test_parameters_that_do_not_fit_are_the_users_error(tmp_path: Path) -> None:
    """A missing name, and a type that SQLite does not store."""
    for parameters in ({"y": 1}, {"x": object()}):
        transaction = opened(make(tmp_path / f"{len(str(parameters))}.db", SCHEMA)).transaction(())
        with pytest.raises(DatabaseFailed):
            transaction.execute("SELECT :x", parameters)
        transaction.rollback()


def test_text_that_is_not_utf_8_is_said_and_not_crashed_on(tmp_path: Path) -> None:
    """Where the session has to read it the change is rolled back, with the way out."""
    path = make(
        tmp_path / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, s); INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT))"
    )
    transaction = opened(path).transaction(())
    transaction.execute("UPDATE t SET id = 2, s = 'x'", ())
    with pytest.raises(DatabaseFailed) as met:
        transaction.capture(1, (), keep=True)
    transaction.rollback()
    assert "repair the text, or store it as BLOB: CAST(column AS BLOB)" == met.value.hint


def test_sqlalchemy_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    """Capability `sqlalchemy` is false."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    transaction = database.transaction(())
    with pytest.raises(Refused):
        transaction.script(lambda _: None).sqlalchemy()
    assert [(1,)] == transaction.script(lambda _: None).execute("SELECT ?", (1,)).rows
    transaction.rollback()
    assert not database.capabilities.sqlalchemy


def test_a_sample_shows_rows_before_and_after(tmp_path: Path) -> None:
    """Whole rows, in the order of the key, as text."""
    database = opened(make(tmp_path / "a.db", SCHEMA))
    transaction = database.transaction(())
    transaction.execute("UPDATE p SET t = 'x' WHERE id = 2", ())
    transaction.execute("DELETE FROM p WHERE id = 1", ())
    (captured,) = transaction.capture(1, (), keep=False).tables
    rows = transaction.sample(captured, 5)
    transaction.rollback()
    name = TableName("main", "p")
    assert ("id", "t") == captured.after_columns
    assert rows == [
        RowChange(name, {"id": "1", "u": "1", "t": "a"}, None),
        RowChange(name, {"id": "2", "u": "2", "t": "b"}, {"id": "2", "u": "2", "t": "x"}),
    ]


def test_a_query_outside_of_a_run_writes_nothing(tmp_path: Path) -> None:
    """pragma query_only."""
    path = make(tmp_path / "a.db", SCHEMA)
    database = opened(path)
    with pytest.raises(DatabaseFailed) as met:
        database.query("DELETE FROM p")
    assert "untouched" == met.value.state
    elsewhere(path, "DELETE FROM p")
    assert [(0,)] == database.query("SELECT count(*) FROM p").rows


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///nowhere.db", 'database "nowhere.db" does not exist'),
        ("sqlite:////", 'database "/" is a folder'),
        ("sqlite://host/x.db", '"sqlite://host/x.db" names a host'),
        ("postgresql://x", '"postgresql://x" is not a SQLite URL'),
        ("sqlite:x.db?mode=ro", '"mode" is not an option of a SQLite URL'),
        ("sqlite:x.db?foreign_keys=1", 'foreign_keys is "1"'),
    ],
)
def test_a_url_that_names_no_database_is_a_usage_error(url: str, message: str) -> None:
    """And nothing is created."""
    with pytest.raises(UsageError) as met:
        connect(Settings(url=url, environment="test"))
    assert message == met.value.message
    assert not Path("nowhere.db").exists()


def test_a_file_that_is_no_database_is_a_usage_error(tmp_path: Path) -> None:
    """SQLITE_NOTADB."""
    path = tmp_path / "a.db"
    path.write_bytes(
        b"hello, I am a text file and longer than a header of a database: 100 bytes of it have to be here, at least"
    )
    with pytest.raises(UsageError) as met:
        opened(path)
    assert f'"{path}" is not a SQLite database' == met.value.message
