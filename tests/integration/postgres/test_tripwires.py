"""What no capture can explain fails the proof before COMMIT; and what only looks like it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import DatabaseFailed, ProofFailed, Refused
from integration.postgres.stage import Rights, Stage, failure, stage_for, text_of
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');
CREATE TABLE empty (id int PRIMARY KEY); CREATE SEQUENCE numbers; SELECT setval('numbers', 50);
CREATE DOMAIN word AS text; CREATE VIEW seen AS SELECT * FROM t;
CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM t;
CREATE SEQUENCE downward INCREMENT -1; SELECT nextval('downward');
CREATE SEQUENCE round MAXVALUE 2 CYCLE; SELECT nextval('round');
CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER quiet BEFORE UPDATE ON empty FOR EACH ROW EXECUTE FUNCTION quiet();
"""


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """A table, and things to drop."""
    found = stage_for(postgres, tmp_path, lock_timeout='"1500 ms"')  # long enough to look who waits meanwhile
    found.make(SCHEMA)
    return found


def hidden(stage: Stage, body: str, *, owner: str = "application") -> str:
    """A change that updates a row and calls a function that does `body`."""
    stage.database.execute(
        (
            "CREATE FUNCTION public.hidden() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $hidden$ BEGIN "
            f"{body}; END $hidden$"
        ),
        role=owner,
    )
    return "UPDATE t SET v = 'x' WHERE id = 1; SELECT hidden();"


CATALOGUE = """
SELECT 'relation', c.oid::text, c.relname::text, c.relnatts::text || c.relfilenode || coalesce(c.relacl::text, '')
  FROM pg_class c WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'column', attrelid::text, attname, atthasdef::text
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', oid::text, proname, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'type', oid::text, typname, '' FROM pg_type WHERE typnamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', oid::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'sequence', seqrelid::text, '', seqincrement::text
  FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'comment', objoid::text, '', description FROM pg_description WHERE objoid >= 16384
UNION ALL SELECT 'large object', oid::text, '', '' FROM pg_largeobject_metadata
ORDER BY 1, 2, 3, 4
"""

DDL = {
    "add column": "ALTER TABLE t ADD w int",
    "drop column": "ALTER TABLE t DROP v CASCADE",
    "set default": "ALTER TABLE t ALTER v SET DEFAULT 'z'",
    "create table": "CREATE TABLE made (id int)",
    "create table as": "CREATE TABLE made AS SELECT * FROM t",
    "create index": "CREATE INDEX ON t (v)",
    "create function": "CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "create type": "CREATE TYPE made AS ENUM ('a')",
    "create view": "CREATE VIEW made AS SELECT 1",
    "replace view": "CREATE OR REPLACE VIEW seen AS SELECT id, upper(v) AS v FROM t",
    "create trigger": "CREATE TRIGGER more BEFORE UPDATE ON empty FOR EACH ROW EXECUTE FUNCTION quiet()",
    "disable trigger": "ALTER TABLE empty DISABLE TRIGGER quiet",
    "drop empty table": "DROP TABLE empty",
    "drop changed table": "DROP TABLE t CASCADE",
    "drop view": "DROP VIEW seen",
    "drop materialized view": "DROP MATERIALIZED VIEW sums",
    "drop sequence": "DROP SEQUENCE numbers",
    "drop domain": "DROP DOMAIN word",
    "drop function": "DROP FUNCTION quiet CASCADE",
    "alter sequence": "ALTER SEQUENCE numbers INCREMENT 7",
    "restart sequence": "ALTER SEQUENCE numbers RESTART",
    "comment": "COMMENT ON TABLE t IS 'x'",
    "grant": "GRANT SELECT ON t TO PUBLIC",
    "truncate": "TRUNCATE empty",
    "truncate changed": "TRUNCATE t",
    "refresh": "REFRESH MATERIALIZED VIEW sums",
    "lock": "LOCK TABLE empty IN ACCESS EXCLUSIVE MODE",
    "analyze": "ANALYZE t",
    "setval back": "PERFORM setval('numbers', 5)",
    "setval to before the first": "PERFORM setval('numbers', 1, false)",
    "setval forward on a descending one": "PERFORM setval('downward', -1), nextval('downward'), setval('downward', -1)",
    "large object": "PERFORM lo_from_bytea(0, '\\x00')",
}


