"""The verbs that look at runs of the past and clean up after them: show, log, clean.

Not for: deciding what has expired; the journal does, by the database's clock.
"""

from __future__ import annotations

from pathlib import Path

import click

from backout.cli.options import CONFIG, JSON, ROWS, SUPERUSER, YES, on_option, verb
from backout.cli.screen import plain, show, show_json, show_text
from backout.errors import Refused, UsageError


@verb("show", example="backout show production-41")
@click.argument("run", metavar="RUN")
@on_option(required=False)
@ROWS
@CONFIG
@JSON
def show_run(run: str, on: str | None, *, rows: int, config: Path | None, json_: bool) -> None:
    """Show a run: who, when, how it ended, its rows."""
    from backout.project import Project

    record, tables = Project.find(config).show(run, on, rows=rows)
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

    records = Project.find(config).log(on, limit=limit)
    if json_:
        from backout.runs.as_json import record_as_json

        show_json({"runs": [record_as_json(one) for one in records]})
    else:
        from backout.cli.history import runs

        show(runs(records))


@verb("clean", example="backout clean --on production")
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@on_option(required=True)
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@CONFIG
@SUPERUSER
@YES
@JSON
def clean(
    runs: tuple[str, ...], on: str, *, dry_run: bool, config: Path | None, allow_superuser: bool, yes: bool, json_: bool
) -> None:
    """Drop the rescue tables of runs whose time is over.

    After that those runs cannot be undone. Without RUN: of all runs whose time is over.
    """
    from backout.cli.conversation import Conversation
    from backout.cli.history import runs as listed
    from backout.project import Project
    from backout.runs.as_json import record_as_json

    project = Project.find(config, allow_superuser=allow_superuser)
    wanted = {_number(run) for run in runs}
    due = [one for one in project.expired(on) if not wanted or one.number in wanted]
    if missing := wanted - {one.number for one in due}:
        raise Refused("retention", f"the rescue of run {min(missing)} has not expired", hint=f"backout log --on {on}")
    if due and not json_:
        show(listed(due))
    drop = bool(due) and not dry_run
    if drop and not Conversation(yes=yes).ask("clean", f"drop the rescue of these {len(due)} runs, for good?"):
        raise Refused("operator", "nothing was dropped: you said no")
    if drop:
        project.clean(on, [one.number for one in due])
    dropped = [one.number for one in due] if drop else []
    if json_:
        show_json({"expired": [record_as_json(one) for one in due], "dropped": dropped})
    else:
        said = "would drop these" if dry_run else "dropped these"
        show_text(plain(said if due else "nothing to do: no rescue has expired"))


def _number(run: str) -> int:
    number = run.rpartition("-")[2]
    if not number.isdigit():
        raise UsageError(f'"{run}" is not a run', hint="name it by number, like 41 or production-41; see `backout log`")
    return int(number)
