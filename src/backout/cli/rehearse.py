"""The verb that rehearses a change: there and back on an environment that is not production."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, PARAM, ROWS, SUPERUSER, YES, on_option, verb
from backout.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backout.cli.conversation import Conversation
    from backout.runs.rehearsal import Pause, Rehearsal
    from backout.runs.report import RunReport


@verb("rehearse", example="backout rehearse close-outage-referrals --on staging\n… --on staging --pause --reapply")
@CHANGE
@on_option(required=True)
@PARAM
@click.option("--reapply", is_flag=True, help="Run the change again at the end, where staging is wanted changed.")
@click.option("--pause", is_flag=True, help="Stop after the run and after the undo, to look at the application.")
@KEY
@ROWS
@CONFIG
@SUPERUSER
@YES
@JSON
def rehearse(
    change: str, on: str, param: Mapping[str, str], *, reapply: bool, pause: bool, key: Path | None, rows: int,
    config: Path | None, allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Run the change, run it again as a ghost, take it back, and compare the database with what it was.

    What was touched is compared by content, every other table by its number of rows. The result is a certificate:
    that this very text was run and taken back, on which tables, of which shape.
    """
    from backout.cli.conversation import Conversation
    from backout.cli.screen import is_terminal, show, show_json
    from backout.project import Project
    from backout.runs.rehearsal import nobody_looks
    from backout.runs.rehearsal_json import rehearsal_as_json

    if pause and not is_terminal():
        raise UsageError("--pause needs a terminal", hint="leave --pause out, or run it at a terminal")
    talk, project = Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        rehearsal = project.rehearse(
            project.change(change), on, parameters=param, reapply=reapply, rows=rows, ask=talk.ask,
            pause=_pausing(talk) if pause else nobody_looks, progress=talk.progress,
        )  # fmt: skip
    if json_:
        show_json(rehearsal_as_json(rehearsal))
    else:
        show(_told(rehearsal, rows))


def _pausing(talk: Conversation) -> Pause:
    def pause(after: str, report: RunReport) -> None:
        what = "was run" if after == "run" else "was taken back"
        while not talk.confirm(f"the change {what} ({report.identifier}): look at the application. Go on?"):
            pass

    return pause


def _told(rehearsal: Rehearsal, rows: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from backout.cli.bill import bill, columns, many, seconds, section
    from backout.cli.screen import plain

    yield from bill(rehearsal.run, rows=rows)
    listed = columns("step", "run", "took", "", right=("took",))
    for step, report, outcome in _steps(rehearsal):
        took = seconds(report.duration_s) if report else ""
        listed.add_row(step, plain(report.identifier) if report else "", took, plain(outcome))
    yield from section("rehearsal", [listed])
    rows_compared = sum(rehearsal.compared.values())
    equal = f"as before the run: {many(len(rehearsal.compared), 'table')}, {many(rows_compared, 'row')}"
    yield from section("compared", [Text(equal, style="green")])
    one = rehearsal.certificate
    if one is None:
        yield from section("certificate", [Text(f"none: {rehearsal.why_none}", style="yellow")])
    else:
        said = f"{one.change} {one.digest[:16]} on {one.environment} ({one.product} {one.version}), by {one.person}"
        yield from section("certificate", [Text(plain(said), style="green")])


def _steps(rehearsal: Rehearsal) -> Iterator[tuple[str, RunReport | None, str]]:
    yield "ghost", rehearsal.bill, "rolled back"
    yield "run", rehearsal.run, rehearsal.run.state
    yield "ghost again", rehearsal.again, _second(rehearsal)
    yield "undo", rehearsal.undo, rehearsal.undo.state
    if rehearsal.reapplied is not None:
        yield "run again", rehearsal.reapplied, rehearsal.reapplied.state


def _second(rehearsal: Rehearsal) -> str:
    if rehearsal.again is None:
        return f"not possible: {rehearsal.again_failed}"
    changed = ", ".join(rehearsal.again.net_change or ())
    return f"a second run would change {changed}" if changed else "a second run changes nothing"
