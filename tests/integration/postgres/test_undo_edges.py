"""Tables of unusual shape, and what an undo has to do for them that no single UPDATE can."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import Conflicts
from integration.postgres.stage import Rights, Stage, conflicts, failure, stage_for
from servers import PostgresDatabase

pytestmark = pytest.mark.ends


@pytest.fixture(params=Rights, ids=lambda rights: rights.value)
def stage(request: pytest.FixtureRequest, postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """An empty database, under both ways past triggers and foreign keys."""
    return stage_for(postgres, tmp_path, request.param)


def test_a_key_whose_type_has_operators_of_its_own_is_found_again(stage: Stage) -> None:
    """As citext, ltree and isn have: their operators are not in pg_catalog, and there is no cast that would help."""
    stage.database.execute(
        "CREATE TYPE code; CREATE FUNCTION code_in(cstring) RETURNS code IMMUTABLE STRICT LANGUAGE internal AS "
        "'textin';"
        "CREATE FUNCTION code_out(code) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';"
        "CREATE TYPE code (input = code_in, output = code_out, internallength = variable, storage = extended, "
        "collatable = true);"
        "CREATE FUNCTION code_eq(code, code) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'texteq';"
        "CREATE FUNCTION code_lt(code, code) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'text_lt';"
        "CREATE FUNCTION code_le(code, code) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'text_le';"
        "CREATE FUNCTION code_gt(code, code) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'text_gt';"
        "CREATE FUNCTION code_ge(code, code) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'text_ge';"
        "CREATE FUNCTION code_cmp(code, code) RETURNS int IMMUTABLE STRICT LANGUAGE internal AS 'bttextcmp';"
        "CREATE OPERATOR = (leftarg = code, rightarg = code, function = code_eq, commutator = =, merges);"
        "CREATE OPERATOR < (leftarg = code, rightarg = code, function = code_lt);"
        "CREATE OPERATOR <= (leftarg = code, rightarg = code, function = code_le);"
        "CREATE OPERATOR > (leftarg = code, rightarg = code, function = code_gt);"
        "CREATE OPERATOR >= (leftarg = code, rightarg = code, function = code_ge);"
        "CREATE OPERATOR CLASS code_ops DEFAULT FOR TYPE code USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,"
        " OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 code_cmp(code, code)"
    )
    stage.make(
        "CREATE TABLE thing (code code PRIMARY KEY, v text);"
        "CREATE TABLE part (id int PRIMARY KEY, code code REFERENCES thing ON UPDATE CASCADE, v text);"
        "INSERT INTO thing VALUES ('a', '1'), ('b', '2'), ('c', '3'); "
        "INSERT INTO part VALUES (1, 'a', 'x'), (2, 'b', 'y')"
    )
    stage.proves(
        "UPDATE thing SET v = 'z'; DELETE FROM thing WHERE code = 'c'; UPDATE thing SET code = 'n' WHERE code = 'a'"
    )
    report = stage.run("UPDATE thing SET v = 'z'; DELETE FROM part")
    stage.elsewhere("UPDATE thing SET v = 'mine' WHERE code = 'b'")
    assert isinstance(failure(lambda: stage.undo(report)), Conflicts)
    stage.undo(report, partial=True)
    assert stage.rows("SELECT code::text, v FROM thing ORDER BY 1") == [("a", "1"), ("b", "mine"), ("c", "3")]


def test_keys_that_are_equal_and_not_the_same_are_put_back_as_they_were(stage: Stage) -> None:
    """1.0 is 1.00 to the index; also when other rows are in conflict."""
    stage.make(
        "CREATE TABLE n (id numeric PRIMARY KEY, v text); INSERT INTO n VALUES (1.0, 'a'), (2.0, 'b'), (3.0, 'c')"
    )
    report = stage.run("UPDATE n SET id = id::numeric(9, 4), v = upper(v)")
    stage.elsewhere("UPDATE n SET v = 'mine' WHERE id = 2")
    assert isinstance(failure(lambda: stage.undo(report)), Conflicts)
    stage.undo(report, partial=True)
    assert stage.rows("SELECT id::text, v FROM n ORDER BY id") == [("1.0", "a"), ("2.0000", "mine"), ("3.0", "c")]
    stage.elsewhere("UPDATE n SET v = 'B' WHERE id = 2")
    stage.undo(report)
    assert stage.rows("SELECT id::text, v FROM n ORDER BY id") == [("1.0", "a"), ("2.0", "b"), ("3.0", "c")]


@pytest.mark.parametrize(
    "name", ["t", "p", "q", "i", "x", "r", "c", "m", "g", "h", "n", "whole", "copies", "copy", "place"]
)
@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_columns_may_have_the_names_that_the_undo_uses_itself(
    postgres18: PostgresDatabase, tmp_path: Path, name: str, key: str
) -> None:
    """An alias never means a column."""
    stage = stage_for(postgres18, tmp_path)
    stage.make(
        f'CREATE TABLE "{name}" ("{name}" int {key}, backout_whole text, backout_copy int, identity text, v text);'
        f"INSERT INTO \"{name}\" VALUES (1, 'a', 1, 'i', 'v'), (2, 'b', 2, 'j', 'w'), (3, 'b', 2, 'j', 'w')"
    )
    stage.proves(
        f'UPDATE "{name}" SET v = \'z\', identity = \'k\' WHERE "{name}" = 1; DELETE FROM "{name}" WHERE "{name}" = 2;'
        f"INSERT INTO \"{name}\" VALUES (9, 'n', 9, 'n', 'n')"
    )


def test_temporary_tables_of_the_change_may_have_our_names(stage: Stage) -> None:
    """What backout needs for itself it makes after the change."""
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
    stage.proves(
        "CREATE TEMP TABLE backout_candidate (a int); CREATE TEMP TABLE backout_conflict (a int); "
        "CREATE TEMP TABLE backout_not_ours (a int); UPDATE t SET v = 9; UPDATE t SET v = 8"
    )


def test_a_table_without_a_key_goes_with_the_parent_that_the_run_made(stage: Stage) -> None:
    """Its rows are the run's own, so that ON DELETE CASCADE takes nobody else's."""
    stage.make(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (parent int REFERENCES parent ON DELETE "
        "CASCADE, v text)"
    )
    stage.proves("INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 'a'), (1, 'a'), (2, 'b')")
    report = stage.run("INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 'a'), (1, 'a'), (2, 'b')")
    stage.elsewhere("INSERT INTO child VALUES (1, 'a')")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Conflicts)
    stage.undo(report, partial=True)
    assert stage.rows("SELECT count(*) FROM child WHERE parent = 1")[0][0] >= 1
    assert (1,) in stage.rows("SELECT id FROM parent")


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_a_parent_that_only_a_nullable_unique_column_names_never_loses_others_rows(stage: Stage, action: str) -> None:
    """It has no key for us, so that its rows would be deleted and inserted, and the foreign key would act."""
    stage.make(
        "CREATE TABLE parent (code text UNIQUE, v int); CREATE TABLE child (id int PRIMARY KEY, code text "
        "REFERENCES parent (code) "
        f"ON DELETE {action}); INSERT INTO parent VALUES ('a', 1), ('b', 2); "
        "INSERT INTO child VALUES (1, 'a'), (2, 'b')"
    )
    report = stage.run("UPDATE parent SET v = v + 10")
    children = stage.rows("SELECT * FROM child ORDER BY id")
    try:
        stage.undo(report)
    except Conflicts:
        assert action != "NO ACTION"
    else:
        assert stage.rows("SELECT * FROM parent ORDER BY code") == [("a", 1), ("b", 2)]
    assert children == stage.rows("SELECT * FROM child ORDER BY id")


def test_a_circle_of_unique_values_is_undone_beside_a_conflict(stage: Stage) -> None:
    """Rows that others changed are left, and the circle of the rest is closed all the same."""
    stage.make(
        "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE, v text, added text); "
        "INSERT INTO t SELECT i, i, 'v' FROM generate_series(1, 7) i"
    )
    report = stage.run(
        "UPDATE t SET place = -place; UPDATE t SET place = CASE WHEN place = -7 THEN 7 WHEN place % 2 = 0 THEN "
        "-place - 1 ELSE 1 - place END, v = 'w'"
    )
    stage.elsewhere("UPDATE t SET v = 'mine' WHERE id = 7; UPDATE t SET added = 'kept' WHERE id = 1")
    error = failure(lambda: stage.undo(report))
    assert isinstance(error, Conflicts)
    stage.undo(report, partial=True)
    rows = stage.rows("SELECT id, place, v, added FROM t ORDER BY id")
    assert rows[:2] == [(1, 1, "v", "kept"), (2, 2, "v", None)]
    assert rows[2:] == [*((number, number, "v", None) for number in range(3, 7)), (7, 7, "mine", None)]


@pytest.mark.either
@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("text NOT NULL UNIQUE CHECK (v LIKE '%@%')", "'a@x'", "'b@x'"),
        ("varchar(3) NOT NULL UNIQUE", "'abc'", "'b'"),
        ("char(4) NOT NULL UNIQUE", "'abc'", "'b'"),
        ("text UNIQUE CHECK (v IN ('on', 'off'))", "'on'", "'off'"),
        ("smallint NOT NULL UNIQUE", "1", "2"),
        ("bigint NOT NULL UNIQUE", "-5", "900000000000"),
        ("numeric(4, 1) NOT NULL UNIQUE", "1.5", "2.5"),
        ("uuid NOT NULL UNIQUE", "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
        ("date NOT NULL UNIQUE", "'2026-01-01'", "'2026-01-03'"),
        ("timestamptz NOT NULL UNIQUE", "'2026-01-01 10:00Z'", "'2026-01-03 11:00Z'"),
        ("bool UNIQUE", "true", "false"),
        ("text NOT NULL; CREATE UNIQUE INDEX ON t (lower(v))", "'A'", "'b'"),
        ("int NOT NULL, w int NOT NULL DEFAULT 7; CREATE UNIQUE INDEX ON t (w, v) WHERE v > 0", "1", "2"),
        ("int4range, EXCLUDE USING gist (v WITH &&)", "'[1, 5)'", "'[5, 9)'"),
    ],
)  # fmt: skip
def test_swapped_values_of_rows_that_others_refer_to_are_undone(
    stage: Stage, column: str, first: str, second: str
) -> None:
    """Where the replica role may not be had, the values are put aside for a moment: whatever their type is."""
    end = "" if ";" in column else ")"
    stage.make(
        f"CREATE TABLE t (id int PRIMARY KEY, v {column if end else column.replace(';', ');', 1)}{end};"
        "CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE);"
        f"INSERT INTO t VALUES (1, {first}), (2, {second}); INSERT INTO child VALUES (1, 1), (2, 2)"
    )
    # A change can swap what no UPDATE can: it makes the rows anew, and their children.
    anew = "DELETE FROM t; INSERT INTO t VALUES (1, {}), (2, {}); INSERT INTO child VALUES (1, 1), (2, 2)"
    stage.proves(anew.format(second, first))


@pytest.mark.parametrize("column", ["color NOT NULL UNIQUE", "int NOT NULL UNIQUE CHECK (v > 0)"])
def test_swapped_values_that_cannot_be_put_aside_are_left_whole(stage: Stage, column: str) -> None:
    stage.make(
        f"CREATE TYPE color AS ENUM ('1', '2', '3'); CREATE TABLE t (id int PRIMARY KEY, v {column}, note text);"
        "CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE);"
        "INSERT INTO t VALUES (1, '1'), (2, '2'), (3, '3'); INSERT INTO child VALUES (1, 1), (2, 2)"
    )
    report = stage.run(
        "DELETE FROM t; INSERT INTO t VALUES (1, '2', NULL), (2, '1', NULL), (3, '3', 'new'); "
        "INSERT INTO child VALUES (1, 1), (2, 2)"
    )
    may = f"SELECT has_parameter_privilege('{stage.database.login_role}', 'session_replication_role', 'SET')"
    if stage.rows(may) == [(True,)]:  # then they are deleted and inserted
        stage.undo(report)
        assert stage.rows("SELECT v::text FROM t ORDER BY id") == [("1",), ("2",), ("3",)]
    else:
        assert [one.key for one in conflicts(stage, report)] == [{"id": "1"}, {"id": "2"}]
        stage.undo(report, partial=True)
        assert stage.rows("SELECT v::text, note FROM t ORDER BY id") == [("2", None), ("1", None), ("3", None)]
    assert stage.rows("SELECT id, t FROM child ORDER BY 1") == [(1, 1), (2, 2)]


def test_a_renumbered_row_that_children_refer_to_is_never_deleted_under_them(stage: Stage) -> None:
    """GENERATED ALWAYS AS IDENTITY and ON DELETE CASCADE: exact in the replica role, else a conflict."""
    stage.make(
        "CREATE TABLE ticket (code text PRIMARY KEY, place int GENERATED ALWAYS AS IDENTITY, v text);"
        "CREATE TABLE seat (id int PRIMARY KEY, code text REFERENCES ticket ON DELETE CASCADE);"
        "INSERT INTO ticket (code) VALUES ('x'), ('y'); INSERT INTO seat VALUES (1, 'x'), (2, 'y')"
    )
    before = stage.dump()
    report = stage.run("UPDATE ticket SET place = DEFAULT, v = 'v'")
    seats = stage.rows("SELECT * FROM seat")
    try:
        stage.undo(report)
        assert before == stage.dump()
    except Conflicts as error:
        assert len(error.conflicts) == 2
        may = f"SELECT has_parameter_privilege('{stage.database.login_role}', 'session_replication_role', 'SET')"
        assert stage.rows(may) == [(False,)], "in the replica role no foreign key acts"
    assert seats == stage.rows("SELECT * FROM seat")


def test_an_identity_key_that_was_renumbered_is_undone(stage: Stage) -> None:
    """The key itself set to DEFAULT, with rows that follow it."""
    stage.make(
        "CREATE TABLE ticket (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
        "CREATE TABLE seat (id int PRIMARY KEY, ticket int REFERENCES ticket ON UPDATE CASCADE ON DELETE CASCADE);"
        "INSERT INTO ticket (v) VALUES ('x'), ('y'); INSERT INTO seat VALUES (1, 1), (2, 2)"
    )
    stage.proves("UPDATE ticket SET id = DEFAULT WHERE v = 'x'")


def test_rights_on_single_columns_are_enough_for_a_narrow_change(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The undo writes no column that the change did not."""
    stage = stage_for(postgres, tmp_path)
    database = stage.database
    owner = database.create_role("owner")
    database.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int, w int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2);"
        f"GRANT SELECT, UPDATE (v) ON t TO {database.application_role}",
        role=owner,
    )
    stage.proves("UPDATE t SET v = 9")


