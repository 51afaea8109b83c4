"""The verbs that run something: ghost, run, undo.

Not for: how a run ends (`runs/supervise.py`). Invariant: once a run has ended, nothing that happens to the output
changes the exit status.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import (
    CHANGE,
    CONFIG,
    EMERGENCY,
    JSON,
    KEY,
    OVERWRITE,
    PARAM,
    REVEAL,
    ROWS,
    SUBSET,
    SUPERUSER,
    WHY_EMERGENCY,
    YES,
    on_option,
    require_no_json,
    verb,
)
from backout.errors import Conflicts, RolledBack, UsageError

if TYPE_CHECKING:
    from backout.cli.conversation import Conversation
    from backout.project import Project
    from backout.runs.report import RunReport


@verb("ghost", example="backout ghost close-outage-referrals --on staging")
@CHANGE
@on_option(required=True)
@PARAM
@click.option(
    "--undo", is_flag=True, help="Take it back inside the same transaction, too, and compare: is the way back proven?"
)
@SUBSET
@KEY
@ROWS
@REVEAL
@CONFIG
@SUPERUSER
@YES
@JSON
def ghost(
    change: str,
    on: str,
    param: Mapping[str, str],
    *,
    undo: bool,
    subset: str | None,
    key: Path | None,
    rows: int,
    reveal: bool,
    config: Path | None,
    allow_superuser: bool,
    yes: bool,
    json_: bool,
) -> None:
    """Run everything, show what it does, and roll it back."""
    from backout.runs.as_json import PROVEN

    require_no_json(reveal=reveal, json_=json_)
    talk, project = _begin(config, yes=yes, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        report = project.ghost(
            project.change(change), on, parameters=param, undo=undo, subset=subset, rows=rows, reveal=reveal, ask=talk.ask,
            progress=talk.progress,
        )  # fmt: skip
    limits = ("--subset", "…" if report.data == "phi" else subset) if subset else ()  # it may hold a value
    show_report(report, rows=rows, json_=json_, next_command=_command("run", change, on, config, param, flags=limits))
    if report.way_back not in (None, PROVEN):
        raise SystemExit(RolledBack.exit_status)


@verb(
    "run",
    example="backout run close-outage-referrals --on production\n"
    'backout run reopen-clinic --on production --emergency --why "the clinic cannot admit anybody"',
)
@CHANGE
@on_option(required=True)
@PARAM
@SUBSET
@click.option("--again", metavar="WHY", help="Run it once more where it has run already; why is kept with the run.")
@EMERGENCY
@WHY_EMERGENCY
@KEY
@ROWS
@REVEAL
@CONFIG
@SUPERUSER
@YES
@JSON
def run(
    change: str,
    on: str,
    param: Mapping[str, str],
    *,
    subset: str | None,
    again: str | None,
    emergency: bool,
    why: str | None,
    key: Path | None,
    rows: int,
    reveal: bool,
    config: Path | None,
    allow_superuser: bool,
    yes: bool,
    json_: bool,
) -> None:
    """Run the change; it is committed only if it can be taken back.

    Before the commit every expectation and assertion must hold, and the rows that were captured must explain every
    write that the database counted.
    """
    require_no_json(reveal=reveal, json_=json_)
    talk, project = _begin(config, yes=yes, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        report = project.run(
            project.change(change), on, parameters=param, subset=subset, rows=rows, reveal=reveal,
            emergency=reason_of(why, emergency=emergency), again=again, ask=talk.ask, progress=talk.progress,
        )  # fmt: skip
    show_report(report, rows=rows, json_=json_, next_command=_command("undo", report.identifier, on, config))


@verb("replay", example="backout replay staging-12 --on production\nbackout replay 12 --of staging --on test --exact")
@click.argument("run", metavar="RUN")
@on_option(required=True)
@click.option("--of", metavar="ENV", help="The environment of the recorded run, if RUN is a number alone.")
@click.option("--exact", is_flag=True, help="Roll back where a statement does something else than it did.")
@ROWS
@CONFIG
@SUPERUSER
@YES
@JSON
def replay(
    run: str,
    on: str,
    *,
    of: str | None,
    exact: bool,
    rows: int,
    config: Path | None,
    allow_superuser: bool,
    yes: bool,
    json_: bool,
) -> None:
    """Run the very statements of a program's run on another environment.

    It is a run of its own, captured and proven, and can be undone. Statements that affect another number of rows than
    they did when they were recorded are reported.
    """
    talk, project = _begin(config, yes=yes, allow_superuser=allow_superuser)
    with talk.waiting():
        report = project.replay(run, on, of=of, exact=exact, rows=rows, ask=talk.ask, progress=talk.progress)
    show_report(report, rows=rows, json_=json_, next_command=_command("undo", report.identifier, on, config))


@verb("undo", example="backout undo production-41\nbackout undo 41 --on production --overwrite 1,3")
@click.argument("run", metavar="RUN")
@on_option(required=False)
@click.option("--ghost", is_flag=True, help="Show what the undo does, and roll it back.")
@click.option("--partial", is_flag=True, help="Restore all but the conflicts.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Of a run in batches: this one alone.")
@OVERWRITE
@EMERGENCY
@WHY_EMERGENCY
@KEY
@ROWS
@CONFIG
@SUPERUSER
@YES
@JSON
def undo(
    run: str, on: str | None, *, ghost: bool, partial: bool, batch: int | None, overwrite: frozenset[int], emergency: bool,
    why: str | None, key: Path | None, rows: int, config: Path | None, allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Put back the rows of a run as they were before it.

    Rows that others changed since are conflicts: they are listed and numbered, and stay as they are unless you name
    them with --overwrite. Exit status 5: there are conflicts that were not restored.
    """
    talk, project = _begin(config, yes=yes, allow_superuser=allow_superuser, key=key)

    def attempt(*, partial: bool) -> RunReport:
        with talk.waiting():
            return project.undo(
                run, on, partial=partial, overwrite=overwrite, batch=batch, ghost=ghost, rows=rows,
                emergency=reason_of(why, emergency=emergency), ask=talk.ask, progress=talk.progress,
            )  # fmt: skip

    try:
        report = attempt(partial=partial)
    except Conflicts as found:
        if json_:
            raise
        _offer_the_rest(found, talk)
        report = attempt(partial=True)
    verb_, name, extra = ("undo", run, _flags(partial, overwrite, batch)) if ghost else ("show", report.identifier, ())
    if report.conflicts:
        verb_, name, extra = "undo", run, _flags(False, frozenset(), batch)  # it numbers them anew, for --overwrite
    show_report(report, rows=rows, json_=json_, next_command=_command(verb_, name, on, config, flags=extra))
    if report.conflicts:
        raise SystemExit(Conflicts.exit_status)


