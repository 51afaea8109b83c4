"""The verbs that keep what a disaster would take: backup, backups, restore.

Not for: how backups are made (`recovery/backups`) nor where they may be restored (`project/backups.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CONFIG, JSON, KEY, SUPERUSER, YES, on_option, verb
from backout.cli.screen import plain, show, show_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backout.recovery.backups.model import Backup


@verb("backup", example="backout backup --on production")
@on_option(required=True)
@CONFIG
@SUPERUSER
@JSON
def backup(on: str, *, config: Path | None, allow_superuser: bool, json_: bool) -> None:
    """Make a backup and record it.

    By the provider that the environment's `backup` names, else by the database's own tools. A run makes or finds its
    backup by itself where the policy asks for one.
    """
    from backout.cli.conversation import Conversation
    from backout.project import Project
    from backout.recovery.backups.model import as_json

    talk, project = Conversation(yes=False), Project.find(config, allow_superuser=allow_superuser)
    with talk.waiting():
        made = project.backup(on, progress=talk.progress)
    if json_:
        show_json(as_json(made))
    else:
        show(_one(made))


@verb("backups", example="backout backups --on production")
@on_option(required=True)
@CONFIG
@JSON
def backups(on: str, *, config: Path | None, json_: bool) -> None:
    """List the backups of an environment, the newest first.

    The database is not asked: it may be gone.
    """
    from backout.project import Project
    from backout.recovery.backups.model import as_json

    found = Project.find(config).backups(on)
    if json_:
        show_json({"backups": [as_json(one) for one in found]})
    else:
        show(listed(found))


@verb("restore", example="backout restore production-20261121T053012000000Z --to spare --identity key.txt")
@click.argument("backup", metavar="BACKUP")
@click.option("--to", metavar="ENV", required=True, help="The environment whose database becomes what was backed up.")
@click.option(
    "--identity", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="The file with the secret key."
)
@click.option("--replace", "replace_all", is_flag=True, help="Also where tables are there, which it replaces.")
@KEY
@CONFIG
@SUPERUSER
@YES
@JSON
def restore(
    backup: str, to: str, *, identity: Path | None, replace_all: bool, key: Path | None, config: Path | None,
    allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Restore a backup into an environment.

    Into a production database only where its policy allows that; where anything is asked of people only by an operator, in
    their own name; where it asks for approvals, once somebody else has approved: `backout approve BACKUP --restore`.
    A database that has a journal keeps it.
    """
    from backout.cli.conversation import Conversation
    from backout.project import Project
    from backout.recovery.backups.model import as_json

    talk, project = Conversation(yes=yes), Project.find(config, allow_superuser=allow_superuser, key=key)
    with talk.waiting():
        restored, note = project.restore(
            backup, to, identity=identity, replace_all=replace_all, ask=talk.ask, progress=talk.progress
        )
    if json_:
        show_json({"restored": as_json(restored), "to": to, "note": note})
        return
    from rich.text import Text

    from backout.project.config import shown_url

    lines = [f'restored "{restored.identifier}" into {shown_url(to)}', *([f"note: {note}"] if note else [])]
    show(Text(plain(line)) for line in lines)


def listed(found: tuple[Backup, ...]) -> Iterator[RenderableType]:
    """Yield one line per backup, with where it is and until when it is kept."""
    from rich.text import Text

    from backout.cli.bill import columns, size, when

    if not found:
        yield Text("no backups yet")
        return
    table = columns("backup", "taken", "by", "size", "kept until", "where", right=("size",))
    for one in found:
        until = f"dropped {when(one.deleted_at)}" if one.deleted_at else when(one.expires_at)
        table.add_row(
            plain(one.identifier), when(one.taken_at), plain(one.provider),
            size(one.size_bytes) if one.size_bytes is not None else "-", until, plain(_place(one)),
        )  # fmt: skip
    yield table


def _one(made: Backup) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from backout.cli.bill import size, when

    facts = (
        ("backup", made.identifier),
        ("of", f"{made.product} {made.server_version}, {made.database}"),
        ("taken", f"{when(made.taken_at)}, by {made.made_with}"),
        (
            "size",
            f"{size(made.size_bytes)}, {'encrypted' if made.encrypted else 'in clear'}" if made.size_bytes else "",
        ),
        ("sha256", made.sha256 or ""),
        ("restore point", f"{made.restore_point} at {made.lsn}" if made.restore_point else ""),
        *(("where", place) for place in made.places),
        ("restore", made.restore),
        ("kept until", when(made.expires_at) if made.expires_at else ""),
    )
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value:
            grid.add_row(Text(name, style="dim"), Text(plain(value)))
    yield grid


def _place(one: Backup) -> str:
    return one.places[0] if one.places else one.held_as or one.restore_point or "-"
