"""`backout ci`: all changes that a branch adds or edits, checked without any database of the project.

Not for: annotations (`cli/annotations.py`). Invariant: a change that was merged keeps its digest [D2]; a finding names the
file and the line, relative to the working tree, so that it can stand beside the line in a merge request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from backout.change.digest import canonical
from backout.change.model import COMMENTS, Change
from backout.errors import BackoutError, InvalidFile, Refused, UsageError
from backout.gates import documents
from backout.gates.evidence import Evidence
from backout.gates.policy import Policy
from backout.lint.model import Level, Review
from backout.project.authors import is_link
from backout.project.branch import Branch, branch_of
from backout.project.config import Config
from backout.project.subject import documents_of
from backout.runs.own_tests import OwnTestsReport

ERROR, WARNING, NOTICE = "error", "warning", "notice"
_LEVELS = {Level.NOT_UNDOABLE: ERROR, Level.EXACT_IF: WARNING, Level.EXACT: NOTICE}
INVALID = "invalid-file"


@dataclass(frozen=True)
class CiFinding:
    """One thing to say about a line; `level` is "error", "warning" or "notice"."""

    level: str
    rule: str
    message: str
    file: str
    line: int = 1
    column: int = 1
    hint: str | None = None


@dataclass(frozen=True)
class CiChange:
    """A change that was checked; `tested`: whether its own tests passed, None where it has none or they did not run."""

    change: str
    file: str
    digest: str | None
    tested: bool | None = None


@dataclass(frozen=True)
class CiReport:
    """What `ci` found."""

    base: str
    fork: str
    changes: tuple[CiChange, ...]
    findings: tuple[CiFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return all(one.level != ERROR for one in self.findings)

    @property
    def invalid(self) -> bool:
        """Whether a file is none that could be read."""
        return any(one.rule == INVALID for one in self.findings)


@dataclass(frozen=True)
class _Read:
    """A change's file as it is now: the change, or why it is none."""

    path: Path
    change: Change | None
    error: BackoutError | None = None

    @property
    def digested(self) -> tuple[Path, ...]:
        """The files that the digest is of."""
        return (self.path, *_attachments(self.change)) if self.change else (self.path,)

    @property
    def surroundings(self) -> tuple[Path, ...]:
        """Files that its tests use beside those."""
        tests = self.change.metadata.tests if self.change else None
        names = (tests.schema, tests.seed) if tests else ()
        return tuple(self.path.parent / name for name in names if name)


@dataclass(frozen=True)
class Checks:
    """What a project knows and does that is needed here; `test` is None where tests are left out."""

    config: Config
    read: Callable[[str], Change]
    review: Callable[[Change], Review]
    test: Callable[[Change], OwnTestsReport] | None


def check_branch(project: Checks, base: str | None, progress: Callable[[str], None]) -> CiReport:
    """Check what differs from `base`; see `branch_of` for the default and what is raised."""
    branch = branch_of(project.config.folder, base)
    changes: list[CiChange] = []
    findings: list[CiFinding] = [*_policy(project, branch), *_removed(project, branch)]
    for read in _changes(project):
        is_own = any(branch.name(one) in branch.changed for one in read.digested)
        if not is_own and not any(branch.name(one) in branch.changed for one in read.surroundings):
            continue
        progress(f"checking {read.path.name}")
        found = list(_findings(project, branch, read))
        tested = None
        if project.test and read.change and read.change.metadata.tests and all(one.level != ERROR for one in found):
            more = list(_tested(project.test, branch, read.change))
            tested, found = not more, found + more
        findings += found
        digest = read.change.digest if read.change else None
        changes.append(CiChange(read.path.stem, branch.name(read.path), digest, tested))
    return CiReport(branch.base, branch.fork, tuple(changes), tuple(findings))


def _changes(project: Checks) -> list[_Read]:
    """Every change of the project; files that changes name as their own undo or tests are no changes."""
    files = sorted(one for one in project.config.changes.glob("*") if one.suffix in COMMENTS and not one.is_dir())
    found = [_read(project, one) for one in files]
    attached = {one.resolve() for read in found for one in (*read.digested[1:], *read.surroundings)}
    return [one for one in found if one.path.resolve() not in attached or one.change is not None]


def _read(project: Checks, path: Path) -> _Read:
    try:
        return _Read(path, project.read(str(path)))
    except UsageError as error:
        return _Read(path, None, error)


def _attachments(change: Change) -> tuple[Path, ...]:
    undo = change.metadata.backout
    names = [undo] if Path(undo).suffix in COMMENTS else []
    if change.metadata.tests and change.metadata.tests.file:
        names.append(change.metadata.tests.file)
    return tuple(change.path.parent / name for name in names)


def _policy(project: Checks, branch: Branch) -> Iterator[CiFinding]:
    """What decides who may approve and run is reviewed as such, and not on the way of a change."""
    for path in project.config.policy_files:
        name = branch.name(path)
        if name in branch.changed | branch.removed:
            what = "was removed" if name in branch.removed else "is another one" if branch.before(name) else "is new"
            yield CiFinding(
                WARNING, "policy", f"what decides who may approve and run {what}: {name}", name,
                hint="let whoever answers for the policy review it, best in a branch without changes",
            )  # fmt: skip


