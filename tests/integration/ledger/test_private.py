"""Private changes: in the ledger, encrypted, and nowhere else; with real keys, a real ledger and real databases.

What is typed is in `tests/acceptance/test_private_changes.py`.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backout.change.model import Change
from backout.change.package import Package, packed, read_package
from backout.change.read import read_change
from backout.errors import Refused, UsageError
from backout.gates.checklist import checklist
from backout.ledger.reading import signed_in
from backout.ledger.sealing import seal, unseal, why_not
from backout.ledger.signers import read_allowed_signers
from backout.ledger.statement import Kind, Signed
from backout.ledger.store import Ledger
from integration.ledger.clinic import CHANGE, CONFIG, Clinic, yes
from integration.ledger.keys import allow, make_key

MARK = "Wilhelmina van Buren"
PRIVATE = CHANGE.replace("-- @expect 2", f"-- the patient is {MARK}\n-- @expect 2")


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    made = Clinic(tmp_path / "project")
    made.path.unlink()
    return made


def submitted(clinic: Clinic, text: str = PRIVATE, to: tuple[str, ...] = (), person: str = "ann") -> Change:
    """Ann writes it where nobody looks, hands it in, and removes it."""
    elsewhere = clinic.folder.parent / "close.sql"
    elsewhere.write_text(text)
    project = clinic.project(person)
    found = project.private.submit(project.change(str(elsewhere)), to).change
    elsewhere.unlink()
    return found


def files_with(text: str, folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and text.encode() in one.read_bytes()]


# -- who can read it ---------------------------------------------------------------------------------------------------


def test_whoever_has_a_key_reads_the_very_text_and_no_file_has_it(clinic: Clinic) -> None:
    handed_in = submitted(clinic)
    for person in ("ann", "bob", "cem", "dan", "eve"):
        found = clinic.project(person).change("close")
        assert (found.text, found.digest, found.is_private) == (PRIVATE, handed_in.digest, True)
    assert files_with(MARK, clinic.folder.parent) == []
    assert list((clinic.folder / "changes").iterdir()) == []


def test_only_those_who_are_named_and_the_author_can_read_it(clinic: Clinic) -> None:
    submitted(clinic, to=("bob", "platform"))
    for person in ("ann", "bob", "cem"):
        assert clinic.project(person).change("close").text == PRIVATE
    with pytest.raises(Refused) as refused:
        clinic.project("eve").change("close")
    assert refused.value.message == (
        'private change "close" is encrypted to ann, bob, cem, and no key here opens it: '
        f'"{clinic.key("eve")}": it is not one of those that it was encrypted to'
    )
    assert "BACKOUT_IDENTITY" in str(refused.value.hint)


def test_a_key_with_a_passphrase_is_said_to_be_one_and_another_key_is_the_way_out(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = clinic.folder / "keys" / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", str(locked)], check=True)
    allow(clinic.signers, "bob@example.org", locked)
    submitted(clinic)
    project = clinic.project(None)
    project._key = locked
    with pytest.raises(Refused, match="it is protected by a passphrase"):
        project.change("close")
    monkeypatch.setenv("BACKOUT_IDENTITY", str(clinic.key("bob")))
    assert project.change("close").text == PRIVATE


def test_a_public_key_whose_private_half_is_an_agents_is_no_key_to_read_with(clinic: Clinic) -> None:
    submitted(clinic)
    clinic.key("bob").unlink()
    project = clinic.project(None)
    project._key = Path(f"{clinic.key('bob')}.pub")
    with pytest.raises(Refused, match="no private key was found here: an agent signs, and cannot decrypt"):
        project.change("close")


def test_people_whose_keys_cannot_read_are_told_of_and_refused_where_they_are_named(clinic: Clinic) -> None:
    keys = clinic.folder / "keys"
    for name in ("bob", "dan"):
        lines = clinic.signers.read_text().splitlines(keepends=True)
        clinic.signers.write_text("".join(line for line in lines if not line.startswith(name)))
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(keys / "curve")], check=True)
    allow(clinic.signers, "bob@example.org", keys / "curve")
    allow(clinic.signers, "dan@example.org", clinic.key("dan"), 'valid-before="20200101"')
    elsewhere = clinic.folder.parent / "close.sql"
    elsewhere.write_text(PRIVATE)
    project = clinic.project("ann")
    handed_in = project.private.submit(project.change(str(elsewhere)))
    assert handed_in.readers == ("ann", "cem", "eve")
    assert handed_in.left_out == {
        "bob": (
            "nothing can be encrypted to a key of kind ecdsa-sha2-nistp256: "
            "ssh-ed25519 it can, and ssh-rsa from 2048 bits on"
        ),
        "dan": "the time of its key is over, or has not come",
    }
    weak = [one.text for one in project.doctor() if one.level == "weak"]
    for name in ("bob", "dan"):
        assert f'"{name}" has no key that private changes can be encrypted to' in weak
    with pytest.raises(UsageError, match="it cannot be encrypted to dan: the time of its key is over"):
        project.private.submit(project.change(str(elsewhere)), ["product-owner"])
    with pytest.raises(UsageError, match='nobody is "zoe"'):
        project.private.submit(project.change(str(elsewhere)), ["zoe"])


# -- what it is --------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_text_with_a_key_that_only_readers_have(clinic: Clinic) -> None:
    """The sha256 of an UPDATE with a guessable value would give the value away."""
    handed_in = submitted(clinic)
    elsewhere = clinic.folder.parent / "close.sql"
    elsewhere.write_text(PRIVATE)
    assert read_change(elsewhere).digest != handed_in.digest
    assert submitted(clinic).digest == handed_in.digest, "the same text again is the same change"
    assert submitted(clinic, PRIVATE + "\n").digest != handed_in.digest
    assert clinic.project("bob").change("close").text == PRIVATE + "\n", "the newest counts"
    assert submitted(clinic, person="bob").digest != handed_in.digest, "the newest was of another text"


def test_the_same_text_handed_in_again_by_name_keeps_what_was_said_of_it(clinic: Clinic) -> None:
    handed_in = submitted(clinic, to=("bob",))
    project = clinic.project("ann")
    assert project.private.submit(project.change("close"), ("bob", "cem")).change.digest == handed_in.digest
    assert clinic.project("cem").change("close").digest == handed_in.digest


def test_the_gates_judge_it_like_any_other_and_it_runs_from_the_ledger(clinic: Clinic) -> None:
    change = submitted(clinic)
    with pytest.raises(Refused):
        clinic.project("cem").run(change, "production", ask=yes)
    clinic.project("eve").rehearse(clinic.project("eve").change("close"), "staging", ask=yes)
    for person, kind in (("bob", "correctness"), ("cem", "safety")):
        project = clinic.project(person)
        project.approve(project.change("close"), "production", kind, ticked=checklist(kind))
    clinic.project("cem").announced(change, "production", ["everybody"])
    project = clinic.project("cem")
    report = project.run(project.change("close"), "production", ask=yes)
    assert (report.digest, report.outcome.value) == (change.digest, "committed")
    assert clinic.rows() == [(1, "closed"), (2, "closed"), (3, "closed")]
    assert clinic.project("cem").undo(report.identifier, ask=yes).outcome.value == "committed"
    assert files_with(MARK, clinic.folder.parent) == []


def test_a_value_that_is_called_approved_is_read_anew_from_the_ledger(clinic: Clinic) -> None:
    """A program that makes a `Change` of its own with the approved digest runs the text that was approved, or nothing."""
    from dataclasses import replace

    change = submitted(clinic)
    clinic.project("eve").rehearse(change, "staging", ask=yes)
    evil = submitted(clinic, PRIVATE.replace("'closed' WHERE", "'lost' WHERE"))
    with pytest.raises(Refused, match="is not what it was when it was read"):
        clinic.project("cem").run(replace(evil, digest=change.digest), "production", ask=yes)


def test_a_python_change_and_an_own_undo_file_travel_with_it(clinic: Clinic) -> None:
    folder = clinic.folder.parent
    (folder / "back.sql").write_text("UPDATE referral SET status = 'open';\n")
    (folder / "close.py").write_text(
        f'# /// change\n# title = "Close"\n# backout = "back.sql"\n# ///\n# {MARK}\n'
        "def apply(db):\n    db.execute(\"UPDATE referral SET status = 'closed'\")\n"
    )
    project = clinic.project("ann")
    handed_in = project.private.submit(project.change(str(folder / "close.py"))).change
    (folder / "close.py").unlink()
    (folder / "back.sql").unlink()
    found = clinic.project("eve").change("close")
    assert (found.digest, found.language) == (handed_in.digest, "python")
    clinic.project("eve").run(found, "staging", ask=yes)
    assert {status for _, status in clinic.rows("staging")} == {"closed"}
    assert files_with(MARK, folder) == []


def test_a_file_of_that_name_comes_first(clinic: Clinic) -> None:
    submitted(clinic)
    clinic.write(CHANGE)
    assert clinic.project("bob").change("close").is_private is False


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_submission_that_nobody_signed_is_no_change_where_statements_are_signed(clinic: Clinic) -> None:
    change = submitted(clinic)
    other = submitted(clinic, PRIVATE.replace("'closed' WHERE", "'lost' WHERE"))
    ledger = Ledger(f"sqlite:///{clinic.ledger}")
    newest = signed_in(ledger.entries()[-1])
    assert newest is not None
    assert newest.statement.kind is Kind.SUBMIT
    clinic.unguard()
    clinic.sql("ledger", "DELETE FROM backout_ledger_entry WHERE position = 2")
    ledger.append(Signed(newest.statement, None).body)
    assert clinic.project("bob").change("close").digest == change.digest != other.digest


def test_another_text_under_an_approved_digest_is_no_change(clinic: Clinic) -> None:
    """Its author can sign whatever they like, but not find a text and a key with the digest that was approved."""
    approved = submitted(clinic)
    submitted(clinic, PRIVATE.replace("'closed' WHERE", "'lost' WHERE"))
    newest = signed_in(Ledger(f"sqlite:///{clinic.ledger}").entries()[-1])
    assert newest is not None
    clinic.project("ann").statements.submit(approved, newest.statement.details)
    with pytest.raises(Refused, match=r'private change "close" is not the text that ann@example\.org submitted'):
        clinic.project("bob").change("close")


def test_the_private_change_of_another_project_on_the_same_ledger_is_none_of_ours(clinic: Clinic) -> None:
    submitted(clinic)
    clinic.configure(CONFIG.replace('name = "clinic"', f'name = "lab"\nledger = "sqlite:///{clinic.ledger}"'))
    with pytest.raises(UsageError, match='no change "close"'):
        clinic.project("bob").change("close")


def test_a_name_that_is_neither_file_nor_private_is_said_to_be_none(clinic: Clinic) -> None:
    submitted(clinic)
    with pytest.raises(UsageError, match='no change "clsoe"'):
        clinic.project("bob").change("clsoe")
    clinic.ledger.write_text("this is no database")
    with pytest.raises(UsageError, match='no change "close"') as missing:
        clinic.project("bob").change("close")
    assert "private ones could not be looked for: unable to use the ledger" in str(missing.value.hint)


def test_a_program_cannot_be_private_since_it_has_to_be_a_file(clinic: Clinic) -> None:
    program = clinic.folder.parent / "close.rb"
    program.write_text('# /// change\n# title = "Close"\n# run = ["ruby", "{file}"]\n# ///\n')
    project = clinic.project("ann")
    with pytest.raises(UsageError, match="it cannot be private"):
        project.private.submit(project.change(str(program)))


def test_a_package_of_a_program_is_not_read_whoever_made_it() -> None:
    """Its file would be looked for on the disk of whoever runs it."""
    text = '# /// change\n# title = "Close"\n# run = ["ruby", "{file}"]\n# ///\n'
    package = packed("close.rb", {"close.rb": text})
    with pytest.raises(UsageError, match="is a program, which has to be a file"):
        read_change(package.path, package=package)


def test_files_that_git_merges_are_no_place_for_it(clinic: Clinic) -> None:
    clinic.configure(CONFIG.replace('name = "clinic"', 'name = "clinic"\nstatements = "files"'))
    with pytest.raises(UsageError, match="there is none that others see"):
        submitted(clinic)


def test_its_own_tests_would_write_it_to_a_disk(clinic: Clinic) -> None:
    change = submitted(clinic)
    with pytest.raises(UsageError, match="would write it to this machine's disk"):
        clinic.project("ann").test(change)


# -- sealing -----------------------------------------------------------------------------------------------------------


def test_a_package_is_the_same_after_it_was_bytes() -> None:
    package = packed("close.sql", {"close.sql": "SELECT 'ü';\n", "tests/close.sql": "x"})
    assert read_package(package.to_bytes()) == package
    assert packed("close.sql", package.files, like=package).key == package.key
    assert packed("close.sql", {"close.sql": "y"}, like=package).key != package.key
    for nonsense in (
        b"",
        b"[]",
        b"{}",
        Package("a", {"b": ""}, b"k").to_bytes(),
        Package("a", {"a": ""}, b"").to_bytes(),
    ):
        with pytest.raises(ValueError):
            read_package(nonsense)


def test_keys_are_encrypted_to_within_their_time_and_when_they_are_one_persons(tmp_path: Path) -> None:
    now, signers = datetime.now(UTC), tmp_path / "allowed_signers"
    key = make_key(tmp_path, "ann")
    soon, past = now + timedelta(days=2), now - timedelta(days=2)
    options = [
        "", f'namespaces="a",valid-before="{soon:%Y%m%dZ}"', f'valid-after="{past:%Y%m%d%H%MZ}"',
        f'valid-before="{past:%Y%m%d%H%M%S}"', f'valid-after="{soon:%Y%m%d}"', 'valid-before="tomorrow"', "cert-authority",
    ]  # fmt: skip
    for one in options:
        allow(signers, "ann@example.org", key, one)
    allow(signers, "*@example.org", key, "")
    good = [why_not(one, now) is None for one in read_allowed_signers(signers)]
    assert good == [True, True, True, False, False, False, False, False]


def test_an_rsa_key_reads_too_and_what_is_altered_does_not_open(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(tmp_path / "rsa")], check=True)
    allow(tmp_path / "signers", "ann@example.org", tmp_path / "rsa")
    (key,) = read_allowed_signers(tmp_path / "signers")
    sealed = seal(b"text", [key])
    assert unseal(sealed, tmp_path / "rsa") == b"text"
    assert unseal("nonsense", tmp_path / "rsa") == "it is not one of those that it was encrypted to"
    assert unseal(sealed, tmp_path / "nowhere") == "it cannot be read: no such file or directory"
    assert str(unseal(sealed, tmp_path / "rsa.pub")).startswith("it is not a private key that can decrypt")
    with pytest.raises(ValueError):
        seal(b"text", [])
