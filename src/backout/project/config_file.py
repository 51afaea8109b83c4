"""`backout.toml` to a `Config`: found, read and checked.

Not for: what the values mean. Invariant: whatever is wrong with the file is an InvalidFile with line and column, and an
unknown key is an error, since a mistyped guard rail would silently guard nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from backout.change.nearest import suggest
from backout.change.parameters import is_constant
from backout.errors import InvalidFile, Position, UsageError
from backout.project.config import FILE_NAME, ISOLATIONS, PROOF_LEVELS, Config, Environment
from backout.project.toml_place import place

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_UNITS = {
    "milliseconds": ("ms", "millisecond"),
    "seconds": ("s", "sec", "second"),
    "minutes": ("min", "minute"),
    "hours": ("h", "hour"),
    "days": ("d", "day"),
    "weeks": ("week",),
}
_UNIT_OF = {alias: unit for unit, aliases in _UNITS.items() for alias in (unit, *aliases)}
_SECTIONS = ("project", "undo", "tables", "environments")
ENVIRONMENT_KEYS = (
    "url", "url_env", "url_file", "role", "superuser", "lock_timeout", "statement_timeout", "keep", "rescue_schema",
    "min_proof", "isolation", "parameters",
)  # fmt: skip


def find_config(start: Path) -> Path | None:
    """Return the nearest `backout.toml` in `start` or above it."""
    folder = start.resolve()
    return next((one / FILE_NAME for one in (folder, *folder.parents) if (one / FILE_NAME).is_file()), None)


def load_config(path: Path | None = None, start: Path | None = None) -> Config:
    """Return the configuration in `path`, else the nearest one from `start` upward, else an empty one."""
    found = path or find_config(start or Path.cwd())
    if found is None:
        folder = (start or Path.cwd()).resolve()
        return Config(folder=folder, changes=folder / "changes")
    return read_config(found)


def read_config(path: Path) -> Config:
    """Return the configuration in this file; InvalidFile for its content, UsageError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to read "{path}": {reason}', hint="backout init makes one") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidFile("not UTF-8", Position(str(path), line, 1), hint="save the file as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Return the configuration in this text; `path` is named in errors, and relative paths start from its folder."""
    root = _Table(text, str(path), (), _toml(text, str(path)))
    root.only(_SECTIONS)
    project, undo = root.table("project"), root.table("undo")
    project.only(("name", "changes"))
    undo.only(("bookkeeping", "append_only"))
    folder = path.resolve().parent
    tables = {name: one.names("bookkeeping") for name, one in root.tables("tables", ("bookkeeping",))}
    environments = {
        name: _environment(name, one, folder) for name, one in root.tables("environments", ENVIRONMENT_KEYS)
    }
    return Config(
        path=path,
        folder=folder,
        name=project.text("name"),
        changes=folder / (project.text("changes") or "changes"),
        bookkeeping=undo.names("bookkeeping"),
        append_only=undo.names("append_only"),
        tables=tables,
        environments=environments,
    )


def _environment(name: str, table: _Table, folder: Path) -> Environment:
    if not _NAME.fullmatch(name):
        raise table.error(f'environment "{name}" is not a name', hint="use letters, digits, dots, hyphens, underscores")
    given = [key for key in ("url", "url_env", "url_file") if table.text(key) is not None]
    if len(given) != 1:
        problem = "no URL" if not given else f"more than one URL: {', '.join(given)}"
        raise table.error(
            f'environment "{name}" has {problem}', hint='write url = "…", url_env = "…" or url_file = "…"'
        )
    file = table.text("url_file")
    default = Environment(name)
    parameters = table.table("parameters")
    for key, value in parameters.content.items():
        if not is_constant(value):
            raise parameters.error(f'parameter "{key}" is neither a value nor a list of one type', key)
    return Environment(
        name=name,
        url=table.text("url"),
        url_env=table.text("url_env"),
        url_file=folder / file if file is not None else None,
        role=table.text("role"),
        superuser_allowed=table.choice("superuser", ("refuse", "allow"), "refuse") == "allow",
        lock_timeout=table.duration("lock_timeout") or default.lock_timeout,
        statement_timeout=table.duration("statement_timeout"),
        keep=table.duration("keep") or default.keep,
        rescue_schema=table.text("rescue_schema") or default.rescue_schema,
        min_proof=table.choice("min_proof", PROOF_LEVELS, default.min_proof),
        isolation=table.choice("isolation", ISOLATIONS, default.isolation),
        parameters=parameters.content,
    )


@dataclass(frozen=True)
class _Table:
    """One table of the file, which knows where it stands; every reader of a key says what else was expected."""

    document: str
    file: str
    path: tuple[str, ...]
    content: Mapping[str, Any]

    def error(self, message: str, key: str | None = None, hint: str | None = None) -> InvalidFile:
        line, column = place(self.document, (*self.path, key) if key is not None else self.path)
        return InvalidFile(message, Position(self.file, line, column), hint=hint)

    def only(self, known: Sequence[str]) -> None:
        for key in self.content:
            if key not in known:
                where = f" in [{'.'.join(self.path)}]" if self.path else ""
                raise self.error(f'unknown key "{key}"{where}', key, suggest(key, known))

    def table(self, key: str) -> _Table:
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f'key "{key}" must be a table', key, f"write [{'.'.join((*self.path, key))}]")
        return _Table(self.document, self.file, (*self.path, key), value)

    def tables(self, key: str, known: Sequence[str]) -> list[tuple[str, _Table]]:
        outer = self.table(key)
        inner = [(name, outer.table(name)) for name in outer.content]
        for _, one in inner:
            one.only(known)
        return inner

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.error(f'key "{key}" must be text, and not empty', key, f'{key} = "…"')
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.error(f'key "{key}" must be a list of names', key, f'{key} = ["…"]')
        return tuple(value)

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        value = self.content.get(key, default)
        if value not in known:
            raise self.error(f'key "{key}" may not be {_written(value)}', key, suggest(str(value), known))
        return str(value)

    def duration(self, key: str) -> timedelta | None:
        value = self.content.get(key)
        if value is None:
            return None
        duration = parse_duration(value)
        if duration is None:
            hint = 'write a number and its unit: "5 seconds", "2 min", "24 hours", "7 days"; a bare number is seconds'
            raise self.error(f'key "{key}" may not be {_written(value)}', key, hint)
        return duration


def parse_duration(value: object) -> timedelta | None:
    """Return what "5 seconds", "2 min" or a number of seconds stands for; None where it is no time above zero."""
    if isinstance(value, bool):
        return None
    seconds = value if isinstance(value, int | float) else None
    try:
        if seconds is None:
            match = _DURATION.fullmatch(str(value).strip().lower())
            if match is None or match[2] not in _UNIT_OF:
                return None
            duration = timedelta(**{_UNIT_OF[match[2]]: float(match[1])})
        else:
            duration = timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None
    return duration if duration > timedelta(0) else None


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = _TOML_PLACE.sub("", str(error))
        match = _TOML_PLACE.search(str(error))
        lines = text.split("\n")
        position = Position(file, len(lines), len(lines[-1]) + 1)
        if match and match[1]:
            position = Position(file, int(match[1]), int(match[2]))
        raise InvalidFile(f"not valid TOML: {message[:1].lower()}{message[1:]}", position) from None
    except RecursionError:
        raise InvalidFile("not valid TOML: nested too deeply", Position(file, 1, 1)) from None
