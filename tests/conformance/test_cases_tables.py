"""The twenty cases on which row-undo tools lose data, second part: types, names, keys, triggers, others, hidden rows."""

from __future__ import annotations

import pytest

from backout.errors import BackoutError, Refused
from conformance.stage import Stage, in_background

#: PostgreSQL cuts names at 63 bytes; the first 62 are shared.
LONG = "a_name_that_is_as_long_as_an_engine_allows_it_to_be_of_sixty_th"

PEOPLE = (
    "CREATE TABLE person (id INTEGER PRIMARY KEY, name varchar(60), mail varchar(60), age INTEGER);"
    "INSERT INTO person VALUES (1, 'ann', 'a@x', 30), (2, 'bob', 'b@x', 40), (3, 'cid', 'c@x', 50), (4, 'dot', NULL, 60)"
)


def literals(stage: Stage, row: int) -> list[str]:
    """One value for each type of the engine's, another one in each row."""
    return [values[row % len(values)] for values in stage.target.dialect.types.values()]


def table_of_all_types(stage: Stage, table: str, key: str) -> None:
    columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate(stage.target.dialect.types))
    stage.make(f"CREATE TABLE {table} (id INTEGER {key}, {columns})")
    for row in range(max(map(len, stage.target.dialect.types.values()))):
        stage.make(f"INSERT INTO {table} VALUES ({row}, {', '.join(literals(stage, row))})")


def changes_of_all_types(stage: Stage, table: str) -> str:
    new = ", ".join(f"c{place} = {value}" for place, value in enumerate(literals(stage, 1)))
    none = ", ".join(f"c{place} = NULL" for place, _ in enumerate(literals(stage, 0)))
    return (
        f"UPDATE {table} SET {new} WHERE id = 0; UPDATE {table} SET {none} WHERE id = 1; DELETE FROM {table} WHERE id > 2;"
        f"INSERT INTO {table} VALUES (90, {', '.join(literals(stage, 2))});"
    )


def test_case_09_values_of_every_type_are_put_back_exactly(stage: Stage) -> None:
    """Types without equality, values that are equal and not the same, the first and the last of each type."""
    stage.make(stage.target.dialect.preamble)
    table_of_all_types(stage, "odd", "PRIMARY KEY")
    stage.proves(changes_of_all_types(stage, "odd"))


@pytest.mark.needs("keyless_tables")
def test_case_09_values_of_every_type_are_put_back_in_a_table_without_a_key(stage: Stage) -> None:
    stage.make(stage.target.dialect.preamble)
    table_of_all_types(stage, "odd", "")
    stage.proves(changes_of_all_types(stage, "odd"))


def test_case_09_each_value_of_each_type_becomes_each_other_one_and_comes_back(stage: Stage) -> None:
    stage.make(stage.target.dialect.preamble)
    statements = []
    for place, (kind, values) in enumerate(stage.target.dialect.types.items()):
        stage.make(f"CREATE TABLE t{place} (id INTEGER PRIMARY KEY, v {kind})")
        pairs = [(one, other) for one in values for other in values]
        for row, (one, other) in enumerate(pairs):
            stage.make(f"INSERT INTO t{place} VALUES ({row}, {one})")
            statements.append(f"UPDATE t{place} SET v = {other} WHERE id = {row};")
    before = stage.dump()
    stage.undo(stage.run("\n".join(statements)))
    assert before == stage.dump()


