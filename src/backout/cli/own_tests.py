"""A change's own tests on the screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from backout.cli.bill import many, section
from backout.cli.screen import plain
from backout.runs.own_tests import OwnTestsReport, Problem


def own_tests_text(report: OwnTestsReport) -> Iterator[RenderableType]:
    """Yield what was done, check by check, and the verdict."""
    yield from section(f"tests on a throw-away {report.database}", _steps(report))
    yield from section("problems", (part for one in report.problems for part in _problem(one)))
    yield Text()
    done = Text("tests passed", style="green") if report.passed else Text("tests failed", style="red")
    yield done.append(": run, asked, undone, and every table compared" if report.passed else "", style="none")


def _steps(report: OwnTestsReport) -> Iterator[RenderableType]:
    if report.loaded:
        yield Text(plain(f"loaded {', '.join(report.loaded)}"))
    if report.run is not None:
        written = [
            f"{one.table} ({one.inserted} inserted, {one.updated} updated, {one.deleted} deleted)"
            for one in report.run.tables
        ]
        yield Text(plain(f"run: {report.run.state}; {', '.join(written) or 'nothing was written'}"))
        for assertion in report.run.assertions:
            yield _verdict(assertion.title, assertion.passed, "" if assertion.passed else f"it is {assertion.value}")
    for check in report.checks:
        yield _verdict(check.title, check.passed, check.detail)
    if report.compared is not None:
        rows = sum(report.compared.values())
        yield Text(f"undone; as before the run: {many(len(report.compared), 'table')}, {many(rows, 'row')}")


def _verdict(title: str, passed: bool, detail: str) -> Text:
    mark = Text("✓ ", style="green") if passed else Text("✗ ", style="red")
    return mark.append(plain(title) + (f": {plain(detail)}" if detail else ""), style="none")


def _problem(problem: Problem) -> Iterator[RenderableType]:
    yield Text(plain(f"{problem.file}:{problem.line}:{problem.column}: "), style="dim").append(
        plain(problem.message), style="red"
    )
    if problem.hint:
        yield Padding(
            Text("hint: ", style="cyan").append(plain(problem.hint), style="none"), (0, 0, 0, 2), expand=False
        )
