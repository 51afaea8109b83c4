"""A run, a record and a review in their stable JSON form: what `--json` prints and what the journal keeps.

Not for: other ways to show them. Invariant: a key that was once there stays and keeps its meaning; the schemas in
`docs/reference/json/` say which. What goes into the journal holds no value of any row: the rescue tables, which only
their owner reads, are the one place for those.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backout.engines.values import Authority, CapturedTable, Conflict, Counts, RowChange, RunRecord, TableFacts
from backout.lint.model import Finding, Review, StatementVerdict
from backout.runs.report import RunReport, TableReport

PROVEN = "proven"  # the value of `RunReport.way_back` when nothing differed

Json = dict[str, Any]


def report_as_json(report: RunReport, *, sample: bool = True) -> Json:
    """Return the run as a JSON object; without `sample` the rows before and after are left out."""
    return {
        "run": report.run,
        "identifier": report.identifier,
        "change": report.change,
        "title": report.title,
        "digest": report.digest,
        "data": report.data,
        "environment": report.environment,
        "mode": report.mode.value,
        "ghost_undo": report.ghost_undo,
        "outcome": report.outcome.value,
        "state": report.state,
        "tables": [table_as_json(table, sample=sample) for table in report.tables],
        "statements": [
            {"line": one.line, "text": one.text, "affected": one.affected, "seconds": one.seconds}
            for one in report.statements
        ],
        "assertions": [{"title": one.title, "passed": one.passed, "value": one.value} for one in report.assertions],
        "proof": _proof(report),
        "conflicts": [conflict_as_json(one) for one in report.conflicts],
        "conflicts_unlisted": report.conflicts_unlisted,
        "sequences": [{"name": one.name, "before": one.before, "after": one.after} for one in report.sequences],
        "locks": [{"table": one.table, "mode": one.mode} for one in report.locks],
        "backup": dict(report.backup) if report.backup is not None else None,
        "rescue": [
            {"table": one.table, "rows": one.rows, "expires_at": _time(one.expires_at)} for one in report.rescue
        ],
        "undo_of": report.undo_of,
        "undo_how": report.undo_how,
        "conflicts_seen": report.conflicts_seen,
        "way_back": report.way_back,
        "net_change": dict(report.net_change) if report.net_change is not None else None,
        "subset": report.subset,
        "again": report.again,
        "tracking": [
            {"step": one.step, "title": one.title, "rows": one.rows, "file": one.file, "sha256": one.sha256}
            for one in report.tracking
        ],
        "transcript": dict(report.transcript) if report.transcript is not None else None,
        "agreement": dict(report.agreement) if report.agreement is not None else None,
        "rescue_bytes": report.rescue_bytes,
        "log_bytes": report.log_bytes,
        "duration_s": report.duration_s,
        "notes": list(report.notes),
        "started_at": _time(report.started_at),
        "authority": _authority(report.authority),
        "database": _plain(report.database),
    }


def report_for_journal(report: RunReport) -> Json:
    """Return the run without anything that could hold a row's value.

    Left out: samples, keys and rows of conflicts, what assertions answered, the text of statements (their literals may
    be private; the digest names them), and the difference that a `ghost --undo` found.
    """
    full = report_as_json(report, sample=False)
    way_back = report.way_back if report.way_back in (None, PROVEN) else "not proven"
    return full | {
        "statements": [{key: one[key] for key in ("line", "affected", "seconds")} for one in full["statements"]],
        "assertions": [{key: one[key] for key in ("title", "passed")} for one in full["assertions"]],
        "conflicts": [{key: one[key] for key in ("number", "table", "kind", "columns")} for one in full["conflicts"]],
        "way_back": way_back,
    }


def record_as_json(record: RunRecord) -> Json:
    """Return a row of the journal; `report` is what the run itself left there."""
    start = record.start
    return {
        "run": record.number,
        "identifier": record.identifier,
        "change": start.change,
        "title": start.title,
        "digest": start.digest,
        "environment": start.environment,
        "mode": start.mode.value,
        "operator": start.operator,
        "undo_of": start.undo_of,
        "outcome": record.state.value,
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "expires_at": _time(record.expires_at),
        "rescue_dropped_at": _time(record.rescue_dropped_at),
        "open_conflicts": record.open_conflicts,
        "batches": record.batches,
        "captured": [_captured(one) for one in record.tables],
        "report": _plain(record.report),
    }


def table_as_json(table: TableReport, *, sample: bool = True) -> Json:
    """Return what a run did to one table."""
    result: Json = {
        "table": table.table,
        "inserted": table.inserted,
        "updated": table.updated,
        "deleted": table.deleted,
        "captured_by": table.captured_by,
        "named_in_change": table.named_in_change,
        "key": list(table.key),
        "changed_columns": list(table.changed_columns),
    }
    return result | {"sample": [_row(one) for one in table.sample]} if sample else result


def conflict_as_json(conflict: Conflict) -> Json:
    """Return a row that an undo met changed, with its values."""
    return {
        "number": conflict.number,
        "table": str(conflict.table),
        "kind": conflict.kind.value,
        "key": dict(conflict.key),
        "columns": list(conflict.columns),
        "before": _values(conflict.before),
        "ours": _values(conflict.ours),
        "now": _values(conflict.now),
        "detail": conflict.detail,
    }


def review_as_json(review: Review) -> Json:
    """Return the verdicts on a change."""
    return {
        "change": review.change.identifier,
        "title": review.change.metadata.title,
        "digest": review.change.digest,
        "level": review.level.value,
        "passed": review.passed,
        "statements": [_verdict(one) for one in review.verdicts],
    }


def facts_as_json(facts: TableFacts) -> Json:
    """Return what a database says of a table that a change names."""
    return {
        "table": str(facts.table.name),
        "key": list(facts.table.key),
        "triggers": list(facts.table.triggers),
        "estimated_rows": facts.estimated_rows,
        "bytes": facts.bytes,
        "cascades_to": list(facts.cascades_to),
        "undo_needs": facts.undo_needs,
        "notes": list(facts.notes),
    }


def _proof(report: RunReport) -> Json | None:
    proof = report.proof
    if proof is None:
        return None
    return {"complete": proof.complete, "level": proof.level, "checked": list(proof.checked)}


def _authority(authority: Authority | None) -> Json | None:
    if authority is None:
        return None
    return {
        "person": authority.person,
        "signed": authority.signed,
        "profile": authority.profile,
        "ledger_head": authority.ledger_head,
        "ledger_seal": authority.ledger_seal,
        "policy": authority.policy,
        "emergency": authority.emergency,
    }


def _row(change: RowChange) -> Json:
    return {"before": _values(change.before), "after": _values(change.after)}


def _values(row: Mapping[str, str | None] | None) -> dict[str, str | None] | None:
    return None if row is None else dict(row)


def _captured(table: CapturedTable) -> Json:
    return {
        "table": str(table.table.name),
        "counted": _counts(table.counted),
        "before_rows": table.before_rows,
        "after_rows": table.after_rows,
        "captured_by": table.captured_by,
        "before_rescue": table.before_rescue,
        "after_rescue": table.after_rescue,
        "left_rescue": table.left_rescue,
        "undone": table.undone,
    }


def _counts(counts: Counts | None) -> Json | None:
    if counts is None:
        return None
    return {"inserted": counts.inserted, "updated": counts.updated, "deleted": counts.deleted}


def _verdict(verdict: StatementVerdict) -> Json:
    step = verdict.step
    return {
        "line": verdict.line,
        "kind": step.kind.value if step else None,
        "text": step.statement.text if step else None,
        "level": verdict.level.value,
        "findings": [_finding(one) for one in verdict.findings],
    }


def _finding(finding: Finding) -> Json:
    return {
        "rule": finding.rule,
        "level": finding.level.value,
        "message": finding.message,
        "hint": finding.hint,
        "line": finding.line,
        "column": finding.column,
    }


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _plain(value: Any) -> Any:
    """Return the value with only what JSON knows in it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
