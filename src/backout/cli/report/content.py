"""What a report says: a dossier to blocks. Pure; no markup, no I/O.

Not for: runs on an environment (`rungs`). Invariant: what is missing is said to be missing.
"""

from __future__ import annotations

import shlex
from importlib.metadata import version

from backout.cli.bill import when
from backout.cli.report.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARN,
    Block,
    Cell,
    Command,
    Document,
    Fields,
    Grid,
    Listing,
    Note,
    Section,
)
from backout.cli.report.rungs import rung_section
from backout.engines.values import RunRecord, RunState
from backout.ledger.statement import Kind
from backout.lint.model import Level, StatementVerdict
from backout.project.config import shown_url
from backout.project.dossier import Dossier, Heard, Rung

_TONES = {Level.EXACT: GOOD, Level.EXACT_IF: WARN, Level.NOT_UNDOABLE: BAD}
_DOCUMENTS = {
    "risk": "What could happen if it goes wrong",
    "mitigation": "What makes that less likely, or smaller",
    "backout": "Way back",
    "request": "Request",
    "requested_by": "Requested by",
    "date": "Date",
    "links": "Links",
    "author": "Author",
}
_SAID = {
    Kind.SUBMIT: "submitted it", Kind.APPROVE: "approved", Kind.REJECT: "rejected it", Kind.OBJECT: "objected",
    Kind.WITHDRAW: "withdrew the objection", Kind.OVERRULE: "overruled an objection", Kind.CONSENT: "consented",
    Kind.ANNOUNCE: "told others", Kind.CLAIM: "is on it", Kind.RELEASE: "is not on it any more",
    Kind.CERTIFICATE: "certified a rehearsal", Kind.ATTEST: "looked at the application",
    Kind.AGREE: "agreed to what a session did", Kind.REFUSE: "said no to what a session did",
}  # fmt: skip
_BAD = (Kind.REJECT, Kind.OBJECT)


def document(dossier: Dossier) -> Document:
    """The whole report."""
    change = dossier.change
    rungs = tuple(rung_section(one, private=dossier.is_private) for one in dossier.rungs)
    sections = (
        Section("The change", _about(dossier)),
        Section("Statements", _statements(dossier)),
        Section("People", _people(dossier)),
        Section("Proof, environment by environment", () if rungs else (_quiet("no environment is configured"),), rungs),
        Section("Backout plan", _backout_plan(dossier)),
        Section("Audit trail", _audit(dossier)),
    )
    made = f"made {when(dossier.made_at)} by {dossier.made_by} with backout {version('backout')}"
    return Document(
        change.metadata.title, f"{change.identifier} · digest {change.digest[:16]}", _badges(dossier), sections, made
    )


def _badges(dossier: Dossier) -> tuple[Cell, ...]:
    level = dossier.review.level
    found = [
        Cell(f"undo: {level.value}", _TONES[level]),
        Cell(f"data: {dossier.change.metadata.data.value}", WARN if dossier.is_private else QUIET),
    ]
    found += [Cell(f"{shown_url(one.environment)}: {_in_a_word(one)}", _tone_of(one)) for one in dossier.rungs]
    return tuple(found)


def _in_a_word(rung: Rung) -> str:
    if rung.unreachable is not None:
        return "not reached"
    if rung.live_run is not None and rung.live_run.record.state is not RunState.COMMITTED:
        return "partly applied"
    if rung.live_run is not None:
        return "subset applied" if rung.live_run.subset else "applied"
    if rung.real is not None and rung.real.is_undone:
        return "run and undone"
    if rung.real is not None:
        return rung.real.record.state.value
    return "ghost only" if rung.ghost is not None else "not run"


def _tone_of(rung: Rung) -> str:
    if rung.unreachable is not None:
        return WARN
    if rung.real is None:
        return QUIET
    return GOOD if rung.real.record.state is RunState.COMMITTED else BAD


def _about(dossier: Dossier) -> tuple[Block, ...]:
    change = dossier.change
    rows = [
        ("Change", Cell(change.identifier, code=True)),
        ("File", Cell(change.path.name, code=True)),
        ("Digest", Cell(change.digest, code=True)),
        (
            "Language",
            Cell(change.language + (f", for {change.metadata.dialect.value}" if change.metadata.dialect else "")),
        ),
        (
            "Data",
            Cell(
                f"{change.metadata.data.value}: no row is shown" if dossier.is_private else change.metadata.data.value
            ),
        ),
    ]
    names = [*change.metadata.parameters, *(f"{name} (per environment)" for name in change.metadata.declarations)]
    rows += [("Parameters", Cell(", ".join(names)))] if names else []
    if change.metadata.idempotent:
        rows.append(("Idempotent", Cell("declared: a second run changes nothing")))
    for key, text in dossier.documents:
        shown = "from the rows that it touches" if key == "backout" and text == "generated" else text
        rows.append((_DOCUMENTS[key], Cell(shown) if shown else Cell("not written", WARN)))
    return (Fields(tuple(rows)),)


def _statements(dossier: Dossier) -> tuple[Block, ...]:
    rows = tuple(_statement(one) for one in dossier.review.verdicts)
    return (Grid(("Line", "Statement", "Undo", "What to know"), rows, right=(0,)),)


