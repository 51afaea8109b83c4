"""A rehearsal and its certificate in their stable JSON form. Twin: `cli/schemas.py`."""

from __future__ import annotations

from typing import Any

from backout.gates.certificate import Certificate
from backout.runs.as_json import report_as_json
from backout.runs.rehearsal import Rehearsal

Json = dict[str, Any]


def rehearsal_as_json(rehearsal: Rehearsal) -> Json:
    """Return all of a rehearsal; `again` is null where a second run was not possible, and `again_failed` says why."""
    return {
        "ghost": report_as_json(rehearsal.bill),
        "run": report_as_json(rehearsal.run),
        "again": report_as_json(rehearsal.again) if rehearsal.again else None,
        "again_failed": rehearsal.again_failed,
        "idempotent": rehearsal.is_idempotent,
        "undo": report_as_json(rehearsal.undo),
        "compared": dict(rehearsal.compared),
        "reapplied": report_as_json(rehearsal.reapplied) if rehearsal.reapplied else None,
        "certificate": certificate_as_json(rehearsal.certificate) if rehearsal.certificate else None,
        "why_no_certificate": rehearsal.why_none,
    }


def certificate_as_json(one: Certificate) -> Json:
    """Return a certificate: counts and names, no value of any row."""
    return {
        "change": one.change,
        "digest": one.digest,
        "environment": one.environment,
        "person": one.person,
        "run": one.run,
        "at": one.at.isoformat(),
        "product": one.product,
        "version": one.version,
        "way": one.way,
        "idempotent": one.idempotent,
        **({"parameters": one.binding} if one.binding else {}),
        "tables": [
            {
                "table": table,
                "inserted": counts[0],
                "updated": counts[1],
                "deleted": counts[2],
                "columns": dict(one.shapes[table].columns) if table in one.shapes else None,
                "key": list(one.shapes[table].key) if table in one.shapes else None,
                "triggers": list(one.shapes[table].triggers) if table in one.shapes else None,
            }
            for table, counts in one.rows.items()
        ],
    }
