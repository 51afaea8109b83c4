"""The twenty cases on which row-undo tools lose data, second part: types, names, keys, triggers."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from integration.postgres.stage import Rights, Stage, stage_for
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

LONG = "a_name_that_is_as_long_as_postgresql_allows_it_to_be_sixty_thre"  # 63 bytes; the first 62 are shared below


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """An empty database, under both ways past triggers and foreign keys."""
    return stage_for(postgres, tmp_path, request.param)


def test_types_without_equality_are_captured(stage: Stage) -> None:
    """Case 9: json, point and their like, arrays of them, and values that are equal but not the same."""
    stage.make(
        "CREATE TABLE odd (id int PRIMARY KEY, j json, p point, js json[], b box, n numeric, f float8, c "
        "char(5), v bytea);"
        "INSERT INTO odd VALUES (1, '{\"a\":  1}', '(1,2)', ARRAY['{}'::json], '(1,1),(0,0)', 1.0, '-0', 'ab', "
        "'\\x00ff'),"
        " (2, '[1, 2]', '(3,4)', NULL, NULL, 1.50, 'NaN', '', ''), (3, NULL, NULL, NULL, NULL, 'NaN', 0.1, NULL, NULL);"
    )
    stage.proves(
        "UPDATE odd SET j = '{\"a\": 1}', n = 1.00, f = 0 WHERE id = 1; UPDATE odd SET p = '(9,9)' WHERE id = 2;"
        "DELETE FROM odd WHERE id = 3;"
    )


def test_types_without_equality_are_captured_in_a_table_without_a_key(stage: Stage) -> None:
    """Case 9."""
    stage.make(
        "CREATE TABLE odd (j json, p point, n numeric, r float4);"
        "INSERT INTO odd VALUES ('{\"a\":  1}', '(1,2)', 1.0, 0.1), ('{\"a\": 1}', '(1,2)', 1.00, 0.1), (NULL, "
        "NULL, NULL, '-0');"
    )
    stage.proves(
        "UPDATE odd SET n = n * 2, r = r + 1 WHERE j::text = '{\"a\": 1}'; UPDATE odd SET r = 0 WHERE n IS NULL;"
    )


def test_xml_is_captured(stage: Stage) -> None:
    """Case 9."""
    try:
        stage.make(
            "CREATE TABLE letter (id int PRIMARY KEY, body xml); "
            "INSERT INTO letter VALUES (1, '<a>1</a>'), (2, '<b/>');"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without libxml")
    stage.proves("UPDATE letter SET body = '<a>2</a>' WHERE id = 1; DELETE FROM letter WHERE id = 2;")


def test_the_users_own_types_are_captured(stage: Stage) -> None:
    """Case 9: enum, domain, composite, range and arrays of them, also as keys; whatever the role's time zone."""
    stage.make(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);"
        "CREATE TYPE moment AS (at timestamptz, who text); CREATE TYPE span AS RANGE (subtype = timestamptz);"
        "CREATE TABLE diary (mood mood, day positive, what moment, span span, moods mood[], PRIMARY KEY (mood, day));"
        "CREATE TABLE page (at moment PRIMARY KEY, text text); CREATE TABLE heap (what moment, mood mood);"
        "INSERT INTO diary VALUES ('sad', 1, ROW('2026-01-01 12:00+01', 'me, \"you\"'), '[2026-01-01, "
        "2026-02-01)', '{sad,glad}'),"
        " ('glad', 1, NULL, NULL, '{}'), ('glad', 2, NULL, NULL, '{}');"
        "INSERT INTO page VALUES (ROW('2026-01-01 12:00+01', 'x'), 'a'), (ROW(NULL, 'y'), 'b');"
        "INSERT INTO heap SELECT what, mood FROM diary;"
    )
    stage.database.execute(f"ALTER ROLE {stage.database.login_role} SET TimeZone = 'Asia/Tokyo'")
    stage.proves(
        "UPDATE diary SET what = ROW('2026-03-01 12:00+01', 'us'), moods = moods || 'sad'::mood WHERE mood = 'sad';"
        "UPDATE diary SET mood = 'sad' WHERE day = 2; DELETE FROM page WHERE text = 'b'; UPDATE page SET text = 'c';"
        "UPDATE heap SET mood = 'glad' WHERE what IS NOT NULL;"
    )


def test_aliases_qualified_and_quoted_names_are_read_by_the_server(stage: Stage) -> None:
    """Case 10: backout never rewrites the change's SQL; a CTE may shadow a table, an alias a column."""
    stage.make(
        'CREATE TABLE "Ta""ble. One" (t int PRIMARY KEY, "p q" text, q text, "backout_made_by_run" int, i int, x int);'
        "INSERT INTO \"Ta\"\"ble. One\" VALUES (1, 'a', 'b', 1, 1, 1), (2, 'c', 'd', 2, 2, 2);"
        "CREATE TABLE d (id int PRIMARY KEY, p text, t text); INSERT INTO d VALUES (1, 'x', 'y'), (2, 'z', 'w');"
    )
    stage.proves(
        'WITH d AS (SELECT 1 AS id) UPDATE "Ta""ble. One" AS t SET "p q" = t.q, i = x + 1 FROM d WHERE d.id = t.t;'
        "WITH d AS (SELECT 2 AS id) UPDATE public.d AS q SET t = q.p FROM d WHERE d.id = q.id;"
        'DELETE FROM public."Ta""ble. One" AS p WHERE p.t = 2;'
    )


