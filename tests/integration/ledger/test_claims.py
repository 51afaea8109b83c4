"""Who is on a change, when many have been: settled claims are not looked at, and nothing forged settles one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backout.errors import Busy
from backout.ledger import signing
from backout.ledger.plain_signers import PlainLine
from backout.ledger.statement import Kind, Signed, Statement
from integration.ledger.clinic import Clinic


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    clinic.prepare()
    return clinic


def said(
    clinic: Clinic, kind: Kind, person: str, *, key: str | None, hours: float = 0, take_over: bool = False
) -> None:
    """Write it into the ledger past every courtesy, in the name of `person`, signed with the key of `key`."""
    details = {"why": "", "take_over": take_over} if kind is Kind.CLAIM else {}
    at = datetime.now(UTC) + timedelta(hours=hours)
    one = Statement(
        kind, "close", clinic.change.digest, "production", f"{person}@example.org", at, details, "clinic"
    )  # fmt: skip
    project = clinic.project(key or "ann")
    project._book.write(project.statements._speaker("ssh").say(one) if key else Signed(one, None))


@pytest.mark.parametrize(
    ("releases", "is_free"),
    [
        ([], False),
        ([{"person": "bob", "key": "bob"}], True),
        ([{"person": "bob", "key": None}], False),
        ([{"person": "eve", "key": "eve"}], False),
        ([{"person": "bob", "key": "bob", "hours": 2}], False),
        ([{"person": "bob", "key": "bob", "hours": -2}], False),
    ],
    ids=["none", "their own", "unsigned", "another's", "from the future", "older than the claim"],
)
def test_a_claim_ends_by_a_release_that_counts(
    clinic: Clinic, releases: list[dict[str, object]], is_free: bool
) -> None:
    said(clinic, Kind.CLAIM, "bob", key="bob", hours=-1)
    for one in releases:
        said(clinic, Kind.RELEASE, **one)  # type: ignore[arg-type]
    if is_free:
        clinic.run()
        return
    with pytest.raises(Busy, match="bob is on it since"):
        clinic.run()


def test_a_release_in_anothers_name_is_forged_or_ignored_and_frees_nobody(clinic: Clinic) -> None:
    said(clinic, Kind.CLAIM, "bob", key="bob", hours=-1)
    said(clinic, Kind.RELEASE, "bob", key="eve")
    with pytest.raises(Busy, match="bob is on it since"):
        clinic.run()


def test_who_was_relieved_is_not_on_it_again_when_the_other_releases(clinic: Clinic) -> None:
    said(clinic, Kind.CLAIM, "bob", key="bob", hours=-3)
    said(clinic, Kind.CLAIM, "dan", key="dan", hours=-2, take_over=True)
    said(clinic, Kind.RELEASE, "dan", key="dan", hours=-1)
    clinic.run()


def test_what_many_runs_have_left_is_not_verified_again(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    for hours in range(40, 2, -2):
        said(clinic, Kind.CLAIM, "bob", key="bob", hours=-hours)
        said(clinic, Kind.RELEASE, "bob", key="bob", hours=-hours + 1)
    verified: list[Signed] = []
    verify = signing.plainly_good

    def counting(one: Signed, lines: Sequence[PlainLine]) -> signing.Verification | None:
        verified.append(one)
        return verify(one, lines)

    monkeypatch.setattr(signing, "plainly_good", counting)
    clinic.run()
    kinds = [one.statement.kind for one in verified]
    assert (kinds.count(Kind.CLAIM), kinds.count(Kind.RELEASE)) == (1, 1)  # the operator's own, and the last release
    assert len(kinds) == 7


def test_where_nobody_else_has_claimed_ones_own_past_claims_are_not_looked_at(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(clinic, Kind.CLAIM, "cem", key="cem", hours=-1)
    verified: list[Kind] = []
    verify = signing.plainly_good

    def counting(one: Signed, lines: Sequence[PlainLine]) -> signing.Verification | None:
        verified.append(one.statement.kind)
        return verify(one, lines)

    monkeypatch.setattr(signing, "plainly_good", counting)
    clinic.run()
    assert verified.count(Kind.CLAIM) == 1  # the one that proves who runs it
