"""The verbs about how long things are kept: retain, clean.

Not for: deciding what has expired; that is by the database's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from backout.cli.options import CONFIG, JSON, SUPERUSER, YES, on_option, verb
from backout.cli.screen import plain, show, show_error, show_json, show_text
from backout.errors import Refused, UsageError


def _day(_ctx: click.Context, _param: click.Parameter, given: str) -> datetime:
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(
            f'"{given}" is not a day', hint="write --until 2027-01-31, or with a time and its zone"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@verb("retain", example='backout retain production-41 --until 2027-06-30 --why "legal hold, case 17"')
@click.argument("run", metavar="RUN")
@on_option(required=False)
@click.option("--until", metavar="DATE", required=True, callback=_day, help="The day until which it is kept; in UTC.")
@click.option("--why", metavar="TEXT", required=True, help="The reason; it is in the ledger.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The SSH key that signs the statement.")
@CONFIG
@SUPERUSER
@JSON
def retain(
    run: str, on: str | None, *, until: datetime, why: str, key: Path | None, config: Path | None, allow_superuser: bool,
    json_: bool,
) -> None:  # fmt: skip
    """Keep the way back of a run longer.

    Its rescue tables, and the backup that preceded it.
    """
    from backout.cli.bill import when
    from backout.project import Project
    from backout.runs.as_json import record_as_json

    project = Project.find(config, allow_superuser=allow_superuser, key=key)
    record, backup = project.retain(run, until, why, on)
    if json_:
        show_json({"run": record_as_json(record), "backup": backup.identifier if backup else None})
        return
    if project.statements.leaves_key_unused(record.start.environment):
        show_error("note: the statement is unsigned: the account's name is believed, and the key was not used")
    also = f', and its backup "{backup.identifier}"' if backup else ""
    show_text(plain(f'"{record.identifier}" is kept until {when(record.expires_at)}{also}'))


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
    """Drop rescue tables and backups whose time is over.

    After that those runs cannot be undone. Whom the policy names is told first. Without RUN: of all runs whose time is
    over, and all such backups.
    """
    from backout.cli.backups import listed as backups_listed
    from backout.cli.conversation import Conversation
    from backout.cli.history import runs as listed
    from backout.project import Project
    from backout.recovery.backups.model import as_json
    from backout.runs.as_json import record_as_json

    project = Project.find(config, allow_superuser=allow_superuser)
    wanted = {_number(run) for run in runs}
    due = [one for one in project.expired(on) if not wanted or one.number in wanted]
    if missing := wanted - {one.number for one in due}:
        raise Refused("retention", f"the rescue of run {min(missing)} has not expired", hint=f"backout log --on {on}")
    backups = () if wanted else project.expired_backups(on)
    if due and not json_:
        show(listed(due))
    if backups and not json_:
        show(backups_listed(backups))
    drop = bool(due or backups) and not dry_run
    what = " and ".join(
        part for part in (f"the rescue of these {len(due)} runs" if due else "",
                          f"these {len(backups)} backups" if backups else "") if part
    )  # fmt: skip
    if drop and not Conversation(yes=yes).ask("clean", f"drop {what}, for good?"):
        raise Refused("operator", "nothing was dropped: you said no")
    notes = project.clean(on, [one.number for one in due], [one.identifier for one in backups]) if drop else ()
    if json_:
        show_json(
            {
                "expired": [record_as_json(one) for one in due],
                "dropped": [one.number for one in due] if drop else [],
                "expired_backups": [as_json(one) for one in backups],
                "dropped_backups": [one.identifier for one in backups] if drop else [],
                "notes": list(notes),
            }
        )
        return
    for note in notes:
        show_error(f"note: {note}")
    said = "would drop these" if dry_run else "dropped these"
    show_text(plain(said if due or backups else "nothing to do: no rescue and no backup has expired"))


def _number(run: str) -> int:
    number = run.rpartition("-")[2]
    if not number.isdigit():
        raise UsageError(f'"{run}" is not a run', hint="name it by number, like 41 or production-41; see `backout log`")
    return int(number)
