"""What a report says of one environment: where the change stands there, its runs with their bill, rows and backup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backout.cli.bill import explained, many, seconds, size, when
from backout.cli.report.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARN,
    Block,
    Cell,
    Diff,
    DiffRow,
    Fields,
    Grid,
    Listing,
    Note,
    Section,
)
from backout.engines.values import Mode, RowChange, RunState
from backout.gates.evidence import Verdict
from backout.gates.policy import SOLO
from backout.project.config import shown_url
from backout.project.dossier import Rung, RunProof
from backout.project.status import Status
from backout.runs.report import TableReport

_TITLES = {Mode.GHOST: "Ghost run", Mode.REAL: "Run", Mode.UNDO: "Undo"}


_ABOUT_PEOPLE = ("documents", "author", "ladder", "approvals", "consent", "announcement", "objections", "window")


def rung_section(rung: Rung, *, private: bool) -> Section:
    """One environment."""
    name = shown_url(rung.environment)
    if rung.unreachable is not None:
        return Section(
            name, (Note(Cell(f"not reached, so nothing is known of it: {rung.unreachable}", WARN)), *_certified(rung))
        )
    blocks: list[Block] = [Note(Cell(rung.product, QUIET))]
    blocks += _standing(rung)
    blocks += _certified(rung)
    if not rung.runs:
        blocks.append(Note(Cell("this digest was not run here", QUIET)))
    return Section(name, tuple(blocks), tuple(_run(one, private=private) for one in rung.runs))


def _standing(rung: Rung) -> Iterator[Block]:
    """What the gates that ask something say, and whether the run may begin, where it has not been yet."""
    standing = rung.standing
    if standing is None:
        return
    if rung.live_run is None:
        yield Note(
            Cell("every gate is satisfied: it may run", GOOD) if standing.may_run else Cell("it may not run yet", WARN)
        )
    said = [one for one in standing.verdicts if not one.satisfied or _says_something(one, standing)]
    if said:
        yield Listing(tuple(Cell(f"{one.gate}: {one.text}", GOOD if one.satisfied else WARN) for one in said))
    if not standing.may_run and standing.earliest is not None:
        yield Note(Cell(f"at the earliest {when(standing.earliest)}", QUIET))


def _says_something(one: Verdict, standing: Status) -> bool:
    """Whether a satisfied gate asked anything of people."""
    asks_nothing = one.text.startswith(("no ", "nobody has to", "nothing is asked", "runs may begin at any time"))
    return one.gate in _ABOUT_PEOPLE and not asks_nothing and standing.profile != SOLO


def _certified(rung: Rung) -> Iterator[Block]:
    if not rung.certificates:
        return
    rows = tuple(
        (
            Cell(when(one.at)), Cell(one.person), Cell(one.run, code=True), Cell(one.way),
            Cell(f"{sum(map(sum, one.rows.values())):,}"), Cell(_second(one.idempotent)),
        )
        for one in rung.certificates
    )  # fmt: skip
    yield Grid(("Certified", "By", "Run", "How", "Rows", "A second run"), rows, right=(4,))


def _second(idempotent: bool | None) -> str:  # three answers
    return "not tried" if idempotent is None else "changes nothing" if idempotent else "changes rows again"


def _run(proof: RunProof, *, private: bool) -> Section:
    record = proof.record
    report, mode = record.report, record.start.mode
    blocks: list[Block] = [Fields(tuple(_facts(proof)))]
    if proof.tables:
        rows = tuple(_table(one) for one in proof.tables)
        blocks.append(Grid(("Table", "Inserted", "Updated", "Deleted", "Reached"), rows, right=(1, 2, 3)))
    elif record.state in (RunState.COMMITTED, RunState.ROLLED_BACK) and report.get("proof"):
        blocks.append(Note(Cell("nothing was written", QUIET)))
    checks = tuple(
        Cell(str(one.get("title")), GOOD if one.get("passed") else BAD) for one in report.get("assertions") or ()
    )
    blocks += [Listing(checks)] if checks else []
    blocks += [_diff(one) for one in proof.tables if one.sample]
    if private and proof.tables:
        blocks.append(Note(Cell("rows are not shown: the change says that they are PHI", QUIET)))
    notes = tuple(Cell(str(one), QUIET) for one in report.get("notes") or ())
    blocks += [Listing(notes)] if notes else []
    tone = GOOD if record.state is RunState.COMMITTED else QUIET if mode is Mode.GHOST else BAD
    return Section(f"{_TITLES[mode]} {record.identifier}", tuple(blocks), badges=(Cell(_outcome(proof), tone),))


def _outcome(proof: RunProof) -> str:
    record = proof.record
    if record.start.mode is Mode.GHOST and record.state is RunState.ROLLED_BACK and not record.report.get("error"):
        return "rolled back, as every ghost run"
    return (
        f"{record.state.value}, then undone"
        if proof.is_undone and record.start.mode is Mode.REAL
        else record.state.value
    )


def _facts(proof: RunProof) -> Iterator[tuple[str, Cell]]:
    record, report = proof.record, proof.record.report
    yield "By", Cell(_operator(report, record.start.operator))
    took = (record.finished_at - record.started_at).total_seconds() if record.finished_at else None
    yield "Started", Cell(when(record.started_at) + (f", took {seconds(took)}" if took is not None else ""))
    if record.start.undo_of is not None:
        yield "Undo of", Cell(f"{record.start.environment}-{record.start.undo_of}", code=True)
    if proof.subset:
        yield "Subset", Cell(f"only {proof.subset}", WARN)
    if record.batches:
        yield "Batches", Cell(f"{record.batches:,} committed")
    if report.get("error"):
        yield "Ended by", Cell(str(report["error"]).replace("_", " "), BAD)
    yield from _proven(report)
    if proof.validation is not None:
        yield "Validated", Cell(proof.validation.text, GOOD if proof.validation.is_validated else WARN)
    if record.start.mode is not Mode.GHOST:
        yield from _kept(proof)
    yield from _backup(report)


def _operator(report: Mapping[str, Any], account: str) -> str:
    authority = report.get("authority") or {}
    person = authority.get("person") if isinstance(authority, Mapping) else None
    emergency = f"; EMERGENCY: {authority['emergency']}" if authority and authority.get("emergency") else ""
    return f"{person or account}{emergency}"


def _proven(report: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    proof = report.get("proof")
    if isinstance(proof, Mapping):
        level = str(proof.get("level"))
        if proof.get("complete"):
            yield "Proof", Cell(f"complete, {level}: {explained(level)}", GOOD)
        else:
            yield "Proof", Cell(f"incomplete ({level})", BAD)
    if report.get("way_back"):
        good = report["way_back"] == "proven"
        yield (
            "Way back",
            Cell("taken in the ghost run, and compared: proven" if good else "not proven", GOOD if good else BAD),
        )
    if report.get("net_change") is not None:
        changed = ", ".join(report["net_change"])
        yield "A second run", Cell(f"changes {changed}" if changed else "changes nothing", WARN if changed else GOOD)


def _kept(proof: RunProof) -> Iterator[tuple[str, Cell]]:
    record = proof.record
    if not record.tables:
        return
    rows = sum(one.before_rows + one.after_rows for one in record.tables)
    if record.rescue_dropped_at:
        yield "Rescue", Cell(f"destroyed {when(record.rescue_dropped_at)}", QUIET)
    elif proof.is_undone:
        yield "Rescue", Cell("put back in full")
    else:
        yield "Rescue", Cell(f"{many(rows, 'image')}, kept until {when(record.expires_at)}")
    if record.open_conflicts:
        yield "Not restored", Cell(many(record.open_conflicts, "row"), WARN)


def _backup(report: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    backup = report.get("backup")
    if not isinstance(backup, Mapping):
        return
    details = [f"by {backup.get('provider')}", f"taken {backup.get('taken_at')}"]
    if backup.get("size_bytes") is not None:
        details.append(size(int(backup["size_bytes"])))
    if backup.get("sha256"):
        details.append(f"sha256 {str(backup['sha256'])[:16]}…")
    details += ["encrypted"] if backup.get("encrypted") else []
    yield "Backup", Cell(f"{backup.get('id')} ({', '.join(details)})")
    if backup.get("restore"):
        yield "Restore it", Cell(str(backup["restore"]), code=True)


def _table(one: TableReport) -> tuple[Cell, ...]:
    reached = Cell("named in the change") if one.named_in_change else Cell("by a cascade, trigger or function", WARN)
    return (
        Cell(one.table, code=True),
        *(Cell(f"{count:,}") for count in (one.inserted, one.updated, one.deleted)),
        reached,
    )


def _diff(table: TableReport) -> Diff:
    total = table.inserted + table.updated + table.deleted
    return Diff(table.table, tuple(_row(table, one) for one in table.sample), max(total - len(table.sample), 0))


def _row(table: TableReport, change: RowChange) -> DiffRow:
    if change.before is None or change.after is None:
        row = change.after if change.before is None else change.before
        return DiffRow("+" if change.before is None else "-", tuple((row or {}).items()))
    before = change.before
    changed = tuple(
        (name, before.get(name), value) for name, value in change.after.items() if before.get(name) != value
    )
    names = table.key or tuple(name for name in before if name not in {one[0] for one in changed})[:1]
    return DiffRow("~", tuple((name, before.get(name)) for name in names), changed)
