"""One table of a TOML file, which knows where it stands, so that whatever is wrong with a key has line and column.

Not for: which keys there are (`config_file`, `policy`, `people_file`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from backout.change.durations import parse_duration
from backout.change.nearest import suggest
from backout.errors import InvalidFile, Position
from backout.project.toml_place import place

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(b|kb|mb|gb|tb|)")
_SIZE_UNITS = ("b", "kb", "mb", "gb", "tb")


@dataclass(frozen=True)
class Table:
    """One table of the file, which knows where it stands; every reader of a key says what else was expected."""

    document: str
    file: str
    path: tuple[str, ...]
    content: Mapping[str, Any]

    def error(self, message: str, key: str | None = None, hint: str | None = None) -> InvalidFile:
        """An error at the key's place, or at the table's."""
        line, column = place(self.document, (*self.path, key) if key is not None else self.path)
        return InvalidFile(message, Position(self.file, line, column), hint=hint)

    def only(self, known: Sequence[str]) -> None:
        """Refuse every key but these."""
        for key in self.content:
            if key not in known:
                where = f" in [{'.'.join(self.path)}]" if self.path else ""
                raise self.error(f'unknown key "{key}"{where}', key, suggest(key, known))

    def table(self, key: str) -> Table:
        """The table of that name inside this one; an empty one where it is not there."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f'key "{key}" must be a table', key, f"write [{'.'.join((*self.path, key))}]")
        return Table(self.document, self.file, (*self.path, key), value)

    def tables(self, key: str, known: Sequence[str]) -> list[tuple[str, Table]]:
        """The named tables inside the table of that name; each may have these keys only."""
        outer = self.table(key)
        inner = [(name, outer.table(name)) for name in outer.content]
        for _, one in inner:
            one.only(known)
        return inner

    def text(self, key: str) -> str | None:
        """Text, or None where the key is not there."""
        value = self.content.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.error(f'key "{key}" must be text, and not empty', key, f'{key} = "…"')
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names."""
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.error(f'key "{key}" must be a list of names', key, f'{key} = ["…"]')
        return tuple(value)

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        """One of the known values."""
        value = self.content.get(key, default)
        if value not in known:
            raise self.error(f'key "{key}" may not be {_written(value)}', key, suggest(str(value), known))
        return str(value)

    def duration(self, key: str) -> timedelta | None:
        """A length of time, or None where the key is not there."""
        value = self.content.get(key)
        if value is None:
            return None
        duration = parse_duration(value)
        if duration is None:
            hint = 'write a number and its unit: "5 seconds", "2 min", "24 hours", "7 days"; a bare number is seconds'
            raise self.error(f'key "{key}" may not be {_written(value)}', key, hint)
        return duration

    def flag(self, key: str) -> bool:
        """True or false; false where the key is not there."""
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise self.error(f'key "{key}" may not be {_written(value)}', key, "write true or false")
        return value

    def count(self, key: str) -> int | None:
        """A whole number above zero, or None where the key is not there."""
        value = self.content.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self.error(f'key "{key}" must be a whole number above zero', key, f"{key} = 100_000")
        return value

    def size(self, key: str) -> int | None:
        """A number of bytes, or None where the key is not there."""
        value = self.content.get(key)
        if value is None:
            return None
        size = parse_size(value)
        if size is None:
            hint = 'write a number and its unit: "8 GB", "500 MB"; a bare number is bytes'
            raise self.error(f'key "{key}" may not be {_written(value)}', key, hint)
        return size


def parse_size(value: object) -> int | None:
    """Return what "8 GB", "1.5 TB" or a number stands for in bytes, in steps of 1024 as PostgreSQL counts; else None."""
    if isinstance(value, bool):
        return None
    match = _SIZE.fullmatch(str(value).strip().lower())
    if match is None or (isinstance(value, str) and match[2] == ""):
        return None
    return int(float(match[1]) * 1024 ** _SIZE_UNITS.index(match[2] or "b"))


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
