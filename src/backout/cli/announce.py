"""The verb that tells people of a change before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, on_option, verb
from backout.cli.screen import plain, show, show_error, show_json
from backout.errors import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backout.project.announcements import Announced


@verb("announce", example="backout announce close-outage-referrals --on production")
@CHANGE
@on_option(required=True)
@click.option(
    "--told",
    "told_by_hand",
    multiple=True,
    metavar="WHOM",
    help="You have told them yourself, some other way: keep that as the receipt; can be repeated.",
)
@KEY
@CONFIG
@JSON
def announce(
    change: str, on: str, *, told_by_hand: tuple[str, ...], key: Path | None, config: Path | None, json_: bool
) -> None:
    """Tell those whom the policy names, by webhook or e-mail.

    The receipt is kept in the ledger, and the time that people have to object runs from it. Exit status 3: a channel
    could not be reached; it is still to be told.
    """
    from backout.project import Project

    project = Project.find(config, key=key)
    if told_by_hand:
        from backout.cli.people import tell

        tell(project.announced(project.change(change), on, told_by_hand), "announced", json_=json_)
        return
    announced = project.announce(project.change(change), on)
    if announced.recorded and project.statements.leaves_key_unused(on):
        show_error("note: the receipt is unsigned: the account's name is believed, and the key was not used")
    if json_:
        show_json(
            {
                "change": project.change(change).identifier,
                "told": list(announced.told),
                "at": announced.at.isoformat(),
                "earliest": announced.earliest.isoformat() if announced.earliest else None,
                "recorded": announced.recorded,
                "receipts": [one.as_json() for one in announced.receipts],
            }
        )
    else:
        show(_receipts(announced))
    if {one.channel for one in announced.receipts} - set(announced.told):
        raise SystemExit(Refused.exit_status)


def _receipts(announced: Announced) -> Iterator[RenderableType]:
    from rich.text import Text

    from backout.cli.bill import columns, when

    table = columns("channel", "recipient", "", "answer", "attempts", right=("attempts",))
    for one in announced.receipts:
        mark = Text("told", style="green") if one.delivered else Text("not told", style="red")
        table.add_row(plain(one.channel), plain(one.recipient), mark, plain(one.answer), str(one.attempts))
    yield table
    if announced.earliest is not None:
        yield Text(f"it may run from {when(announced.earliest)} on, if nobody objects (the database's clock)")
    else:
        yield Text("nobody was told", style="red")
