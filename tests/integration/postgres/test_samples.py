"""The few rows that a person is shown: paired before and after, in the order of the key, also out of a large rescue."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.postgres.stage import Stage, stage_for, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

MANY = 60_000


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    made = stage_for(postgres, tmp_path)
    made.make(f"""
        CREATE TYPE ward AS ENUM ('north', 'south');
        CREATE TABLE bed (ward ward, number numeric(8, 2), state text NOT NULL, filler text, PRIMARY KEY (ward, number));
        INSERT INTO bed SELECT (ARRAY['north', 'south'])[1 + g % 2]::ward, {MANY} - g, 'free', repeat('x', 60)
          FROM generate_series(0, {MANY - 1}) g;
    """)
    return made


def test_rows_of_a_large_update_are_shown_paired_and_ordered(stage: Stage) -> None:
    (table,) = stage.run("UPDATE bed SET state = 'taken';").tables
    assert len(table.sample) == 10
    keys = [(str(one.before["ward"]), float(str(one.before["number"]))) for one in table.sample if one.before]
    assert keys == sorted(keys)
    for one in table.sample:
        assert one.before is not None
        assert one.after == {**one.before, "state": "taken"}


def test_as_many_rows_are_shown_as_were_asked_for(stage: Stage) -> None:
    change = stage.change("DELETE FROM bed;")
    (table,) = stage.project.ghost(change, "test", rows=1_234, ask=yes).tables
    assert len({str(one.before) for one in table.sample}) == 1_234
    assert all(one.after is None for one in table.sample)


def test_of_a_large_mixed_change_new_rows_are_shown_too(stage: Stage) -> None:
    (table,) = stage.run("""
        UPDATE bed SET state = 'taken';
        INSERT INTO bed SELECT 'north', 2 * g + 0.5, 'new', NULL FROM generate_series(1, 5) g;
    """).tables
    assert [(one.before is None, (one.after or {})["state"]) for one in table.sample] == [
        *[(False, "taken")] * 7,
        *[(True, "new")] * 3,
    ]
