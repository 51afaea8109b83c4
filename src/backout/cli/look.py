"""The verbs that look at runs of the past: show, log.

Not for: how long they are kept (`keep`).
"""

from __future__ import annotations

from pathlib import Path

import click

from backout.cli.options import CONFIG, JSON, REVEAL, ROWS, on_option, require_no_json, verb
from backout.cli.screen import show, show_error, show_json


@verb("show", example="backout show production-41")
@click.argument("run", metavar="RUN")
@on_option(required=False)
@ROWS
@REVEAL
@click.option("--watch", is_flag=True, help="Of a run in batches: how far it is, until it ends.")
@CONFIG
@JSON
def show_run(
    run: str, on: str | None, *, rows: int, reveal: bool, watch: bool, config: Path | None, json_: bool
) -> None:
    """Show a run: who, when, how it ended, its rows."""
    from backout.project import Project

    require_no_json(reveal=reveal, json_=json_)
    if watch:
        from backout.cli.batches import watch_run

        watch_run(Project.find(config), run, on, json_=json_)
        return
    record, tables = Project.find(config).show(run, on, rows=rows, reveal=reveal)
    if json_:
        from backout.runs.as_json import record_as_json, table_as_json

        show_json(record_as_json(record) | {"tables": [table_as_json(one) for one in tables]})
    else:
        from backout.cli.history import run as full

        show(full(record, tables, rows=rows))


@verb("log", example="backout log --on production")
@on_option(required=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="How many runs.")
@CONFIG
@JSON
def log(on: str, *, limit: int, config: Path | None, json_: bool) -> None:
    """List the runs of an environment, the newest first."""
    from backout.project import Project

    records = Project.find(config).log(on, limit=limit, progress=lambda left: show_error(f"note: {left}"))
    if json_:
        from backout.runs.as_json import record_as_json

        show_json({"runs": [record_as_json(one) for one in records]})
    else:
        from backout.cli.history import runs

        show(runs(records))
