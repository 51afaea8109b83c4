"""A seal over a ledger: which rows are the same rows, and what is found in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.ledger.entry import Head, Row, link
from backout.ledger.seal import Bodies, Seal, Sealing, read_seal

BODIES = st.lists(st.text(alphabet="ab\n,;\x00ö", max_size=6), min_size=1, max_size=6)


def rows_of(bodies: list[str]) -> list[Row]:
    head, rows = Head(), []
    for body in bodies:
        one = link(head, body)
        rows.append((one.position, one.previous.encode(), one.hash.encode(), one.body.encode()))
        head = Head(one.position, one.hash)
    return rows


def sealed(rows: list[Row]) -> Seal:
    found = Sealing(Bodies(rows), None).seal()
    assert found is not None
    return found


@given(BODIES, BODIES)
def test_entries_that_are_what_they_were_are_known_again_whatever_follows(before: list[str], after: list[str]) -> None:
    rows = rows_of([*before, *after])
    seal = sealed(rows[: len(before)])
    assert Sealing(Bodies(rows), seal).held_up_to() == Head(len(before), rows[len(before) - 1][2].decode())
    assert Sealing(Bodies(rows), seal).seal() == sealed(rows)


@given(BODIES, st.data())
def test_entries_of_which_anything_has_changed_are_not(bodies: list[str], data: st.DataObject) -> None:
    rows = rows_of(bodies)
    seal = sealed(rows)
    at = data.draw(st.integers(0, len(rows) - 1))
    place, before, hashed, body = rows[at]
    other = data.draw(st.sampled_from([
        (place + 1, before, hashed, body), (place, before, hashed[:-1] + b"x", body), (place, before, hashed, body + b"a"),
        (place, before, hashed + b"\n", body), (place, before, b"", body),
    ]))  # fmt: skip
    assert Sealing(Bodies([*rows[:at], other, *rows[at + 1 :]]), seal).held_up_to() is None
    assert Sealing(Bodies([*rows[:at], *rows[at + 1 :]]), seal).held_up_to() is None


@given(BODIES, st.data())
def test_what_one_body_ends_with_cannot_be_moved_into_the_next(bodies: list[str], data: st.DataObject) -> None:
    rows = rows_of([*bodies, "ab"])
    at = data.draw(st.integers(0, len(rows) - 2))
    whole = rows[at][3] + rows[at + 1][3]
    cut = data.draw(st.integers(0, len(whole)))
    moved = [*rows]
    moved[at], moved[at + 1] = (*rows[at][:3], whole[:cut]), (*rows[at + 1][:3], whole[cut:])
    is_same = moved == rows
    assert (Sealing(Bodies(moved), sealed(rows)).held_up_to() is not None) == is_same


@given(st.lists(st.text(alphabet="xyö-", max_size=8), max_size=8))
def test_every_body_with_a_mark_is_found_once_and_in_order(bodies: list[str]) -> None:
    found = Bodies(rows_of(bodies)).with_any_of([b"xy", b"y-", "ö".encode()])
    in_each = [body.encode() for body in bodies if "xy" in body or "y-" in body or "ö" in body]
    assert [one for one in found if one in in_each] == in_each  # across two bodies it may find more


@pytest.mark.parametrize("text", [None, 7, "", "7", "x:ab", "-1:ab", "٣:ab", "9" * 30 + ":ab"])
def test_what_is_no_seal_is_none(text: object) -> None:
    found = read_seal(text)
    assert found is None or found.digest == ""


def test_a_seal_over_more_than_there_is_says_nothing() -> None:
    rows = rows_of(["a", "b", "c"])
    assert Sealing(Bodies(rows[:2]), sealed(rows)).held_up_to() is None
    assert Sealing(Bodies([]), sealed(rows)).held_up_to() is None
    assert Sealing(Bodies([]), None).seal() is None


def test_a_seal_is_read_back_as_it_is_kept() -> None:
    seal = sealed(rows_of(["a", "b"]))
    assert read_seal(seal.text) == seal
