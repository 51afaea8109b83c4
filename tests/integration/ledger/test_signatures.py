"""What this process takes for a good signature, held against ssh-keygen's own word on the same files."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from time import tzset

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backout.ledger.plain_signers import plain_lines
from backout.ledger.sealing import why_not
from backout.ledger.signers import read_allowed_signers
from backout.ledger.signing import NAMESPACE, Signer, Verification, ask_ssh_keygen, plainly_good, sign, verify_all
from backout.ledger.statement import Kind, Signed, Statement

KINDS = ("ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072")
ANN, BOB = "ann@example.org", "bob@example.org"
APPROVAL = Statement(
    Kind.APPROVE, "close", "ab" * 32, "production", ANN, datetime(2026, 11, 21, 12, 0, 0, 500_000, UTC), {"why": "ö"}
)
HEAD, TAIL = "-----BEGIN SSH SIGNATURE-----\n", "\n-----END SSH SIGNATURE-----\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signatures")


@cache
def key(folder: Path, kind: str) -> Path:
    path = folder / kind
    name, _, bits = kind.partition("-")
    size = ["-b", bits] if bits else []
    subprocess.run(["ssh-keygen", "-q", "-t", name, *size, "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def public(folder: Path, kind: str) -> str:
    return Path(f"{key(folder, kind)}.pub").read_text().strip()


@cache
def signed(folder: Path, kind: str) -> Signed:
    return Signed(APPROVAL, sign(APPROVAL.text, Signer(key(folder, kind))))


def both(one: Signed, signers: str, folder: Path) -> tuple[Verification | None, Verification]:
    """Our word (None: none) and ssh-keygen's. Wherever we take a signature for good, so does ssh-keygen, by the same key."""
    file = folder / "allowed_signers"
    file.write_text(signers)
    ours, theirs = plainly_good(one, plain_lines(file)), ask_ssh_keygen(one, file)
    assert ours is None or ours == theirs
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_signature_by_an_ordinary_key_is_verified_without_a_process(folder: Path, kind: str) -> None:
    ours, theirs = both(signed(folder, kind), f'{ANN} namespaces="{NAMESPACE}" {public(folder, kind)}\n', folder)
    assert ours is not None
    assert theirs.problem is None


@pytest.mark.parametrize("hashed", ["sha256", "sha512"])
def test_either_hash_of_the_message_is_understood(folder: Path, hashed: str) -> None:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-O", f"hashalg={hashed}", "-n", NAMESPACE, "-f"]
    done = subprocess.run(
        [*command, str(key(folder, "ed25519"))], input=APPROVAL.text.encode(), capture_output=True, check=True
    )
    one = Signed(APPROVAL, done.stdout.decode())
    assert both(one, f"{ANN} {public(folder, 'ed25519')}\n", folder)[0] is not None