#: On a table that the change names, these wait for the session that still sees the past, until lock_timeout ends it.
WAITING = ("add column", "drop column", "set default", "drop changed table", "truncate changed")


@pytest.mark.parametrize("what", DDL)
def test_what_a_function_hides_fails_the_proof(stage: Stage, what: str) -> None:
    """Exit 6; rows and catalogue are as they were."""
    change = hidden(stage, DDL[what])
    if what == "setval forward on a descending one":
        stage.database.execute("SELECT nextval('downward'), nextval('downward')", role="application")
    catalogue = stage.rows(CATALOGUE)
    error = stage.refuses(change)
    assert (type(error), error.exit_status, error.state) == (ProofFailed, 6, "rolled back")
    assert catalogue == stage.rows(CATALOGUE)
    assert stage.journal() == [(1, "real", "rolled back")]


def test_the_error_says_what_was_found(stage: Stage) -> None:
    """The whole text."""
    error = stage.refuses(hidden(stage, "DROP TABLE empty"))
    assert text_of(error) == [
        (
            "the completeness proof failed: DDL ran in a function: relation empty is gone; "
            "DDL ran in a function: relation empty_pkey is gone; DDL ran in a function: type _empty is gone; "
            "DDL ran in a function: type empty is gone"
        ),
        "state: rolled back",
        "hint: what the change does cannot be taken back for certain: write it with plain INSERT, UPDATE and DELETE",
    ]


@pytest.mark.parametrize("what", WAITING)
def test_what_a_function_hides_fails_the_proof_on_a_table_that_the_change_does_not_name(
    stage: Stage, what: str
) -> None:
    """Nothing waits then, and the tripwire fires."""
    stage.make("CREATE FUNCTION quietly() RETURNS void LANGUAGE sql AS $$ UPDATE t SET v = 'x' WHERE id = 1 $$")
    change = hidden(stage, DDL[what]).replace("UPDATE t SET v = 'x' WHERE id = 1", "SELECT quietly()")
    catalogue = stage.rows(CATALOGUE)
    assert isinstance(stage.refuses(change), ProofFailed)
    assert catalogue == stage.rows(CATALOGUE)


def test_the_error_of_a_lock_that_excludes_our_own_readers_says_what_was_found(stage: Stage) -> None:
    """The whole text."""
    assert text_of(stage.refuses(hidden(stage, "ALTER TABLE t ADD w int"))) == [
        (
            'the completeness proof failed: "public.t" was to be held with AccessExclusiveLock: DDL, TRUNCATE or LOCK '
            f"TABLE ran in a function ({stage.folder}/change-1.sql:5)"
        ),
        "state: rolled back",
        "hint: what the change does cannot be taken back for certain: write it with plain INSERT, UPDATE and DELETE",
    ]


@pytest.mark.parametrize("columns", ["", "id int GENERATED ALWAYS AS (1) STORED"], ids=["none", "only generated"])
def test_a_table_without_columns_is_refused(stage: Stage, columns: str) -> None:
    """The whole text."""
    stage.make(f"CREATE TABLE nothing ({columns})")
    error = stage.refuses("INSERT INTO nothing DEFAULT VALUES")
    assert isinstance(error, Refused)
    assert text_of(error) == [
        'table "public.nothing" has no column that can be written: its rows are all alike, and none can be put back',
        "state: rolled back",
        "hint: give it a column",
    ]


def test_a_dropped_schema_fails_the_proof(stage: Stage) -> None:
    """An empty schema has no relation that would show."""
    stage.database.execute(f"CREATE SCHEMA spare AUTHORIZATION {stage.database.application_role}")
    error = stage.refuses(hidden(stage, "DROP SCHEMA spare"))
    assert "DDL ran in a function: schema spare is gone" in error.message


