"""The verb that runs a command of one's own: endpoint.

Not for: what the command may do (`backout.endpoint`). Invariant: what is typed behind `--` is passed on as it is.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from backout.cli.act import show_report
from backout.cli.options import (
    CHANGE,
    CONFIG,
    JSON,
    KEY,
    REVEAL,
    ROWS,
    SUPERUSER,
    YES,
    on_option,
    require_no_json,
    verb,
)
from backout.errors import UsageError


def _complete_file(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    return [click.shell_completion.CompletionItem(incomplete, "file")]


@verb(
    "endpoint",
    example="backout endpoint close-outage-referrals --on staging --ghost -- psql -f fix.sql\n"
    "backout endpoint close-outage-referrals --on staging -- bin/rails runner '{file}'",
)
@CHANGE
@on_option(required=True)
@click.argument("command", metavar="-- COMMAND…", nargs=-1, type=click.UNPROCESSED, shell_complete=_complete_file)
@click.option("--ghost", is_flag=True, help="Show what it does, and roll it back.")
@click.option("--again", metavar="WHY", help="Run it once more where it has run already; why is kept with the run.")
@KEY
@ROWS
@REVEAL
@CONFIG
@SUPERUSER
@YES
@JSON
def endpoint(
    change: str, on: str, command: tuple[str, ...], *, ghost: bool, again: str | None, key: Path | None, rows: int,
    reveal: bool, config: Path | None, allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Run a command in place of the change's own, inside of one supervised transaction.

    It finds the endpoint in DATABASE_URL and the PG* variables. What it writes is captured, proven and committed as a
    run of the change; the command is recorded, so it is no place for a password. Where people approve what runs, only
    --ghost is possible.
    """
    from backout.cli.conversation import Conversation
    from backout.project import Project
    from backout.project.config import shown_url

    require_no_json(reveal=reveal, json_=json_)
    if not command:
        raise UsageError(
            "there is no command", hint=f"backout endpoint {change} --on {shown_url(on)} -- psql -f fix.sql"
        )
    talk, project = Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        report = project.endpoint(
            project.change(change), on, command, ghost=ghost, rows=rows, reveal=reveal, again=again, ask=talk.ask,
            progress=talk.progress,
        )  # fmt: skip
    where = ["--config", str(config)] if config else []
    following = shlex.join(["backout", "undo", report.identifier, *where])
    if ghost:  # a command can hold a value of PHI: it is not repeated
        shown = "…" if report.data == "phi" else shlex.join(command)
        following = f"{shlex.join(['backout', 'endpoint', change, '--on', shown_url(on), *where])} -- {shown}"
    show_report(report, rows=rows, json_=json_, next_command=following)
