"""Findings in the words of the services that show them beside the line: GitHub's commands, GitLab's report.

Sources: docs.github.com "Workflow commands for GitHub Actions" (escaping: actions/toolkit, packages/core/src/command.ts);
docs.gitlab.com "Code Quality", "Code Quality report format". Pure functions: no file is written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from backout.project.ci import CiFinding

_SEVERITIES = {"error": "major", "warning": "minor", "notice": "info"}


def plain_line(finding: CiFinding) -> str:
    """`file:line:column: level: message [rule]`, as compilers say it."""
    place = f"{finding.file}:{finding.line}:{finding.column}"
    return f"{place}: {finding.level}: {_whole(finding)} [{finding.rule}]"


def github_line(finding: CiFinding) -> str:
    """GitHub's workflow command that annotates the line."""
    properties = {
        "file": finding.file, "line": finding.line, "col": finding.column, "title": f"backout: {finding.rule}",
    }  # fmt: skip
    said = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items())
    return f"::{finding.level} {said}::{_data(_whole(finding))}"


def gitlab_report(findings: Iterable[CiFinding]) -> list[dict[str, Any]]:
    """GitLab's code quality report; a finding has the same fingerprint as long as it says the same of the same file."""
    seen: dict[str, int] = {}
    report = []
    for one in findings:
        key = f"{one.rule}:{one.file}:{one.message}"
        seen[key] = seen.get(key, 0) + 1
        report.append(
            {
                "description": _whole(one),
                "check_name": f"backout/{one.rule}",
                "fingerprint": hashlib.sha256(f"{key}:{seen[key]}".encode(errors="surrogateescape")).hexdigest(),
                "severity": _SEVERITIES[one.level],
                "location": {"path": one.file, "lines": {"begin": one.line}},
            }
        )
    return report


def _whole(finding: CiFinding) -> str:
    return finding.message + (f" (hint: {' '.join(finding.hint.split())})" if finding.hint else "")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