def test_a_write_to_a_foreign_table_fails_the_proof(stage: Stage) -> None:
    """Its rows are on another server."""
    database = stage.database
    if not database.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'")[0][0]:
        pytest.skip("this server has no postgres_fdw")
    database.execute(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw "
        f"OPTIONS (host '127.0.0.1', port '{database.server.port}', dbname '{database.name}');"
        f"CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (user '{database.application_role}', "
        "password 'roles in throw-away databases');"
        "CREATE FOREIGN TABLE far (id int, v text) SERVER other OPTIONS (table_name 't');"
        f"GRANT ALL ON far TO {database.application_role}"
    )
    error = failure(lambda: stage.run("INSERT INTO far VALUES (9, 'far')"))
    assert isinstance(error, ProofFailed)
    assert 'foreign table "public.far" was written to: its rows are on another server' in error.message
    assert stage.rows("SELECT count(*) FROM t") == [(2,)]


@pytest.mark.parametrize("table", ["backout.run", "rescue.run_1_1_before"])
def test_a_write_to_the_journal_or_the_rescue_fails_the_proof(
    postgres: PostgresDatabase, tmp_path: Path, table: str
) -> None:
    """Where no role is set, the change runs as the role that owns them."""
    stage = stage_for(postgres, tmp_path, role="")
    stage.make(SCHEMA)
    stage.run("UPDATE t SET v = 'y' WHERE id = 2")
    column, only = ("title", "WHERE number = 1") if table == "backout.run" else ("v", "")
    kept = stage.rows(f"SELECT r::text FROM {table} r {only}")
    forge = f"CREATE FUNCTION public.forge() RETURNS void LANGUAGE sql AS $$ UPDATE {table} SET {column} = 'forged' $$"
    postgres.execute(forge)
    before = stage.dump()
    error = failure(lambda: stage.run("UPDATE t SET v = 'x' WHERE id = 1; SELECT forge();"))
    assert isinstance(error, ProofFailed)
    assert f'"{table}" belongs to backout and was written to' in error.message
    assert kept == stage.rows(f"SELECT r::text FROM {table} r {only}")
    assert before == stage.dump()


def test_with_a_role_the_change_has_no_right_to_the_journal(stage: Stage) -> None:
    """The role that changes run under may neither read nor write what is backout's."""
    stage.run("UPDATE t SET v = 'y' WHERE id = 2")
    for statement in (
        "UPDATE backout.run SET state = 1",
        "DELETE FROM rescue.run_1_1_before",
        "TABLE rescue.run_1_1_before",
    ):
        change = f"DO $$ BEGIN EXECUTE '{statement}'; END $$"
        error = failure(lambda text=change: stage.run(text))  # type: ignore[misc]
        assert isinstance(error, DatabaseFailed)
        assert "permission denied for schema" in error.message


@pytest.mark.parametrize(("setting", "value"), [("session_replication_role", "replica"), ("track_counts", "off")])
def test_a_setting_that_a_superusers_function_changes_fails_the_proof(stage: Stage, setting: str, value: str) -> None:
    """Set for the session, in a SECURITY DEFINER function, and left so."""
    change = hidden(stage, f"PERFORM set_config('{setting}', '{value}', false)", owner="superuser")
    error = stage.refuses(change)
    assert isinstance(error, ProofFailed)
    assert f"`{setting}` was " in error.message


def test_counts_that_were_switched_off_for_a_moment_fail_the_proof(stage: Stage) -> None:
    """More rows are found than were counted."""
    change = hidden(
        stage,
        "PERFORM set_config('track_counts', 'off', false); UPDATE t SET v = 'secret' WHERE id = 2; "
        "PERFORM set_config('track_counts', 'on', false)",
        owner="superuser",
    )
    error = stage.refuses(change)
    assert isinstance(error, ProofFailed)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            "track_counts = off",
            "`track_counts` is off for this session: nothing that is written could be proven complete",
        ),
        (
            "session_replication_role = replica",
            "`session_replication_role` is 'replica': triggers and foreign keys would not fire",
        ),
    ],
)  # fmt: skip
def test_a_session_in_which_nothing_can_be_proven_is_refused_at_once(stage: Stage, setting: str, text: str) -> None:
    """A default of the database or the role."""
    stage.database.execute(f"ALTER DATABASE {stage.database.name} SET {setting}")
    error = stage.refuses("UPDATE t SET v = 'x'")
    assert isinstance(error, Refused)
    assert (error.message, error.state) == (text, "untouched")


