"""The shapes of all `--json` outputs, as JSON Schemas (draft 2020-12).

Not for: checking at run time. Invariant: `tests/unit/test_as_json.py` holds them against what is printed, and
`scripts/reference.py` writes them to `docs/reference/json/`. Twin: `runs/as_json.py`.
"""

from __future__ import annotations

from typing import Any

from backout.change.model import StepKind
from backout.engines.values import ConflictKind, Mode, RunState
from backout.ledger.statement import Kind
from backout.lint.model import Level

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_BOOL: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _one_of(kinds: Any) -> Schema:
    return {"enum": [one.value for one in kinds]}


_ROW = _or_null({"type": "object", "additionalProperties": _or_null(_TEXT)})
_COUNTS = _object(inserted=_WHOLE, updated=_WHOLE, deleted=_WHOLE)
_ANY_OBJECT: Schema = {"type": "object"}
_TABLE = _object(
    table=_TEXT, inserted=_WHOLE, updated=_WHOLE, deleted=_WHOLE, captured_by=_TEXT, named_in_change=_BOOL,
    key=_list(_TEXT), changed_columns=_list(_TEXT), sample=_list(_object(before=_ROW, after=_ROW)),
)  # fmt: skip
_CONFLICT = _object(
    number=_WHOLE, table=_TEXT, kind=_one_of(ConflictKind), key=_ANY_OBJECT, columns=_list(_TEXT), before=_ROW,
    ours=_ROW, now=_ROW, detail=_TEXT,
)  # fmt: skip
_ERROR = _object(code=_TEXT, message=_TEXT, state=_TEXT, hint=_or_null(_TEXT))
_WHAT = {"run": _WHOLE, "identifier": _TEXT, "change": _TEXT, "title": _TEXT, "digest": _TEXT, "environment": _TEXT}

BACKUP = _object(
    id=_TEXT, environment=_TEXT, provider=_TEXT, taken_at=_TIME, product=_TEXT, server_version=_TEXT, database=_TEXT,
    made_with=_TEXT, operator=_TEXT, places=_list(_TEXT), restore=_TEXT, size_bytes=_or_null(_WHOLE),
    sha256=_or_null(_TEXT), encrypted=_BOOL, held_as=_or_null(_TEXT), restore_point=_or_null(_TEXT),
    lsn=_or_null(_TEXT), expires_at=_or_null(_TIME), deleted_at=_or_null(_TIME),
)  # fmt: skip

