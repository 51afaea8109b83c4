"""Statements as values: their canonical text, what is read back, and the chain that they are links of."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.ledger.entry import GENESIS, Entry, Head, canonical, entry_hash, first_break, link
from backout.ledger.statement import Kind, Signed, Statement, read_signed, read_statement

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
APPROVAL = Statement(
    Kind.APPROVE, "close", "ab" * 32, "production", "ann@example.org", AT, {"approval": "safety", "why": "ö"}, "clinic"
)
TEXT = (
    '{"at":"2026-11-21T12:00:00.000000+00:00","change":"close","details":{"approval":"safety","why":"ö"},'
    f'"digest":"{"ab" * 32}","environment":"production","format":"backout statement 1","kind":"approve",'
    '"person":"ann@example.org","project":"clinic"}'
)


def test_the_canonical_text_is_what_it_was() -> None:
    """What people have signed must verify for ever: this text may never change."""
    assert APPROVAL.text == TEXT
    assert APPROVAL.identifier == "654f14fecdd41029393f136e541c39580f97b0f6d5ef812a9d640d722d3cdc18"


def test_the_same_moment_in_another_zone_is_the_same_text() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))
    assert Statement(Kind.CLAIM, "c", "d", "e", "p", berlin).text == Statement(Kind.CLAIM, "c", "d", "e", "p", AT).text


@given(
    st.sampled_from(Kind), st.text(st.characters(exclude_categories=["Cs"])), st.datetimes(timezones=st.just(UTC)),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.booleans() | st.none()),
)  # fmt: skip
def test_a_statement_is_read_back_as_it_was_signed(
    kind: Kind, words: str, at: datetime, details: dict[str, int | bool | None]
) -> None:
    statement = Statement(kind, words, words, words, words, at, details)
    assert read_statement(statement.text) == statement
    body = json.loads(Signed(statement, None).body)
    assert read_signed(body) == Signed(statement, None)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "7", "{}", "nonsense",
        TEXT.replace('"at"', ' "at"'),  # the same value, other bytes
        TEXT.replace('"format":"backout statement 1",', ""),
        TEXT.replace("approve", "adore"),
        TEXT.replace("+00:00", ""),
        TEXT.replace('"ann@example.org"', "7"),
        TEXT.replace('"clinic"}', '"clinic","more":1}'),
        "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_the_canonical_text_is_no_statement(text: str) -> None:
    with pytest.raises(ValueError):
        read_statement(text)


@pytest.mark.parametrize("content", [{}, {"kind": "statement"}, {"kind": "run", "statement": TEXT, "signature": None},
                                     {"kind": "statement", "statement": TEXT, "signature": 7}])  # fmt: skip
def test_what_is_not_the_body_of_a_statement_is_none(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the body of a statement"):
        read_signed(content)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=8), st.data())
def test_no_entry_can_be_altered_removed_or_moved_unseen(bodies: list[str], data: st.DataObject) -> None:
    entries: list[Entry] = []
    head = Head()
    for number, body in enumerate(bodies):
        entries.append(link(head, f"{number}{body}"))
        head = Head(entries[-1].position, entries[-1].hash)
    assert first_break(entries) is None
    index = data.draw(st.integers(0, len(entries) - 1))
    one = entries[index]
    altered = [*entries[:index], one._replace(body=f"{one.body}!"), *entries[index + 1 :]]
    found = first_break(altered)
    assert found is not None
    assert (found.position, found.problem.split(":")[0]) == (one.position, "altered")
    if index < len(entries) - 1:
        removed = first_break([*entries[:index], *entries[index + 1 :]])
        assert removed is not None
        assert (removed.position, removed.problem.split(":")[0]) == (one.position, "removed")
        following = entries[index + 1]
        moved = [one._replace(position=following.position), following._replace(position=one.position)]
        reordered = first_break([*entries[:index], *sorted(moved), *entries[index + 2 :]])
        assert reordered is not None
        assert reordered.position == one.position


def test_the_hash_tells_position_predecessor_and_body_apart() -> None:
    assert len({entry_hash(1, GENESIS, "2:x"), entry_hash(12, GENESIS, ":x"), entry_hash(1, GENESIS, ":2:x")}) == 3
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"a": float("nan")})