def test_names_that_share_their_first_bytes_do_not_collide(stage: Stage) -> None:
    """Case 18: names of 63 bytes, in upper case, with quotes, spaces, dots and letters of several bytes."""
    names = [f"{LONG[:62]}{end}" for end in "ab"] + ['Über "all".x y', "UPPER", "upper", "%s {0} $1 'q'", "ü" * 31]
    tables = [name.replace('"', '""') for name in names]
    for name in tables:
        column = name[:31]
        stage.make(
            f'CREATE TABLE "{name}" ("{column}" int PRIMARY KEY, "V %s" text, "{{x}}" text);'
            f"INSERT INTO \"{name}\" VALUES (1, 'a', 'b'), (2, 'c', 'd')"
        )
    report = stage.proves(
        "".join(f'UPDATE "{name}" SET "V %s" = \'z\'; DELETE FROM "{name}" WHERE "{{x}}" = \'d\';' for name in tables)
    )
    assert len(report.tables) == len(names)


def test_schemas_with_one_table_name_are_told_apart(stage: Stage) -> None:
    """Cases 10 and 18: what a bare name means depends on search_path, at the moment of the statement."""
    database = stage.database
    database.execute(f'CREATE SCHEMA "A.b" AUTHORIZATION {database.application_role}')
    database.execute(f'CREATE SCHEMA "a" AUTHORIZATION {database.application_role}')
    stage.make(
        'CREATE TABLE "A.b".t (id int PRIMARY KEY, x int, y int); CREATE TABLE a.t (id int PRIMARY KEY, x int, y int);'
        'INSERT INTO "A.b".t VALUES (1, 1, 1), (2, 2, 2); INSERT INTO a.t VALUES (1, 1, 1), (2, 2, 2)'
    )
    stage.proves('SET search_path = "A.b"; UPDATE t SET x = 9; SET search_path = a; UPDATE t SET y = 8;')


def test_a_function_cannot_hide_a_column_behind_a_bare_name(stage: Stage) -> None:
    """Cases 2 and 12: two UPDATEs of a bare name mean two tables; a function writes more of the second."""
    database = stage.database
    database.execute(f"CREATE SCHEMA one AUTHORIZATION {database.application_role}")
    database.execute(f"CREATE SCHEMA two AUTHORIZATION {database.application_role}")
    stage.make(
        "CREATE TABLE one.t (id int PRIMARY KEY, x int, z int); CREATE TABLE two.t (id int PRIMARY KEY, x int, z int);"
        "INSERT INTO one.t VALUES (1, 1, 1), (2, 2, 2); INSERT INTO two.t VALUES (1, 1, 1), (2, 2, 2);"
        "CREATE FUNCTION write_z() RETURNS void LANGUAGE sql AS 'UPDATE two.t SET z = 99'"
    )
    stage.proves("SET search_path = one; UPDATE t SET x = 9; SET search_path = two, public; SELECT write_z();")


TRIGGERS = """
CREATE TABLE referral (id int PRIMARY KEY, status text, updated_at timestamptz NOT NULL DEFAULT '2020-01-01');
CREATE TABLE audit (
 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
 'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END';
CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS
 'BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END';
CREATE TRIGGER stamp BEFORE UPDATE ON referral FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER write_audit AFTER INSERT OR UPDATE OR DELETE ON referral FOR EACH ROW EXECUTE FUNCTION write_audit();
INSERT INTO referral (id, status) VALUES (1, 'open'), (2, 'open'), (3, 'open');
"""


@pytest.mark.parametrize("enabled", ["DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA"])
def test_triggers_that_fire_always_or_in_replicas_do_not_fire_either(stage: Stage, enabled: str) -> None:
    """Case 13: ENABLE ALWAYS and ENABLE REPLICA fire in the replica role; each stays what it was."""
    stage.make(
        f"{TRIGGERS} ALTER TABLE referral {enabled} TRIGGER stamp; ALTER TABLE referral {enabled} TRIGGER write_audit;"
    )
    stage.proves("UPDATE referral SET status = 'closed' WHERE id < 3; DELETE FROM referral WHERE id = 3;")


