"""What a run in batches reports: the same as any run, with all batches together.

Not for: the progress while it runs (`batches_pace.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from backout.engines.values import Capture, CapturedTable, RunState
from backout.recovery.proof import prove
from backout.runs.changes import table_report
from backout.runs.masking import shown_rows, shown_text
from backout.runs.report import ProofReport, RescueReport, RunReport, StatementReport

if TYPE_CHECKING:
    from backout.engines.batches import Keyset
    from backout.runs.batches_going import Going


def blank_report(going: Going) -> RunReport:
    """What is known of the run so far; the caller says how it ended."""
    database, run, step = going.database, going.run, going.step
    facts = database.facts()
    about = {
        "product": facts.product, "version": facts.version, "name": facts.database,
        "role": facts.role or facts.login_role, "free_bytes": facts.free_bytes,
    }  # fmt: skip
    named = frozenset(step.statement.tables)
    return RunReport(
        going.number, going.name, run.change.identifier, run.change.metadata.title, run.change.digest,
        run.start.environment, run.mode, RunState.RUNNING, "untouched",
        tables=tuple(table_report(one, named, ()) for one in going.tables),
        statements=()
        if run.change.batching is not None
        else (StatementReport(step.statement.line, shown_text(run.change, step.statement.text), going.affected, 0.0),),
        proof=proof_of(going.keyset, going.tables),
        data=run.change.metadata.data.value, database=about, backup=run.backup, authority=run.start.authority,
        again=run.again, transcript=going.transcript,
    )  # fmt: skip


def proof_of(keyset: Keyset, tables: Sequence[CapturedTable]) -> ProofReport:
    """That of all batches together; each of them was proven by itself."""
    if not tables:
        return ProofReport(complete=True, level="exact", checked=(str(keyset.table.name),))
    verdict = prove(Capture(tuple(tables)))
    return ProofReport(verdict.complete, verdict.level, tuple(dict.fromkeys(verdict.checked)))


def with_totals(report: RunReport, going: Going) -> RunReport:
    """With rows before and after, and where they are kept; of a run that keeps them."""
    journal = going.database.journal
    record = journal.run(report.run)
    if record is None or not record.tables:
        return report
    rows, named = going.run.rows, frozenset(going.step.statement.tables)
    tables, rescue = [], []
    for captured in record.tables:
        sample = shown_rows(report.data, journal.sample(record, captured, rows) if rows else ())
        tables.append(table_report(captured, named, sample))
        for name, count in (
            (captured.before_rescue, captured.before_rows), (captured.after_rescue, captured.after_rows)
        ):  # fmt: skip
            if name:
                rescue.append(RescueReport(name, count, record.expires_at))
    return replace(report, tables=tuple(tables), rescue=tuple(rescue), started_at=record.started_at)
