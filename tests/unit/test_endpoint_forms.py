"""The two forms that the endpoint passes on as they are: whatever has one, is also that when it is cut into messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backout.endpoint.forms import answered, describes, head_of, renamed, taken_apart
from backout.endpoint.frames import Malformed, Stream, message

BIND = message(b"B", b"\0kept\0\0\0\0\1\0\0\0\2ab\0\0")
DESCRIBE, EXECUTE, SYNC = message(b"D", b"P\0"), message(b"E", b"\0\0\0\0\0"), message(b"S")
BOUND, COLUMNS, ROW = message(b"2"), message(b"T", b"\0\1a\0" + bytes(18)), message(b"D", b"\0\1\0\0\0\1x")
COMPLETE, READY = message(b"C", b"SELECT 1\0"), message(b"Z", b"T")
STALE = BIND + DESCRIBE + EXECUTE + SYNC + BOUND + COLUMNS + ROW + COMPLETE + READY


def buffer(said: bytes) -> bytearray:
    """What was received stands before what came earlier."""
    return bytearray(said + STALE + bytes(64))


def cut(said: bytes) -> list[tuple[int, bytes]] | None:
    """All of it as messages; None where it is not whole ones."""
    stream = Stream()
    stream.add(said)
    try:
        found = list(stream.messages())
    except Malformed:
        return None
    return None if stream.waiting else found


def asked(said: bytes) -> tuple[bytes, bool] | None:
    """The name of the statement that is asked for, and whether its columns are; as `FastPath` puts it together."""
    data, count = buffer(said), len(said)
    head = head_of(data, count)
    if head is None:
        return None
    name, bind_end = taken_apart(head)
    found = describes(data, count, bind_end) if bind_end > len(head) else None
    return None if found is None else (name, found)


def test_a_prepared_statement_is_known_with_and_without_its_columns() -> None:
    assert asked(BIND + DESCRIBE + EXECUTE + SYNC) == (b"kept", True)
    assert asked(BIND + EXECUTE + SYNC) == (b"kept", False)


def test_only_its_name_is_changed() -> None:
    head = head_of(buffer(BIND), len(BIND))
    assert head is not None
    other = message(b"B", b"\0c12_kept\0\0\0\0\1\0\0\0\2ab\0\0")
    assert renamed(head, b"c12_kept") + BIND[len(head) :] == other


@pytest.mark.parametrize(
    "said",
    [
        BIND + EXECUTE, BIND + SYNC, BIND + EXECUTE + SYNC + SYNC, EXECUTE + SYNC, BIND + DESCRIBE + DESCRIBE + EXECUTE,
        BIND + message(b"E", b"\0\0\0\0\1") + SYNC, BIND + message(b"D", b"Skept\0") + EXECUTE + SYNC,
        BIND + message(b"E", b"p\0\0\0\0\0") + SYNC, BIND + DESCRIBE + EXECUTE + message(b"H"),
        message(b"B", b"p\0kept\0" + bytes(6)) + EXECUTE + SYNC, message(b"B", b"\0\0" + bytes(6)) + EXECUTE + SYNC,
        message(b"B", b"\0kept") + EXECUTE + SYNC, b"B" + struct.pack("!I", 2**32 - 1) + b"\0kept\0",
        b"B" + struct.pack("!I", 0) + b"\0kept\0" + SYNC, (BIND + EXECUTE + SYNC)[:-1], BIND, b"B", b"",
    ],
)  # fmt: skip
def test_whatever_else_a_client_says_is_not_taken_for_one(said: bytes) -> None:
    assert asked(said) is None


def test_an_answer_is_known_by_its_tag() -> None:
    for described, with_columns in ((COLUMNS, True), (message(b"n"), True), (b"", False)):
        for rows in range(4):
            said = BOUND + described + ROW * rows + COMPLETE + READY
            assert answered(buffer(said), len(said), describes=with_columns) == b"SELECT 1"


NOTICE, PARAMETER = message(b"N", b"SNOTICE\0\0"), message(b"S", b"client_encoding\0LATIN1\0")
FAILED = message(b"E", b"SERROR\0C22012\0\0")


@pytest.mark.parametrize(
    "said",
    [
        BOUND + COLUMNS + ROW + NOTICE + COMPLETE + READY, BOUND + COLUMNS + ROW + COMPLETE + PARAMETER + READY,
        PARAMETER + BOUND + COLUMNS + ROW + COMPLETE + READY, BOUND + COLUMNS + FAILED + message(b"Z", b"E"),
        BOUND + COLUMNS + ROW + COMPLETE + message(b"Z", b"I"), BOUND + COLUMNS + ROW + COMPLETE + message(b"Z", b"E"),
        BOUND + COLUMNS + ROW + message(b"s") + READY, BOUND + message(b"I") + READY, BOUND + ROW + COMPLETE + READY,
        BOUND + COLUMNS + ROW + COMPLETE, BOUND + COLUMNS + ROW + COMPLETE + READY + ROW, ROW + COMPLETE + READY,
        BOUND + COLUMNS + ROW + COMPLETE + COMPLETE + READY, BOUND + COLUMNS + ROW, BOUND, b"", FAILED + READY,
        BOUND + COLUMNS + b"D" + struct.pack("!I", 2**32 - 1) + READY, BOUND + COLUMNS + ROW + COMPLETE + READY + READY,
    ],
)  # fmt: skip
def test_whatever_else_a_server_says_is_not_taken_for_one(said: bytes) -> None:
    assert answered(buffer(said), len(said), describes=True) is None


PARTS = [BIND, DESCRIBE, EXECUTE, SYNC, BOUND, COLUMNS, ROW, COMPLETE, READY, NOTICE, FAILED, message(b"n")]
SCRIBBLED = st.lists(st.sampled_from(PARTS) | st.binary(max_size=8), max_size=7).map(b"".join)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """One of the two, with a byte that is another, and cut off somewhere, or neither."""
    whole = [BIND + DESCRIBE + EXECUTE + SYNC, BOUND + COLUMNS + ROW + COMPLETE + READY]
    said = bytearray(draw(st.sampled_from(whole)))
    if draw(st.booleans()):
        said[draw(st.integers(0, len(said) - 1))] = draw(st.integers(0, 255))
    return bytes(said[: draw(st.integers(0, len(said)))])


@given(SCRIBBLED | spoiled())
def test_what_has_the_form_consists_of_these_messages_and_no_others(said: bytes) -> None:
    messages = cut(said)
    found = asked(said)
    if found is not None:
        assert messages is not None
        name, with_columns = found
        assert bytes(kind for kind, _ in messages) == (b"BDES" if with_columns else b"BES")
        assert messages[0][1].startswith(b"\0" + name + b"\0")
    for with_columns in (True, False):
        tag = answered(buffer(said), len(said), describes=with_columns)
        if tag is not None:
            assert messages is not None
            kinds = bytes(kind for kind, _ in messages)
            assert kinds.replace(b"D", b"").replace(b"n", b"T") == (b"2TCZ" if with_columns else b"2CZ")
            assert messages[-2:] == [(ord("C"), tag + b"\0"), (ord("Z"), b"T")]
