"""The verb for continuous integration: ci."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backout.cli.options import CONFIG, JSON, verb
from backout.cli.screen import plain, show_json, show_text
from backout.errors import Refused, UsageError

if TYPE_CHECKING:
    from backout.project.ci import CiReport


@verb("ci", example="backout ci --base main\nbackout ci --gitlab gl-code-quality-report.json")
@click.option("--base", metavar="BRANCH", help="Where the branch goes. [default: the merge request's target, or main]")
@click.option(
    "--format", "format_", type=click.Choice(["auto", "text", "github"]), default="auto", show_default=True,
    help="auto: GitHub's annotations inside of its workflows, text elsewhere.",
)  # fmt: skip
@click.option(
    "--gitlab", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write GitLab's code quality report, too.",
)  # fmt: skip
@click.option("--no-tests", is_flag=True, help="Leave out the changes' own tests.")
@CONFIG
@JSON
def ci(
    base: str | None, format_: str, gitlab: Path | None, config: Path | None, *, no_tests: bool, json_: bool
) -> None:
    """Check all changes that a branch adds or edits.

    Verdicts, the documents that any environment asks for, the changes' own tests; and a change that was merged keeps
    its text. No database of the project is opened. Exit status 3: something is wrong; 2: a file cannot be read.
    """
    from backout.cli.annotations import github_line, gitlab_report, plain_line
    from backout.cli.conversation import Conversation
    from backout.project import Project

    talk = Conversation(yes=False)
    with talk.waiting():
        report = Project.find(config).ci(base, tests=not no_tests, progress=talk.progress)
    if gitlab is not None:
        _write(gitlab, json.dumps(gitlab_report(report.findings), indent=2, ensure_ascii=False) + "\n")
    if json_:
        show_json(_as_json(report))
    else:
        is_github = format_ == "github" or (format_ == "auto" and os.environ.get("GITHUB_ACTIONS") == "true")
        lines = [github_line(one) if is_github else plain(plain_line(one)) for one in report.findings]
        show_text("\n".join([*lines, *_summary(report)]))
    if report.invalid:
        raise SystemExit(UsageError.exit_status)
    if not report.passed:
        raise SystemExit(Refused.exit_status)


def _summary(report: CiReport) -> list[str]:
    changes = ", ".join(plain(one.change) for one in report.changes) or "none"
    tested = sum(one.tested is not None for one in report.changes)
    errors = sum(one.level == "error" for one in report.findings)
    warnings = sum(one.level == "warning" for one in report.findings)
    return [
        f"changes since {plain(report.base)} ({report.fork[:12]}): {changes}",
        f"{len(report.changes)} checked, {tested} tested, {errors} errors, {warnings} warnings",
    ]


def _as_json(report: CiReport) -> dict[str, object]:
    return {
        "base": report.base,
        "fork": report.fork,
        "passed": report.passed,
        "changes": [
            {"change": one.change, "file": one.file, "digest": one.digest, "tested": one.tested}
            for one in report.changes
        ],
        "findings": [
            {
                "level": one.level, "rule": one.rule, "message": one.message, "file": one.file, "line": one.line,
                "column": one.column, "hint": one.hint,
            }
            for one in report.findings
        ],
    }  # fmt: skip


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f'unable to write "{path}": {(error.strerror or "unknown error").lower()}') from None