def test_case_10_aliases_and_quoted_names_are_read_by_the_server(stage: Stage) -> None:
    """A change's SQL is never rewritten; a CTE may shadow a table, and columns may have our names."""
    name = stage.target.dialect.name
    odd, column = name('Ta"`ble. One'), name("p q")
    ours = [name(one) for one in ("backout_row", "backout_made_by_run", "row", "n0", "select", "x", "t")]
    stage.make(
        f"CREATE TABLE {odd} (id INTEGER PRIMARY KEY, {column} varchar(9), {', '.join(f'{one} INTEGER' for one in ours)});"
        f"INSERT INTO {odd} (id, {column}, {ours[0]}) VALUES (1, 'a', 1), (2, 'c', 2);"
        "CREATE TABLE d (id INTEGER PRIMARY KEY, p varchar(9), t varchar(9)); "
        "INSERT INTO d VALUES (1, 'x', 'y'), (2, 'z', 'w');"
    )
    stage.proves(
        f"UPDATE {odd} SET {column} = 'b', {ours[2]} = {ours[0]}, {ours[4]} = 7 WHERE id = 1;"
        f"DELETE FROM {odd} WHERE id = 2;"
        f"UPDATE {stage.target.schema}.d SET t = p WHERE id IN (WITH d AS (SELECT 2 AS id) SELECT id FROM d);"
    )


def test_case_11_later_edits_by_others_stay(stage: Stage) -> None:
    """Columns that the change did not touch keep theirs; touched ones are conflicts; deleted rows stay deleted."""
    stage.make(PEOPLE)
    report = stage.run("UPDATE person SET name = 'ours'")
    stage.elsewhere(
        "UPDATE person SET age = 31 WHERE id = 1; UPDATE person SET name = 'theirs' WHERE id = 2; "
        "DELETE FROM person WHERE id = 4"
    )
    assert [
        (1, "person", "changed since", {"id": "2"}, ("name",)),
        (2, "person", "deleted since", {"id": "4"}, ()),
    ] == stage.met(report)
    stage.undo(report, partial=True)
    assert [(1, "ann", 31), (2, "theirs", 40), (3, "cid", 50)] == stage.rows(
        "SELECT id, name, age FROM person ORDER BY id"
    )


def with_triggers(stage: Stage) -> None:
    """A table with `updated_at` and audit triggers."""
    dialect = stage.target.dialect
    stage.make(
        f"CREATE TABLE referral (id INTEGER PRIMARY KEY, status varchar(9), updated_at {dialect.moment});"
        f"CREATE TABLE audit ({dialect.counted}, what varchar(20));"
        "INSERT INTO referral VALUES (1, 'open', '2020-01-01'), (2, 'open', '2020-01-01'), (3, 'open', '2020-01-01');"
    )
    for statement in (*dialect.stamp, *dialect.audit):
        stage.make(statement.format(table="referral", audit="audit"))


CLOSE = "UPDATE referral SET status = 'closed' WHERE id < 3; DELETE FROM referral WHERE id = 3;"


def test_case_13_what_triggers_wrote_is_undone_and_none_fires_in_the_undo(stage: Stage) -> None:
    """The old stamp comes back, and the audit rows of the run go with it; or the run is refused."""
    with_triggers(stage)
    if not stage.target.capabilities.keeps_triggers_out:
        assert isinstance(stage.refuses(CLOSE), Refused)
        return
    report = stage.proves(CLOSE)
    assert {stage.table("audit"), stage.table("referral")} == {table.table for table in report.tables}


@pytest.mark.needs("keeps_triggers_out")
def test_case_13_an_append_only_audit_log_stays_as_it_is(stage: Stage) -> None:
    """Named so, it is neither undone nor written by the undo."""
    stage.undo_options = '[undo]\nappend_only = ["audit"]\n'
    with_triggers(stage)
    before = stage.dump()["referral"]
    assert "proven" == stage.ghost(CLOSE, undo=True).way_back
    report = stage.run(CLOSE)
    audited = stage.dump()["audit"]
    assert audited
    undone = stage.undo(report)
    assert f'"{stage.table("audit")}" is append-only: its rows stay as they are' in undone.notes
    assert (before, audited) == (stage.dump()["referral"], stage.dump()["audit"])


