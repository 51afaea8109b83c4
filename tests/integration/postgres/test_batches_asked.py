"""A change that writes more rows at once than its environment allows is told to run in batches, and does not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import InvalidFile, Refused
from integration.postgres.stage import Stage, failure, left_behind, stage_for
from servers import PostgresDatabase

pytestmark = pytest.mark.either

TABLES = """
CREATE TABLE referral (id int PRIMARY KEY, visits int NOT NULL);
CREATE TABLE pair (a int, b int, v int, PRIMARY KEY (a, b));
CREATE TABLE keyless (v int);
INSERT INTO referral SELECT g, 0 FROM generate_series(1, 101) g;
INSERT INTO pair SELECT g, g, 0 FROM generate_series(1, 101) g;
INSERT INTO keyless SELECT g FROM generate_series(1, 101) g;
"""
SAID = "101 rows were written in one transaction, and 100 is the most here (`batch_above`)"
UPDATE = "UPDATE referral SET visits = 1"
LOOP = 'def apply(db):\n    db.execute("UPDATE referral SET visits = 1")\n'


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    made = stage_for(postgres, tmp_path, batch_above="100")
    made.make(TABLES)
    (made.folder / "changes").symlink_to(made.folder)
    return made


@pytest.mark.parametrize(
    ("text", "suffix", "hint"),
    [
        (UPDATE, ".sql", "let it run in batches: write -- @batch referral by=id before the statement"),
        (
            "DELETE FROM public.pair",
            ".sql",
            "let it run in batches: write -- @batch public.pair by=a,b before the statement",
        ),
        ("DELETE FROM keyless", ".sql", 'give "keyless" a primary key, so that the change can run in batches'),
        (LOOP, ".py", 'let it run in batches: for batch in db.batches("public.referral", by="id"): …'),
    ],
    ids=["update", "composite key", "no key", "script"],
)
def test_more_rows_than_that_are_refused_with_what_to_write(stage: Stage, text: str, suffix: str, hint: str) -> None:
    before = stage.dump()
    ghost = stage.ghost(text, suffix=suffix)
    assert ghost.would_be_refused
    assert f"`run` would refuse: {SAID}: {hint}" in ghost.notes
    error = failure(lambda: stage.run(text, suffix=suffix))
    assert isinstance(error, Refused)
    assert (error.message, error.state, error.hint, error.exit_status) == (SAID, "rolled back", hint, 3)
    assert before == stage.dump()
    assert left_behind(stage) == []


def test_as_many_rows_as_that_and_any_number_in_batches_run(stage: Stage) -> None:
    assert stage.run(UPDATE + " WHERE id > 1").tables[0].updated == 100
    assert stage.run("-- @batch referral by=id size=60\n" + UPDATE).tables[0].updated == 101


def test_a_number_that_is_none_is_an_error_of_the_file(stage: Stage) -> None:
    stage.options = {**stage.options, "batch_above": '"many"'}
    error = failure(lambda: stage.run(UPDATE))
    assert isinstance(error, InvalidFile)
    assert 'key "batch_above" must be a whole number above zero' in error.message
