"""The result of a change's own tests in its stable JSON form. Twin: `cli/schemas.py`."""

from __future__ import annotations

from backout.runs.as_json import Json, report_as_json
from backout.runs.own_tests import OwnTestsReport, Problem


def own_tests_as_json(report: OwnTestsReport) -> Json:
    """Return the tests as a JSON object."""
    return {
        "change": report.change,
        "database": report.database,
        "passed": report.passed,
        "loaded": list(report.loaded),
        "run": report_as_json(report.run) if report.run else None,
        "checks": [
            {"title": one.title, "passed": one.passed, "line": one.line, "detail": one.detail} for one in report.checks
        ],
        "undo": report_as_json(report.undo) if report.undo else None,
        "compared": dict(report.compared) if report.compared is not None else None,
        "problems": [problem_as_json(one) for one in report.problems],
    }


def problem_as_json(problem: Problem) -> Json:
    """Return a problem with its place."""
    return {
        "message": problem.message, "file": problem.file, "line": problem.line, "column": problem.column,
        "hint": problem.hint,
    }  # fmt: skip
