"""The twenty cases on which row-undo tools lose data, third part: kinds of statements, others' writes, hidden rows."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from backout.errors import ProofFailed, Refused
from integration.postgres.stage import Rights, Stage, failure, stage_for, text_of, wait_until, waits_for_lock
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

STOCK = """
CREATE TABLE stock (id int PRIMARY KEY, item text UNIQUE, amount int);
CREATE TABLE log (line text);
INSERT INTO stock VALUES (1, 'pen', 5), (2, 'ink', 7), (3, 'cup', 0);
CREATE FUNCTION sell(which int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  UPDATE stock SET amount = amount - 1 WHERE id = which; INSERT INTO log VALUES ('sold ' || which); RETURN which;
END $$;
CREATE PROCEDURE restock() LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO stock VALUES (9, 'new', 1); UPDATE stock SET amount = amount + 10; DELETE FROM stock WHERE id = 2; END $$;
CREATE FUNCTION try_hard() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  BEGIN INSERT INTO stock VALUES (1, 'twice', 1); EXCEPTION WHEN unique_violation THEN
    UPDATE stock SET amount = 99 WHERE id = 1; END;
  BEGIN UPDATE stock SET amount = 1 / 0; EXCEPTION WHEN division_by_zero THEN DELETE FROM stock WHERE id = 3; END;
END $$;
CREATE FUNCTION wipe() RETURNS void LANGUAGE plpgsql AS $$ BEGIN TRUNCATE stock; END $$;
"""


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """A stock and functions that write to it."""
    found = stage_for(postgres, tmp_path, request.param)
    found.make(STOCK)
    return found


@pytest.mark.parametrize(
    ("statement", "reason", "hint"),
    [
        ("TRUNCATE stock;", "TRUNCATE cannot be captured: it removes rows without touching each", "use DELETE"),
        (
            "COPY stock FROM STDIN;",
            "COPY FROM STDIN has no input in a change file",
            "use INSERT … VALUES, or a Python change",
        ),
        ("COPY stock FROM '/tmp/x';", "COPY of a server's file reaches outside the database", "use INSERT … VALUES"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_is_refused_before_it_runs(
    stage: Stage, statement: str, reason: str, hint: str
) -> None:
    """Case 12."""
    error = stage.refuses(statement)
    assert isinstance(error, Refused)
    assert text_of(error) == [
        f"{stage.folder}/change-1.sql:5: not undoable: {reason}",
        "state: untouched",
        f"hint: {hint}",
    ]


def test_a_truncate_inside_a_function_fails_the_proof(stage: Stage) -> None:
    """Case 12."""
    assert isinstance(stage.refuses("SELECT wipe();"), ProofFailed)


@pytest.mark.parametrize(
    "predicate",
    [
        "WHERE random() < 0.5",
        "WHERE id IN (SELECT id FROM many LIMIT 77)",
        "WHERE id IN (SELECT id FROM many TABLESAMPLE BERNOULLI (40))",
        "WHERE at < clock_timestamp()",
    ],
)  # fmt: skip
def test_a_volatile_predicate_is_captured_as_it_fell(stage: Stage, predicate: str) -> None:
    """Case 16."""
    stage.make(
        "CREATE TABLE many (id int PRIMARY KEY, v float8 DEFAULT 0, at timestamptz DEFAULT now());"
        "INSERT INTO many (id) SELECT generate_series(1, 500)"
    )
    before = stage.dump()
    stage.undo(stage.run(f"UPDATE many SET v = random() {predicate};"))
    assert before == stage.dump()
    stage.undo(stage.run(f"DELETE FROM many {predicate};"))
    assert before == stage.dump()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_what_others_commit_meanwhile_is_neither_captured_nor_undone(
    postgres: PostgresDatabase, tmp_path: Path, isolation: str
) -> None:
    """Case 17: another session changes other rows of the same table, before and after the run touches it."""
    stage = stage_for(postgres, tmp_path, isolation=f'"{isolation}"', lock_timeout='"20 s"')
    stage.make(STOCK)
    blocker = postgres.connect("application", autocommit=False)
    blocker.execute("LOCK TABLE log IN SHARE MODE")
    raised: list[BaseException] = []

    def act() -> None:
        try:
            stage.run(
                "UPDATE stock SET amount = 100 WHERE id = 1; INSERT INTO log VALUES ('x'); "
                "UPDATE stock SET item = 'PEN' WHERE id = 1;"
            )
        except BaseException as error:  # noqa: BLE001 -- told to the test
            raised.append(error)

    thread = Thread(target=act)
    thread.start()
    wait_until(lambda: _somebody_waits(postgres))
    stage.elsewhere(
        "UPDATE stock SET amount = 70 WHERE id = 2; DELETE FROM stock WHERE id = 3; "
        "INSERT INTO stock VALUES (8, 'o', 8);"
    )
    blocker.commit()
    thread.join()
    assert raised == []
    stage.undo("test-1")
    assert stage.rows("SELECT * FROM stock ORDER BY id") == [(1, "pen", 5), (2, "ink", 70), (8, "o", 8)]
    assert stage.rows("SELECT * FROM log") == []


def _somebody_waits(database: PostgresDatabase) -> bool:
    return any(
        waits_for_lock(database, pid)
        for (pid,) in database.execute("SELECT DISTINCT pid FROM pg_locks WHERE NOT granted")
    )


def test_a_row_that_others_committed_before_the_statement_saw_it_is_captured(
    postgres: PostgresDatabase, tmp_path: Path
) -> None:
    """Case 17: the statement waits for another's row and then changes what that one left."""
    stage = stage_for(postgres, tmp_path, lock_timeout='"20 s"')
    stage.make(STOCK)
    other = postgres.connect("application", autocommit=False)
    other.execute("UPDATE stock SET amount = 1000 WHERE id = 1")
    thread = Thread(
        target=lambda: stage.run("UPDATE stock SET amount = amount + 1; DELETE FROM stock WHERE amount > 1000;")
    )
    thread.start()
    wait_until(lambda: _somebody_waits(postgres))
    other.commit()
    thread.join()
    assert stage.rows("SELECT id FROM stock ORDER BY id") == [(2,), (3,)]
    stage.undo("test-1")
    assert stage.rows("SELECT id, amount FROM stock ORDER BY id") == [(1, 1000), (2, 7), (3, 0)]


def test_rows_hidden_by_forced_row_security_are_an_error(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """Case 20: `UPDATE 0` is never reported as success."""
    stage = stage_for(postgres, tmp_path)
    stage.make(
        f"{STOCK} ALTER TABLE stock ENABLE ROW LEVEL SECURITY; ALTER TABLE stock FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON stock USING (amount > 5)"
    )
    error = stage.refuses("UPDATE stock SET amount = 0;")
    assert text_of(error) == [
        (
            f'{stage.folder}/change-1.sql:5: unable to run the statement: query would be affected by row-level '
            'security policy for table "stock"'
        ),
        "state: rolled back",
        ("hint: row-level security would hide rows from this role: use a role that sees them all (BYPASSRLS, or the "
        "owner where it is not FORCEd), or write the change against what it may see"),
    ]  # fmt: skip


PARTITIONS = """
CREATE TABLE visit (id int, year int, note text, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM (2025) TO (2026);
CREATE TABLE visit_2026 PARTITION OF visit FOR VALUES FROM (2026) TO (2027) PARTITION BY LIST (id);
CREATE TABLE visit_2026_low PARTITION OF visit_2026 FOR VALUES IN (1, 2, 3);
CREATE TABLE visit_2026_rest PARTITION OF visit_2026 DEFAULT;
INSERT INTO visit VALUES (1, 2025, 'a'), (2, 2025, 'b'), (3, 2026, 'c'), (9, 2026, 'd');
"""


def test_a_trigger_on_a_partitioned_table_does_not_spoil_the_undo(stage: Stage) -> None:
    """Cases 13 and 20."""
    stage.make(
        f"{PARTITIONS} CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.note := coalesce(NEW.note, '''') || ''!''; RETURN NEW; END';"
        "CREATE TRIGGER mark BEFORE INSERT OR UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION mark();"
    )
    stage.proves(
        "UPDATE visit SET year = 2026 WHERE id = 1; UPDATE visit SET note = 'z' WHERE id = 3; "
        "DELETE FROM visit WHERE id = 2;"
    )


def test_a_view_and_a_rule_write_to_the_tables_behind_them(stage: Stage) -> None:
    """Case 12: an updatable view, and an INSTEAD OF trigger."""
    stage.make(
        "CREATE VIEW much AS SELECT * FROM stock WHERE amount > 1; CREATE VIEW names AS SELECT item FROM stock;"
        "CREATE FUNCTION named() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE stock SET item = NEW.item WHERE item = OLD.item; RETURN NEW; END $$;"
        "CREATE TRIGGER named INSTEAD OF UPDATE ON names FOR EACH ROW EXECUTE FUNCTION named();"
    )
    stage.proves("UPDATE much SET amount = 0; UPDATE names SET item = upper(item);")


def test_a_rule_on_a_table_does_not_spoil_the_undo(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """Case 12: a rule would fire in the undo; with the replica role it does not, else the run is refused."""
    stage = stage_for(postgres, tmp_path)
    stage.make(f"{STOCK} CREATE RULE also AS ON UPDATE TO stock DO ALSO INSERT INTO log VALUES ('changed ' || OLD.id)")
    error = stage.refuses("UPDATE stock SET amount = 0;")
    login = postgres.login_role
    assert text_of(error) == [
        (
            f'the undo of this run would not be exact: rule "also" would fire, and "{login}" may not keep it out '
            f'(it needs GRANT SET ON PARAMETER session_replication_role TO "{login}")'
        ),
        "state: untouched",
        "hint: give the right, or name the trigger's columns as `bookkeeping` and its tables as `append_only`",
    ]
    stage_for(postgres, tmp_path, Rights.REPLICA).proves("UPDATE stock SET amount = 0;")


def test_a_trigger_that_fires_always_is_refused_where_nobody_may_keep_it_out(
    postgres: PostgresDatabase, tmp_path: Path
) -> None:
    """Case 13: the replica role does not keep an ALWAYS trigger out; only the owner can disable it."""
    stage = stage_for(postgres, tmp_path, Rights.REPLICA)
    database = stage.database
    owner = database.create_role("owner")
    database.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);"
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v + 1; RETURN NEW; END';"
        "CREATE TRIGGER more BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION more(); "
        "ALTER TABLE t ENABLE ALWAYS TRIGGER more;"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {database.application_role}",
        role=owner,
    )
    error = failure(lambda: stage.run("UPDATE t SET v = 5;"))
    assert isinstance(error, Refused)
    assert error.state == "untouched"
    assert stage.dump() == {"t": ["(1,1)"]}