RUN = _object(
    ("error",),
    **_WHAT,
    mode=_one_of(Mode),
    ghost_undo=_BOOL,
    outcome=_one_of(RunState),
    state=_TEXT,
    data=_TEXT,
    tables=_list(_TABLE),
    statements=_list(_object(line=_WHOLE, text=_TEXT, affected=_WHOLE, seconds=_NUMBER)),
    assertions=_list(_object(title=_TEXT, passed=_BOOL, value=_TEXT)),
    proof=_or_null(_object(complete=_BOOL, level=_TEXT, checked=_list(_TEXT))),
    conflicts=_list(_CONFLICT),
    conflicts_unlisted=_WHOLE,
    sequences=_list(_object(name=_TEXT, before=_or_null(_WHOLE), after=_or_null(_WHOLE))),
    locks=_list(_object(table=_TEXT, mode=_TEXT)),
    backup=_or_null(BACKUP),
    rescue=_list(_object(table=_TEXT, rows=_WHOLE, expires_at=_or_null(_TIME))),
    undo_of=_or_null(_WHOLE),
    undo_how=_or_null(_TEXT),
    conflicts_seen=_or_null(_TEXT),
    way_back=_or_null(_TEXT),
    net_change=_or_null(_ANY_OBJECT),
    subset=_or_null(_TEXT),
    again=_or_null(_TEXT),
    tracking=_list(_object(step=_TEXT, title=_TEXT, rows=_WHOLE, file=_or_null(_TEXT), sha256=_or_null(_TEXT))),
    transcript=_or_null(
        _object(("command",), statements=_WHOLE, sha256=_TEXT, command=_or_null(_list(_TEXT)))  # one that was typed
    ),
    agreement=_or_null(_object(sha256=_TEXT, people=_list(_TEXT), statements=_list(_TEXT))),
    rescue_bytes=_or_null(_WHOLE),
    log_bytes=_or_null(_WHOLE),
    duration_s=_NUMBER,
    notes=_list(_TEXT),
    started_at=_or_null(_TIME),
    authority=_or_null(
        _object(
            person=_TEXT,
            signed=_BOOL,
            profile=_TEXT,
            ledger_head=_or_null(_TEXT),
            ledger_seal=_or_null(_TEXT),
            emergency=_or_null(_TEXT),
            policy=_or_null(_TEXT),
        )
    ),
    database=_ANY_OBJECT,
    error=_ERROR,
)
_CERTIFICATE = _object(
    change=_TEXT, digest=_TEXT, environment=_TEXT, person=_TEXT, run=_TEXT, at=_TIME, product=_TEXT, version=_TEXT,
    way=_TEXT, idempotent=_or_null(_BOOL),
    tables=_list(
        _object(
            table=_TEXT, inserted=_WHOLE, updated=_WHOLE, deleted=_WHOLE, columns=_or_null(_ANY_OBJECT),
            key=_or_null(_list(_TEXT)), triggers=_or_null(_list(_TEXT)),
        )
    ),
)  # fmt: skip
_A_RUN: Schema = {"$ref": "run.schema.json"}
REHEARSAL = _object(
    ghost=_A_RUN, run=_A_RUN, again=_or_null(_A_RUN), again_failed=_or_null(_TEXT), idempotent=_or_null(_BOOL),
    undo=_A_RUN, compared=_ANY_OBJECT, reapplied=_or_null(_A_RUN), certificate=_or_null(_CERTIFICATE),
    why_no_certificate=_or_null(_TEXT),
)  # fmt: skip
VALIDATION = _or_null(_object(validated=_BOOL, wanted=_WHOLE, people=_list(_TEXT), text=_TEXT))
_RECORD = _object(
    ("tables", "validation"),
    **_WHAT,
    mode=_one_of(Mode),
    operator=_TEXT,
    undo_of=_or_null(_WHOLE),
    outcome=_one_of(RunState),
    started_at=_TIME,
    finished_at=_or_null(_TIME),
    expires_at=_or_null(_TIME),
    rescue_dropped_at=_or_null(_TIME),
    open_conflicts=_WHOLE,
    batches=_WHOLE,
    captured=_list(
        _object(
            table=_TEXT,
            counted=_or_null(_COUNTS),
            before_rows=_WHOLE,
            after_rows=_WHOLE,
            captured_by=_TEXT,
            before_rescue=_or_null(_TEXT),
            after_rescue=_or_null(_TEXT),
            left_rescue=_or_null(_TEXT),
            undone=_BOOL,
        )
    ),
    report=_ANY_OBJECT,
    tables=_list(_TABLE),
    validation=VALIDATION,
)
_FINDING = _object(rule=_TEXT, level=_one_of(Level), message=_TEXT, hint=_or_null(_TEXT), line=_WHOLE, column=_WHOLE)
_VERDICT = _object(
    line=_WHOLE, kind=_or_null(_one_of(StepKind)), text=_or_null(_TEXT), level=_one_of(Level), findings=_list(_FINDING)
)
_FACTS = _object(
    table=_TEXT, key=_list(_TEXT), triggers=_list(_TEXT), estimated_rows=_or_null(_WHOLE), bytes=_or_null(_WHOLE),
    cascades_to=_list(_TEXT), undo_needs=_or_null(_TEXT), notes=_list(_TEXT),
)  # fmt: skip

_GATE = _object(
    gate=_TEXT, satisfied=_BOOL, text=_TEXT, hint=_or_null(_TEXT), who=_or_null(_TEXT), earliest=_or_null(_TIME)
)

_PROBLEM = _object(message=_TEXT, file=_TEXT, line=_WHOLE, column=_WHOLE, hint=_or_null(_TEXT))
OWN_TESTS = _object(
    change=_TEXT, database=_TEXT, passed=_BOOL, loaded=_list(_TEXT), run=_or_null(_A_RUN),
    checks=_list(_object(title=_TEXT, passed=_BOOL, line=_WHOLE, detail=_TEXT)), undo=_or_null(_A_RUN),
    compared=_or_null(_ANY_OBJECT), problems=_list(_PROBLEM),
)  # fmt: skip
_TABLE_ROWS = _object(table=_TEXT, inserted=_WHOLE, updated=_WHOLE, deleted=_WHOLE)

