"""Private changes as people type them: handed in, read, and exported without what is private in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.program import backout, told
from integration.ledger.clinic import CHANGE, Clinic

MARK = "Wilhelmina van Buren"
TEXT = CHANGE.replace("-- @expect 2", f"-- the patient is {MARK}\n-- @expect 2")


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    made = Clinic(tmp_path / "project")
    made.path.unlink()
    (tmp_path / "close.sql").write_text(TEXT)
    return made


def test_it_is_handed_in_read_by_reviewers_and_exported_without_its_text(clinic: Clinic) -> None:
    folder = clinic.folder
    handed_in = backout(folder, "submit", "--private", "../close.sql", "--key", "keys/ann")
    assert handed_in.status == 0, handed_in.err
    lines = handed_in.out.splitlines()
    assert lines[0].startswith("submitted, encrypted: close ")
    assert lines[-1] == "for: ann, bob, cem, dan, eve"
    assert handed_in.err == "note: ../close.sql is not needed any more, and should not stay: it is in clear\n"
    (folder.parent / "close.sql").unlink()

    shown = backout(folder, "show", "close", "--key", "keys/bob")
    assert (shown.status, shown.out) == (0, TEXT)
    said = told(folder, "text", "show", "close", "--key", "keys/bob")
    assert shown.err == f"note: digest {said['digest']}\n"
    checked = told(folder, "check", "check", "close", "--key", "keys/cem")
    assert (checked["digest"], checked["passed"]) == (said["digest"], True)
    ghost = told(folder, "run", "ghost", "close", "--on", "staging", "--yes", "--key", "keys/eve")
    assert ghost["digest"] == said["digest"]

    told(folder, "rehearse", "rehearse", "close", "--on", "staging", "--yes", "--key", "keys/eve")
    told(folder, "statement", "approve", "close", "--tick", "all", "--key", "keys/bob")
    told(folder, "statement", "object", "close", "--why", f"ask {MARK} first", "--key", "keys/dan")

    record = told(folder, "export", "export", "close", "--key", "keys/bob")
    assert (record["digest"], record["is_private"]) == (said["digest"], True)
    assert record["documents"]["requested_by"] == "dan@example.org"
    heard = [(one["kind"], one["person"], one["signed"]) for one in record["said"]]
    for kind, person in (("submit", "ann"), ("certificate", "eve"), ("approve", "bob"), ("object", "dan")):
        assert (kind, person, True) in heard
    (rehearsed,) = record["certificates"]
    assert rehearsed["tables"] == [{"table": "main.referral", "inserted": 0, "updated": 2, "deleted": 0}]
    assert {one["mode"] for one in record["runs"]} == {"ghost", "real", "undo"}
    written = backout(folder, "export", "close", "-o", "record.md", "--key", "keys/bob")
    assert written.status == 0, written.err
    text = (folder / "record.md").read_text()
    assert said["digest"] in text
    assert "0 inserted, 2 updated, 0 deleted" in text
    for secret in (MARK, "UPDATE", "SELECT"):
        assert secret not in text + str(record)


def test_an_open_change_is_exported_too_and_what_was_not_reached_is_said(clinic: Clinic) -> None:
    clinic.write(CHANGE)
    (clinic.folder / "staging.db").rename(clinic.folder / "elsewhere.db")
    assert backout(clinic.folder, "rehearse", "close", "--on", "staging", "--yes").status != 0
    record = told(clinic.folder, "export", "export", "close", "--on", "staging", "--on", "production")
    assert (record["is_private"], record["runs"], record["unreachable"]) == (False, [], ["staging"])
    shown = backout(clinic.folder, "export", "close")
    assert (shown.status, shown.err) == (0, "")
    assert "staging was not reached: its runs are not here" in shown.out
    assert "UPDATE" not in shown.out


def test_a_private_change_has_no_report_and_is_not_submitted_openly(clinic: Clinic) -> None:
    folder = clinic.folder
    assert backout(folder, "submit", "--private", "../close.sql", "--key", "keys/ann").status == 0
    report = backout(folder, "report", "close", "--key", "keys/bob")
    assert (report.status, report.out) == (2, "")
    assert report.err.endswith("hint: backout export close\n")
    openly = backout(folder, "submit", "close", "--key", "keys/ann")
    assert (openly.status, openly.err.splitlines()[0]) == (2, 'error: "close" is private')
    assert backout(folder, "submit", "../close.sql", "--to", "bob", "--key", "keys/ann").status == 2


def test_whoever_it_is_not_for_is_told_for_whom_it_is(clinic: Clinic) -> None:
    assert backout(clinic.folder, "submit", "--private", "../close.sql", "--to", "bob", "--key", "keys/ann").status == 0
    for verb in (["check", "close"], ["show", "close"], ["status", "close", "--on", "production"], ["export", "close"]):
        refused = backout(clinic.folder, *verb, "--key", "keys/eve")
        assert (refused.status, refused.out) == (3, "")
        assert refused.err.startswith(
            'error: private change "close" is encrypted to ann, bob, and no key here opens it'
        )
