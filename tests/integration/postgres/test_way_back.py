"""`ghost --undo` fails where the way back is not exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.errors import ProofFailed
from integration.postgres.stage import Rights, failure, stage_for, text_of
from servers import PostgresDatabase


@pytest.mark.parametrize("rights", list(Rights), ids=lambda one: one.value)
def test_a_ghost_whose_way_back_leaves_a_row_fails(postgres: PostgresDatabase, tmp_path: Path, rights: Rights) -> None:
    """A row that is only added to refers to one that the undo would have to remove. The whole text."""
    stage = stage_for(postgres, tmp_path, rights, undo_options='[undo]\nappend_only = ["entry"]\n')
    stage.make(
        "CREATE TABLE person (id int PRIMARY KEY); CREATE TABLE entry (person int REFERENCES person); "
        "INSERT INTO person VALUES (1)"
    )
    before = stage.dump()
    statements = "INSERT INTO person VALUES (9); INSERT INTO entry VALUES (9)"
    error = failure(lambda: stage.ghost(statements, undo=True))
    assert isinstance(error, ProofFailed)
    assert error.exit_status == 6
    assert text_of(error) == [
        "the way back is not exact: 1 rows could not be put back",
        "state: rolled back",
        "hint: the rows are in conflict with a constraint; see docs/explanation/undo.md",
    ]
    assert before == stage.dump()
    assert stage.ghost("INSERT INTO person VALUES (9)", undo=True).way_back == "proven"
