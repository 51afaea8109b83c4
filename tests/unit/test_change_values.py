"""Digest, parameters and the template of a change."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backout.change.bind import bind, bounds
from backout.change.digest import digest
from backout.change.metadata import read_metadata
from backout.change.model import Change, Expectation
from backout.change.new import slug, template
from backout.change.read import read_change
from backout.errors import UsageError
from backout.lint.model import Level
from backout.lint.review import review
from backout.sql.model import Dialect

NOT_A_DATE = """parameter "cutoff" of change "a" is not of type "date"
state: untouched
hint: give it a date such as 2026-11-14"""


@pytest.fixture
def change(tmp_path: Path) -> Change:
    path = tmp_path / "a.sql"
    path.write_text(
        '-- /// change\n-- title = "T"\n-- [parameters]\n-- n = 3\n'
        '-- cutoff = {type = "date", per_environment = true}\n-- ///\nSELECT :n, :cutoff'
    )
    return read_change(path)


def test_the_digest_is_what_it_was() -> None:
    """Approvals bind to the digest: another number here would void all of them."""
    assert digest("a.sql", "SELECT 1\n", attachments={"b": b"x"}, parameters={"d": date(2026, 11, 14)}) == (
        "b1a9e520b07d9710df62ef7578bcea6a62f2990cf71b5f104634af37297292d8"
    )


@given(st.text(min_size=1), st.integers(min_value=0))
def test_the_digest_changes_with_every_character(text: str, index: int) -> None:
    text = text.replace("\r", "").encode("utf-8", "replace").decode() or "x"
    at = index % len(text)
    other = text[:at] + ("b" if text[at] == "a" else "a") + text[at + 1 :]
    assert digest("a.sql", text) != digest("a.sql", other)
    assert digest("a.sql", text) != digest("a.sql", text[:at] + text[at + 1 :])


@given(st.dictionaries(st.text("ab"), st.binary()), st.dictionaries(st.text("ab"), st.binary()))
def test_the_digest_is_equal_only_for_equal_attachments(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    equal = digest("a.sql", "", attachments=one) == digest("a.sql", "", attachments=other)
    assert equal == (one == other)


def test_the_digest_tells_name_parameters_and_key_apart() -> None:
    values: list[dict[str, Any]] = [
        {},
        {"parameters": {"a": "2026-11-14"}},
        {"parameters": {"a": date(2026, 11, 14)}},
        {"parameters": {"a": Decimal("1.0")}},
        {"parameters": {"a": Decimal("1.00")}},
        {"attachments": {"parameters": b"{}"}},
        {"key": b"k"},
    ]
    digests = [digest("a.sql", "", **value) for value in values] + [digest("b.sql", "")]
    assert len(set(digests)) == len(digests)


def test_values_are_parsed_by_their_type_and_fixed_ones_are_kept(change: Change) -> None:
    assert bind(change, {"cutoff": "2026-11-14"}, "dev") == {"n": 3, "cutoff": date(2026, 11, 14)}
    assert bind(change, {"cutoff": date(2026, 11, 14)}, "dev")["cutoff"] == date(2026, 11, 14)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {},
            """parameter "cutoff" of change "a" has no value for "dev"
state: untouched
hint: give it a date such as 2026-11-14: --param cutoff=…""",
        ),
        (
            {"cutof": "x"},
            """change "a" has no parameter "cutof"
state: untouched
hint: did you mean "cutoff"? known are: cutoff""",
        ),
        (
            {"n": 4},
            """parameter "n" of change "a" is the same everywhere
state: untouched
hint: in the file, make it n = {type = "…", per_environment = true}""",
        ),
        ({"cutoff": "secret"}, NOT_A_DATE),
        ({"cutoff": datetime(2026, 11, 14, tzinfo=UTC)}, NOT_A_DATE),
    ],
)
def test_a_wrong_value_is_explained_without_showing_it(change: Change, values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(change, values, "dev")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("type_name", "text", "value"),
    [
        ("int", "42", 42),
        ("text", "a,b", "a,b"),
        ("bool", "True", True),
        ("numeric", "1.50", Decimal("1.50")),
        ("timestamp", "2026-11-14T09:30:00+00:00", datetime(2026, 11, 14, 9, 30, tzinfo=UTC)),
        ("int[]", "1, 2", [1, 2]),
        ("text[]", ["a", "b"], ["a", "b"]),
        ("numeric", 2, Decimal(2)),
    ],
)
def test_each_type_has_its_text(tmp_path: Path, type_name: str, text: Any, value: Any) -> None:
    path = tmp_path / "a.sql"
    declaration = f'x = {{type = "{type_name}", per_environment = true}}'
    path.write_text(f'-- /// change\n-- title = "T"\n-- [parameters]\n-- {declaration}\n-- ///\nSELECT :x')
    assert bind(read_change(path), {"x": text}, "dev") == {"x": value}


@pytest.mark.parametrize(
    ("type_name", "text"),
    [("int", "x"), ("int", True), ("bool", "yes"), ("numeric", "NaN"), ("numeric", "x"), ("int[]", 3), ("text", 3)],
)
def test_each_type_refuses_what_it_is_not(tmp_path: Path, type_name: str, text: Any) -> None:
    path = tmp_path / "a.sql"
    declaration = f'x = {{type = "{type_name}", per_environment = true}}'
    path.write_text(f'-- /// change\n-- title = "T"\n-- [parameters]\n-- {declaration}\n-- ///\nSELECT :x')
    with pytest.raises(UsageError):
        bind(read_change(path), {"x": text}, "dev")


def test_the_bounds_of_an_expectation_may_be_parameters() -> None:
    assert bounds(Expectation(1, "n", 4), {"n": 3}) == (1, 3)


def test_bounds_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        bounds(Expectation(5, "n", 4), {"n": 3})
    assert str(caught.value) == (
        'the "@expect" in line 4 can never be met: its lower bound is above its upper bound\nstate: untouched\n'
        "hint: give its parameters other values"
    )


@pytest.mark.parametrize("value", ["3", -1, True])
def test_a_bound_that_is_no_number_of_rows_is_refused(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        bounds(Expectation("n", "n", 4), {"n": value})
    assert str(caught.value) == (
        'parameter "n" is not a number of rows\nstate: untouched\nhint: declare it with type = "int"'
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
@example('a\u2028"\\\r\n\x85')
def test_a_title_survives_in_the_template(title: str) -> None:
    assert read_metadata(template(title), "--", "a.sql").title == title


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(("language", "suffix"), [("sql", ".sql"), ("python", ".py")])
def test_a_new_change_passes_the_review(tmp_path: Path, dialect: Dialect, language: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(template("Close it", dialect, language))
    change = read_change(path)
    assert change.dialect is dialect
    assert review(change).passed
    assert review(change).level is (Level.EXACT if language == "sql" else Level.EXACT_IF)


@pytest.mark.parametrize(
    ("title", "stem"),
    [("Close the  référrals!", "close-the-referrals"), ("…", "change"), ("a" * 99, "a" * 60), ("../x", "x")],
)
def test_a_slug_is_a_safe_file_name(title: str, stem: str) -> None:
    assert slug(title) == stem
