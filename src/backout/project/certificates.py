"""A certificate as a signed statement, and back. Twin: `runs/rehearsal_json.py`, which has the form of its details.

Not for: making one (`runs/rehearsal.py`) or judging by it (`gates/ladder.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from backout.engines.protocol import Database
from backout.engines.values import JournalState, RunRecord, TableName
from backout.gates.certificate import GHOST_UNDO, Certificate, Shape
from backout.gates.evidence import Said
from backout.ledger.statement import Kind, Statement
from backout.runs.rehearsal_json import certificate_as_json
from backout.runs.report import RunReport

_PART = r'(?:"((?:[^"]|"")*)"|([^".]+))'
_NAME = re.compile(rf"{_PART}\.{_PART}")


def certificate_statement(one: Certificate, person: str, project: str | None, at: datetime) -> Statement:
    """The statement with which a person vouches for what they rehearsed."""
    return Statement(
        Kind.CERTIFICATE, one.change, one.digest, one.environment, person, at, certificate_as_json(one), project
    )


def certificate_of_run(
    database: Database, report: RunReport, person: str, way: str, binding: str = ""
) -> Certificate:  # fmt: skip
    """What a ghost run proved that took its own way back and compared, or a session to which two people agreed.

    `binding` is of the values that the run had of its parameters, see `subject.binding_of`.
    """
    rows = {one.table: (one.inserted, one.updated, one.deleted) for one in report.tables}
    tables = {name: database.table(found) for name in rows if (found := table_name(name)) is not None}
    shapes = {name: Shape.of(table) for name, table in tables.items() if table is not None}
    facts = database.facts()
    return Certificate(
        report.change, report.digest, report.environment, person, report.identifier, database.clock(), facts.product,
        facts.version, rows, shapes, way, binding=binding,
    )  # fmt: skip


def keep(database: Database, one: Certificate) -> None:
    """Keep it in the journal of the database where it was proven, with its run."""
    database.journal.certify(_number(one.run), certificate_as_json(one))


def is_kept(record: RunRecord | None, one: Certificate) -> bool:
    """Whether the journal has this certificate with its run. Who vouches for it, the ledger has, and not the journal."""
    kept = record.report.get("certificate") if record is not None else None
    return isinstance(kept, Mapping) and {**kept, "person": one.person} == certificate_as_json(one)


def proven_here(database: Database, environment: str, certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
    """These without those of a ghost run here that this database's own journal does not have."""
    return tuple(
        one for one in certificates
        if one.way != GHOST_UNDO or one.environment != environment or is_kept(_record(database, one), one)
    )  # fmt: skip


def _record(database: Database, one: Certificate) -> RunRecord | None:
    is_there = database.journal.state() is JournalState.PRESENT
    return database.journal.run(_number(one.run)) if is_there and _number(one.run) else None


def _number(run: str) -> int:
    """Of a run's identifier; 0 where it is none."""
    digits = run.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 0


def certificates_in(said: Iterable[Said]) -> tuple[Certificate, ...]:
    """The certificates among statements; the person is who signed, and digest and environment are what was signed."""
    found = (_read(one) for one in said if one.kind is Kind.CERTIFICATE)
    return tuple(one for one in found if one is not None)


def shapes_here(database: Database, certificates: Iterable[Certificate]) -> Mapping[str, Shape | None]:
    """What the certified tables look like in this database; None for one that is not here."""
    names = {name for one in certificates for name in one.shapes}
    tables = {name: database.table(found) if (found := table_name(name)) else None for name in names}
    return {name: Shape.of(table) if table is not None else None for name, table in tables.items()}


def table_name(text: str) -> TableName | None:
    """The name that prints as this text."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    schema, name = ((match[i].replace('""', '"') if match[i] is not None else match[i + 1]) for i in (1, 3))
    return TableName(schema, name)


def _read(said: Said) -> Certificate | None:
    statement = said.statement
    details: Mapping[str, Any] = statement.details
    try:
        tables = details["tables"]
        return Certificate(
            statement.change, statement.digest, statement.environment, said.person, str(details["run"]),
            datetime.fromisoformat(details["at"]), str(details["product"]), str(details["version"]),
            {one["table"]: (int(one["inserted"]), int(one["updated"]), int(one["deleted"])) for one in tables},
            {
                one["table"]: Shape(dict(one["columns"]), tuple(one["key"] or ()), tuple(one["triggers"] or ()))
                for one in tables if one["columns"] is not None
            },
            str(details["way"]), details["idempotent"], str(details.get("parameters", "")), said.key,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
