"""What `doctor` says of policies, people, keys and the ledger."""

from __future__ import annotations

import base64
from pathlib import Path

from backout.ledger.signers import read_allowed_signers
from backout.project.config_file import parse_config
from backout.project.doctor_people import advise_on_people

PEOPLE = "".join(
    f'[people.{name}]\nemail = "{name}@example.org"\nroles = ["{role}"]\n'
    for name, role in (("ann", "developer"), ("bob", "team-lead"), ("cem", "platform"))
)
PRODUCTION = '[environments.staging]\nurl = "sqlite:s.db"\n[environments.production]\nurl = "sqlite:p.db"\n'
STRICT = 'operators = ["cem"]\nemergency = ["cem"]\noverrule = ["team-lead"]\n'
ONE_MACHINE = "a policy asks for two people, and the ledger is a file that only this machine has"


def key(number: int) -> str:
    return f"ssh-ed25519 {base64.b64encode(bytes([number] * 32)).decode()}"


def advice(folder: Path, text: str, signers: str | None = None) -> dict[str, list[str]]:
    (folder / "backout.toml").write_text(text)
    if signers is None:
        signers = "".join(f"{name}@example.org {key(i)}\n" for i, name in enumerate(("ann", "bob", "cem")))
    (folder / "allowed_signers").write_text(signers)
    found: dict[str, list[str]] = {"wrong": [], "weak": [], "fine": []}
    for one in advise_on_people(parse_config(text, folder / "backout.toml")):
        found[one.level].append(one.text)
        assert one.level == "fine" or one.hint
    return found


def test_a_policy_that_can_be_satisfied_has_nothing_wrong(tmp_path: Path) -> None:
    found = advice(tmp_path, f'[project]\nstatements = "files"\n{PEOPLE}{PRODUCTION}{STRICT}')
    assert (found["wrong"], found["weak"]) == ([], [])


def test_a_ledger_of_one_laptop_is_wrong_for_two_people(tmp_path: Path) -> None:
    assert advice(tmp_path, f"{PEOPLE}{PRODUCTION}{STRICT}")["wrong"] == [ONE_MACHINE]
    elsewhere = advice(tmp_path, f'[project]\nledger = "sqlite:///{tmp_path}/shared"\n{PEOPLE}{PRODUCTION}{STRICT}')
    assert elsewhere["wrong"] == []
    assert elsewhere["weak"] == ["the ledger is a file: that is enough only where everybody works on this machine"]


def test_what_nobody_can_give_is_wrong(tmp_path: Path) -> None:
    text = '[project]\nstatements = "files"\n[environments.production]\nurl = "sqlite:p.db"\nroles = {safety = "dba"}\n'
    assert advice(tmp_path, text)["wrong"] == [
        '"production" wants a rehearsal on "staging", which is not an environment',
        '"production" wants 2 approvals by others, and [people] has 0 people',
        'nobody can give the approval "safety" on "production": nobody is dba',
    ]


def test_keys_that_prove_little_are_named_with_their_line(tmp_path: Path) -> None:
    text = f'[project]\nstatements = "files"\n{PEOPLE}{PRODUCTION}{STRICT}'
    signers = (
        f"# people\nann@example.org {key(1)}\nbob@example.org {key(1)}\n*@example.org {key(2)}\n"
        f"zoe@example.org cert-authority {key(3)}\n"
    )
    found = advice(tmp_path, text, signers)
    assert found["wrong"] == [
        'allowed_signers:3: "bob" and "ann" have the same key: they count as one person',
        "allowed_signers:4: a pattern lets one key speak for many people",
    ]
    assert found["weak"] == [
        "allowed_signers:5: a certificate authority can make keys for anybody",
        'allowed_signers:5: "zoe@example.org" is nobody in [people]',
        '"cem" has no key in "allowed_signers", and cannot sign',
    ]
    assert advice(tmp_path, text, "")["wrong"] == [
        f'statements have to be signed, and there are no keys in "{tmp_path / "allowed_signers"}"'
    ]


def test_what_is_weak_is_said(tmp_path: Path) -> None:
    text = f'[project]\nstatements = "files"\n{PEOPLE}{PRODUCTION}identity = "os-user"\n'
    assert advice(tmp_path, text)["weak"] == [
        '"production" believes the accounts of the operating system: nothing is signed',
        'everybody who is known may run on "production"',
        'nobody may run on "production" without waiting for people, not even in an emergency',
        'nobody may overrule an objection to a run on "production"',
    ]
    alone = advice(tmp_path, f'[project]\nprofile = "solo"\n{PRODUCTION}')
    assert alone == {"wrong": [], "fine": [], "weak": ['"production" asks nothing of people before a run']}


def test_allowed_signers_are_read_as_ssh_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "allowed_signers"
    file.write_text(
        f'ann@example.org,ann@home.example namespaces="statement@backout,git" {key(1)} her laptop\n\n'
        f'"bob smith@example.org" {key(2)}\n# cem@example.org {key(3)}\nnonsense\nssh-ed25519 AAAA\n'
    )
    assert [(one.principals, one.line) for one in read_allowed_signers(file)] == [
        (("ann@example.org", "ann@home.example"), 1),
        (("bob smith@example.org",), 3),
    ]
    assert read_allowed_signers(tmp_path / "none") == ()


def test_more_to_attest_than_there_are_people_is_wrong(tmp_path: Path) -> None:
    text = f'[project]\nstatements = "files"\n{PEOPLE}{PRODUCTION}{STRICT}attest = 4\n'
    assert advice(tmp_path, text)["wrong"] == ['"production" wants 4 people to attest a run, and [people] has 3']
    assert advice(tmp_path, text.replace("attest = 4", "attest = 3"))["wrong"] == []


def test_a_url_that_the_policys_hosts_refuse_is_wrong(tmp_path: Path) -> None:
    text = '[environments.live]\nurl = "postgresql://${NOBODY_SETS_THIS}@db1,db2/clinic"\nhosts = ["db1"]\n'
    assert advice(tmp_path, text)["wrong"] == []  # a secret is missing: nothing is known
    text = text.replace("${NOBODY_SETS_THIS}@", "")
    assert advice(tmp_path, text)["wrong"] == ['the url of "live" has host "db2", which is not in its `hosts`']
    assert advice(tmp_path, text.replace('["db1"]', '["db1", "DB2"]'))["wrong"] == []