def _offer_the_rest(found: Conflicts, talk: Conversation) -> None:
    """At a terminal, list the conflicts and ask whether to restore everything else; raise them again unless so."""
    from backout.cli.conflicts import conflicts
    from backout.cli.screen import is_terminal, show
    from backout.engines.values import Conflict

    if not is_terminal():
        raise found
    show(conflicts([one for one in found.conflicts if isinstance(one, Conflict)]))
    if not talk.confirm("restore everything but these rows?"):
        raise Conflicts(found.message, (), state=found.state, hint=found.hint)  # without the list: it has been seen
    talk.assume("undo")


def reason_of(why: str | None, *, emergency: bool) -> str | None:
    """What an emergency is about; None for an ordinary run."""
    if why is not None and not emergency:
        raise UsageError("--why is for --emergency", hint="leave it out, or add --emergency")
    if emergency and not (why or "").strip():
        hint = 'say in a few words why nobody can be waited for: --emergency --why "the clinic cannot admit anybody"'
        raise UsageError("an emergency needs its reason: --why is missing", hint=hint)
    return why if emergency else None


def _begin(
    config: Path | None, *, yes: bool, allow_superuser: bool, key: Path | None = None
) -> tuple[Conversation, Project]:
    from backout.cli.conversation import Conversation
    from backout.project import Project

    return Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)


def show_report(report: RunReport, *, rows: int, json_: bool, next_command: str) -> None:
    """Print how a run went, for a person or for a program."""
    from backout.cli.screen import show, show_json
    from backout.runs.as_json import report_as_json

    if json_:
        show_json(report_as_json(report))
        return
    from backout.cli.bill import bill
    from backout.cli.conflicts import conflicts

    show(bill(report, rows=rows, next_command=None if report.conflicts or report.would_be_refused else next_command))
    if report.conflicts:
        show(
            [
                "",
                "not restored:",
                *conflicts(report.conflicts),
                f"next: {next_command}, to number what is left for --overwrite",
            ]
        )


def _flags(partial: bool, overwrite: frozenset[int], batch: int | None) -> tuple[str, ...]:
    numbers = ("--overwrite", ",".join(map(str, sorted(overwrite)))) if overwrite else ()
    one = ("--batch", str(batch)) if batch is not None else ()
    return (*(("--partial",) if partial else ()), *one, *numbers)


def _command(
    verb_: str, name: str, on: str | None, config: Path | None, param: Mapping[str, str] | None = None,
    flags: tuple[str, ...] = (),
) -> str:  # fmt: skip
    """Return what to type next. Values of parameters may be private, and a URL's password is: both stay out."""
    from backout.project.config import shown_url

    words = ["backout", verb_, name]
    words += ["--on", shown_url(on)] if on else []
    words += ["--config", str(config)] if config else []
    line = shlex.join([*words, *flags])
    return line + "".join(f" --param {shlex.quote(key)}=…" for key in param or {})
