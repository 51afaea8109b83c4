"""A change file to a `Change`: the door of this room.

Not for: whether the change may run (`lint`) or with which values (`bind`).
Invariant: whatever is wrong with a file is a UsageError, with line and column where it is about the text.
"""

from __future__ import annotations

import re
from pathlib import Path

from backout.change.batched import check_batched
from backout.change.digest import canonical, digest
from backout.change.directives import steps_of
from backout.change.metadata import read_metadata
from backout.change.model import COMMENTS, Change, DataClass, Metadata, Step, StepKind
from backout.change.package import Package
from backout.change.python_source import batching_of, check_python
from backout.change.subset import check_subsets
from backout.errors import InvalidFile, Position, UsageError
from backout.sql.model import Dialect
from backout.sql.read import read_script
from backout.sql.source import Source

_LANGUAGES = {".sql": "sql", ".py": "python"}


def read_change(path: Path, *, default_dialect: Dialect = Dialect.POSTGRES, package: Package | None = None) -> Change:
    """Return the change in the file; the file's own `dialect` wins over the default.

    With `package` its files are read instead of the disk's; `path` is then the package's, for messages only.
    Errors: UsageError when the file cannot be opened, InvalidFile for its content; nothing was touched.
    """
    language, prefix = _language(path, package)
    name = package.name if package is not None else path.name
    file = str(path)
    text = _text(path, package, name)
    Source(text, file).check_characters()
    metadata = read_metadata(text, prefix, file)
    dialect = metadata.dialect or default_dialect
    steps: tuple[Step, ...] = ()
    if metadata.batch is not None and dialect is not Dialect.POSTGRES:
        place = Position(file, metadata.batch.line, 1)
        raise InvalidFile("programs in batches are for PostgreSQL", place, hint="take out `batch`")
    if metadata.run and language != "sql":
        language = "program"
    if package is not None and language == "program":
        raise UsageError(
            f'"{file}" is a program, which has to be a file when it runs', hint="write it as SQL or Python"
        )
    if language == "sql":
        _forbid_run(metadata, file)
        steps = _steps(text, metadata, dialect, file)
        language = "program" if metadata.session else language
    elif metadata.session:
        hint = "name it .sql"
        raise InvalidFile('key "session" in a program', Position(file, metadata.first_line, 1), hint=hint)
    elif language == "python":
        check_python(text, file)
    elif not metadata.run:
        place = Position(file, metadata.first_line, 1)
        hint = f'write into the metadata: {prefix} run = ["bin/rails", "runner", "{{file}}"]'
        raise InvalidFile("the metadata does not say how to run this program", place, hint=hint)
    attachments = {**_attachments(path, metadata, package), **_own_tests(path, metadata, package)}
    key = package.key if package is not None else None
    return Change(
        identifier=Path(name).stem,
        path=path,
        language=language,
        dialect=dialect,
        text=text,
        digest=digest(name, text, attachments=attachments, parameters=metadata.parameters, key=key),
        metadata=metadata,
        steps=steps,
        is_private=package is not None,
        batching=batching_of(text, file) if language == "python" else metadata.batch,
    )


def names_of_files(change: Change) -> tuple[str, ...]:
    """The names of these files, relative to the change; none of them is read."""
    undo, tests = change.metadata.backout, change.metadata.tests
    attached = ([undo] if Path(undo).suffix in _LANGUAGES else []) + ([tests.file] if tests and tests.file else [])
    return (change.path.name, *dict.fromkeys(attached))


def files_of(change: Change) -> dict[str, str]:
    """The files that the digest of a change on disk is of: the change itself as it was read, and its attachments."""
    attached = {**_attachments(change.path, change.metadata, None), **_own_tests(change.path, change.metadata, None)}
    return {change.path.name: change.text, **{name: data.decode() for name, data in attached.items()}}


