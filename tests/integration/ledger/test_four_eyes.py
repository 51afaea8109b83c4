"""The gates where the write happens: with real keys, a real ledger and real databases, through the library.

The command line is a thin copy of it: `tests/acceptance/test_four_eyes.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backout.engines.values import RunState
from backout.errors import AssertionFailed, Busy, ExpectationFailed, Refused, UsageError
from backout.gates.checklist import checklist
from backout.ledger.files import folder_of
from backout.ledger.statement import Kind, Signed, Statement
from backout.ledger.store import Ledger
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes
from integration.ledger.keys import allow, make_key

OPEN = [(1, "open"), (2, "open"), (3, "closed")]
CLOSED = [(1, "closed"), (2, "closed"), (3, "closed")]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def statements(clinic: Clinic) -> list[dict[str, Any]]:
    """What the ledger has, oldest first."""
    bodies = [
        json.loads(one) for (one,) in clinic.sql("ledger", "SELECT body FROM backout_ledger_entry ORDER BY position")
    ]
    return [json.loads(one["statement"]) | {"signed": one["signature"] is not None} for one in bodies]


def test_with_everything_the_policy_asks_for_the_change_runs_and_the_ledger_has_it(clinic: Clinic) -> None:
    clinic.prepare()
    report = clinic.run()
    assert (report.outcome, clinic.rows()) == (RunState.COMMITTED, CLOSED)
    assert report.authority is not None
    assert (report.authority.person, report.authority.signed, report.authority.profile) == ("cem", True, "team")
    *_, claim, run, release = statements(clinic)
    assert [(one["kind"], one["person"], one["signed"]) for one in (claim, run, release)] == [
        ("claim", "cem@example.org", True),
        ("run", "cem@example.org", True),
        ("release", "cem@example.org", True),
    ]
    assert run["details"]["outcome"] == "committed"
    assert clinic.project(None).audit("production").is_sound


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("submit", '"close" was not submitted as it is now'),
        ("rehearse", "it was not rehearsed on staging"),
        ("correctness", '"correctness" is not approved'),
        ("safety", '"safety" is not approved'),
        ("announce", "it was not announced"),
    ],
)
def test_without_one_of_them_nothing_runs(clinic: Clinic, missing: str, words: str) -> None:
    clinic.prepare(leave_out=missing)
    assert clinic.refusal() == words


def test_an_environment_called_production_is_strict_when_nothing_is_said(clinic: Clinic) -> None:
    clinic.configure('[environments.production]\nurl = "sqlite:{folder}/production.db"\n')
    assert clinic.project(None).config.environment("production").policy.profile == "team"
    assert clinic.refusal().startswith('"close" was not submitted')


def test_it_is_as_strict_when_it_is_reached_by_its_url(clinic: Clinic) -> None:
    url = f"sqlite:{clinic.folder}/production.db"  # the name that a URL gives its database is "production", too
    with pytest.raises(Refused) as caught:
        clinic.project("cem").run(clinic.change, url, ask=yes)
    assert caught.value.gate == "author"
    assert clinic.rows() == OPEN


def test_another_name_for_the_same_database_does_not_fit_its_stamp(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.configure(CONFIG + '[environments.harmless]\nurl = "sqlite:{folder}/production.db"\n')
    with pytest.raises(Refused) as caught:
        clinic.project("cem").run(clinic.change, "harmless", ask=yes)
    assert caught.value.gate == "stamp"


# -- people


def test_the_author_cannot_approve(clinic: Clinic) -> None:
    clinic.prepare(leave_out="safety")
    with pytest.raises(Refused) as caught:
        clinic.approve("ann", "safety")
    assert caught.value.message == "this approval would not count: ann wrote or edited it"


def test_who_submits_an_edit_is_an_author_from_then_on(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.write(CHANGE + "-- edited by bob\n")
    clinic.project("bob").statements.submit(clinic.change)
    with pytest.raises(Refused, match="bob wrote or edited it"):
        clinic.approve("bob", "correctness")


def test_one_person_with_two_keys_is_one_person(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace('roles = {{correctness = "team-lead", safety = "platform"}}\n', ""))
    allow(clinic.signers, "bob@example.org", make_key(clinic.folder / "keys", "bob-token"))
    clinic.prepare(leave_out="safety")
    clinic.approve("bob-token", "safety")
    assert clinic.refusal() == '"safety" and another approval are by one person, bob'


def test_one_key_under_two_names_is_one_person(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace('roles = {{correctness = "team-lead", safety = "platform"}}\n', ""))
    allow(clinic.signers, "eve@example.org", clinic.key("bob"))
    clinic.prepare(leave_out="safety")
    project = clinic.project("bob")
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "eve@example.org", datetime.now(UTC),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    speaker = project.statements._speaker("ssh")
    project._book.write(speaker.say(statement))  # bob's key, eve's name: ssh-keygen says that it is good
    assert clinic.refusal() == '"safety" and another approval are by one person, eve'


def test_a_key_that_nobody_was_given_cannot_speak(clinic: Clinic) -> None:
    make_key(clinic.folder / "keys", "mallory")
    with pytest.raises(UsageError) as caught:
        clinic.project("mallory").statements.submit(clinic.change)
    assert caught.value.message == f'the key "{clinic.key("mallory")}" is not in "{clinic.signers}"'


def test_a_key_of_a_pattern_speaks_for_nobody(clinic: Clinic) -> None:
    allow(clinic.signers, "*@example.org", make_key(clinic.folder / "keys", "anybody"))
    with pytest.raises(UsageError):
        clinic.project("anybody").statements.submit(clinic.change)


def test_only_operators_run_it(clinic: Clinic) -> None:
    clinic.prepare()
    assert clinic.refusal("bob") == "bob may not run anything on production"


def test_the_documents_come_before_any_approval(clinic: Clinic) -> None:
    clinic.write(CHANGE.replace("A referral that was reopened by hand could be closed again.", "TBD"))
    clinic.project("ann").statements.submit(clinic.change)
    with pytest.raises(Refused) as caught:
        clinic.approve("bob", "correctness")
    assert (caught.value.gate, caught.value.message) == ("documents", '"risk" says nothing: "TBD"')


def test_the_checklist_is_part_of_the_statement(clinic: Clinic) -> None:
    clinic.prepare(leave_out="safety")
    with pytest.raises(UsageError, match="a question is not answered"):
        clinic.project("cem").approve(clinic.change, "production", "safety", ticked=checklist("safety")[:-1])
    clinic.approve("cem", "safety")
    assert statements(clinic)[-1]["details"]["checklist"] == list(checklist("safety"))


# -- what voids approvals


def test_an_edit_after_the_approval_voids_it(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.write(CHANGE.replace("WHERE status = 'open';\n-- @assert", "WHERE status <> 'x';\n-- @assert"))
    assert clinic.refusal() == ('"close" was not submitted as it is now (and 3 more: ladder, approvals, announcement)')


def test_a_text_that_was_exchanged_after_it_was_read_is_not_run(clinic: Clinic) -> None:
    clinic.prepare()
    change = clinic.change
    clinic.write(CHANGE.replace("'closed' WHERE", "'gone' WHERE"))
    with pytest.raises(Refused) as caught:
        clinic.project("cem").run(change, "production", ask=yes)
    assert caught.value.gate == "digest"


def test_a_change_made_in_memory_runs_as_its_file_says(clinic: Clinic) -> None:
    """A library's caller gives the approved digest to other statements: the file's statements run."""
    clinic.prepare()
    clinic.write(CHANGE.replace("'closed' WHERE", "'gone' WHERE"))
    other = clinic.change
    clinic.write(CHANGE)
    forged = replace(clinic.change, steps=other.steps, text=other.text)
    clinic.project("cem").run(forged, "production", ask=yes)
    assert clinic.rows() == CLOSED


def test_a_symbolic_link_is_not_a_change_that_people_can_approve(clinic: Clinic) -> None:
    clinic.prepare()
    real = clinic.folder / "elsewhere.sql"
    clinic.path.rename(real)
    clinic.path.symlink_to(real)
    assert clinic.refusal() == 'the file of "close" is reached through a symbolic link'


def test_a_folder_of_changes_that_is_a_link_is_none_either(clinic: Clinic) -> None:
    clinic.prepare()
    (clinic.folder / "changes").rename(clinic.folder / "real")
    (clinic.folder / "changes").symlink_to(clinic.folder / "real")
    assert clinic.refusal() == 'the file of "close" is reached through a symbolic link'


def test_a_run_that_failed_an_expectation_voids_the_approvals(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.sql("production", "UPDATE referral SET status = 'closed' WHERE id = 1")
    with pytest.raises(ExpectationFailed):
        clinic.run()
    clinic.sql("production", "UPDATE referral SET status = 'open' WHERE id = 1")
    assert clinic.refusal() == (
        '"correctness" is not approved: the approval by bob is void: run production-1 failed (expectation_failed); '
        '"safety" is not approved: the approval by cem is void: run production-1 failed (expectation_failed)'
    )
    clinic.approve("bob", "correctness")
    clinic.approve("cem", "safety")
    assert clinic.run().outcome is RunState.COMMITTED


def test_a_ghost_that_failed_voids_nothing(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.sql("production", "INSERT INTO referral VALUES (4, 'open')")
    with pytest.raises(ExpectationFailed):
        clinic.project("cem").ghost(clinic.change, "production", ask=yes)
    clinic.sql("production", "DELETE FROM referral WHERE id = 4")
    assert clinic.run().outcome is RunState.COMMITTED


def test_an_assertion_that_failed_on_staging_voids_nothing_for_production(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.sql(
        "staging", "CREATE TRIGGER t AFTER UPDATE ON referral BEGIN INSERT INTO referral (status) VALUES ('open'); END"
    )
    with pytest.raises(AssertionFailed):
        clinic.project("eve").run(clinic.change, "staging", ask=yes)
    assert clinic.run().outcome is RunState.COMMITTED


# -- objections, claims


def test_an_objection_stops_the_run_until_it_is_withdrawn(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
    assert clinic.refusal() == "dan objects: month end is running"
    with pytest.raises(Refused, match="cem may not overrule an objection"):
        clinic.project("cem").statements.overrule(clinic.change, "production", "never mind")
    with pytest.raises(UsageError, match="cem has no open objection to it"):
        clinic.project("cem").statements.withdraw(clinic.change, "production")
    clinic.project("dan").statements.withdraw(clinic.change, "production")
    assert clinic.run().outcome is RunState.COMMITTED


def test_an_objection_is_overruled_by_whom_the_policy_names(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
    clinic.project("bob").statements.overrule(clinic.change, "production", "it has ended")
    assert clinic.run().outcome is RunState.COMMITTED


def test_a_second_person_is_told_who_is_on_it(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.project("bob").statements.claim(clinic.change, "production")
    with pytest.raises(Busy, match="bob is on it since"):
        clinic.run()
    with pytest.raises(Refused, match="bob is on it since"):
        clinic.project("cem").statements.claim(clinic.change, "production")
    clinic.project("cem").statements.claim(clinic.change, "production", "bob is ill", take_over=True)
    assert clinic.run().outcome is RunState.COMMITTED


def test_a_run_that_was_not_begun_gives_its_claim_back(clinic: Clinic) -> None:
    clinic.prepare()
    with pytest.raises(Refused, match="not run: you said no"):
        clinic.project("cem").run(clinic.change, "production", ask=lambda kind, _text: kind != "run")
    assert [one["kind"] for one in statements(clinic)][-1] == "announce"


# -- forging


def test_an_approval_written_by_sql_with_a_signature_of_another_one_is_forged(clinic: Clinic) -> None:
    clinic.prepare(leave_out="safety")
    (body,) = (
        one for (one,) in clinic.sql("ledger", "SELECT body FROM backout_ledger_entry") if '\\"correctness\\"' in one
    )
    signature = json.loads(body)["signature"]
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "cem@example.org", datetime.now(UTC),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    Ledger(f"sqlite:///{clinic.ledger}").append(Signed(statement, signature).body)
    assert clinic.refusal().startswith(
        'the ledger is not as it was written: statement "approve" by cem: its signature is not of these words'
    )
    assert not clinic.project(None).audit().is_sound


def test_an_unsigned_approval_counts_for_nothing(clinic: Clinic) -> None:
    clinic.prepare(leave_out="safety")
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "cem@example.org", datetime.now(UTC),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    Ledger(f"sqlite:///{clinic.ledger}").append(Signed(statement, None).body)
    assert clinic.refusal() == ('"safety" is not approved: an approval by cem does not count: it is not signed')


@pytest.mark.parametrize(
    ("hours", "problem"),
    [(2, "it is from the future: "), (-24 * 400, 'its key is not one that "allowed_signers" gives "cem@example.org"')],
)
def test_a_clock_that_was_moved_helps_nobody(clinic: Clinic, hours: float, problem: str) -> None:
    """Ahead: to outlive a failing run. Behind: to use a key from before it was somebody's (`valid-after`)."""
    lines = clinic.signers.read_text().replace(
        'cem@example.org namespaces="statement@backout"',
        'cem@example.org namespaces="statement@backout",valid-after="20260101"',
    )
    clinic.signers.write_text(lines)
    clinic.prepare(leave_out="safety")
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "cem@example.org",
        datetime.now(UTC) + timedelta(hours=hours),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    project = clinic.project("cem")
    project._book.write(project.statements._speaker("ssh").say(statement))
    assert f'"safety" is not approved: an approval by cem does not count: {problem}' in clinic.refusal()


