"""The verbs that look at runs of the past: show, log.

Not for: how long they are kept (`keep`). `show` also shows the text of a change, which for a private one is where
reviewers read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CONFIG, JSON, KEY, REVEAL, ROWS, on_option, require_no_json, verb
from backout.cli.screen import plain, show, show_error, show_json, show_text
from backout.errors import InvalidFile, UsageError

if TYPE_CHECKING:
    from backout.project import Project


@verb(
    "show",
    example="backout show production-41\nbackout show production-41 --statements\nbackout show close-outage-referrals",
)
@click.argument("run", metavar="RUN|CHANGE")
@on_option(required=False)
@ROWS
@REVEAL
@click.option("--statements", is_flag=True, help="Of a program: the statements that it sent, without their values.")
@click.option("--watch", is_flag=True, help="Of a run in batches: how far it is, until it ends.")
@KEY
@CONFIG
@JSON
def show_run(
    run: str,
    on: str | None,
    *,
    rows: int,
    reveal: bool,
    statements: bool,
    watch: bool,
    key: Path | None,
    config: Path | None,
    json_: bool,
) -> None:
    """Show a run: who, when, how it ended, its rows. Or the text of a change, to review it."""
    from backout.project import Project

    require_no_json(reveal=reveal, json_=json_)
    project = Project.find(config, key=key)
    if not run.rpartition("-")[2].isdigit():
        _show_change(project, run, json_=json_)
        return
    if statements:
        _show_statements(project, run, on, json_=json_)
        return
    if watch:
        from backout.cli.batches import watch_run

        watch_run(project, run, on, json_=json_)
        return
    record, tables = project.show(run, on, rows=rows, reveal=reveal)
    validation = project.validations([record]).get(record.number)
    if json_:
        from backout.project.people_json import validation_as_json
        from backout.runs.as_json import record_as_json, table_as_json

        more = {"tables": [table_as_json(one) for one in tables], "validation": validation_as_json(validation)}
        show_json(record_as_json(record) | more)
    else:
        from backout.cli.history import run as full

        show(full(record, tables, validation, rows=rows))


def _show_statements(project: Project, run: str, on: str | None, *, json_: bool) -> None:
    from backout.cli import emitted

    record, story = project.emitted(run, on)
    if json_:
        show_text(
            "\n".join(emitted.as_lines(story.lines, private=record.report.get("data") not in ("internal", "public")))
        )
    else:
        show(emitted.statements(story))


def _show_change(project: Project, name: str, *, json_: bool) -> None:
    try:
        change = project.change(name)
    except InvalidFile:
        raise
    except UsageError as error:
        hint = f"name it by number, like 41 or production-41; see `backout log`. As a change: {error.message}"
        raise UsageError(f'"{name}" is not a run', hint=hint) from None
    if json_:
        show_json({"change": change.identifier, "digest": change.digest, "text": change.text})
        return
    show_error(f"note: digest {change.digest}")
    show_text("\n".join(map(plain, change.text.expandtabs().removesuffix("\n").split("\n"))))


@verb("log", example="backout log --on production")
@on_option(required=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="How many runs.")
@CONFIG
@JSON
def log(on: str, *, limit: int, config: Path | None, json_: bool) -> None:
    """List the runs of an environment, the newest first."""
    from backout.project import Project

    project = Project.find(config)
    records = project.log(on, limit=limit, progress=lambda left: show_error(f"note: {left}"))
    validations = project.validations(records)
    if json_:
        from backout.project.people_json import validation_as_json
        from backout.runs.as_json import record_as_json

        runs_ = [
            record_as_json(one) | {"validation": validation_as_json(validations.get(one.number))} for one in records
        ]
        show_json({"runs": runs_})
    else:
        from backout.cli.history import runs

        show(runs(records, validations))
