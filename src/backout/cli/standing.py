"""The verbs that look at what people said: status and audit.

Not for: saying anything (`people`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, PARAM, on_option, verb
from backout.cli.screen import plain, show, show_json, show_text
from backout.errors import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backout.project.audit import Audit
    from backout.project.status import Status


@verb("status", example="backout status close-outage-referrals --on production")
@CHANGE
@on_option(required=True)
@PARAM
@KEY
@CONFIG
@JSON
def status(
    change: str, on: str, param: Mapping[str, str], key: Path | None, config: Path | None, *, json_: bool
) -> None:
    """Say where a change stands: what is there, what is missing, what to do next.

    Ends with the next command, who may type it, and the earliest time.
    """
    from backout.project import Project

    project = Project.find(config, key=key)
    found = project.status(project.change(change), on, parameters=param)
    if json_:
        from backout.project.people_json import status_as_json

        show_json(status_as_json(found))
    else:
        show(_status(found))


@verb("audit", example="backout audit\nbackout audit --on production")
@on_option(required=False)
@click.option("--no-signatures", is_flag=True, help="Recompute the chain only: signatures take some ms each.")
@CONFIG
@JSON
def audit(on: str | None, config: Path | None, *, no_signatures: bool, json_: bool) -> None:
    """Recompute the ledger: nothing altered, removed, reordered or forged.

    With --on also whether everything that this database has seen of the ledger is still there.

    Exit status 3: something is not as it was written.
    """
    from backout.project import Project

    found = Project.find(config).audit(on, signatures=not no_signatures)
    if json_:
        from backout.project.people_json import audit_as_json

        show_json(audit_as_json(found))
    else:
        show_text("\n".join(map(plain, _audit(found))))
    if not found.is_sound:
        raise SystemExit(Refused.exit_status)


def _status(found: Status) -> Iterator[RenderableType]:
    from rich.text import Text

    from backout.cli.history import way_back

    yield Text(plain(f"{found.change} {found.digest[:16]} on {found.environment}"), style="bold")
    signed = "statements are signed" if found.identity == "ssh" else "statements are unsigned: accounts are believed"
    yield Text(f'profile "{found.profile}", {signed}')
    for one in found.verdicts:
        word, style = ("yes", "green") if one.satisfied else ("no", "red")
        yield Text(f"  {word:<5}", style=style).append(plain(f"{one.gate:<13} {one.text}"), style="none")
    for text in found.ignored:
        yield Text("  note ", style="yellow").append(plain(text), style="none")
    if found.ran is not None:
        until = "" if found.ran.rescue_dropped_at or found.ran.expires_at is None else "until "
        edited = " with an earlier text" if found.was_edited else ""
        text = f"{found.ran.identifier}{edited}, {found.ran.state.value}, way back {until}{way_back(found.ran)}"
        yield Text("ran: ", style="cyan").append(plain(text), style="none")
    if found.run is not None and found.validation is not None:
        yield Text("run: ", style="cyan").append(plain(f"{found.run} is {found.validation.text}"), style="none")
    yield Text("next: ", style="cyan").append(plain(found.next_command), style="none")
    yield Text("who: ", style="cyan").append(plain(found.who), style="none")
    when = found.earliest.isoformat(sep=" ", timespec="minutes") if found.earliest else "now, as far as time goes"
    yield Text("earliest: ", style="cyan").append(when, style="none")


def _audit(found: Audit) -> Iterator[str]:
    yield f"{found.entries} entries: {found.signed} signed, {found.unsigned} unsigned"
    for note in found.notes:
        yield f"note: {note}"
    if found.is_sound:
        yield f"sound: the last entry is {found.head.position}, {found.head.hash}"
        return
    first, *others = found.problems
    yield f"NOT SOUND: {_place(first.position)}{first.text}"
    for one in others[:20]:
        yield f"  also: {_place(one.position)}{one.text}"
    if len(others) > 20:
        yield f"  and {len(others) - 20} more"


def _place(position: int) -> str:
    return f"entry {position}: " if position else ""