def _statement(verdict: StatementVerdict) -> tuple[Cell, ...]:
    step = verdict.step
    if step is None:
        text = "the script's own statements; the ghost run shows them"
    else:
        role = f"@{step.kind.value} “{step.title}”: " if step.title else ""
        text = role + " ".join(step.statement.text.split())
    known = "; ".join(
        [
            *(f"{'exact if ' if one.level is Level.EXACT_IF else ''}{one.message}" for one in verdict.findings),
            *_placeholders(verdict),
        ]
    )
    return (
        Cell(str(verdict.line)), Cell(text, code=step is not None), Cell(verdict.level.value, _TONES[verdict.level]),
        Cell(known, QUIET),
    )  # fmt: skip


def _placeholders(verdict: StatementVerdict) -> list[str]:
    """What $1 stands for; SQLite's statements keep the name."""
    statement = verdict.step.statement if verdict.step else None
    if statement is None or "$1" not in statement.text:
        return []
    return [f"${index} is :{name}" for index, name in enumerate(statement.parameters, start=1)]


# -- people ------------------------------------------------------------------------------------------------------------


def _people(dossier: Dossier) -> tuple[Block, ...]:
    voices = dossier.voices
    if not voices.in_use:
        return (_quiet("nobody is asked: no environment here wants statements of people, and there is no ledger"),)
    blocks: list[Block] = []
    if voices.problem:
        blocks.append(Note(Cell(f"the ledger is not sound: {voices.problem}", BAD)))
    rows = tuple(_heard(one) for one in voices.heard)
    headings = ("When", "Who", "What", "Where", "In their words", "Signed")
    blocks.append(Grid(headings, rows) if rows else _quiet("nobody has said anything about this digest yet"))
    if voices.ignored:
        lines = (f"{one.kind} by {one.person} does not count: {one.problem}" for one in voices.ignored)
        blocks.append(Listing(tuple(Cell(line, WARN) for line in lines)))
    return tuple(blocks)


def _heard(one: Heard) -> tuple[Cell, ...]:
    said = one.said
    what = _SAID.get(said.kind, said.kind.value)
    if said.kind is Kind.APPROVE:
        what = f"approved: {said.detail('approval')}"
    words = (
        (said.detail("why") if said.kind is not Kind.CLAIM or said.detail("why") != "run" else "")
        or said.detail("saw")
        or (f"run {said.detail('run')}" if said.detail("run") else "")
    )
    return (
        Cell(when(said.at)), Cell(said.person), Cell(what, BAD if said.kind in _BAD else ""),
        Cell(said.statement.environment or "everywhere"), Cell(words),
        Cell("signed", GOOD) if one.signed else Cell("unsigned: the account's name was believed", WARN),
    )  # fmt: skip


# -- the way back, and where to look -----------------------------------------------------------------------------------


def _backout_plan(dossier: Dossier) -> tuple[Block, ...]:
    blocks: list[Block] = []
    own = dossier.change.metadata.backout
    if own != "generated":
        blocks.append(Note(Cell(f"the author's own reversal: {own}")))
    for rung in dossier.rungs:
        name = shown_url(rung.environment)
        live = rung.live_run
        if live is None:
            about = (
                f"on {name}, once it has run; `backout run` prints the run's number. Kept for {rung.keep_days:g} days"
            )
            blocks.append(Command(f"backout undo {rung.environment}-NUMBER{_where(rung)}", about))
            continue
        about = f"on {name}, {_until(live.record)}; first with --ghost, to see what it does"
        blocks.append(Command(f"backout undo {live.record.identifier}{_where(rung)}", about))
    said = "Rows that others changed since the run are conflicts: they are listed, and stay unless they are named."
    return (*blocks, _quiet(said))


def _where(rung: Rung) -> str:
    """What a database without a name in the configuration needs, too."""
    return "" if rung.address is None else f" --on {shlex.quote(shown_url(rung.address))}"


def _until(record: RunRecord) -> str:
    if record.rescue_dropped_at:
        return "but its rescue is gone: restore the backup instead"
    return f"until {when(record.expires_at)}" if record.expires_at else "kept until it is resumed or cancelled"


def _audit(dossier: Dossier) -> tuple[Block, ...]:
    rows: list[tuple[str, Cell]] = []
    for rung in dossier.rungs:
        names = ", ".join(one.record.identifier for one in rung.runs)
        if names:
            rows.append((f"Journal of {shown_url(rung.environment)}", Cell(names, code=True)))
    if dossier.voices.head:
        position, head = dossier.voices.head
        rows.append(("Ledger", Cell(f"entry {position}, {head}", code=True)))
    said = "The journal is in the database itself (schema backout), written in the run's own transaction."
    blocks: list[Block] = [Fields(tuple(rows))] if rows else []
    blocks.append(_quiet(said))
    if dossier.voices.in_use:
        blocks.append(
            Command("backout audit", "recomputes the whole ledger, and names the first entry that was altered")
        )
    return tuple(blocks)


def _quiet(text: str) -> Note:
    return Note(Cell(text, QUIET))