def _removed(project: Checks, branch: Branch) -> Iterator[CiFinding]:
    for name in sorted(branch.removed):
        path = branch.root / name
        is_change = path.suffix in COMMENTS and path.parent == project.config.changes.resolve()
        if is_change and re.search(rb"^\S+[ \t]*///[ \t]*change[ \t]*\r?$", branch.before(name) or b"", re.MULTILINE):
            yield CiFinding(
                WARNING, "merged", "a merged change was removed: nobody can tell any more what ran", name,
                hint=f"put it back: git checkout {branch.fork[:12]} -- {name}",
            )  # fmt: skip


def _findings(project: Checks, branch: Branch, read: _Read) -> Iterator[CiFinding]:
    file = branch.name(read.path)
    edited = [one for one in read.digested if _was_edited(branch, one)]
    if branch.before(file) is not None and edited:
        names = ", ".join(branch.name(one) for one in edited)
        yield CiFinding(
            ERROR, "merged", f"this change was merged already, and its text is another one now: {names}", file,
            hint=f"write a new change, and put this one back: git checkout {branch.fork[:12]} -- {names}",
        )  # fmt: skip
        return
    if is_link(read.path, project.config.folder):
        yield CiFinding(
            ERROR, "link", "this change is a symbolic link, and somebody else can exchange its text", file,
            hint="put the file itself there",
        )  # fmt: skip
    if read.change is None:
        assert read.error is not None
        yield _unreadable(branch, read.error, file)
        return
    yield from _verdicts(project, read.change, file)
    yield from _documents(project, read.change, file)


def _was_edited(branch: Branch, path: Path) -> bool:
    """Whether the digest sees a difference: line ends are none."""
    name = branch.name(path)
    if name not in branch.changed:
        return False
    before = branch.before(name)
    if before is None:
        return True  # an attachment that was not there
    return _text(before) != _text(path.read_bytes())


def _text(data: bytes) -> str:
    return canonical(data.decode(errors="surrogateescape"))


def _unreadable(branch: Branch, error: BackoutError, file: str) -> CiFinding:
    if not isinstance(error, InvalidFile):
        return CiFinding(ERROR, INVALID, error.message, file, hint=error.hint)
    place = error.position
    message = error.message.removeprefix(f"{place}: ")
    return CiFinding(ERROR, INVALID, message, branch.name(Path(place.file)), place.line, place.column, error.hint)


def _verdicts(project: Checks, change: Change, file: str) -> Iterator[CiFinding]:
    try:
        findings = project.review(change).findings
    except Refused as error:  # a constant for a column that is declared PHI; its place is the head of the message
        place, _, message = error.message.removeprefix(f"{change.path}:").partition(": ")
        line = int(place) if place.isdigit() else 1
        yield CiFinding(ERROR, error.gate, message or error.message, file, line, 1, error.hint)
        return
    for one in findings:
        prefix = {Level.NOT_UNDOABLE: "not undoable: ", Level.EXACT_IF: "exact if ", Level.EXACT: ""}[one.level]
        yield CiFinding(_LEVELS[one.level], one.rule, prefix + one.message, file, one.line, one.column, one.hint)


def _documents(project: Checks, change: Change, file: str) -> Iterator[CiFinding]:
    """What any environment asks for: it is there that the change is going to."""
    now = datetime.now(UTC)
    asked: dict[str, list[str]] = {}
    for environment in project.config.environments.values():
        for name in environment.policy.documents:
            asked.setdefault(name, []).append(environment.name)
    evidence = Evidence(
        change.identifier, change.digest, "", documents=documents_of(change), title=change.metadata.title
    )
    for name, environments in asked.items():
        verdict = documents.judge(evidence, Policy(documents=(name,)), now)
        if not verdict.satisfied:
            line, column = _place(change, name)
            hint = f"write it into the metadata: {name} = …"
            message = f"{verdict.text}, and {', '.join(environments)} asks for it"
            yield CiFinding(ERROR, "documents", message, file, line, column, hint)


def _place(change: Change, key: str) -> tuple[int, int]:
    """The line of the key in the metadata; the block's first line where it is not there."""
    first, last = change.metadata.first_line, change.metadata.last_line
    lines = change.text.split("\n")
    for number in range(first, last):
        if match := re.match(rf"\W*{re.escape(key)}\s*=", lines[number - 1]):
            return number, match.end() - len(match[0].lstrip("-/# \t")) + 1
    return first, 1


def _tested(test: Callable[[Change], OwnTestsReport], branch: Branch, change: Change) -> Iterator[CiFinding]:
    try:
        report = test(change)
    except UsageError as error:
        yield replace(_unreadable(branch, error, branch.name(change.path)), rule="tests")
        return
    for one in report.problems:
        yield CiFinding(ERROR, "tests", one.message, branch.name(Path(one.file)), one.line, one.column, one.hint)
