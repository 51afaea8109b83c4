"""The verbs of two people at one change: session, agree, watch.

Not for: whether it is committed (`gates/agreement.py`). Invariant: whoever waits is told for whom, and what to type.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backout.cli.act import reason_of, show_report
from backout.cli.options import (
    CHANGE,
    CONFIG,
    EMERGENCY,
    JSON,
    KEY,
    ROWS,
    SUPERUSER,
    WHY_EMERGENCY,
    YES,
    on_option,
    verb,
)
from backout.cli.people import tell
from backout.cli.screen import console, is_terminal, plain, show_error, show_text
from backout.errors import UsageError

if TYPE_CHECKING:
    from backout.gates.agreement import Agreement
    from backout.project.live import Told
    from backout.project.sessions import Seen
    from backout.runs.report import RunReport, TableReport

CLIENTS = ("auto", "psql", "built-in")


@verb("session", example="backout session correct-address --on production")
@CHANGE
@on_option(required=True)
@click.option(
    "--prompt", type=click.Choice(CLIENTS), default="auto", show_default=True,
    help="What one types at; auto: psql where it is installed and there is a terminal.",
)  # fmt: skip
@click.option(
    "--again", metavar="WHY", help="Do it once more where it has been done already; why is kept with the run."
)
@EMERGENCY
@WHY_EMERGENCY
@KEY
@ROWS
@CONFIG
@SUPERUSER
@YES
@JSON
def session(
    change: str, on: str, prompt: str, *, again: str | None, emergency: bool, why: str | None, key: Path | None, rows: int,
    config: Path | None, allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Type statements at a prompt, inside of one supervised transaction.

    What they did is captured and proven as in any run. It is committed when you and somebody else have typed
    `backout agree`; either may say no. Somebody else sees the session with `backout watch`.
    """
    from backout.cli.conversation import Conversation
    from backout.cli.terminal import StandardTerminal
    from backout.endpoint.session import has_psql
    from backout.project import Project

    if prompt == "psql" and not has_psql():
        raise UsageError("psql is not installed", hint="--prompt built-in")
    psql = prompt == "psql" or (prompt == "auto" and is_terminal() and has_psql())
    talk, project = Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)
    report = project.session(
        project.change(change), on, StandardTerminal(), _Teller(rows).tell, psql=psql, rows=rows,
        emergency=reason_of(why, emergency=emergency), again=again, ask=talk.ask, progress=talk.progress,
    )  # fmt: skip
    undo = shlex.join(["backout", "undo", report.identifier, *(["--config", str(config)] if config else [])])
    show_report(report, rows=rows, json_=json_, next_command=undo)


class _Teller:
    """Tells the first person how far the agreement is; the rows once."""

    def __init__(self, rows: int) -> None:
        self._rows, self._has_shown = rows, False

    def tell(self, report: RunReport, agreement: Agreement, content: str) -> None:
        """Show what there is to agree to, and for whom the run waits."""
        if not self._has_shown:
            self._has_shown = True
            _show_rows(report.tables, self._rows)
            show_error(f"content: sha256 {content}")
        show_error("\n".join(_standing(report.identifier, agreement.agreed, agreement.waits_for)))


@verb(
    "agree",
    example='backout agree production-41\nbackout agree production-41 --no --why "patient 7 has moved again"',
)
@click.argument("run", metavar="RUN")
@on_option(required=False)
@click.option("--no", is_flag=True, help="Say no: it is rolled back; needs --why.")
@click.option("--why", metavar="TEXT", help="With --no: the reason, for everybody to read.")
@ROWS
@KEY
@CONFIG
@YES
@JSON
def agree(
    run: str, on: str | None, *, no: bool, why: str | None, rows: int, key: Path | None, config: Path | None, yes: bool,
    json_: bool,
) -> None:  # fmt: skip
    """Agree to what a session did, or say no; your statement is over the hash of its rows before and after."""
    from backout.cli.conversation import Conversation
    from backout.project import Project

    if no and not (why or "").strip():
        raise UsageError("a no has a reason", hint='say it: --no --why "…"')
    if why is not None and not no:
        raise UsageError("--why is for --no", hint="leave it out, or add --no")
    talk = Conversation(yes=yes)

    def show(told: Told) -> bool:
        if not json_:
            _show_rows(_tables(told), rows)
            show_error(f"content: sha256 {told.content}")
        return talk.ask("agree", f"do you agree to what {told.first} did in {run}?")

    spoken = Project.find(config, key=key).agree(run, on, no=why, show=show)
    tell(spoken, f"said no to {run}" if no else f"agreed to {run}", json_=json_)


