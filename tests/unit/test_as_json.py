"""The JSON outputs: their shape, what they leave out, and that the published schemas describe them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backout.change.read import read_change
from backout.cli.failures import failure_as_json
from backout.engines.values import (
    CapturedTable,
    Column,
    Conflict,
    ConflictKind,
    Counts,
    Lock,
    Mode,
    RowChange,
    RunRecord,
    RunStart,
    RunState,
    SequenceMove,
    Table,
    TableFacts,
    TableName,
)
from backout.errors import AssertionFailed, UsageError
from backout.lint.review import review
from backout.runs.as_json import (
    facts_as_json,
    record_as_json,
    report_as_json,
    report_for_journal,
    review_as_json,
    table_as_json,
)
from backout.runs.report import (
    AssertionReport,
    ProofReport,
    RescueReport,
    RunReport,
    StatementReport,
    TableReport,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "json"
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
REFERRAL = TableName("public", "referral")
REPORT = RunReport(
    41, "production-41", "close", "Close the referrals", "ab" * 32, "production", Mode.REAL, RunState.COMMITTED,
    "committed",
    tables=(
        TableReport(
            "public.referral", 0, 1, 0, "two snapshots", True,
            (RowChange(REFERRAL, {"id": "7", "status": "open"}, {"id": "7", "status": "Jane Doe"}),), ("status",),
        ),
    ),
    statements=(StatementReport(5, "UPDATE referral SET status = 'Jane Doe'", 1, 0.01),),
    assertions=(AssertionReport("it is Jane", True, "Jane Doe"),),
    proof=ProofReport(True, "exact", ("public.referral",)),
    conflicts=(
        Conflict(1, REFERRAL, ConflictKind.CHANGED, {"id": "Jane Doe"}, ("status",), {"status": "open"},
                 {"status": "Jane Doe"}, None, "Key (status)=(Jane Doe)"),
    ),
    sequences=(SequenceMove("public.referral_id_seq", None, 9),),
    locks=(Lock("public.referral", "RowExclusiveLock"),),
    rescue=(RescueReport("rescue.r41_1_before", 1, NOON + timedelta(days=7)),),
    way_back="public.referral: Jane Doe is not Jim Doe",
    duration_s=0.5,
    started_at=NOON,
    database={"product": "PostgreSQL", "version": "18.0"},
)  # fmt: skip
_TABLE = Table(REFERRAL, "16400", (Column("id", "bigint", 1), Column("status", "text", 2)), ("id",), ("audit",))
RECORD = RunRecord(
    41, RunStart("close", "ab" * 32, "Close the referrals", Mode.REAL, "production", "ann"), RunState.COMMITTED, NOON,
    NOON + timedelta(seconds=1), NOON + timedelta(days=7),
    (CapturedTable(_TABLE, Counts(updated=1), 1, 1, ("id", "status"), "two snapshots", "r41_1_before", "r41_1_after"),),
    report_for_journal(REPORT),
)  # fmt: skip
CHANGE = """\
-- /// change
-- title = "Close the referrals"
-- ///
UPDATE referral SET status = 'closed';
CREATE INDEX i ON referral (status);
"""


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, or the one in the file beside it that it refers to."""
    return json.loads((SCHEMAS / schema["$ref"]).read_text()) if "$ref" in schema else schema


