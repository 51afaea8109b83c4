"""Four eyes as people type it: the whole way of one change, each in their own name, and what the program says.

What the gates refuse is in `tests/unit/test_gates.py` and `tests/integration/ledger/`; this is about the words, the
exit statuses and the published shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import backout, told
from integration.ledger.clinic import CONFIG, Clinic

CLOSED = [(1, "closed"), (2, "closed"), (3, "closed")]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def says(clinic: Clinic, person: str, schema: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    return told(clinic.folder, schema, *arguments, "--key", f"keys/{person}", status=status)


def test_the_whole_way_of_a_change(clinic: Clinic) -> None:
    """Protocol B: documents, test on staging, two approvals with roles, announcement, run by whoever may, audit."""
    nothing_yet = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert nothing_yet["may_run"] is False
    assert (nothing_yet["next"], nothing_yet["who"]) == ("backout submit close", "whoever wrote or edited it last")

    handed_in = says(clinic, "ann", "statement", "submit", "close")
    assert (handed_in["kind"], handed_in["person"], handed_in["signed"], handed_in["entry"]) == (
        "submit",
        "ann",
        True,
        1,
    )

    rehearsed = backout(clinic.folder, "rehearse", "close", "--on", "staging", "--yes", "--key", "keys/eve")
    assert rehearsed.status == 0, rehearsed.err

    for person, kind in (("bob", "correctness"), ("cem", "safety")):
        approved = says(clinic, person, "statement", "approve", "close", "--tick", "all")
        assert (approved["environment"], approved["details"]["approval"]) == ("production", kind)
        assert len(approved["details"]["checklist"]) == 4

    announced = backout(clinic.folder, "announce", "close", "--on", "production", "--told", "#dev", "--key", "keys/cem")
    assert announced.status == 0, announced.err
    ready = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (ready["may_run"], ready["next"], ready["who"]) == (True, "backout run close --on production", "cem")

    report = says(clinic, "cem", "run", "run", "close", "--on", "production", "--yes")
    assert report["authority"]["person"] == "cem"
    assert report["authority"]["signed"] is True
    assert report["authority"]["ledger_head"] is not None
    assert clinic.rows() == CLOSED

    attested = says(clinic, "dan", "statement", "attest", report["identifier"], "--saw", "the list shows them closed")
    assert attested["details"] == {"run": "production-1", "saw": "the list shows them closed"}

    audited = told(clinic.folder, "audit", "audit", "--on", "production")
    assert (audited["sound"], audited["problems"]) == (True, [])


def test_the_status_in_words_ends_with_command_person_and_time(clinic: Clinic) -> None:
    says(clinic, "ann", "statement", "submit", "close")
    shown = backout(clinic.folder, "status", "close", "--on", "production", "--key", "keys/cem")
    assert shown.status == 0
    lines = shown.out.splitlines()
    assert lines[1] == 'profile "team", statements are signed'
    assert "  yes  author        submitted by ann" in lines
    assert "  no   ladder        it was not rehearsed on staging" in lines
    assert lines[-3:] == [
        "next: backout rehearse close --on staging",
        "who: anybody who may run there",
        "earliest: now, as far as time goes",
    ]


def test_a_refusal_names_the_gate_what_satisfies_it_and_who(clinic: Clinic) -> None:
    clinic.prepare(leave_out="safety")
    refused = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert (refused.status, refused.out) == (3, "")
    assert refused.err == (
        'error: "safety" is not approved\n'
        "state: untouched\n"
        "hint: backout approve close --on production --for safety  (platform, not an author)\n"
    )


def test_being_second_is_busy(clinic: Clinic) -> None:
    clinic.prepare()
    says(clinic, "bob", "statement", "claim", "close", "--on", "production")
    busy = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert busy.status == 7
    assert busy.err.startswith("error: bob is on it since ")
    assert "backout claim close --on production --take-over --why …" in busy.err
    says(clinic, "cem", "statement", "claim", "close", "--take-over", "--why", "bob went home")
    says(clinic, "cem", "run", "run", "close", "--on", "production", "--yes")


def test_objecting_withdrawing_overruling_rejecting_consenting_releasing(clinic: Clinic) -> None:
    clinic.prepare()
    objection = says(clinic, "dan", "statement", "object", "close", "--why", "month end is running")
    blocked = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (blocked["may_run"], blocked["who"]) == (False, "dan, or team-lead")
    says(clinic, "dan", "statement", "withdraw", "close", "--objection", objection["statement"][:12])
    again = says(clinic, "eve", "statement", "object", "close", "--why", "so it is")
    overruled = says(clinic, "bob", "statement", "overrule", "close", "--why", "it has ended")
    assert overruled["details"]["statement"] == again["statement"]
    says(clinic, "bob", "statement", "reject", "close", "--why", "it also closes paid ones")
    rejected = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert {"approvals"} == {one["gate"] for one in rejected["gates"] if not one["satisfied"]}
    says(clinic, "bob", "statement", "approve", "close", "--tick", "1,2,3,4")
    says(clinic, "dan", "statement", "consent", "close")
    says(clinic, "cem", "statement", "claim", "close")
    says(clinic, "cem", "statement", "release", "close")
    says(clinic, "cem", "run", "run", "close", "--on", "production", "--yes")


def test_a_checklist_is_not_ticked_by_silence(clinic: Clinic) -> None:
    says(clinic, "ann", "statement", "submit", "close")
    silent = backout(clinic.folder, "approve", "close", "--key", "keys/bob")
    assert silent.status == 2
    assert silent.err.startswith("error: the checklist is not answered\nstate: untouched\nhint: --tick all, once ")
    assert "  2. the statements do what the request asks, and to no other row\n" in silent.err
    partly = backout(clinic.folder, "approve", "close", "--tick", "1,2", "--key", "keys/bob")
    assert (partly.status, partly.err.split("\n")[0]) == (
        2, 'error: a question is not answered: "the expectations and assertions would fail if they did not"',
    )  # fmt: skip
    wrong = backout(clinic.folder, "approve", "close", "--tick", "9", "--key", "keys/bob")
    assert (wrong.status, wrong.err.split("\n")[0]) == (2, "error: --tick takes numbers from 1 to 4, or all")


def test_an_emergency_says_why_and_owes_a_review(clinic: Clinic) -> None:
    on_production = ("run", "close", "--on", "production", "--yes", "--key", "keys/eve")
    silent = backout(clinic.folder, *on_production, "--emergency")
    assert (silent.status, silent.err.split("\n")[0]) == (2, "error: an emergency has a reason")
    alone = backout(clinic.folder, *on_production, "--why", "no reason at all")
    assert (alone.status, alone.err.split("\n")[0]) == (2, "error: --why is for --emergency")
    report = says(clinic, "eve", "run", *on_production[:5], "--emergency", "--why", "nobody can be admitted")
    assert report["authority"]["emergency"] == "nobody can be admitted"
    clinic.prepare()
    owed = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert owed.status == 3
    assert owed.err == (
        "error: emergency run production-1 owes a review by 2 people\nstate: untouched\n"
        "hint: backout approve production-1 --emergency  (anybody but eve)\n"
    )
    for person in ("bob", "dan"):
        review = says(clinic, person, "statement", "approve", "production-1", "--emergency")
        assert review["kind"] == "review"


def test_an_audit_names_the_first_entry_that_was_altered(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = replace(body, 'ann', 'eve') WHERE position = 1")
    found = backout(clinic.folder, "audit")
    assert found.status == 3
    assert "NOT SOUND: entry 1: altered: its text is not what its hash was made of" in found.out.splitlines()
    as_json = told(clinic.folder, "audit", "audit", "--no-signatures", status=3)
    assert (as_json["sound"], as_json["problems"][0]["entry"]) == (False, 1)


def test_doctor_refuses_a_ledger_that_only_one_machine_has(clinic: Clinic) -> None:
    found = told(clinic.folder, "doctor", "doctor", status=3)
    wrong = [(one["text"], one["hint"]) for one in found["advice"] if one["level"] == "wrong"]
    assert wrong == [
        (
            "a policy asks for two people, and the ledger is a file that only this machine has",
            'ledger = "postgresql://…", or statements = "files", which git merges',
        )
    ]
    clinic.configure(CONFIG.replace('name = "clinic"', 'name = "clinic"\nstatements = "files"'))
    told(clinic.folder, "doctor", "doctor")


def test_unsigned_statements_are_marked_wherever_they_are_shown(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace("operators =", 'identity = "os-user"\noperators ='))
    spoken = backout(clinic.folder, "submit", "close")
    assert spoken.status == 0, spoken.err
    assert "(unsigned: the account's name is believed)" in spoken.out
    shown = backout(clinic.folder, "status", "close", "--on", "production")
    assert "statements are unsigned: accounts are believed" in shown.out
    assert "1 entries: 0 signed, 1 unsigned" in backout(clinic.folder, "audit").out
    weak = [
        one["text"] for one in told(clinic.folder, "doctor", "doctor", status=3)["advice"] if one["level"] == "weak"
    ]
    assert '"production" believes the accounts of the operating system: nothing is signed' in weak


def test_a_statement_can_be_checked_without_backout(clinic: Clinic) -> None:
    """As docs/how-to/four-eyes.md says: the text and the armour of an entry, and ssh-keygen."""
    import subprocess

    says(clinic, "ann", "statement", "submit", "close")
    (body,) = clinic.sql("ledger", "SELECT body FROM backout_ledger_entry")[0]
    entry = json.loads(body)
    (clinic.folder / "one.sig").write_text(entry["signature"])
    command = ["ssh-keygen", "-Y", "verify", "-f", str(clinic.signers), "-I", "ann@example.org"]
    command += ["-n", "statement@backout", "-s", str(clinic.folder / "one.sig")]
    checked = subprocess.run(command, input=entry["statement"].encode(), capture_output=True, check=False)
    assert checked.returncode == 0
    altered = entry["statement"].replace("submit", "approve").encode()
    assert subprocess.run(command, input=altered, capture_output=True, check=False).returncode != 0


def test_a_newcomer_with_one_person_is_asked_for_nobody(tmp_path: Path) -> None:
    assert backout(tmp_path, "init").status == 0
    config = tmp_path / "backout.toml"
    assert 'profile = "solo"' in config.read_text()
    with config.open("a") as file:
        file.write(f'\n[environments.production]\nurl = "sqlite:{tmp_path}/production.db"\n')
    clinic = Clinic(tmp_path / "clinic")  # for a database with rows
    (clinic.folder / "production.db").rename(tmp_path / "production.db")
    report = told(tmp_path, "run", "run", str(clinic.path), "--on", "production", "--yes")
    assert (report["outcome"], report["authority"]) == ("committed", None)
    assert not (tmp_path / ".backout").exists()