@pytest.mark.needs("partial_indexes", "expression_indexes")
def test_case_14_partial_and_expression_indexes_are_no_keys_and_are_respected(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE person (code varchar(9) NOT NULL, mail varchar(20), active INTEGER);"
        "CREATE UNIQUE INDEX person_lower ON person (lower(mail));"
        "CREATE UNIQUE INDEX person_active ON person (mail) WHERE active = 1;"
        "CREATE UNIQUE INDEX person_code ON person (code);"
        "INSERT INTO person VALUES ('a', 'A@x', 1), ('b', 'B@x', 0), ('c', 'C@x', 1);"
    )
    stage.proves(
        "UPDATE person SET mail = 'z@x' WHERE code = 'a'; UPDATE person SET mail = 'a@X', active = 1 WHERE code = 'b';"
        "DELETE FROM person WHERE code = 'c';"
    )


@pytest.mark.needs("keyless_tables")
def test_case_14_a_unique_index_with_nulls_is_no_key(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE loose (code varchar(9), mail varchar(20)); CREATE UNIQUE INDEX loose_code ON loose (code);"
        "INSERT INTO loose VALUES ('a', 'A'), ('b', 'B'), (NULL, 'C'), (NULL, 'C');"
    )
    stage.proves(
        "UPDATE loose SET mail = 'X' WHERE code IS NULL; DELETE FROM loose WHERE code = 'a'; "
        "UPDATE loose SET code = 'a' WHERE code = 'b';"
    )


def test_case_15_columns_added_and_dropped_since_are_matched_by_name(stage: Stage) -> None:
    """An added column keeps its value, and a dropped one is told of."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a varchar(9), b varchar(9), c INTEGER); "
        "INSERT INTO t VALUES (1, 'a', 'b', 1), (2, 'A', 'B', 2);"
    )
    report = stage.run("UPDATE t SET a = 'x', b = 'y', c = c + 10; DELETE FROM t WHERE id = 2;")
    stage.elsewhere("ALTER TABLE t ADD COLUMN d varchar(9) DEFAULT 'new'; ALTER TABLE t DROP COLUMN b;")
    stage.elsewhere("UPDATE t SET d = 'kept'")
    undone = stage.undo(report)
    assert [(1, "a", 1, "kept"), (2, "A", 2, "new")] == stage.rows("SELECT id, a, c, d FROM t ORDER BY id")
    assert (f'column "b" of "{stage.table("t")}" was dropped since: its values are not put back',) == undone.notes


@pytest.mark.needs("finds_renamed_columns")
def test_case_15_columns_and_tables_renamed_since_are_found(stage: Stage) -> None:
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a varchar(9), c INTEGER); INSERT INTO t VALUES (1, 'a', 1), (2, 'A', 2);"
    )
    report = stage.run("UPDATE t SET a = 'x', c = c + 10; DELETE FROM t WHERE id = 2;")
    stage.elsewhere(
        "ALTER TABLE t RENAME COLUMN a TO aa; ALTER TABLE t ADD COLUMN a varchar(9) DEFAULT 'new'; "
        "ALTER TABLE t RENAME COLUMN id TO nr; ALTER TABLE t RENAME TO tt;"
    )
    undone = stage.undo(report)
    assert [(1, "a", 1, "new"), (2, "A", 2, "new")] == stage.rows("SELECT nr, aa, c, a FROM tt ORDER BY nr")
    assert {
        f'column "id" of "{stage.table("t")}" is called "nr" now',
        f'column "a" of "{stage.table("t")}" is called "aa" now',
    } == {*undone.notes}


def test_case_15_a_table_made_anew_since_is_matched_by_names(stage: Stage) -> None:
    """As a rewriting migration leaves it: other order of columns, the same name."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a varchar(9), b varchar(9)); "
        "INSERT INTO t VALUES (1, 'a', 'b'), (2, 'A', 'B')"
    )
    report = stage.run("UPDATE t SET a = 'x'; DELETE FROM t WHERE id = 2;")
    stage.elsewhere(
        "CREATE TABLE n (b varchar(9), id INTEGER PRIMARY KEY, a varchar(9)); INSERT INTO n SELECT b, id, a FROM t; "
        "DROP TABLE t; ALTER TABLE n RENAME TO t"
    )
    stage.undo(report)
    assert [(1, "a", "b"), (2, "A", "B")] == stage.rows("SELECT id, a, b FROM t ORDER BY id")


