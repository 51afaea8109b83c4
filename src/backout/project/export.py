"""A redacted record of a change, for whom its text is not: what it is about, who said what, what ran and on how many rows.

Not for: the full document (`dossier`, `cli/report`). Invariant: what is here was put here by name. No statement's text,
no value of a row or a parameter, no condition of a subset, no text of an error and no words of a person's reason is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from backout.engines.values import RunRecord
from backout.project.dossier import Dossier, Heard, Rung, RunProof
from backout.project.run_entries import person_of


@dataclass(frozen=True)
class TableRows:
    """How many rows of a table."""

    table: str
    inserted: int
    updated: int
    deleted: int


@dataclass(frozen=True)
class SaidRecord:
    """One statement that counts, without its reasons."""

    kind: str
    person: str
    at: datetime
    environment: str  # empty: of none in particular
    signed: bool
    approval: str | None = None
    run: str | None = None  # what it is about: a run that was attested, reviewed, retained


@dataclass(frozen=True)
class RunEvidence:
    """One run of this very digest."""

    run: str
    environment: str
    mode: str
    outcome: str
    person: str
    started_at: datetime
    finished_at: datetime | None
    proof: str | None
    is_subset: bool
    tables: tuple[TableRows, ...]


@dataclass(frozen=True)
class CertificateRecord:
    """One rehearsal that ended well."""

    environment: str
    person: str
    run: str
    at: datetime
    way: str
    tables: tuple[TableRows, ...]


@dataclass(frozen=True)
class ExportedRecord:
    """All of it. `documents` are the keys of the metadata that people write for people to read."""

    change: str
    title: str
    digest: str
    is_private: bool
    data: str
    project: str | None
    documents: Mapping[str, str]
    said: tuple[SaidRecord, ...]
    ignored: int  # statements that do not count
    certificates: tuple[CertificateRecord, ...]
    runs: tuple[RunEvidence, ...]
    unreachable: tuple[str, ...]  # environments of whose runs nothing is known
    ledger: tuple[int, str] | None  # the place and the hash of its last entry
    made_at: datetime
    made_by: str


def exported(dossier: Dossier) -> ExportedRecord:
    """Return the record of what a dossier knows."""
    change = dossier.change
    return ExportedRecord(
        change.identifier, change.metadata.title, change.digest, change.is_private, change.metadata.data.value,
        dossier.project, {name: text for name, text in dossier.documents if text},
        tuple(_said(one) for one in dossier.voices.heard), len(dossier.voices.ignored),
        tuple(one for rung in dossier.rungs for one in _certificates(rung)),
        tuple(_run(one) for rung in dossier.rungs for one in rung.runs),
        tuple(one.environment for one in dossier.rungs if one.unreachable is not None),
        dossier.voices.head, dossier.made_at, dossier.made_by,
    )  # fmt: skip


def export_as_json(one: ExportedRecord) -> dict[str, Any]:
    """Return it in its stable form. Twin: `cli/schemas.py`."""
    ledger = {"position": one.ledger[0], "hash": one.ledger[1]} if one.ledger is not None else None
    return {**_plain(asdict(one)), "ledger": ledger}


def _said(one: Heard) -> SaidRecord:
    statement = one.said.statement
    return SaidRecord(
        statement.kind.value, one.said.person, statement.at, statement.environment, one.signed,
        one.said.detail("approval") or None, one.said.detail("run") or None,
    )  # fmt: skip


def _certificates(rung: Rung) -> Sequence[CertificateRecord]:
    return [
        CertificateRecord(
            one.environment, one.person, one.run, one.at, one.way,
            tuple(TableRows(table, *counts) for table, counts in one.rows.items()),
        )
        for one in rung.certificates
    ]  # fmt: skip


def _run(proof: RunProof) -> RunEvidence:
    record: RunRecord = proof.record
    level = (record.report.get("proof") or {}).get("level")
    return RunEvidence(
        record.identifier, record.start.environment, record.start.mode.value, record.state.value, person_of(record),
        record.started_at, record.finished_at, str(level) if level else None, proof.subset is not None,
        tuple(TableRows(one.table, one.inserted, one.updated, one.deleted) for one in proof.tables),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
