"""Processes that wait with a key for words to sign: what they sign is as good, and they ask nobody and stay for nobody."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backout.ledger.pens import Pens
from backout.ledger.signing import Signer, verify_all
from backout.ledger.statement import Kind, Signed, Statement
from integration.ledger.clinic import Clinic, yes
from integration.ledger.keys import allow, make_key

WORDS = [
    Statement(kind, "close", "ab" * 32, "production", "ann@example.org", datetime.now(UTC), {"why": "ö"})
    for kind in (Kind.RUN, Kind.RELEASE)
]
TEXTS = [one.text for one in WORDS]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    key = make_key(tmp_path, "ann")
    allow(tmp_path / "allowed_signers", "ann@example.org", key)
    return Signer(key)


@pytest.fixture
def pens(signer: Signer) -> Iterator[Pens]:
    found = Pens(signer, 2)
    yield found
    found.close()


def are_good(signer: Signer, made: list[str] | None) -> bool:
    assert made is not None
    signed = [Signed(one, by) for one, by in zip(WORDS, made, strict=True)]
    return all(one.problem is None for one in verify_all(signed, signer.key.parent / "allowed_signers"))


def test_what_they_sign_is_as_good_as_ever(signer: Signer, pens: Pens) -> None:
    assert are_good(signer, pens.sign(TEXTS))


def test_they_have_read_the_key_already(signer: Signer, pens: Pens) -> None:
    assert len(pens._started.result()) == 2
    for pen in pens._started.result():  # it reads its input once it has the key: then it waits in that
        wait_until_it_reads(pen.pid)
    signer.key.unlink()
    made = pens.sign(TEXTS)
    signer.key.touch()
    assert are_good(signer, made)


def wait_until_it_reads(pid: int) -> None:
    """System call 0 is read(2), of its descriptor 0, on x86-64; elsewhere the status of its thread is all there is."""
    call = Path(f"/proc/{pid}/syscall")
    for _ in range(1_000_000):
        if call.read_text().startswith(("0 0x0 ", "63 0x0 ")):
            return
    raise AssertionError("it does not wait")


def test_one_of_them_is_enough_for_one_text(signer: Signer, pens: Pens) -> None:
    made = pens.sign(TEXTS[:1])
    assert made is not None
    assert len(made) == 1
    assert pens.sign(TEXTS) is None  # each signs once
    assert pens.sign(TEXTS[1:]) is not None


def test_there_are_not_more_than_were_made(pens: Pens) -> None:
    assert pens.sign([*TEXTS, "more"]) is None


def test_a_key_that_somebody_must_be_asked_about_is_left_to_the_ordinary_way(tmp_path: Path) -> None:
    key = tmp_path / "secret"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", str(key)], check=True)
    pens = Pens(Signer(key), 2)
    assert pens.sign(TEXTS) is None
    pens.close()


def test_a_key_that_is_not_there_is_left_to_the_ordinary_way(tmp_path: Path) -> None:
    pens = Pens(Signer(tmp_path / "nowhere"), 2)
    assert pens.sign(TEXTS) is None
    pens.close()


def test_none_outlives_its_end(pens: Pens) -> None:
    pids = [pen.pid for pen in pens._started.result()]
    pens.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    pens.close()


def test_a_run_that_fails_leaves_none_and_is_signed(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path / "clinic")
    clinic.prepare()
    clinic.sql("production", "INSERT INTO referral VALUES (4, 'open')")
    before = children()
    with pytest.raises(Exception, match="3 rows, and 2 were expected"):
        clinic.project("cem").run(clinic.change, "production", ask=yes)
    assert children() == before
    entries = clinic.project(None)._book.ledger.entries()[-2:]
    said = [(json.loads(one.content["statement"])["kind"], one.content["signature"] is not None) for one in entries]
    assert said == [("run", True), ("release", True)]


def children() -> set[int]:
    """Processes that this one has started and that are there, ended ones that nobody has waited for included."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for one in found for pid in one.read_text().split()}
