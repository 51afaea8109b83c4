"""Rows that are PHI are shown to whom the policy names, and to nobody else, on every way to them."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.program import PROGRAM, environment
from backout.engines.values import RunState
from backout.errors import Refused, UsageError
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes
from integration.ledger.test_restamp import last_entry

PHI = CHANGE.replace("-- ///\n-- @expect", '-- data = "phi"\n-- ///\n-- @expect')
NAMED = CONFIG + 'reveal = ["product-owner", "cem"]\n'
REFUSED = "{} may not see rows of production that are PHI"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    clinic.configure(NAMED)
    clinic.write(PHI)
    return clinic


def ghost(clinic: Clinic, person: str) -> str:
    report = clinic.project(person).ghost(clinic.change, "production", reveal=True, ask=yes)
    assert "the operator asked to see values that are PHI (--reveal)" in report.notes
    return str(report.tables[0].sample[0].before)


def run(clinic: Clinic, person: str) -> str:
    return str(clinic.run(person, reveal=True).tables[0].sample[0].before)


def show(clinic: Clinic, person: str) -> str:
    _, tables = clinic.project(person).show("production-1", reveal=True)
    return str(tables[0].sample[0].before)


@pytest.mark.parametrize("way", [ghost, run, show])
def test_whom_the_policy_names_sees_them_and_the_ledger_has_who(
    clinic: Clinic, way: Callable[[Clinic, str], str]
) -> None:
    clinic.prepare()
    if way is show:
        clinic.run()
    assert "'status': 'open'" in way(clinic, "cem")
    reveals = [one for one in entries(clinic) if one[0] == "reveal"]
    assert reveals == [("reveal", "cem@example.org", "production", True)]


@pytest.mark.parametrize("way", [ghost, run, show])
@pytest.mark.parametrize("person", ["eve", "ann"])
def test_nobody_else_sees_them_and_nothing_runs(clinic: Clinic, way: Callable[[Clinic, str], str], person: str) -> None:
    clinic.configure(NAMED.replace('operators = ["cem"]', 'operators = ["cem", "ann", "eve"]'))
    clinic.prepare()
    if way is show:
        clinic.run()
    before = len(clinic.project(None).log("production"))
    with pytest.raises(Refused) as caught:
        way(clinic, person)
    assert (caught.value.gate, caught.value.message, caught.value.state) == (
        "reveal", REFUSED.format(person), "untouched",
    )  # fmt: skip
    assert caught.value.hint == "ask one of these: product-owner, cem; without --reveal they are masked"
    assert len(clinic.project(None).log("production")) == before
    assert "reveal" not in {one[0] for one in entries(clinic)}


def test_a_role_that_the_policy_names_is_enough(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    assert "'status': 'open'" in show(clinic, "dan")
    assert last_entry(clinic)["person"] == "dan@example.org"


def test_where_people_are_asked_and_nobody_is_named_nobody_sees_them(clinic: Clinic) -> None:
    clinic.configure(CONFIG)
    clinic.prepare()
    clinic.run()
    with pytest.raises(Refused) as caught:
        show(clinic, "cem")
    assert (caught.value.message, caught.value.hint) == (
        "nobody may see rows of production that are PHI",
        'its policy must name who may: reveal = ["…"]; without --reveal they are masked',
    )


def test_whose_key_is_nobodys_is_nobody(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.signers.write_text(clinic.signers.read_text().replace("cem@", "somebody@"))
    with pytest.raises((Refused, UsageError)):
        show(clinic, "cem")


def test_other_rows_are_shown_to_anybody(clinic: Clinic) -> None:
    clinic.write(CHANGE)
    report = clinic.project("eve").ghost(clinic.change, "production", reveal=True, ask=yes)
    assert (report.outcome, "'open'" in str(report.tables[0].sample[0].before)) == (RunState.ROLLED_BACK, True)
    assert not clinic.ledger.exists()


def test_where_nobody_is_asked_they_are_shown_and_the_record_of_the_run_has_it(clinic: Clinic) -> None:
    clinic.configure('[environments.dev]\nurl = "sqlite:{folder}/production.db"\n')
    report = clinic.project(None).ghost(clinic.change, "dev", reveal=True, ask=yes)
    assert "'open'" in str(report.tables[0].sample[0].before)
    assert not clinic.ledger.exists()
    (record,) = clinic.project(None).log("dev")
    assert "the operator asked to see values that are PHI (--reveal)" in record.report["notes"]


def at_a_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """Type a command at a terminal; its exit status, and what the screen shows."""
    ours, theirs = pty.openpty()
    variables = {**environment(), "NO_COLOR": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [str(PROGRAM), *arguments], cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
    ) as program:
        os.close(theirs)
        screen = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # the other end is closed: nobody has it open any more
                break
            if not block:
                break
            screen += block
    os.close(ours)
    return program.returncode, screen.decode()


def test_at_a_terminal_the_key_decides(clinic: Clinic) -> None:
    typed = ("ghost", "close", "--on", "production", "--yes", "--reveal", "--key")
    status, screen = at_a_terminal(clinic.folder, *typed, "keys/eve")
    assert (status, REFUSED.format("eve") in screen, "'open'" in screen) == (3, True, False)
    status, screen = at_a_terminal(clinic.folder, *typed, "keys/cem")
    assert (status, "status open → closed" in screen) == (0, True), screen


def entries(clinic: Clinic) -> list[tuple[str, str, str, bool]]:
    import json

    bodies = clinic.sql("ledger", "SELECT body FROM backout_ledger_entry ORDER BY position")
    contents = [json.loads(one) for (one,) in bodies]
    said = [(json.loads(one["statement"]), one["signature"] is not None) for one in contents]
    return [(one["kind"], one["person"], one["environment"], signed) for one, signed in said]
