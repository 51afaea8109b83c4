"""What a run in batches reports: the same as any run, with all batches together.

Not for: the progress while it runs (`batches_pace.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backout.engines.values import CapturedTable, Counts, RunState
from backout.runs.changes import table_report
from backout.runs.masking import shown_rows, shown_text
from backout.runs.report import ProofReport, RescueReport, RunReport, StatementReport, TableReport

if TYPE_CHECKING:
    from backout.change.model import Step
    from backout.engines.batches import BatchingDatabase, Keyset
    from backout.runs.changes import ChangeRun


def blank_report(
    database: BatchingDatabase, run: ChangeRun, number: int, keyset: Keyset, counts: Counts, step: Step
) -> RunReport:
    """What is known of the run so far; the caller says how it ended."""
    facts = database.facts()
    about = {
        "product": facts.product, "version": facts.version, "name": facts.database,
        "role": facts.role or facts.login_role, "free_bytes": facts.free_bytes,
    }  # fmt: skip
    table = TableReport(
        str(keyset.table.name), counts.inserted, counts.updated, counts.deleted, "two snapshots, in batches",
        named_in_change=True, key=keyset.table.key,
        changed_columns=tuple(one for one in keyset.after_columns if one not in keyset.table.key),
    )  # fmt: skip
    return RunReport(
        number, f"{run.start.environment}-{number}", run.change.identifier, run.change.metadata.title, run.change.digest,
        run.start.environment, run.mode, RunState.RUNNING, "untouched",
        tables=(table,) if counts.total else (),
        statements=(StatementReport(step.statement.line, shown_text(run.change, step.statement.text), counts.total, 0.0),),
        proof=ProofReport(complete=True, level="exact", checked=(str(keyset.table.name),)),
        data=run.change.metadata.data.value, database=about, backup=run.backup, authority=run.start.authority,
        again=run.again,
    )  # fmt: skip


def with_totals(report: RunReport, database: BatchingDatabase, rows: int) -> RunReport:
    """With rows before and after, and where they are kept; of a run that keeps them."""
    record = database.journal.run(report.run)
    if record is None or not record.tables:
        return report
    captured: CapturedTable = record.tables[0]
    sample = shown_rows(report.data, database.journal.sample(record, captured, rows) if rows else ())
    rescue = tuple(
        RescueReport(name, count, record.expires_at)
        for name, count in (
            (captured.before_rescue, captured.before_rows),
            (captured.after_rescue, captured.after_rows),
        )
        if name
    )
    table = replace(table_report(captured, frozenset(), sample), named_in_change=True)
    return replace(report, tables=(table,), rescue=rescue, started_at=record.started_at)