def test_case_17_what_others_write_meanwhile_is_neither_captured_nor_undone(stage: Stage) -> None:
    """They write while the run is open, or wait until it has ended; the undo keeps their rows either way."""
    stage.options = {"lock_timeout": '"20 s"'}
    stage.make(PEOPLE)
    theirs = "UPDATE person SET age = 41 WHERE id = 2; INSERT INTO person VALUES (9, 'new', NULL, 1);"
    with stage.target.session() as other:
        other.execute("UPDATE person SET age = 1000 WHERE id = 1")
        thread, raised = in_background(
            lambda: stage.run("UPDATE person SET name = upper(name), age = age + 1 WHERE id = 1;")
        )
        other.commit()
    stage.elsewhere(theirs)
    thread.join()
    assert [] == raised
    assert [(1, "ANN", 1001)] == stage.rows("SELECT id, name, age FROM person WHERE id = 1")
    stage.undo("test-1")
    assert [(1, "ann", 1000), (2, "bob", 41), (3, "cid", 50), (4, "dot", 60), (9, "new", 1)] == stage.rows(
        "SELECT id, name, age FROM person ORDER BY id"
    )


def test_case_18_names_that_share_their_first_bytes_do_not_collide(stage: Stage) -> None:
    """Names of 63 bytes, in upper case, with quotes, spaces, dots and letters of several bytes."""
    names = [f"{LONG[:62]}{end}" for end in "ab"] + ['Über "all".x y', "%s {0} $1 'q'", "ü" * 31]
    quoted = stage.target.dialect.name
    statements = []
    for name in names:
        key, table = quoted(name[:31]), quoted(name)
        stage.make(
            f"CREATE TABLE {table} ({key} INTEGER PRIMARY KEY, {quoted('V %s')} varchar(9), {quoted('{x}')} varchar(9));"
            f"INSERT INTO {table} VALUES (1, 'a', 'b'), (2, 'c', 'd')"
        )
        statements.append(
            f"UPDATE {table} SET {quoted('V %s')} = 'z'; DELETE FROM {table} WHERE {quoted('{x}')} = 'd';"
        )
    report = stage.proves("".join(statements))
    assert len(names) == len(report.tables)


@pytest.mark.needs("keyless_tables")
def test_case_19_a_table_without_a_key_is_put_back_as_a_multiset(stage: Stage) -> None:
    """Duplicates, some of which changed."""
    stage.make(
        "CREATE TABLE tally (a INTEGER, b varchar(9), c INTEGER); INSERT INTO tally VALUES (1, 'x', 0), (1, 'x', 0), "
        "(1, 'x', 0), (2, NULL, 0), (2, NULL, 0), (3, '', 0);"
    )
    stage.proves(
        "UPDATE tally SET c = 1 WHERE a = 1; INSERT INTO tally VALUES (1, 'x', 0), (2, NULL, 0), (1, 'x', 1);"
        "UPDATE tally SET b = NULL WHERE a = 3; DELETE FROM tally WHERE a = 2 AND c = 0; "
        "INSERT INTO tally VALUES (2, NULL, 0);"
    )


