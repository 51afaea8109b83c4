"""Statements, a status and an audit in their stable JSON form. Twin: `cli/schemas.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backout.engines.values import RunRecord
from backout.gates.attestation import Validation
from backout.project.audit import Audit
from backout.project.private import details_without_text
from backout.project.statements import Spoken
from backout.project.status import Status

Json = dict[str, Any]


def spoken_as_json(one: Spoken) -> Json:
    """Return a statement that was made. `signed` false means that an account's name is all that says who it was."""
    statement = one.statement
    return {
        "statement": statement.identifier,
        "kind": statement.kind.value,
        "change": statement.change,
        "digest": statement.digest,
        "environment": statement.environment,
        "person": one.person,
        "principal": statement.person,
        "at": statement.at.isoformat(),
        "details": details_without_text(statement.details),
        "signed": one.signed.signature is not None,
        "entry": one.position,
    }


def status_as_json(one: Status) -> Json:
    """Return where a change stands."""
    return {
        "change": one.change,
        "digest": one.digest,
        "environment": one.environment,
        "profile": one.profile,
        "identity": one.identity,
        "may_run": one.may_run,
        "gates": [
            {
                "gate": verdict.gate,
                "satisfied": verdict.satisfied,
                "text": verdict.text,
                "hint": verdict.hint,
                "who": verdict.who,
                "earliest": _time(verdict.earliest),
            }
            for verdict in one.verdicts
        ],
        "ignored": list(one.ignored),
        "next": one.next_command,
        "who": one.who,
        "earliest": _time(one.earliest),
        "run": one.run,
        "validation": validation_as_json(one.validation),
        "ran": _ran(one.ran),
    }


def _ran(one: RunRecord | None) -> Json | None:
    """Return the run that stands in the way of another one; None: there is none."""
    if one is None:
        return None
    dropped = one.rescue_dropped_at is not None
    return {
        "run": one.identifier,
        "digest": one.start.digest,
        "outcome": one.state.value,
        "way_back_until": None if dropped else _time(one.expires_at),
        "rescue_dropped_at": _time(one.rescue_dropped_at),
    }


def validation_as_json(one: Validation | None) -> Json | None:
    """Return how far a run is validated; None where nobody has to look at it."""
    if one is None:
        return None
    return {"validated": one.is_validated, "wanted": one.wanted, "people": list(one.people), "text": one.text}


def audit_as_json(one: Audit) -> Json:
    """Return what an audit found."""
    return {
        "sound": one.is_sound,
        "entries": one.entries,
        "head": {"position": one.head.position, "hash": one.head.hash},
        "signed": one.signed,
        "unsigned": one.unsigned,
        "problems": [{"entry": problem.position or None, "text": problem.text} for problem in one.problems],
        "notes": list(one.notes),
        "seconds": one.seconds,
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
