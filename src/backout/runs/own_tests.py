"""What the answers to a change's own tests mean: each query is an assertion, and what pgTAP says is TAP.

Not for: making the database, or asking it (`engines/throwaway.py`, `project/own_tests.py`). No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backout.engines.throwaway import Asked
from backout.errors import BackoutError, InvalidFile, Position
from backout.runs.report import RunReport
from backout.sql.model import Statement

_TAP = re.compile(r"(?P<not>not )?ok\b(?: (?P<number>\d+))?(?: ?-? ?(?P<title>.*))?", re.DOTALL)
_PLAN = re.compile(r"1\.\.(\d+)(?:\s*#.*)?")
_TODO = re.compile(r"#\s*(TODO|SKIP)\b", re.IGNORECASE)
_TITLE = re.compile(r'[ \t]*@assert\s+"([^"]+)"\s*')
_PLACED = re.compile(r"(?P<file>[^\n:]+):(?P<line>\d+): (?P<message>.*)", re.DOTALL)
_USES_PGTAP = re.compile(r"\b(?:no_)?plan\s*\(", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """One test and how it ended."""

    title: str
    passed: bool
    line: int
    detail: str = ""


@dataclass(frozen=True)
class Problem:
    """Why the tests failed, with the place."""

    message: str
    file: str
    line: int = 1
    column: int = 1
    hint: str | None = None


@dataclass(frozen=True)
class OwnTestsReport:
    """The tests of one change: what was loaded, run, asked and put back."""

    change: str
    database: str  # "PostgreSQL 18.4"
    loaded: tuple[str, ...] = ()
    run: RunReport | None = None
    checks: tuple[Check, ...] = ()
    undo: RunReport | None = None
    compared: Mapping[str, int] | None = None  # table -> rows, the same before the run and after the undo
    problems: tuple[Problem, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing at all was wrong."""
        return not self.problems


def uses_pgtap(text: str) -> bool:
    """Whether a test file plans its tests, as every pgTAP file does."""
    return _USES_PGTAP.search(text) is not None


def judge(statements: Sequence[Statement], answers: Sequence[Asked]) -> tuple[Check, ...]:
    """The checks of a test file, in its order; a pgTAP plan that was not kept is one that failed."""
    checks: list[Check] = []
    planned, seen, last = None, 0, 1
    for statement, asked in zip(statements, answers, strict=True):
        last = statement.line
        if asked.error is not None:
            checks.append(Check(_title(statement), passed=False, line=last, detail=asked.error))
            continue
        lines = _tap_lines(asked)
        if lines is None:
            checks += _asserted(statement, asked)
            continue
        found = list(_tapped(statement, lines))
        checks, seen = checks + found, seen + len(found)
        planned = next((int(match[1]) for one in lines if (match := _PLAN.fullmatch(one))), planned)
    if planned is not None and planned != seen:
        checks.append(
            Check("the plan", passed=False, line=last, detail=f"{planned} tests were planned, and {seen} ran")
        )
    return tuple(checks)


def problems_of(checks: Iterable[Check], file: str) -> tuple[Problem, ...]:
    """The checks that failed, with their places."""
    return tuple(
        Problem(f'the test "{one.title}" failed: {one.detail}', file, one.line) for one in checks if not one.passed
    )


def problem_of(error: BackoutError, file: str) -> Problem:
    """An error with its place: its own where it has one, else the change's first line."""
    if isinstance(error, InvalidFile):
        place: Position = error.position
        message = error.message.removeprefix(f"{place}: ")
        return Problem(message, place.file, place.line, place.column, error.hint)
    if match := _PLACED.fullmatch(error.message):
        return Problem(match["message"], match["file"], int(match["line"]), hint=error.hint)
    return Problem(error.message, file, hint=error.hint)


def _title(statement: Statement) -> str:
    said = [match[1] for one in statement.comments if (match := _TITLE.fullmatch(one.text))]
    said = said or [one.text.strip() for one in statement.comments if one.own_line and one.text.strip()]
    return said[-1] if said else f"query in line {statement.line}"


def _asserted(statement: Statement, asked: Asked) -> Iterator[Check]:
    """A query's single value must be true, as that of @assert; what returns no rows prepares others."""
    if not asked.columns:
        return
    title, line = _title(statement), statement.line
    if len(asked.rows) != 1 or len(asked.rows[0]) != 1:
        yield Check(
            title, passed=False, line=line, detail=f"{len(asked.rows)} rows, where a single value was asked for"
        )
        return
    value = asked.rows[0][0]
    passed = value is True or (type(value) is int and value != 0)
    yield Check(title, passed, line, "" if passed else f"its query said {'NULL' if value is None else value}")


def _tap_lines(asked: Asked) -> list[str] | None:
    """The lines of TAP in an answer; None where it is none."""
    if len(asked.columns) != 1 or not all(isinstance(row[0], str) for row in asked.rows):
        return None
    lines = [line for row in asked.rows for line in str(row[0]).split("\n")]
    known = (one for one in lines if _TAP.fullmatch(one) or _PLAN.fullmatch(one) or one.startswith("#"))
    is_finish = not lines and asked.columns == ("finish",)  # pgTAP's last word where all is well
    return lines if is_finish or (lines and next(known, None) is not None) else None


def _tapped(statement: Statement, lines: Sequence[str]) -> Iterator[Check]:
    """One check per "ok" or "not ok"; comments after it are its detail. TODO and SKIP count as passed (TAP 12)."""
    for index, line in enumerate(lines):
        match = _TAP.fullmatch(line)
        if match is None:
            continue
        after = [one.lstrip("# ").rstrip() for one in _comments(lines[index + 1 :])]
        passed = match["not"] is None or _TODO.search(line) is not None
        title = (match["title"] or "").strip() or f"test {match['number']}"
        yield Check(title, passed, statement.line, "" if passed else "; ".join(one for one in after if one) or "not ok")


def _comments(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line
