"""Four eyes as people type it: the whole way of one change, each in their own name, and what the program says.

What the gates refuse is in `tests/unit/test_gates.py` and `tests/integration/ledger/`; this is about the words, the
exit statuses and the published shapes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import backout, told
from integration.announcements.listeners import web_listener
from integration.ledger.clinic import CHANGE, CONFIG, Clinic
from integration.ledger.keys import make_key

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
    assert (silent.status, silent.err.split("\n")[0]) == (2, "error: an emergency needs its reason: --why is missing")
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


@pytest.mark.parametrize(
    "typed",
    [
        "submit close", "approve close --tick all", "approve production-1 --undo", "reject close --why no",
        "object close --why no", "withdraw close", "overrule close --why no", "consent close", "claim close",
        "release close", "attest production-1 --saw it", "retain production-1 --until 2030-01-01 --why hold",
        "announce close --on production --told #dev",
        "rehearse close --on staging --yes",
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_named_key_that_is_nobodys_is_refused_and_nothing_is_said(clinic: Clinic, typed: str, by: str) -> None:
    clinic.prepare()
    clinic.run()
    key = make_key(clinic.folder / "keys", "mallory")
    entries = told(clinic.folder, "audit", "audit")["entries"]
    named = ["--key", str(key)] if by == "option" else []
    refused = backout(clinic.folder, *typed.split(), *named, **({} if named else {"BACKOUT_KEY": str(key)}))
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        f'error: the key "{key}" is not in "{clinic.signers}"\n'
        "state: untouched\n"
        "hint: name yours with --key FILE or $BACKOUT_KEY, and have its public half added\n"
    )
    assert told(clinic.folder, "audit", "audit")["entries"] == entries


def test_nobody_is_told_of_a_change_by_whom_cannot_sign_the_receipt(clinic: Clinic) -> None:
    team = 'announce = {{to = ["team"]}}\n[channels.team]\nkind = "webhook"\nurl_file = "hook"\nattempts = 1\n'
    clinic.configure(CONFIG.replace('announce = {{before = "1 milliseconds"}}\n', team))
    with web_listener((200, {})) as listener:
        (clinic.folder / "hook").write_text(f"{listener.url}/hook\n")
        make_key(clinic.folder / "keys", "mallory")
        typed = ["announce", "close", "--on", "production", "--key"]
        refused = backout(clinic.folder, *typed, "keys/mallory")
        assert (refused.status, refused.out, listener.got) == (2, "", [])
        assert backout(clinic.folder, *typed, "keys/cem").status == 0
        assert len(listener.got) == 1


def test_a_named_key_that_is_not_used_is_told_of(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace("operators =", 'identity = "os-user"\noperators ='))
    spoken = backout(clinic.folder, "object", "close", "--on", "production", "--why", "no", "--key", "keys/ann")
    assert spoken.status == 0, spoken.err
    assert "(unsigned: the account's name is believed, and the key was not used)" in spoken.out
    assert backout(clinic.folder, "run", "close", "--on", "staging", "--yes").status == 0
    kept = ("retain", "staging-1", "--until", "2100-01-01", "--why", "case 17")
    note = "note: the statement is unsigned: the account's name is believed, and the key was not used\n"
    assert backout(clinic.folder, *kept, "--key", "keys/ann").err == note
    later = (*kept[:3], "2101-01-01", *kept[4:])
    assert backout(clinic.folder, *later).err == ""


def test_a_rehearsal_says_who_signed_its_certificate(clinic: Clinic) -> None:
    rehearsed = backout(clinic.folder, "rehearse", "close", "--on", "staging", "--yes", "--key", "keys/eve")
    assert rehearsed.status == 0, rehearsed.err
    (certified,) = [line for line in rehearsed.out.splitlines() if "on staging (SQLite" in line and ", by " in line]
    assert certified.endswith(", by eve")
    again = says(clinic, "bob", "rehearse", "rehearse", "close", "--on", "staging", "--yes")
    assert again["certificate"]["person"] == "bob"


def test_after_the_run_the_status_proposes_its_undo_and_not_the_run(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    shown = backout(clinic.folder, "status", "close", "--on", "production", "--key", "keys/cem")
    lines = shown.out.splitlines()
    (ran,) = [line for line in lines if line.startswith("ran: ")]
    assert re.fullmatch(r"ran: production-1, committed, way back until \d{4}-\d\d-\d\d \d\d:\d\d UTC", ran)
    assert lines[-3:] == [
        "next: backout undo production-1", "who: cem", "earliest: now, as far as time goes",
    ]  # fmt: skip
    status = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (status["may_run"], status["next"]) == (False, "backout undo production-1")
    assert (status["ran"]["run"], status["ran"]["outcome"]) == ("production-1", "committed")
    refused = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert (refused.status, "has run here already: production-1" in refused.err) == (3, True)

    assert backout(clinic.folder, "undo", "production-1", "--yes", "--key", "keys/cem").status == 0
    undone = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (undone["may_run"], undone["next"], undone["ran"]) == (True, "backout run close --on production", None)


def test_a_task_for_many_times_may_run_again_after_its_run(clinic: Clinic) -> None:
    clinic.write(CHANGE.replace("-- ///\n-- @expect", "-- repeat = true\n-- ///\n-- @expect"))
    clinic.prepare()
    clinic.run()
    status = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (status["next"], status["ran"]) == ("backout run close --on production", None)


def test_a_run_whose_way_back_is_gone_can_only_be_run_again_with_a_reason(clinic: Clinic) -> None:
    clinic.configure(CONFIG + 'keep = "1 ms"\n')
    clinic.prepare()
    clinic.run()
    assert backout(clinic.folder, "clean", "--on", "production", "--yes").status == 0
    shown = backout(clinic.folder, "status", "close", "--on", "production", "--key", "keys/cem")
    assert "ran: production-1, committed, way back removed " in shown.out
    assert 'next: backout run close --on production --again "…"\n' in shown.out


def test_of_an_edited_change_the_status_says_that_an_earlier_text_has_run(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.sql("staging", "UPDATE referral SET status = 'open' WHERE id < 3")
    clinic.write(CHANGE.replace("-- @expect 2", "-- @expect 0..2"))
    shown = backout(clinic.folder, "status", "close", "--on", "production", "--key", "keys/cem")
    assert "ran: production-1 with an earlier text, committed, way back until " in shown.out
    assert "next: backout submit close\n" in shown.out
    clinic.prepare()
    status = says(clinic, "cem", "status", "status", "close", "--on", "production")
    assert (status["may_run"], status["next"]) == (
        False, 'backout undo production-1, or backout run close --on production --again "…"',
    )  # fmt: skip
    refused = backout(clinic.folder, "run", "close", "--on", "production", "--yes", "--key", "keys/cem")
    assert (refused.status, "has run here already: production-1" in refused.err) == (3, True)