def problems(value: Any, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Yield where a value is not as a schema says; only the words that our schemas use."""
    schema = resolved(schema)
    if "anyOf" in schema:
        found = [list(problems(value, one, path)) for one in schema["anyOf"]]
        yield from [] if [] in found else found[0]
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{path}: {value!r} is no {kind}"
    elif kind == "array":
        for index, one in enumerate(value):
            yield from problems(one, schema["items"], f"{path}[{index}]")
    elif kind == "object":
        properties = schema.get("properties", {})
        yield from (f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value)
        for name, one in value.items():
            inner = properties.get(name, schema.get("additionalProperties", True))
            if inner is False:
                yield f"{path}.{name} is not in the schema"
            elif inner is not True:
                yield from problems(one, inner, f"{path}.{name}")


def require_valid(value: dict[str, Any], name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    assert list(problems(json.loads(json.dumps(value)), schema)) == []


def test_a_run_has_all_that_was_promised() -> None:
    shown = report_as_json(REPORT)
    require_valid(shown, "run")
    promised = {
        "run", "change", "digest", "environment", "mode", "outcome", "state", "tables", "assertions", "proof",
        "conflicts", "sequences", "locks", "backup", "rescue", "duration_s",
    }  # fmt: skip
    assert promised - set(shown) == set()
    assert shown["outcome"] == "committed"
    assert shown["tables"][0]["sample"] == [
        {"before": {"id": "7", "status": "open"}, "after": {"id": "7", "status": "Jane Doe"}}
    ]
    assert shown["rescue"] == [{"table": "rescue.r41_1_before", "rows": 1, "expires_at": "2026-11-28T12:00:00+00:00"}]


def test_every_field_of_a_report_is_in_its_json() -> None:
    assert set(RunReport.__dataclass_fields__) - set(report_as_json(REPORT)) == set()


def test_without_sample_no_row_is_shown() -> None:
    assert "sample" not in report_as_json(REPORT, sample=False)["tables"][0]


def test_the_journal_keeps_no_value_of_any_row() -> None:
    kept = report_for_journal(REPORT)
    text = json.dumps(kept)
    assert "Jane" not in text.replace("it is Jane", "")  # the assertion's title is the author's own
    assert kept["conflicts"] == [
        {"number": 1, "table": "public.referral", "kind": "changed since", "columns": ["status"]}
    ]
    assert kept["way_back"] == "not proven"


def test_a_proven_way_back_stays_proven_in_the_journal() -> None:
    assert report_for_journal(replace(REPORT, way_back="proven"))["way_back"] == "proven"


def test_a_failed_run_has_its_report_and_the_error() -> None:
    error = AssertionFailed("the assertion is not true")
    error.report = replace(REPORT, proof=None, outcome=RunState.ROLLED_BACK, state="rolled back")
    shown = failure_as_json(error)
    require_valid(shown, "run")
    assert shown["error"] == {
        "code": "assertion_failed", "message": "the assertion is not true", "state": "rolled back", "hint": None,
    }  # fmt: skip


def test_a_failure_before_any_run_is_the_error_alone() -> None:
    shown = failure_as_json(UsageError("no such thing", hint="another"))
    require_valid(shown, "error")
    assert shown == {"error": {"code": "usage", "message": "no such thing", "state": "untouched", "hint": "another"}}


def test_records_of_the_journal() -> None:
    shown = record_as_json(RECORD)
    require_valid(shown, "show")
    require_valid(shown | {"tables": [table_as_json(REPORT.tables[0])]}, "show")
    require_valid({"runs": [shown]}, "log")
    nothing: dict[str, list[str]] = {"expired_backups": [], "dropped_backups": [], "notes": []}
    require_valid({"expired": [shown], "dropped": [41], **nothing}, "clean")
    assert shown["identifier"] == "production-41"
    assert shown["captured"][0]["counted"] == {"inserted": 0, "updated": 1, "deleted": 0}


def test_reviews(tmp_path: Path) -> None:
    path = tmp_path / "close.sql"
    path.write_text(CHANGE)
    facts = TableFacts(_TABLE, 100, 8192, ("public.note",), None, ("partitioned",))
    shown = review_as_json(review(read_change(path))) | {
        "tables": [facts_as_json(facts)],
        "missing_tables": [],
        "misunderstood": [],
    }
    require_valid(shown, "check")
    assert [one["level"] for one in shown["statements"]] == ["exact", "not undoable"]
    assert shown["passed"] is False


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("error", {"error": {"code": 7, "message": "", "state": "", "hint": None}}),
        ("error", {"error": {"code": "", "message": "", "state": ""}}),
        ("new", {"change": "a", "path": "b", "more": 1}),
        ("doctor", {"advice": [{"level": "odd", "text": "", "hint": None}]}),
    ],
)
def test_a_shape_that_is_not_promised_is_found(name: str, broken: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        require_valid(broken, name)