def test_a_large_row_kept_out_of_line_is_put_back(stage: Stage) -> None:
    """TOAST: values that did not change, did, and were deleted."""
    stage.make(
        "CREATE TABLE doc (id int PRIMARY KEY, body text, small int); INSERT INTO doc "
        "SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 400) j), i FROM "
        "generate_series(1, 4) i;"
        "CREATE TABLE heap (body text, small int); INSERT INTO heap SELECT body, small FROM doc"
    )
    stage.proves(
        "UPDATE doc SET small = 0 WHERE id = 1; UPDATE doc SET body = reverse(body) WHERE id = 2; "
        "DELETE FROM doc WHERE id = 3;"
        "UPDATE heap SET small = 0 WHERE small = 1; DELETE FROM heap WHERE small = 2"
    )


def test_an_undo_meets_the_changes_of_others_while_it_waits(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The comparison is made again on the row that another session has committed in between."""
    from threading import Thread

    from integration.postgres.stage import wait_until, waits_for_lock

    stage = stage_for(postgres, tmp_path, lock_timeout='"30 s"')
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    report = stage.run("UPDATE t SET v = upper(v)")
    other = postgres.connect("application", autocommit=False)
    other.execute("UPDATE t SET v = 'mine' WHERE id = 2")
    raised: list[BaseException] = []

    def act() -> None:
        raised.append(failure(lambda: stage.undo(report)))

    thread = Thread(target=act)
    thread.start()

    def waiting() -> bool:
        rows = postgres.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'backout: run' AND datname = current_database()"
        )
        return any(waits_for_lock(postgres, pid) for (pid,) in rows)

    wait_until(waiting)
    other.commit()
    thread.join()
    assert [type(error) for error in raised] == [Conflicts]
    assert stage.rows("SELECT v FROM t ORDER BY id") == [("A",), ("mine",)]


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""], ids=["keyed", "no key"])
@pytest.mark.parametrize("limit", ["0", '"8 GB"'], ids=["armed", "scanned"])
def test_a_cast_of_the_applications_own_does_not_decide_what_is_kept(
    postgres: PostgresDatabase, tmp_path: Path, key: str, limit: str
) -> None:
    """It says less than the value; what is kept is what the type itself says."""
    stage = stage_for(postgres, tmp_path, scan_limit=limit)
    stage.make(f"""
        CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
        CREATE FUNCTION fine(mood) RETURNS text LANGUAGE sql AS $$ SELECT 'ok' $$;
        CREATE FUNCTION short(pair) RETURNS text LANGUAGE sql AS $$ SELECT $1.b $$;
        CREATE CAST (mood AS text) WITH FUNCTION fine(mood); CREATE CAST (pair AS text) WITH FUNCTION short(pair);
        CREATE TABLE t (id int {key}, m mood, p pair);
        INSERT INTO t VALUES (1, 'sad', (1, 'x')), (2, 'ok', (NULL, NULL)), (3, NULL, NULL), (4, 'sad', (NULL, 'y'));
    """)
    stage.proves("UPDATE t SET m = 'ok', p = (2, 'x') WHERE id < 4; DELETE FROM t WHERE id = 4")