def test_a_unique_index_serves_as_key(stage: Stage) -> None:
    """Case 14: partial and expression indexes are no keys, and are respected."""
    stage.make(
        "CREATE TABLE person (code text NOT NULL, mail text, active boolean); "
        "CREATE UNIQUE INDEX ON person (lower(mail));"
        "CREATE UNIQUE INDEX ON person (mail) WHERE active; CREATE UNIQUE INDEX ON person (code);"
        "INSERT INTO person VALUES ('a', 'A@x', true), ('b', 'B@x', false), ('c', 'C@x', true);"
        "CREATE TABLE loose (code text, mail text); CREATE UNIQUE INDEX ON loose (lower(mail)); "
        "CREATE UNIQUE INDEX ON loose (code); INSERT INTO loose VALUES ('a', 'A'), (NULL, 'B'), (NULL, 'C');"
    )
    stage.proves(
        "UPDATE person SET mail = 'z@x' WHERE code = 'a'; UPDATE person SET mail = 'a@X', active = true WHERE "
        "code = 'b';"
        "DELETE FROM person WHERE code = 'c'; UPDATE loose SET mail = mail || '!' WHERE code IS NULL; "
        "DELETE FROM loose WHERE code = 'a';"
    )


def test_columns_renamed_added_and_dropped_since_are_matched(stage: Stage) -> None:
    """Case 15: an added column keeps its value, a renamed one is found, a dropped one is reported."""
    stage.make(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c int); "
        "INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'A', 'B', 2);"
    )
    report = stage.run("UPDATE t SET a = 'x', b = 'y', c = c + 10; DELETE FROM t WHERE id = 2;")
    stage.elsewhere(
        "ALTER TABLE t RENAME a TO aa; ALTER TABLE t ADD a text DEFAULT 'new'; ALTER TABLE t DROP b; "
        "ALTER TABLE t RENAME id TO nr;"
        "UPDATE t SET a = 'kept'; ALTER TABLE t RENAME TO tt;"
    )
    undone = stage.undo(report)
    assert stage.rows("SELECT nr, aa, c, a FROM tt ORDER BY 1") == [(1, "a", 1, "kept"), (2, "A", 2, "new")]
    assert undone.notes == (
        'column "id" of "public.t" is called "nr" now',
        'column "a" of "public.t" is called "aa" now',
        'column "b" of "public.t" was dropped since: its values are not put back',
    )


def test_a_column_whose_type_changed_since_is_put_back_in_the_new_type(stage: Stage) -> None:
    """Case 15."""
    stage.make(
        "CREATE TABLE t (id int PRIMARY KEY, a int, n numeric(6,2), v varchar(9)); "
        "INSERT INTO t VALUES (1, 1, 1.5, 'a'), (2, 2, 2.5, 'b');"
    )
    report = stage.run("UPDATE t SET a = a + 10, n = n + 1, v = v || 'x'; DELETE FROM t WHERE id = 2;")
    stage.elsewhere(
        "ALTER TABLE t ALTER a TYPE bigint, ALTER n TYPE numeric(9,4), ALTER v TYPE text, ALTER id TYPE bigint"
    )
    stage.undo(report)
    assert stage.rows("SELECT id, a, n::text, v FROM t ORDER BY 1") == [(1, 1, "1.5000", "a"), (2, 2, "2.5000", "b")]


def test_a_changed_key_is_undone(stage: Stage) -> None:
    """Case 19: keys moved, two keys swapped, in one statement and over a third value."""
    stage.make(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd');"
        "CREATE TABLE s (id text PRIMARY KEY DEFERRABLE, v numeric); INSERT INTO s VALUES ('1', 1.0), ('2', 1.00);"
        "CREATE TABLE n (id numeric PRIMARY KEY, v text); INSERT INTO n VALUES (1.0, 'a'), (2.0, 'b');"
    )
    stage.proves(
        "UPDATE t SET id = id + 100; UPDATE t SET id = 0 WHERE id = 101; UPDATE t SET id = 101 WHERE id = 102;"
        "UPDATE t SET id = 102 WHERE id = 0; UPDATE s SET id = (3 - id::int)::text; "
        "UPDATE n SET id = 1.00 WHERE id = 1;"
    )


@pytest.mark.parametrize("key", ["PRIMARY KEY", "PRIMARY KEY DEFERRABLE"])
def test_values_of_a_unique_column_that_were_swapped_are_undone(stage: Stage, key: str) -> None:
    """Case 19: a swap of two keys beside another unique column, and a circle of three values."""
    stage.make(
        f"CREATE TABLE t (id int {key}, code text UNIQUE, note text);"
        "INSERT INTO t VALUES (1, 'a', 'A'), (2, 'b', 'B'), (3, 'c', 'C'), (4, 'd', 'D'), (5, 'e', 'E');"
    )
    stage.proves(
        "UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0;"
        "UPDATE t SET code = code || '!' WHERE id > 2;"
        "UPDATE t SET code = CASE code WHEN 'c!' THEN 'd' WHEN 'd!' THEN 'e' ELSE 'c' END WHERE id > 2;"
    )