def test_a_signature_for_git_is_none_for_us(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words, the same key, signed under another namespace."""
    clinic.prepare(leave_out="safety")
    lines = clinic.signers.read_text().replace(' namespaces="statement@backout"', "")
    clinic.signers.write_text(lines)
    statement = Statement(
        Kind.APPROVE, "close", clinic.change.digest, "production", "cem@example.org", datetime.now(UTC),
        {"approval": "safety", "parameters": "", "checklist": list(checklist("safety"))}, "clinic",
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("backout.ledger.signing.NAMESPACE", "git")
        signed = clinic.project("cem").statements._speaker("ssh").say(statement)
    Ledger(f"sqlite:///{clinic.ledger}").append(signed.body)
    assert "its signature is not of these words" in clinic.refusal()


def test_an_objection_that_was_deleted_shows(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.project("dan").statements.object(clinic.change, "production", "month end is running")
    clinic.project("eve").statements.object(clinic.change, "production", "so it is")
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE body LIKE '%month end is running%'")
    assert "removed: entry" in clinic.refusal()


def test_a_ledger_whose_end_was_cut_off_shows_in_the_journal(clinic: Clinic) -> None:
    """Every hash fits again; but the journal has seen an entry that is not there any more."""
    clinic.prepare()
    clinic.run()
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE position > 4")
    clinic.rechain()
    assert "the entry" not in clinic.refusal()
    assert "is gone: its end was cut off, or this is another ledger" in clinic.refusal()
    found = clinic.project(None).audit("production")
    assert not found.is_sound
    assert "was cut off" in found.problems[0].text
    assert clinic.project(None).audit().is_sound  # without the journal there is nothing to see


def test_an_entry_that_was_altered_refuses_the_run_and_is_named_by_the_audit(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = replace(body, 'ann', 'eve') WHERE position = 1")
    assert clinic.refusal().startswith("the ledger is not as it was written: entry 1: altered")
    found = clinic.project(None).audit()
    assert (found.problems[0].position, found.problems[0].text) == (
        1, "altered: its text is not what its hash was made of",
    )  # fmt: skip


def test_a_statement_of_another_project_with_the_same_change_counts_for_nothing(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace('name = "clinic"', 'name = "sandbox"'))
    clinic.prepare()
    clinic.configure(CONFIG)
    assert clinic.refusal().startswith('"close" was not submitted as it is now')


# -- emergency


def test_an_emergency_runs_at_once_and_owes_a_review_by_two_people(clinic: Clinic) -> None:
    why = "patients cannot be admitted since midnight"
    report = clinic.run("eve", emergency=why)
    assert (report.outcome, clinic.rows()) == (RunState.COMMITTED, CLOSED)
    assert report.authority is not None
    assert (report.authority.person, report.authority.emergency) == ("eve", why)
    clinic.sql("production", "UPDATE referral SET status = 'open' WHERE id < 3")
    clinic.prepare()
    assert clinic.refusal() == "emergency run production-1 owes a review by 2 people"
    for person in ("eve", "bob"):
        project = clinic.project(person)
        run, on, subject = project.about_run("production-1")
        project.statements.review(run, subject, on)
    assert clinic.refusal() == "emergency run production-1 owes a review by 2 people (so far: bob)"
    project = clinic.project("cem")
    run, on, subject = project.about_run("1", "production")
    project.statements.review(run, subject, on)
    assert clinic.run(again="they were opened again").outcome is RunState.COMMITTED


def test_an_emergency_is_only_for_whom_the_policy_names(clinic: Clinic) -> None:
    assert clinic.refusal("cem", emergency="patients cannot be admitted") == "cem may not run anything on production"


def test_an_emergency_keeps_the_guard_on(clinic: Clinic) -> None:
    clinic.sql("production", "INSERT INTO referral VALUES (4, 'open')")
    with pytest.raises(ExpectationFailed):
        clinic.run("eve", emergency="patients cannot be admitted")
    assert clinic.rows()[:3] == OPEN


def test_without_its_ledger_only_an_emergency_runs_and_the_ledger_catches_up(clinic: Clinic) -> None:
    clinic.prepare()
    away = clinic.ledger.with_suffix(".away")
    clinic.ledger.rename(away)
    clinic.ledger.mkdir()  # a file that cannot be opened as one
    assert clinic.refusal().startswith("unable to use the ledger")
    report = clinic.run("eve", emergency="patients cannot be admitted")
    assert report.outcome is RunState.COMMITTED
    clinic.ledger.rmdir()
    away.rename(clinic.ledger)
    assert clinic.refusal().startswith("emergency run production-1 owes a review")
    project = clinic.project("bob")
    run, on, subject = project.about_run("production-1")
    project.statements.review(run, subject, on)
    project = clinic.project("dan")
    project.statements.review(run, subject, on)
    clinic.sql("production", "UPDATE referral SET status = 'open' WHERE id < 3")
    clinic.run(again="they were opened again")
    emergencies = [one for one in statements(clinic) if one["kind"] == "run" and one["details"]["emergency"]]
    assert [(one["details"]["run"], one["signed"]) for one in emergencies] == [("production-1", False)]


# -- undo


def test_an_undo_needs_an_operator_and_is_in_the_ledger(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    with pytest.raises(Refused, match="ann may not run anything on production"):
        clinic.project("ann").undo("production-1", ask=yes)
    clinic.project("cem").undo("production-1", ask=yes)
    assert clinic.rows() == OPEN
    assert statements(clinic)[-2]["details"]["mode"] == "undo"


def test_the_undo_of_an_undo_wants_one_more_approval(clinic: Clinic) -> None:
    clinic.prepare()
    clinic.run()
    clinic.project("cem").undo("production-1", ask=yes)
    with pytest.raises(Refused) as caught:
        clinic.project("cem").undo("production-2", ask=yes)
    assert caught.value.message == "this undo of production-2 wants one more approval"
    project = clinic.project("bob")
    run, on, subject = project.about_run("production-2")
    project.statements.approve_undo(run, subject, on)
    clinic.project("cem").undo("production-2", ask=yes)
    assert clinic.rows() == CLOSED


# -- statements as files, and accounts instead of keys


def test_statements_as_files_are_enough_for_another_machine(clinic: Clinic) -> None:
    """Two machines with a ledger each; git brings the files of the one to the other."""
    clinic.configure(CONFIG.replace('name = "clinic"', 'name = "clinic"\nstatements = "files"'))
    clinic.prepare()
    assert len(list(folder_of(clinic.path).glob("*.json"))) == 5
    clinic.ledger.unlink()  # what the other machine has
    assert clinic.run().outcome is RunState.COMMITTED


def test_a_statement_file_that_was_altered_is_forged(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace('name = "clinic"', 'name = "clinic"\nstatements = "files"'))
    clinic.prepare(leave_out="safety")
    clinic.ledger.unlink()
    (file,) = folder_of(clinic.path).glob("*-approve-*.json")
    file.write_text(file.read_text().replace("correctness", "safety"))
    assert "its signature is not of these words" in clinic.refusal()


def test_a_file_that_is_no_statement_stops_nothing_and_is_told(clinic: Clinic) -> None:
    clinic.prepare()
    folder = folder_of(clinic.path)
    folder.mkdir()
    (folder / "note.json").write_text('{"kind": "statement"}')
    assert any("note.json" in one for one in clinic.project("cem").status(clinic.change, "production").ignored)
    assert clinic.run().outcome is RunState.COMMITTED


def test_accounts_are_believed_where_the_policy_says_so(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.configure(CONFIG.replace("operators =", 'identity = "os-user"\noperators ='))

    def be(name: str) -> None:
        monkeypatch.setattr("backout.project.identity.account", lambda: name)

    project = clinic.project(None)
    be("ann")
    project.statements.submit(clinic.change)
    be("bob")
    project.approve(clinic.change, "production", "correctness", ticked=checklist("correctness"))
    be("cem")
    project.approve(clinic.change, "production", "safety", ticked=checklist("safety"))
    project.announced(clinic.change, "production", ["everybody"])
    project.rehearse(clinic.change, "staging", ask=yes)
    report = clinic.run(None)
    assert report.authority is not None
    assert (report.authority.person, report.authority.signed) == ("cem", False)
    assert not any(one["signed"] for one in statements(clinic))


def test_with_one_person_nothing_is_asked_and_no_ledger_is_made(clinic: Clinic) -> None:
    clinic.configure(
        '[project]\nprofile = "solo"\n' + '[environments.production]\nurl = "sqlite:{folder}/production.db"\n'
    )
    report = clinic.run(None)
    assert (report.outcome, report.authority) == (RunState.COMMITTED, None)
    assert not clinic.ledger.parent.exists()
    with pytest.raises(Refused, match="there is nothing to skip"):
        clinic.run(None, emergency="patients cannot be admitted")