#: file's stem -> (what prints it, its schema)
SCHEMAS: dict[str, tuple[str, Schema]] = {
    "run": ("`ghost`, `run`, `endpoint`, `session` and `undo`, also when they fail after the run has begun", RUN),
    "rehearse": ("`rehearse`", REHEARSAL),
    "error": ("every verb that fails before a run has begun", _object(error=_ERROR)),
    "show": ("`show` of a run", _RECORD),
    "text": ("`show` of a change", _object(change=_TEXT, digest=_TEXT, text=_TEXT)),
    "log": ("`log`", _object(runs=_list(_RECORD))),
    "clean": (
        "`clean`",
        _object(
            expired=_list(_RECORD),
            dropped=_list(_WHOLE),
            expired_backups=_list(BACKUP),
            dropped_backups=_list(_TEXT),
            notes=_list(_TEXT),
        ),
    ),
    "retain": ("`retain`", _object(run=_RECORD, backup=_or_null(_TEXT))),
    "check": (
        "`check`",
        _object(
            ("tests",),
            change=_TEXT,
            title=_TEXT,
            digest=_TEXT,
            level=_one_of(Level),
            passed=_BOOL,
            statements=_list(_VERDICT),
            tables=_list(_FACTS),
            missing_tables=_list(_TEXT),
            misunderstood=_list(_object(line=_WHOLE, problem=_TEXT)),
            tests=OWN_TESTS,
        ),
    ),
    "ci": (
        "`ci`",
        _object(
            base=_TEXT,
            fork=_TEXT,
            passed=_BOOL,
            changes=_list(_object(change=_TEXT, file=_TEXT, digest=_or_null(_TEXT), tested=_or_null(_BOOL))),
            findings=_list(
                _object(
                    level={"enum": ["error", "warning", "notice"]},
                    rule=_TEXT,
                    message=_TEXT,
                    file=_TEXT,
                    line=_WHOLE,
                    column=_WHOLE,
                    hint=_or_null(_TEXT),
                )
            ),
        ),
    ),
    "doctor": (
        "`doctor`",
        _object(advice=_list(_object(level={"enum": ["wrong", "weak", "fine"]}, text=_TEXT, hint=_or_null(_TEXT)))),
    ),
    "backup": ("`backup`", BACKUP),
    "backups": ("`backups`", _object(backups=_list(BACKUP))),
    "announce": (
        "`announce`",
        _object(
            change=_TEXT,
            told=_list(_TEXT),
            at=_TIME,
            earliest=_or_null(_TIME),
            recorded=_BOOL,
            receipts=_list(
                _object(
                    channel=_TEXT,
                    recipient=_TEXT,
                    event=_TEXT,
                    at=_TIME,
                    delivered=_BOOL,
                    answer=_TEXT,
                    attempts=_WHOLE,
                    text_sha256=_TEXT,
                )
            ),
        ),
    ),
    "restore": ("`restore`", _object(restored=BACKUP, to=_TEXT, note=_or_null(_TEXT))),
    "statement": (
        "`submit`, `approve`, `reject`, `consent`, `object`, `withdraw`, `overrule`, `claim`, `release`, `attest` and `agree`",
        _object(
            statement=_TEXT,
            kind=_one_of(Kind),
            change=_TEXT,
            digest=_TEXT,
            environment=_TEXT,
            person=_TEXT,
            principal=_TEXT,
            at=_TIME,
            details=_ANY_OBJECT,
            signed=_BOOL,
            entry=_WHOLE,
        ),
    ),
    "status": (
        "`status`",
        _object(
            change=_TEXT,
            digest=_TEXT,
            environment=_TEXT,
            profile=_TEXT,
            identity={"enum": ["ssh", "os-user"]},
            may_run=_BOOL,
            gates=_list(_GATE),
            ignored=_list(_TEXT),
            next=_TEXT,
            who=_TEXT,
            earliest=_or_null(_TIME),
            run=_or_null(_TEXT),
            validation=VALIDATION,
            ran=_or_null(
                _object(
                    run=_TEXT,
                    digest=_TEXT,
                    outcome=_one_of(RunState),
                    way_back_until=_or_null(_TIME),
                    rescue_dropped_at=_or_null(_TIME),
                )
            ),
        ),
    ),
    "audit": (
        "`audit`",
        _object(
            sound=_BOOL,
            entries=_WHOLE,
            head=_object(position=_WHOLE, hash=_TEXT),
            signed=_WHOLE,
            unsigned=_WHOLE,
            problems=_list(_object(entry=_or_null(_WHOLE), text=_TEXT)),
            notes=_list(_TEXT),
            seconds=_NUMBER,
        ),
    ),
    "export": (
        "`export`",
        _object(
            change=_TEXT,
            title=_TEXT,
            digest=_TEXT,
            is_private=_BOOL,
            data=_TEXT,
            project=_or_null(_TEXT),
            documents={"type": "object", "additionalProperties": _TEXT},
            said=_list(
                _object(
                    kind=_one_of(Kind),
                    person=_TEXT,
                    at=_TIME,
                    environment=_TEXT,
                    signed=_BOOL,
                    approval=_or_null(_TEXT),
                    run=_or_null(_TEXT),
                )
            ),
            ignored=_WHOLE,
            certificates=_list(
                _object(environment=_TEXT, person=_TEXT, run=_TEXT, at=_TIME, way=_TEXT, tables=_list(_TABLE_ROWS))
            ),
            runs=_list(
                _object(
                    run=_TEXT,
                    environment=_TEXT,
                    mode=_one_of(Mode),
                    outcome=_one_of(RunState),
                    person=_TEXT,
                    started_at=_TIME,
                    finished_at=_or_null(_TIME),
                    proof=_or_null(_TEXT),
                    is_subset=_BOOL,
                    tables=_list(_TABLE_ROWS),
                )
            ),
            unreachable=_list(_TEXT),
            ledger=_or_null(_object(position=_WHOLE, hash=_TEXT)),
            made_at=_TIME,
            made_by=_TEXT,
        ),
    ),
    "init": ("`init`", _object(done=_list(_TEXT))),
    "new": ("`new`", _object(change=_TEXT, path=_TEXT)),
}


def document(name: str) -> Schema:
    """Return the schema as a document of its own."""
    printed_by, schema = SCHEMAS[name]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": f"printed by {printed_by}",
    }
    return head | schema