INNOCENT = {
    "temporary tables": "CREATE TEMP TABLE chosen (id int PRIMARY KEY, n serial, w text DEFAULT 'x' CHECK (w <> '')); "
    "CREATE INDEX ON chosen (w); INSERT INTO chosen (id) SELECT id FROM t; "
    "UPDATE t SET v = 'y' FROM chosen WHERE chosen.id = t.id;",
    "a temporary table dropped": "CREATE TEMP TABLE chosen AS SELECT id FROM t; UPDATE t SET v = 'y' FROM chosen; "
    "DROP TABLE chosen;",
    "a temporary table that shadows": (
        "CREATE TEMP TABLE t AS SELECT * FROM public.t; UPDATE t SET v = 'z'; UPDATE public.t SET v = 'y'; "
        "DROP TABLE t;"
    ),
    "nextval": (
        "UPDATE t SET v = nextval('numbers')::text || nextval('downward') || nextval('round') || nextval('round') || "
        "nextval('round');"
    ),
    "savepoints in a block": "DO $$ BEGIN FOR i IN 1..20 LOOP BEGIN UPDATE t SET v = i::text; "
    "IF i % 2 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;",
    "advisory locks": "SELECT pg_advisory_xact_lock(7), pg_advisory_lock(8); UPDATE t SET v = 'y'; "
    "SELECT pg_advisory_unlock(8);",
    "row locks": (
        "SELECT id FROM t FOR UPDATE; SELECT id FROM empty FOR SHARE; LOCK TABLE t IN ROW EXCLUSIVE MODE; "
        "UPDATE t SET v = 'y' WHERE id = 1;"
    ),
    "a temporary table in a function": "DO $$ BEGIN CREATE TEMP TABLE inner_one ON COMMIT DROP AS SELECT 1 AS a; "
    "UPDATE t SET v = a::text FROM inner_one; DROP TABLE inner_one; END $$;",
    "settings": (
        "SET LOCAL work_mem = '8MB'; SET search_path = public; SET DateStyle = 'German'; "
        "SET TimeZone = 'Asia/Tokyo'; UPDATE t SET v = now()::text;"
    ),
}


@pytest.mark.parametrize("rights", Rights, ids=lambda rights: rights.value)
@pytest.mark.parametrize("what", INNOCENT)
def test_what_is_innocent_is_captured_and_undone(
    postgres: PostgresDatabase, tmp_path: Path, what: str, rights: Rights
) -> None:
    """No tripwire fires."""
    stage = stage_for(postgres, tmp_path, rights)
    stage.make(SCHEMA)
    stage.proves(INNOCENT[what])


def test_what_others_do_to_the_schema_meanwhile_is_not_ours(stage: Stage) -> None:
    """Another session adds a table, a column and a function while the run is open."""
    script = (
        "import psycopg\n"
        "def apply(db):\n"
        "    db.execute('CREATE TEMP TABLE mine (id int)')\n"
        "    db.execute(\"UPDATE t SET v = 'x'\")\n"
        f"    with psycopg.connect({stage.database.application_url!r}, autocommit=True) as other:\n"
        "        other.execute('CREATE TABLE IF NOT EXISTS others (id int); "
        "ALTER TABLE empty ADD COLUMN IF NOT EXISTS n int')\n"
        "        other.execute(\"CREATE OR REPLACE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'\")\n"
        "        other.execute(\"DROP TABLE IF EXISTS others; SELECT nextval('numbers')\")\n"
    )
    report = stage.run(script, suffix=".py")
    assert report.outcome.value == "committed"
    stage.undo(report)
    assert stage.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "b")]