@verb("watch", example="backout watch production-41")
@click.argument("run", metavar="RUN")
@on_option(required=False)
@ROWS
@KEY
@CONFIG
def watch(run: str, on: str | None, rows: int, key: Path | None, config: Path | None) -> None:
    """See another person's session: its statements, then its rows before and after, then who has agreed.

    While you watch, the session knows that you are there. When you leave before it is done, it is rolled back.
    """
    from backout.project import Project

    record = Project.find(config, key=key).watch(run, on, _Viewer(run, rows).see)
    agreement = record.report.get("agreement") or {}
    people = f", agreed by {' and '.join(agreement['people'])}" if agreement else ""
    show_text(plain(f"{record.identifier} is {record.state.value}{people}"))


class _Viewer:
    """Prints what is new at each look."""

    def __init__(self, run: str, rows: int) -> None:
        self._run, self._rows = run, rows
        self._shown: tuple[object, ...] = ()
        self._content: str | None = None
        self._so_far: tuple[Mapping[str, Any], ...] = ()

    def see(self, seen: Seen) -> None:
        """Print it."""
        told = seen.told
        if told is not None and told.content is None:
            self._stand(told, [f"the session is {told.phase}"])
        for line in seen.statements:
            show_text(_statement(line))
        if told is not None and told.content is None and told.tables and told.tables != self._so_far:
            self._so_far = told.tables
            show_text("so far:")
            _show_rows(_tables(told), self._rows, to_output=True)
        if told is None or told.content is None:
            return
        if told.content != self._content:
            self._content = told.content
            _show_rows(_tables(told), self._rows, to_output=True)
            show_text(f"content: sha256 {told.content}\nit waits until {told.until}, and is rolled back then")
        self._stand(told, _standing(self._run, told.agreed, told.waits_for))

    def _stand(self, told: Told, words: list[str]) -> None:
        standing = (told.phase, told.agreed, told.waits_for)
        if standing != self._shown:
            self._shown = standing
            show_text("\n".join(map(plain, words)))


def _statement(line: Mapping[str, Any]) -> str:
    text = " ".join(str(line["statement"]).split())
    given = line.get("parameters")
    return f"> {plain(text)}{plain(f'  {given}') if given else ''}\n  {plain(str(line['outcome']))}"


def _standing(run: str, agreed: tuple[str, ...], waits_for: tuple[str, ...]) -> list[str]:
    said = [f"agreed: {' and '.join(agreed)}"] if agreed else []
    return said + ([f"{run} waits for {' and '.join(waits_for)}: backout agree {run}"] if waits_for else [])


def _tables(told: Told) -> tuple[TableReport, ...]:
    """The rows of a session, as its own side has told them."""
    from backout.engines.values import RowChange, TableName
    from backout.runs.report import TableReport

    return tuple(
        TableReport(
            one["table"], one["inserted"], one["updated"], one["deleted"], one["captured_by"], one["named_in_change"],
            tuple(
                RowChange(TableName(*one["table"].partition(".")[::2]), row["before"], row["after"]) for row in one["sample"]
            ),
            tuple(one["changed_columns"]), tuple(one["key"]),
        )
        for one in told.tables
    )  # fmt: skip


def _show_rows(tables: tuple[TableReport, ...], rows: int, *, to_output: bool = False) -> None:
    """Before → after; on standard error, where something else is the result."""
    from backout.cli.rows import diff

    out = console(sys.stdout if to_output else sys.stderr)
    with out.capture() as captured:
        for table in tables:
            for part in diff(table, rows):
                out.print(part)
    text = "\n".join(line.rstrip() for line in f"before → after\n{captured.get().rstrip()}".split("\n"))
    if to_output:
        show_text(text)
    else:
        print(text, file=sys.stderr)  # `diff` has passed every value through `plain`
