"""The verb that makes the record of a change whose text others may not see: export.

Not for: deciding what is in it (`project/export.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, SUPERUSER, verb
from backout.cli.screen import plain, show_text
from backout.errors import UsageError

if TYPE_CHECKING:
    from backout.cli.report.blocks import Cell, Document, Section
    from backout.project.export import ExportedRecord, TableRows


@verb(
    "export",
    example="backout export merge-patients > record.md\nbackout export merge-patients --json -o record.json",
)
@CHANGE
@click.option("--on", "on", multiple=True, metavar="ENV", help="Only of these; can be repeated. [default: all]")
@click.option("--format", "format_", type=click.Choice(["markdown", "json"]), default="markdown", show_default=True)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Where it goes. [default: standard output]",
)  # fmt: skip
@KEY
@CONFIG
@SUPERUSER
@JSON
def export(
    change: str, on: tuple[str, ...], format_: str, output: Path | None, *, key: Path | None, config: Path | None,
    allow_superuser: bool, json_: bool,
) -> None:  # fmt: skip
    """Make a redacted record of a change: for a public repository or an auditor.

    Its title and documents, its digest, who said what, which runs there were and how many rows they wrote. No
    statement, no value, nobody's reasons.
    """
    import json

    from backout.cli.conversation import Conversation
    from backout.cli.report.markdown import markdown
    from backout.project import Project
    from backout.project.export import export_as_json, exported

    project, talk = Project.find(config, allow_superuser=allow_superuser, key=key), Conversation(yes=False)
    with talk.waiting():
        record = exported(project.dossier(project.change(change), on, rows=0))
    if json_ or format_ == "json":
        text = json.dumps(export_as_json(record), indent=2, ensure_ascii=False)
    else:
        text = markdown(_document(record))
    if output is None:
        show_text(text.removesuffix("\n"))
        return
    try:
        output.write_text(text.removesuffix("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f'unable to write "{output}": {(error.strerror or "unknown error").lower()}') from None
    show_text(f"wrote {plain(str(output))}")


def _document(record: ExportedRecord) -> Document:
    from backout.cli.report.blocks import Cell, Document, Fields, Section

    about = [("Digest", Cell(record.digest, code=True)), ("Data", Cell(record.data))]
    about += [(name.replace("_", " ").capitalize(), Cell(text)) for name, text in record.documents.items()]
    if record.ledger is not None:
        about.append(("Ledger", Cell(f"entry {record.ledger[0]}, {record.ledger[1]}", code=True)))
    people = [
        _row(one.at, one.person, one.approval or one.run or "", one.kind, one.environment, _signed(signed=one.signed))
        for one in record.said
    ]
    rehearsals = [
        _row(one.at, one.person, one.run, one.environment, one.way, _rows(one.tables)) for one in record.certificates
    ]
    runs = [
        _row(one.started_at, one.person, one.run, f"{one.mode}{' of a subset' if one.is_subset else ''}", one.outcome,
             one.proof or "", _rows(one.tables))
        for one in record.runs
    ]  # fmt: skip
    missing = [f"{name} was not reached: its runs are not here" for name in record.unreachable]
    return Document(
        title=f"{record.change}: {record.title}",
        subtitle="A redacted record: no statement, no value and nobody's reasons are in it.",
        badges=(),
        sections=(
            Section("The change", (Fields(tuple(about)),)),
            _section("People", ("at", "who", "", "said", "on", ""), people),
            _section("Rehearsals", ("at", "who", "run", "on", "way", "rows"), rehearsals),
            _section("Runs", ("at", "who", "run", "what", "outcome", "proof", "rows"), runs, missing),
        ),
        footer=f"made by {record.made_by} at {_at(record.made_at)}",
    )


def _section(
    title: str, headings: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], notes: Sequence[str] = ()
) -> Section:
    from backout.cli.report.blocks import Cell, Grid, Note, Section

    content = (Grid(headings, tuple(rows)),) if rows else (Note(Cell("none")),)
    return Section(title, (*content, *(Note(Cell(one)) for one in notes)))


def _row(at: datetime, *texts: str) -> tuple[Cell, ...]:
    from backout.cli.report.blocks import Cell

    return tuple(Cell(one) for one in (_at(at), *texts))


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _signed(*, signed: bool) -> str:
    return "signed" if signed else "unsigned"


def _rows(tables: Sequence[TableRows]) -> str:
    return (
        "; ".join(
            f"{one.table}: {one.inserted} inserted, {one.updated} updated, {one.deleted} deleted" for one in tables
        )
        or "none"
    )