#: What stands before and around the key of the one who signed; whether ssh-keygen takes it, and whether we do.
FILES = {
    "nothing more": ("{ann} {key}", True, True),
    "with a comment": ("# people\n\n{ann} {key} her laptop", True, True),
    "other namespaces, too": ('{ann} namespaces="git,{ours}" {key}', True, True),
    "a time that is not over": ('{ann} valid-before="20270101" {key}', True, True),
    "a time that has come": ('{ann} valid-after="202611201200Z",valid-before="20261122120000" {key}', True, True),
    "several principals": ("{bob},{ann} {key}", True, True),
    "after the line of another": ("{bob} {other}\n{ann} {key}", True, True),
    "after another key of the same person": ("{ann} {other}\n{ann} {key}", True, True),
    "after an authority": ("{bob} cert-authority {other}\n{ann} {key}", True, False),
    "after a pattern": ("*@elsewhere.example {other}\n{ann} {key}", True, False),
    "by a pattern": ("*@example.org {key}", True, False),
    "in quotes": ('"{ann}" {key}', True, False),
    "a namespace by a pattern": ('{ann} namespaces="*@backout" {key}', True, False),
    "with a tab": ("{ann}\t{key}", True, True),
    "nobody": ("", False, False),
    "another person": ("{bob} {key}", False, False),
    "the key of another": ("{ann} {other}", False, False),
    "letters of another case": ("Ann@example.org {key}", False, False),
    "all but her": ("!{ann},*@example.org {key}", False, False),
    "only as an authority": ("{ann} cert-authority {key}", False, False),
    "for git alone": ('{ann} namespaces="git" {key}', False, False),
    "not for us": ('{ann} namespaces="!{ours},*" {key}', False, False),
    "a time that is over": ('{ann} valid-before="20261121" {key}', False, False),
    "a time that has not come": ('{ann} valid-after="20261122" {key}', False, False),
    "a time that is none": ('{ann} valid-before="soon" {key}', False, False),
    "an option twice": ('{ann} namespaces="{ours}",namespaces="{ours}" {key}', False, False),
    "an option that nobody knows": ("{ann} anything {key}", False, False),
    "after a line that is none": ("{ann} nonsense\n{ann} {key}", True, False),
    "of another kind than it says": ("{ann} ssh-rsa {base64}", False, False),
    "a key that is cut off": ("{ann} {cut}", False, False),
}


@pytest.mark.parametrize("file", FILES)
def test_a_line_that_we_take_ssh_keygen_takes_too(folder: Path, file: str) -> None:
    text, is_good, is_plain = FILES[file]
    own, other = public(folder, "ed25519"), public(folder, "ecdsa-256")
    words = {
        "ann": ANN,
        "bob": BOB,
        "ours": NAMESPACE,
        "key": own,
        "other": other,
        "base64": own.split()[1],
        "cut": own[:-8],
    }
    ours, theirs = both(signed(folder, "ed25519"), text.format(**words) + "\n", folder)
    assert (theirs.problem is None, ours is not None) == (is_good, is_plain)


def test_the_limit_of_a_key_s_time_is_ssh_keygen_s_to_say(folder: Path) -> None:
    for option in ('valid-before="20261121120000"', 'valid-after="20261121120000"'):
        assert both(signed(folder, "ed25519"), f"{ANN} {option} {public(folder, 'ed25519')}\n", folder)[0] is None


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The time zone of this machine."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        tzset()
        yield request.param
    tzset()


@pytest.mark.parametrize("suffix", ["", "Z"])
@pytest.mark.parametrize("hours", [-11, -7, -1, 1, 7, 11])
@pytest.mark.parametrize("option", ["valid-after", "valid-before"])
def test_the_time_of_a_key_is_in_utc_wherever_one_is_and_for_whatever_it_is_used(
    folder: Path, zone: str, option: str, hours: int, suffix: str
) -> None:
    """ssh-keygen reads a time without a zone as the system's: with ours it is asked in UTC, and we encrypt by the same."""
    limit = f"{APPROVAL.at + timedelta(hours=hours):%Y%m%d%H%M%S}{suffix}"
    text = f'{ANN} {option}="{limit}" {public(folder, "ed25519")}\n'
    ours, theirs = both(signed(folder, "ed25519"), text, folder)
    assert (ours is not None) == (theirs.problem is None) == ((hours < 0) is (option == "valid-after"))
    (line,) = read_allowed_signers(folder / "allowed_signers")
    assert (why_not(line, APPROVAL.at) is None) == (theirs.problem is None), zone


