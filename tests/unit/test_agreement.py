"""When two people have agreed to what a session did, as values; and the file of a session."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backout.change.model import StepKind
from backout.change.read import read_change
from backout.errors import InvalidFile
from backout.gates.agreement import Session, judge
from backout.gates.evidence import Said
from backout.gates.people import People, Person
from backout.ledger.statement import Kind, Statement

RUN, CONTENT, OTHER = "production-41", "ab" * 32, "cd" * 32
SESSION = Session(RUN, CONTENT, "ann")
PEOPLE = People({name: Person(name, (f"{name}@example.org",)) for name in ("ann", "bob", "cem")})
NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
HEAD = '-- /// change\n-- title = "Correct an address"\n-- session = true\n-- ///\n'


def said(person: str, *, kind: Kind = Kind.AGREE, key: str | None = None, **details: Any) -> Said:
    statement = Statement(
        kind, "correct", "00" * 32, "production", person, NOW, {"run": RUN, "content": CONTENT, **details}
    )
    return Said(statement, person, key or f"SHA256:{person}")


def test_who_typed_and_somebody_else_are_enough() -> None:
    found = judge([said("bob"), said("ann")], SESSION, PEOPLE)

    assert (found.is_reached, found.agreed, found.waits_for) == (True, ("ann", "bob"), ())
    assert len(found.statements) == 2


@pytest.mark.parametrize(
    ("statements", "waits_for"),
    [
        ([], ("ann", "somebody other than ann")),
        ([said("ann")], ("somebody other than ann",)),
        ([said("ann"), said("ann")], ("somebody other than ann",)),
        ([said("bob"), said("cem")], ("ann",)),
        ([said("ann"), said("bob", content=OTHER)], ("somebody other than ann",)),
        ([said("ann"), said("bob", run="production-40")], ("somebody other than ann",)),
        ([said("ann"), said("eve")], ("somebody other than ann",)),  # nobody knows her
        ([said("ann", key="SHA256:one"), said("bob", key="SHA256:one")], ("somebody other than ann",)),
        (
            [said("ann", key="SHA256:one"), said("bob", key="SHA256:one"), said("bob", key="SHA256:two")],
            ("somebody other than ann",),
        ),
    ],
    ids=["nobody", "one", "twice", "two others", "other rows", "other run", "stranger", "one key", "two keys of one"],
)
def test_everything_else_is_not(statements: list[Said], waits_for: tuple[str, ...]) -> None:
    found = judge(statements, SESSION, PEOPLE)

    assert (found.is_reached, found.waits_for) == (False, waits_for)


def test_one_no_is_final_whatever_else_was_said() -> None:
    no = said("bob", kind=Kind.REFUSE, content="", why="she has moved again")

    found = judge([said("ann"), no, said("bob"), said("cem")], SESSION, PEOPLE)

    assert (found.is_reached, found.refused) == (False, no)


def test_no_of_somebody_unknown_stops_nobody() -> None:
    found = judge([said("ann"), said("bob"), said("eve", kind=Kind.REFUSE)], SESSION, PEOPLE)

    assert found.is_reached


def test_file_of_a_session_holds_checks_and_no_statement(tmp_path: Path) -> None:
    file = tmp_path / "correct.sql"
    file.write_text(f'{HEAD}-- @assert "two rows"\nSELECT count(*) = 2 FROM applicant;\n')

    change = read_change(file)

    assert (change.metadata.session, change.language, [step.kind for step in change.steps]) == (
        True,
        "program",
        [StepKind.ASSERT],
    )
    file.write_text(f"{HEAD}UPDATE applicant SET email = '';\n")
    with pytest.raises(InvalidFile) as raised:
        read_change(file)
    assert raised.value.message == f"{file}:5:1: a statement in the file of a session, where people type them"


def test_session_is_no_program(tmp_path: Path) -> None:
    file = tmp_path / "correct.py"
    file.write_text('# /// change\n# title = "Correct"\n# session = true\n# ///\n')

    with pytest.raises(InvalidFile) as raised:
        read_change(file)

    assert raised.value.message == f'{file}:1:1: key "session" in a program'
