"""What the text of a Python change says of its batches: seen without running it, or refused with its place."""

from __future__ import annotations

import pytest

from backout.change.model import Batching
from backout.change.python_source import batching_of
from backout.errors import InvalidFile


def loop(call: str, argument: str = "db") -> str:
    return f"def apply({argument}):\n    for batch in {call}:\n        pass\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (loop('db.batches("t", by="id")'), Batching("t", ("id",), None, 2)),
        (loop('db.batches("s.T", by=("a", "b"), size=100)'), Batching("s.T", ("a", "b"), 100, 2)),
        (
            loop('enumerate(database.batches(table="t", by=["id"], size=None))', "database"),
            Batching("t", ("id",), None, 2),
        ),
        (loop('db.batches("t", "id", 7)'), Batching("t", ("id",), 7, 2)),
        (loop("range(3)"), None),
        (loop('other.batches("t", by="id")'), None),
        ('def work(db):\n    db.batches("t", by="id")\n' + loop("work(db)"), None),
    ],
)
def test_the_loop_is_seen_in_the_text(text: str, expected: Batching | None) -> None:
    assert batching_of(text, "a.py") == expected


@pytest.mark.parametrize(
    "call",
    [
        "db.batches()",
        'db.batches("t")',
        'db.batches("t", "id", 5, 6)',
        'db.batches("t", by={[]: 1})',
        'db.batches(name, by="id")',
        'db.batches("t", by=())',
        'db.batches("t", by=("a", "a"))',
        'db.batches("t", by="id", size=0)',
        'db.batches("t", by="id", size=True)',
        'db.batches("t", by="id", many=3)',
        'db.batches("t", **more)',
    ],
)
def test_a_call_that_does_not_say_what_it_means_is_refused_with_its_place(call: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        batching_of(loop(call), "a.py")
    assert refused.value.message.endswith("a.py:2:18: db.batches is not understood")


def test_a_second_call_is_refused_with_its_place() -> None:
    text = loop('db.batches("t", by="id")') + '    db.batches("t", by="id")\n'
    with pytest.raises(InvalidFile) as refused:
        batching_of(text, "a.py")
    assert refused.value.message == "a.py:4:5: a second call of db.batches"