def _language(path: Path, package: Package | None) -> tuple[str, str]:
    if package is None and path.is_dir():
        raise UsageError(f'"{path}" is a directory', hint="name one change file in it")
    if path.suffix not in COMMENTS:
        programs = ", ".join(one for one in COMMENTS if one not in _LANGUAGES)
        hint = f"name it .sql, .py, or one of {programs} with `run` in its metadata"
        raise UsageError(f'"{path}" is not a change: its name ends in "{path.suffix}"', hint=hint)
    return _LANGUAGES.get(path.suffix, "program"), COMMENTS[path.suffix]


def _forbid_run(metadata: Metadata, file: str) -> None:
    if metadata.run:
        place = Position(file, metadata.first_line, 1)
        raise InvalidFile('key "run" in a change of statements', place, hint="take it out: backout runs them itself")


def _text(path: Path, package: Package | None = None, name: str = "") -> str:
    """The text of a file; `name` is what a package calls it."""
    if package is not None:
        if name not in package.files:
            raise UsageError(f'the private change has no file "{name}"', hint="let its author submit it anew")
        return canonical(package.files[name])
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f'no change file "{path}"', hint="backout new makes one") from None
    except OSError as error:
        raise UsageError(f'unable to read "{path}": {(error.strerror or "unknown error").lower()}') from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise InvalidFile("a byte order mark", Position(str(path), 1, 1), hint="save the file as UTF-8 without BOM")
    try:
        return canonical(data.decode())
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        place = Source(before, str(path)).position(len(before))
        raise InvalidFile(
            f"byte 0x{data[error.start]:02X} is not UTF-8", place, hint="save the file as UTF-8"
        ) from None


def _steps(text: str, metadata: Metadata, dialect: Dialect, file: str) -> tuple[Step, ...]:
    names = {*metadata.parameters, *metadata.declarations}
    try:
        script = read_script(dialect, text, names, file)
    except InvalidFile as error:
        if metadata.data is not DataClass.PHI:
            raise
        message = error.message.removeprefix(f"{error.position}: ")  # the words that cannot be read may be a value
        raise InvalidFile(re.sub(r'"[^"]*"?', '"•••"', message), error.position, hint=error.hint) from None
    steps = steps_of(script, metadata, file)
    check_batched(steps, dialect, file)
    check_subsets(steps, dialect, file)
    if metadata.session:
        _require_checks_alone(steps, metadata, dialect, file)
    elif not any(step.kind is StepKind.APPLY for step in steps):
        place = Position(file, metadata.last_line, 1)
        raise InvalidFile("the change has no statement to apply", place, hint="write one after the metadata block")
    return steps


def _require_checks_alone(steps: tuple[Step, ...], metadata: Metadata, dialect: Dialect, file: str) -> None:
    """Of a session the file says what must be true at its end, and nothing that it does."""
    if dialect is not Dialect.POSTGRES:
        place = Position(file, metadata.first_line, 1)
        raise InvalidFile("sessions are for PostgreSQL", place, hint="write the statements into the file")
    for step in steps:
        if step.kind not in (StepKind.ASSERT, StepKind.AFTER):
            place = Position(file, step.statement.line, 1)
            hint = "take it out, or take out `session`; @assert and @after may stay"
            raise InvalidFile("a statement in the file of a session, where people type them", place, hint=hint)


def _own_tests(path: Path, metadata: Metadata, package: Package | None) -> dict[str, bytes]:
    """Return the file of the change's own tests, if it has one; see `OwnTests` for why not its schema and seed."""
    name = metadata.tests.file if metadata.tests else None
    if name is None:
        return {}
    if package is None and not (path.parent / name).is_file():
        raise UsageError(f'the test file "{name}" of "{path}" is not there', hint="its path is relative to the change")
    return {name: canonical(_text(path.parent / name, package, name)).encode()}


def _attachments(path: Path, metadata: Metadata, package: Package | None) -> dict[str, bytes]:
    """Return the author's own undo file, if the metadata names one: what it says is part of what was approved."""
    name = metadata.backout
    if Path(name).suffix not in _LANGUAGES:
        return {}
    if Path(name).name != name:
        hint = "keep the undo file beside the change, and write its name alone"
        raise UsageError(f'the undo file "{name}" of "{path}" is not a file beside it', hint=hint)
    return {name: canonical(_text(path.parent / name, package, name)).encode()}
