"""A row whose key the run changed is one row: an undo puts it back whole, or leaves it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import Conflicts
from integration.postgres.stage import Rights, Stage, conflicts, stage_for, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.ends


@pytest.fixture(params=list(Rights))
def stage(postgres: PostgresDatabase, tmp_path: Path, request: pytest.FixtureRequest) -> Stage:
    made = stage_for(postgres, tmp_path, request.param)
    made.make("""
        CREATE TABLE book (isbn text PRIMARY KEY, title text NOT NULL, price numeric(8, 2), at timestamptz);
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$;
        CREATE TRIGGER touch BEFORE UPDATE ON book FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TABLE sale (id int PRIMARY KEY, isbn text REFERENCES book ON UPDATE CASCADE);
        INSERT INTO book SELECT 'a' || g, 'Title ' || g, g FROM generate_series(1, 9) g;
        INSERT INTO sale SELECT g, 'a' || g FROM generate_series(1, 9) g;
    """)
    return made


RENAME = "UPDATE book SET isbn = replace(isbn, 'a', 'b'), price = price + 1;"


def books(stage: Stage) -> list[tuple[str, float]]:
    return [(isbn, float(price)) for isbn, price in stage.rows("SELECT isbn, price FROM book ORDER BY isbn")]


def test_a_moved_row_that_others_changed_is_left_whole_and_the_others_are_put_back(stage: Stage) -> None:
    run = stage.run(RENAME)
    stage.elsewhere("UPDATE book SET price = 99 WHERE isbn = 'b5'")
    report = stage.undo(run, partial=True)
    assert books(stage) == [*((f"a{n}", n) for n in (1, 2, 3, 4, 6, 7, 8, 9)), ("b5", 99)]
    (conflict,) = [one for one in report.conflicts if str(one.table) == "public.book"]
    assert (conflict.key, conflict.detail) == ({"isbn": "b5"}, "before the run its key was a5")
    assert 'of "public.book" 1 other half of rows that the run moved are left with them' in report.notes
    assert stage.rows("SELECT isbn FROM sale WHERE id = 5") == [("b5",)]


def test_what_was_left_can_be_put_back_later(stage: Stage) -> None:
    run = stage.run(RENAME)
    stage.elsewhere("UPDATE book SET price = 99 WHERE isbn = 'b5'")
    stage.undo(run, partial=True)
    numbers = [one.number for one in conflicts(stage, run)]
    stage.undo(run, overwrite=numbers)
    assert books(stage) == [(f"a{n}", n) for n in range(1, 10)]
    assert stage.rows("SELECT id, isbn FROM sale ORDER BY id") == [(n, f"a{n}") for n in range(1, 10)]


def test_a_moved_row_whose_old_key_is_taken_is_not_deleted(stage: Stage) -> None:
    run = stage.run(RENAME)
    stage.elsewhere("INSERT INTO book VALUES ('a3', 'Usurper', 1)")
    stage.undo(run, partial=True)
    assert ("b3", 4) in books(stage)
    assert ("a3", 1) in books(stage)
    assert len(books(stage)) == 10


def test_a_moved_row_that_others_deleted_does_not_come_back_under_its_old_key_unless_it_is_named(stage: Stage) -> None:
    run = stage.run(RENAME)
    stage.elsewhere("DELETE FROM sale WHERE id = 5; DELETE FROM book WHERE isbn = 'b5'")
    report = stage.undo(run, partial=True)
    assert [isbn for isbn, _ in books(stage)] == [f"a{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert ("deleted since", {"isbn": "b5"}) in [(one.kind.value, one.key) for one in report.conflicts]
    stage.undo(run, overwrite=[one.number for one in conflicts(stage, run)])
    assert books(stage) == [(f"a{n}", n) for n in range(1, 10)]


def test_a_moved_row_that_others_moved_back_is_no_conflict(stage: Stage) -> None:
    run = stage.run(RENAME)
    back = "UPDATE book SET isbn = 'a5', price = 5, at = NULL WHERE isbn = 'b5'"
    stage.elsewhere(f"ALTER TABLE book DISABLE TRIGGER touch; {back}; ALTER TABLE book ENABLE TRIGGER touch")
    assert stage.undo(run).conflicts == ()
    assert books(stage) == [(f"a{n}", n) for n in range(1, 10)]


def test_rows_that_moved_one_after_the_other_are_left_together(stage: Stage) -> None:
    stage.make("CREATE TABLE seat (n int PRIMARY KEY, who text)")
    stage.make(
        "INSERT INTO seat SELECT 7 - g, 'p' || (7 - g) FROM generate_series(1, 6) g"
    )  # the last seat comes first
    run = stage.run("UPDATE seat SET n = n + 1;")
    stage.elsewhere("UPDATE seat SET who = 'stranger' WHERE n = 4")
    (conflict,) = conflicts(stage, run)
    assert conflict.detail == "before the run its key was 3"
    stage.undo(run, partial=True)
    assert stage.rows("SELECT n, who FROM seat ORDER BY n") == [
        (2, "p1"), (3, "p2"), (4, "stranger"), (5, "p4"), (6, "p5"), (7, "p6")
    ]  # fmt: skip
    stage.undo(run, overwrite=[one.number for one in conflicts(stage, run)])
    assert stage.rows("SELECT n, who FROM seat ORDER BY n") == [(n, f"p{n}") for n in range(1, 7)]


def test_a_row_that_moved_to_another_partition_is_put_back_whole_or_left_whole(stage: Stage) -> None:
    stage.make("""
        CREATE TABLE stay (id int, ward text, note text, PRIMARY KEY (id, ward)) PARTITION BY LIST (ward);
        CREATE TABLE stay_north PARTITION OF stay FOR VALUES IN ('north');
        CREATE TABLE stay_south PARTITION OF stay FOR VALUES IN ('south');
        INSERT INTO stay SELECT g, 'north', 'n' || g FROM generate_series(1, 4) g;
    """)
    run = stage.run("UPDATE stay SET ward = 'south' WHERE id < 4;")
    stage.elsewhere("UPDATE stay SET note = 'new' WHERE id = 2")
    stage.undo(run, partial=True)
    assert stage.rows("SELECT id, note FROM stay ORDER BY id") == [(1, "n1"), (2, "new"), (3, "n3"), (4, "n4")]
    assert stage.rows("SELECT ward FROM stay WHERE id = 2") == [("south",)]
    stage.undo(run, overwrite=[one.number for one in conflicts(stage, run)])
    assert stage.rows("SELECT DISTINCT ward, count(*) FROM stay GROUP BY 1") == [("north", 4)]


def test_rows_deleted_and_others_inserted_are_no_pairs(stage: Stage) -> None:
    run = stage.run("DELETE FROM sale WHERE id < 3; INSERT INTO sale VALUES (21, 'a1'), (22, 'a2');")
    stage.elsewhere("UPDATE sale SET isbn = 'a9' WHERE id = 21")
    stage.undo(run, partial=True)
    assert stage.rows("SELECT id FROM sale ORDER BY id") == [*((n,) for n in range(1, 10)), (21,)]
    assert stage.rows("SELECT relname FROM pg_class WHERE relname LIKE 'run%moved'") == []


def test_an_undo_without_conflicts_moves_all_back_and_clean_drops_the_pairs(stage: Stage) -> None:
    start = stage.dump()
    run = stage.run(RENAME)
    assert len(stage.rows("SELECT relname FROM pg_class WHERE relname LIKE 'run%moved'")) == 1
    stage.undo(run)
    assert {name: rows for name, rows in stage.dump().items() if "book" not in name} == {
        name: rows for name, rows in start.items() if "book" not in name
    }
    assert books(stage) == [(f"a{n}", n) for n in range(1, 10)]


def test_under_repeatable_read_moved_rows_are_known_as_well(postgres: PostgresDatabase, tmp_path: Path) -> None:
    stage = stage_for(postgres, tmp_path, isolation='"repeatable read"')
    stage.make("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 5) g;")
    run = stage.run("UPDATE t SET id = id + 100;")
    stage.elsewhere("UPDATE t SET v = 0 WHERE id = 103")
    with pytest.raises(Conflicts):
        stage.project.undo(run.identifier, "test", ask=yes)
    stage.undo(run, partial=True)
    assert stage.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (4,), (5,), (103,)]
