"""What is printed when a command fails, and with which exit status it ends.

Not for: preventing it. Invariant: whatever is raised, the last lines say what is true of the database now.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import click

from backout.cli.screen import show, show_error, show_json
from backout.errors import UNTOUCHED, BackoutError, Interrupted, UsageError

_ACTING = frozenset(
    {"init", "ghost", "run", "undo", "clean", "demo", "rehearse", "restore"}
)  # verbs that write to a database


def report_failure(error: BaseException, arguments: Sequence[str]) -> int:
    """Print the failure as the command line asked for it; return the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    found = _as_backout_error(error, arguments)
    found.hint = _as_typed(found.hint, arguments)
    if "--json" in arguments:
        show_json(failure_as_json(found))
    else:
        _show_report(found)
    show_error(text_of(found))
    if found.code == "bug":
        if os.environ.get("BACKOUT_DEBUG") == "1":
            traceback.print_exception(error, file=sys.stderr)
        else:
            show_error("note: BACKOUT_DEBUG=1 before the command prints where it happened; that may show values")
    return found.exit_status


def text_of(error: BackoutError) -> str:
    """Return the lines for standard error."""
    return f"error: {error}"


def failure_as_json(error: BackoutError) -> dict[str, Any]:
    """Return the report of the run, if one had begun, with the error beside its fields."""
    from backout.runs.report import RunReport

    said = {"code": error.code, "message": error.message, "state": error.state, "hint": error.hint}
    if not isinstance(error.report, RunReport):
        return {"error": said}
    from backout.runs.as_json import report_as_json

    return report_as_json(error.report) | {"error": said}


def _show_report(error: BackoutError) -> None:
    """Print how far the run got, where it got anywhere, and the conflicts of an undo."""
    found = getattr(error, "conflicts", ())
    if found:
        from backout.cli.conflicts import conflicts

        show(conflicts(found))
        return
    from backout.runs.report import RunReport

    if isinstance(error.report, RunReport) and (error.report.statements or error.report.assertions):
        from backout.cli.bill import bill

        show(bill(error.report, rows=0))


def _as_backout_error(error: BaseException, arguments: Sequence[str]) -> BackoutError:
    if isinstance(error, BackoutError):
        return error
    if isinstance(error, click.ClickException):
        return _usage(error)
    state = _state(arguments)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted("interrupted", state=state)
    # The exception's own text may hold a row's value or a URL: it is printed with BACKOUT_DEBUG=1 only.
    message = f"this is a bug in backout: please report it ({type(error).__name__})"
    return BackoutError(message, state=state)


def _usage(error: click.ClickException) -> UsageError:
    message = " ".join(error.format_message().split()).rstrip(".")
    verb = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "backout"
    return UsageError(message[:1].lower() + message[1:], hint=f"{verb} --help")


def _on(arguments: Sequence[str]) -> str | None:
    on = next((b for a, b in pairwise(arguments) if a == "--on"), None)
    return on or next((one.partition("=")[2] for one in arguments if one.startswith("--on=")), None)


def _as_typed(hint: str | None, arguments: Sequence[str]) -> str | None:
    """The hint with the URL that was typed where it names an environment, which exists for this command only."""
    on = _on(arguments)
    if hint is None or on is None:
        return hint
    from backout.project.config import database_name, shown_url

    made_up = database_name(on if ":" in on else f"sqlite:{on}")
    if made_up == on:
        return hint
    name, shown = re.escape(made_up), shown_url(on)
    hint = re.sub(rf"--on {name}(?![\w.-])", lambda _: f"--on {shown}", hint)
    return re.sub(rf"(backout \w+ {name}-\d+)(?! --on)", lambda found: f"{found[1]} --on {shown}", hint)


def _state(arguments: Sequence[str]) -> str:
    """Return what can be said when something ended in an unforeseen way: nothing but where to look."""
    on = _on(arguments)
    if on is None and not _ACTING.intersection(arguments[:1]):
        return UNTOUCHED
    from backout.project.config import shown_url

    return f"unknown: see `backout log --on {shown_url(on) if on else 'ENV'}`"
