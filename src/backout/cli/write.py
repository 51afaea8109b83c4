"""The verbs around writing a change: demo, init, new, check, doctor.

Not for: running it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, SUPERUSER, YES, on_option, verb
from backout.cli.screen import plain, show, show_json, show_text
from backout.errors import Refused, UsageError

REFUSED = Refused.exit_status


@verb("demo", example="backout demo\nbackout demo --keep")
@click.option("--keep", is_flag=True, help="Leave the server running, to try more by hand.")
def demo(*, keep: bool) -> None:
    """Try a change on a small database made for it, and take it back."""
    from backout.cli.demo.run import demo as play

    play(keep=keep)


@verb("init", example="backout init\nbackout init --on production")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@on_option(required=False)
@CONFIG
@click.option("--restamp", is_flag=True, help="With --on: write the stamp anew, after a restore or a clone.")
@click.option("--dry-run", is_flag=True, help="With --on: say what would be done.")
@KEY
@SUPERUSER
@YES
@JSON
def init(
    folder: Path | None, on: str | None, config: Path | None, *, restamp: bool, dry_run: bool, key: Path | None,
    allow_superuser: bool, yes: bool, json_: bool,
) -> None:  # fmt: skip
    """Write backout.toml and changes/, or the journal with --on.

    What is there already is never overwritten.
    """
    from backout.cli.conversation import Conversation
    from backout.project import Project
    from backout.project.config import shown_url

    if on is None:
        if restamp or dry_run:
            raise UsageError(f"{'--restamp' if restamp else '--dry-run'} needs --on", hint="name the environment")
        done = [f"wrote {path}" for path in Project.find(config).init_folder(folder or Path.cwd())]
        done = done or ["everything is there already"]
    else:
        if folder is not None:
            raise UsageError("either a folder or --on, not both", hint="make the folder first, then the journal")
        if (
            restamp
            and not dry_run
            and not Conversation(yes=yes).ask("restamp", f'stamp this database anew, as "{shown_url(on)}"?')
        ):
            raise Refused("operator", "not stamped: you said no")
        project = Project.find(config, allow_superuser=allow_superuser, key=key)
        done = list(project.init_journal(on, restamp=restamp, dry_run=dry_run))
        done = [f"would have {line}" for line in done] if dry_run else done
    if json_:
        show_json({"done": done})
    else:
        show_text("\n".join(map(plain, done)))


@verb("new", example='backout new "Close the referrals that the outage left open"')
@click.argument("title")
@CONFIG
@click.option(
    "--dialect", type=click.Choice(["postgres", "sqlite", "mariadb"]), help="[default: that of the environments]"
)
@click.option("--python", is_flag=True, help="A Python change instead of SQL.")
@JSON
def new(title: str, config: Path | None, *, dialect: str | None, python: bool, json_: bool) -> None:
    """Write the template of a change into the changes folder."""
    from backout.change.new import slug, template
    from backout.project.config_file import load_config
    from backout.project.engine import usual_dialect
    from backout.sql.model import Dialect

    settings = load_config(config)
    spoken = Dialect(dialect) if dialect else usual_dialect(settings.environments.values())
    text = template(title, spoken, "python" if python else "sql")
    path = settings.changes / f"{slug(title)}{'.py' if python else '.sql'}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f'"{path}" is there already', hint="give the change another title") from None
    except OSError as error:
        raise UsageError(f'unable to write "{path}": {(error.strerror or "unknown error").lower()}') from None
    if json_:
        show_json({"change": path.stem, "path": str(path)})
    else:
        show_text(f"wrote {plain(str(path))}\nnext: edit it, then backout check {path.stem}")


@verb("check", example="backout check close-outage-referrals --on staging")
@CHANGE
@on_option(required=False)
@click.option("--test", is_flag=True, help="Run the change's own tests, on a database made for them.")
@KEY
@CONFIG
@JSON
def check(change: str, on: str | None, key: Path | None, config: Path | None, *, test: bool, json_: bool) -> None:
    """Say how surely each statement can be undone; nothing runs.

    With --on also what that database says of the tables, and which statements it does not understand. With --test the
    change is run on a database made for it, asked, and undone. Exit status 3: it could not run, or a test failed.
    """
    from backout.cli.conversation import Conversation
    from backout.project import Project

    project, talk = Project.find(config, key=key), Conversation(yes=False)
    with talk.waiting():
        report = project.check(project.change(change), on)
        tests = project.test(report.review.change, progress=talk.progress) if test and report.review.passed else None
    if json_:
        from backout.runs.as_json import facts_as_json, review_as_json

        tables: dict[str, Any] = {
            "tables": [facts_as_json(one) for one in report.tables],
            "missing_tables": list(report.missing_tables),
            "misunderstood": [{"line": one.line, "problem": one.problem} for one in report.misunderstood],
        }
        if tests is not None:
            from backout.runs.own_tests_json import own_tests_as_json

            tables["tests"] = own_tests_as_json(tests)
        show_json(review_as_json(report.review) | tables)
    else:
        from backout.cli.review import review_text
        from backout.project.config import shown_url

        where = shown_url(on) if on else None
        show(review_text(report.review, report.tables, report.missing_tables, report.misunderstood, on=where))
        if tests is not None:
            from backout.cli.own_tests import own_tests_text

            show(own_tests_text(tests))
    if (
        not report.review.passed
        or report.missing_tables
        or report.misunderstood
        or (tests is not None and not tests.passed)
    ):
        raise SystemExit(REFUSED)


@verb("doctor", example="backout doctor --on production")
@on_option(required=False)
@CONFIG
@SUPERUSER
@JSON
def doctor(on: str | None, config: Path | None, *, allow_superuser: bool, json_: bool) -> None:
    """Say what is wrong or weak in the setup.

    In the configuration and, with --on, in that database.

    Exit status 3: something is wrong.
    """
    from backout.project import Project

    found = Project.find(config, allow_superuser=allow_superuser).doctor(on)
    if json_:
        show_json({"advice": [{"level": one.level, "text": one.text, "hint": one.hint} for one in found]})
    else:
        from rich.text import Text

        styles = {"wrong": "red", "weak": "yellow", "fine": "green"}
        for one in found:
            line = Text(f"{one.level:<5}  ", style=styles.get(one.level, "")).append(plain(one.text), style="none")
            hint = [Text("       hint: ", style="cyan").append(part, style="none") for part in _lines(one.hint)]
            show([line, *hint])
    if any(one.level == "wrong" for one in found):
        raise SystemExit(REFUSED)


def _lines(hint: str | None) -> list[str]:
    return ["\n       ".join(plain(line) for line in hint.split("\n"))] if hint else []