def test_case_19_a_changed_key_is_undone(stage: Stage) -> None:
    """Keys moved, and two keys swapped over a third value."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v varchar(9)); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd');"
        "CREATE TABLE s (id varchar(9) NOT NULL PRIMARY KEY, v INTEGER); INSERT INTO s VALUES ('1', 1), ('2', 2);"
    )
    stage.proves(
        "UPDATE t SET id = id + 100; UPDATE t SET id = 0 WHERE id = 101; UPDATE t SET id = 101 WHERE id = 102;"
        "UPDATE t SET id = 102 WHERE id = 0; UPDATE s SET id = '3' WHERE id = '1'; UPDATE s SET id = '1' WHERE id = '2';"
    )


def test_case_19_values_of_a_unique_column_that_were_swapped_are_undone(stage: Stage) -> None:
    """A circle of three values, beside a swap of two keys."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, code varchar(9) UNIQUE, note varchar(9));"
        "INSERT INTO t VALUES (1, 'a', 'A'), (2, 'b', 'B'), (3, 'c', 'C'), (4, 'd', 'D'), (5, 'e', 'E');"
    )
    stage.proves(
        "UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0;"
        "UPDATE t SET code = concat(code, '!') WHERE id > 2;"
        "UPDATE t SET code = CASE code WHEN 'c!' THEN 'd' WHEN 'd!' THEN 'e' ELSE 'c' END WHERE id > 2;"
    )


def test_case_19_values_that_were_swapped_are_undone_under_the_rows_that_refer_to_them(stage: Stage) -> None:
    """No row may be deleted to be inserted anew there; beside one that somebody has changed, which is left."""
    stage.make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, code varchar(9) NOT NULL UNIQUE, place INTEGER NOT NULL UNIQUE);"
        "CREATE TABLE child (id INTEGER PRIMARY KEY, t INTEGER, FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE);"
        "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4), (5, 'e', 5), (6, 'f', 6);"
        "INSERT INTO child VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6);"
    )
    swap = (
        "UPDATE t SET code = concat(code, '!'), place = -place;"
        "UPDATE t SET code = CASE code WHEN 'a!' THEN 'b' WHEN 'b!' THEN 'c' WHEN 'c!' THEN 'a' WHEN 'd!' THEN 'e' "
        "WHEN 'e!' THEN 'd' ELSE 'f' END, place = CASE WHEN id < 4 THEN -place % 3 + 1 ELSE -place END;"
    )
    stage.proves(swap)
    report = stage.run(swap)
    stage.elsewhere("UPDATE t SET code = 'mine' WHERE id = 4")
    stage.undo(report, partial=True)
    assert stage.rows("SELECT id, code FROM t ORDER BY id")[:3] == [(1, "a"), (2, "b"), (3, "c")]
    assert stage.rows("SELECT code FROM t WHERE id = 4") == [("mine",)]
    assert stage.rows("SELECT count(*) FROM child") == [(6,)]


def test_case_19_numbers_that_all_moved_by_one_are_undone(stage: Stage) -> None:
    """A unique position of which each row takes its neighbour's."""
    stage.make("CREATE TABLE t (id INTEGER PRIMARY KEY, place INTEGER UNIQUE)")
    stage.make(stage.target.dialect.numbers("t", 50, "i, i"))
    stage.proves("DELETE FROM t WHERE place = 1; UPDATE t SET place = -place; UPDATE t SET place = -place - 1;")


@pytest.mark.needs("has_row_security")
def test_case_20_rows_hidden_by_row_security_are_an_error(stage: Stage) -> None:
    """`UPDATE 0` is never reported as success."""
    stage.make(
        f"{PEOPLE}; ALTER TABLE person ENABLE ROW LEVEL SECURITY; ALTER TABLE person FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON person USING (age > 45)"
    )
    error = stage.refuses("UPDATE person SET age = 0;")
    assert 'affected by row-level security policy for table "person"' in error.message


VISITS = "INSERT INTO visit VALUES (1, 2025, 'a'), (2, 2025, 'b'), (3, 2026, 'c'), (9, 2026, 'd')"


@pytest.mark.needs("partitions")
def test_case_20_rows_that_move_between_partitions_are_undone(stage: Stage) -> None:
    stage.make(stage.target.dialect.partitioned)
    stage.make(VISITS)
    stage.proves(
        "UPDATE visit SET year = 2026 WHERE id = 1; UPDATE visit SET id = 10 WHERE id = 3; "
        "DELETE FROM visit WHERE id = 9;"
    )


