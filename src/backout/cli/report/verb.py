"""The verb that makes a change's report: report."""

from __future__ import annotations

from pathlib import Path

import click

from backout.cli.options import CHANGE, CONFIG, KEY, ROWS, SUPERUSER, verb
from backout.cli.screen import plain, show_error, show_text
from backout.errors import UsageError


@verb(
    "report",
    example="backout report close-outage-referrals --format html -o report.html\n"
    "backout report close-outage-referrals --on staging --on production > comment.md",
)
@CHANGE
@click.option(
    "--on", "on", multiple=True, metavar="ENV",
    help="Environment of backout.toml, or the URL of a database; can be repeated. [default: all environments]",
)  # fmt: skip
@click.option(
    "--format", "format_", type=click.Choice(["markdown", "html"]), default="markdown", show_default=True,
    help="Markdown for a pull request or a ticket, or one HTML file.",
)  # fmt: skip
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Where it goes. [default: standard output]",
)  # fmt: skip
@ROWS
@KEY
@CONFIG
@SUPERUSER
def report(
    change: str, on: tuple[str, ...], format_: str, output: Path | None, *, rows: int, key: Path | None,
    config: Path | None, allow_superuser: bool,
) -> None:  # fmt: skip
    """Make the document of a change: what it is, who said what, what was proven where, and the way back.

    For every environment the newest runs of this very digest. One that cannot be reached is said so. Of PHI no row
    is shown.
    """
    from backout.cli.conversation import Conversation
    from backout.cli.report.content import document
    from backout.cli.report.html import html
    from backout.cli.report.markdown import markdown
    from backout.project import Project

    project, talk = Project.find(config, allow_superuser=allow_superuser, key=key), Conversation(yes=False)
    with talk.waiting():
        found = project.change(change)
        if found.is_private:
            raise UsageError(
                f'a report of "{change}" would have its text, which is private', hint=f"backout export {change}"
            )
        dossier = project.dossier(found, on, rows=rows)
    for rung in dossier.rungs:
        if rung.unreachable is not None:
            show_error(f"note: {plain(rung.environment)} was not reached: {rung.unreachable}")
    text = (html if format_ == "html" else markdown)(document(dossier))
    if output is None:
        show_text(text.removesuffix("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f'unable to write "{output}": {(error.strerror or "unknown error").lower()}') from None
    show_text(f"wrote {plain(str(output))}")