@pytest.mark.parametrize(
    "other",
    [
        replace(APPROVAL, digest="cd" * 32), replace(APPROVAL, person=BOB), replace(APPROVAL, kind=Kind.REJECT),
        replace(APPROVAL, details={}), replace(APPROVAL, project="other"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_of_other_words_is_forged(folder: Path, kind: str, other: Statement) -> None:
    one = replace(signed(folder, kind), statement=other)
    ours, theirs = both(one, f"{ANN},{BOB} {public(folder, kind)}\n", folder)
    assert (ours, theirs.forged) == (None, True)


def test_a_signature_made_for_something_else_is_none_for_us(folder: Path) -> None:
    for namespace in ("git", "file", f"{NAMESPACE}.org"):
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key(folder, "ed25519"))]
        done = subprocess.run(command, input=APPROVAL.text.encode(), capture_output=True, check=True)
        ours, theirs = both(Signed(APPROVAL, done.stdout.decode()), f"{ANN} {public(folder, 'ed25519')}\n", folder)
        assert (ours, theirs.forged) == (None, True)


def test_a_certificate_is_left_to_ssh_keygen(folder: Path) -> None:
    authority, own = key(folder, "ecdsa-384"), key(folder, "ed25519")
    certify = ["ssh-keygen", "-q", "-s", str(authority), "-I", "ann", "-n", ANN, f"{own}.pub"]
    subprocess.run(certify, check=True)
    certificate = own.with_name(f"{own.name}-cert.pub")
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(certificate)]
    done = subprocess.run(command, input=APPROVAL.text.encode(), capture_output=True, check=True)
    certificate.unlink()
    one = Signed(APPROVAL, done.stdout.decode())
    ours, theirs = both(one, f"{ANN} cert-authority {public(folder, 'ecdsa-384')}\n", folder)
    assert (ours, theirs.problem) == (None, None)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_mutation_of_a_signature_is_taken_for_good_that_ssh_keygen_does_not(
    folder: Path, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    whole = signed(folder, kind).signature
    assert whole is not None
    blob = bytearray(base64.b64decode(whole.removeprefix(HEAD).removesuffix(TAIL).replace("\n", "")))
    way = data.draw(st.sampled_from(["flip", "cut", "insert", "append", "swap"]))
    at = data.draw(st.integers(0, len(blob) - 1))
    if way == "flip":
        blob[at] ^= data.draw(st.integers(1, 255))
    elif way == "cut":
        del blob[at : at + data.draw(st.integers(1, 8))]
    elif way == "insert":
        blob[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    elif way == "append":
        blob += data.draw(st.binary(min_size=1, max_size=8))
    else:
        other = data.draw(st.integers(0, len(blob) - 1))
        blob[at], blob[other] = blob[other], blob[at]
    text = HEAD + base64.b64encode(bytes(blob)).decode() + TAIL
    both(Signed(APPROVAL, text), f"{ANN} {public(folder, kind)}\n", folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"), lambda text: f" {text}", lambda text: f"{text}{text}",
        lambda text: text.replace(TAIL, ""), lambda text: text.replace("BEGIN SSH", "BEGIN  SSH"), lambda _: "",
        lambda text: text[:60] + "*" + text[61:], lambda text: text.replace("=", ""), lambda text: text.rstrip("\n"),
    ],
)  # fmt: skip
def test_another_armour_is_taken_only_where_ssh_keygen_takes_it(folder: Path, change: object) -> None:
    assert callable(change)
    one = signed(folder, "ed25519")
    both(replace(one, signature=change(one.signature)), f"{ANN} {public(folder, 'ed25519')}\n", folder)


def test_many_are_told_apart_in_their_order(folder: Path) -> None:
    """Good ones, forged ones and unsigned ones, more than processes at a time."""
    file = folder / "allowed_signers"
    file.write_text("".join(f"{ANN} {public(folder, kind)}\n" for kind in KINDS))
    good = [signed(folder, kind) for kind in KINDS]
    forged = [replace(one, statement=replace(APPROVAL, change=f"other{number}")) for number, one in enumerate(good * 2)]
    unsigned = replace(good[0], signature=None)
    several = [one for pair in zip(good * 2, forged, strict=True) for one in pair] + [unsigned]
    looked = []
    found = verify_all(several, file, lambda: looked.append(1))
    assert [one.problem is None for one in found] == [True, False] * len(forged) + [False]
    assert [one.forged for one in found] == [False, True] * len(forged) + [False]
    assert looked == [1]