@pytest.mark.needs("references_to_partitions")
@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE"])
def test_case_20_rows_that_others_refer_to_move_between_partitions_and_back(stage: Stage, action: str) -> None:
    stage.make(stage.target.dialect.partitioned)
    stage.make(
        f"{VISITS}; CREATE TABLE bill (id INTEGER PRIMARY KEY, visit INTEGER, year INTEGER, FOREIGN KEY (visit, year) "
        f"REFERENCES visit (id, year) ON UPDATE CASCADE ON DELETE {action}); "
        "INSERT INTO bill VALUES (1, 1, 2025), (2, 2, 2025);"
    )
    stage.proves("UPDATE visit SET year = 2026 WHERE id = 1;")


@pytest.mark.needs("inheritance")
def test_case_20_rows_of_an_inheritance_child_are_captured(stage: Stage) -> None:
    """Parent and children may even share keys."""
    stage.make(
        "CREATE TABLE city (id int PRIMARY KEY, name text); "
        "CREATE TABLE capital (PRIMARY KEY (id), state text) INHERITS (city); "
        "CREATE TABLE village (church boolean) INHERITS (city);"
        "INSERT INTO city VALUES (1, 'a'), (2, 'b'); INSERT INTO capital VALUES (1, 'c', 's'); "
        "INSERT INTO village VALUES (1, 'v', true);"
    )
    report = stage.proves(
        "UPDATE city SET name = upper(name) WHERE id = 1; DELETE FROM city WHERE id = 2; UPDATE city SET id = 7;"
    )
    assert {"public.city", "public.capital", "public.village"} == {table.table for table in report.tables}


# -- names that hide, and names that we use ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        "UPDATE person SET age = 1 WHERE id < 3; CREATE TEMPORARY TABLE person AS SELECT * FROM others;",
        "CREATE TEMPORARY TABLE person AS SELECT * FROM others; UPDATE person SET age = 1 WHERE id < 3;",
        "CREATE TEMPORARY TABLE {other_case} AS SELECT * FROM others; UPDATE person SET age = 1 WHERE id < 3;",
        "CREATE TEMPORARY TABLE a (i INTEGER); CREATE TEMPORARY TABLE b AS SELECT * FROM others; DROP TABLE b;"
        "UPDATE person SET age = 1 WHERE id < 3;",
    ],
)
def test_case_10_what_a_temporary_table_of_the_same_name_hides_is_not_lost(stage: Stage, statements: str) -> None:
    """Undone exactly, or refused with nothing written; `others` has the very rows that were there before."""
    stage.make(
        f"{PEOPLE}; CREATE TABLE others (id INTEGER PRIMARY KEY, name varchar(60), mail varchar(60), age INTEGER)"
    )
    stage.make("INSERT INTO others SELECT * FROM person")
    before = stage.dump()
    text = statements.format(other_case=stage.target.dialect.name("Person"))
    try:
        report = stage.run(text)
    except BackoutError as error:
        assert error.state in {"untouched", "rolled back"}
        assert before == stage.dump()
        return
    assert (before == stage.dump()) == (report.tables == ())
    if report.tables:
        stage.undo(report)
    assert before == stage.dump()


def test_case_10_tables_and_columns_may_have_the_short_names_that_our_own_statements_use(stage: Stage) -> None:
    """With every way in which rows are put back: updated, inserted, deleted."""
    names = ("a", "b", "t", "k", "s", "u", "x", "r", "j", "w")
    columns = ", ".join(f"{name} INTEGER" for name in names)
    for name in names:
        stage.make(f"CREATE TABLE {name} (i INTEGER PRIMARY KEY, {columns})")
        stage.make(stage.target.dialect.numbers(name, 30, ", ".join(["i"] * (len(names) + 1))))
    stage.proves(
        "".join(
            f"UPDATE {name} SET {name} = 0 WHERE i > 20; DELETE FROM {name} WHERE i < 5; INSERT INTO {name} (i) VALUES (99);"
            for name in names
        )
    )
