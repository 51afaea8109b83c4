"""The verbs for runs in batches: resume, pause, cancel.

Not for: how a run ends (`runs/batches.py`). `run`, `undo` and `show` are the same for every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

import click

from backout.cli.options import CONFIG, JSON, KEY, PARAM, ROWS, SUPERUSER, YES, on_option, verb

if TYPE_CHECKING:
    from backout.engines.batches import Batched
    from backout.project import Project

LOOK_EVERY_S = 2.0

RUN = click.argument("run", metavar="RUN")


@verb("resume", example="backout resume production-41")
@RUN
@on_option(required=False)
@PARAM
@KEY
@ROWS
@CONFIG
@SUPERUSER
@YES
@JSON
def resume(
    run: str, on: str | None, param: Mapping[str, str], *, key: Path | None, rows: int, config: Path | None,
    allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Go on with a run in batches, behind the last one that is committed.

    The change and its parameters must be what the run began with.
    """
    from backout.cli.conversation import Conversation
    from backout.cli.screen import show, show_json
    from backout.project import Project

    talk, project = Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        report = project.resume(run, on, parameters=param, rows=rows, ask=talk.ask, progress=talk.progress)
    if json_:
        from backout.runs.as_json import report_as_json

        show_json(report_as_json(report))
        return
    from backout.cli.bill import bill

    show(bill(report, rows=rows, next_command=f"backout undo {report.identifier}"))


@verb("pause", example="backout pause production-41")
@RUN
@on_option(required=False)
@CONFIG
@SUPERUSER
def pause(run: str, on: str | None, *, config: Path | None, allow_superuser: bool) -> None:
    """Have a run in batches end after the batch at hand, to be resumed."""
    from backout.cli.screen import plain, show_text
    from backout.project import Project

    show_text(plain(Project.find(config, allow_superuser=allow_superuser).pause(run, on)))


@verb("cancel", example="backout cancel production-41")
@RUN
@on_option(required=False)
@CONFIG
@SUPERUSER
def cancel(run: str, on: str | None, *, config: Path | None, allow_superuser: bool) -> None:
    """End a run in batches after the batch at hand, for good.

    What is committed can be undone.
    """
    from backout.cli.screen import plain, show_text
    from backout.project import Project

    show_text(plain(Project.find(config, allow_superuser=allow_superuser).cancel(run, on)))


def watch_run(project: Project, run: str, on: str | None, *, json_: bool) -> None:
    """Print a line now and then until the run has ended; with `json_` each line is an object."""
    from backout.cli.screen import plain, show_text
    from backout.engines.values import RunState
    from backout.errors import UsageError

    while True:
        record, batched = project.batched(run, on)
        if batched is None:
            raise UsageError(f'run "{run}" is no run in batches', hint=f"backout show {run}")
        show_text(_as_line(record.state.value, batched) if json_ else plain(_in_words(record.state.value, batched)))
        if record.state is not RunState.RUNNING:
            return
        sleep(LOOK_EVERY_S)


def _as_line(state: str, batched: Batched) -> str:
    import json

    return json.dumps({
        "run": batched.run, "outcome": state, "batches": batched.batches, "looked_at": batched.looked_at,
        "estimated_rows": batched.keyset.estimated_rows, "written": batched.written,
        "wanted": batched.wanted.value, "waits_for": batched.pause_reason, "undone": batched.undone,
    })  # fmt: skip


def _in_words(state: str, batched: Batched) -> str:
    estimated = batched.keyset.estimated_rows
    share = f" of about {estimated:,} ({min(batched.looked_at / estimated, 1.0):.1%})" if estimated else ""
    waits = f"; waits: {batched.pause_reason}" if batched.pause_reason else ""
    return (
        f"{state}: {batched.batches:,} batches, {batched.looked_at:,}{share} looked at, {batched.written:,} rows "
        f"written{waits}"
    )
