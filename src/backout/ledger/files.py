"""Statements as files beside the change, for teams that merge them with git instead of sharing a PostgreSQL ledger.

`changes/NAME.statements/` holds one file for each statement; nobody ever edits one, so that merges have no conflicts.
Not for: believing them. Invariant: a file says nothing that its signed text does not; its name is only for people.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backout.errors import UsageError
from backout.ledger.statement import Signed, read_signed

_LARGEST_BYTES = 256 * 1024  # a statement has a few hundred; a reason may be long


@dataclass(frozen=True)
class StatementFile:
    """A file of the folder: what it holds, or why it holds nothing."""

    path: Path
    signed: Signed | None
    problem: str | None = None


def folder_of(change: Path) -> Path:
    """Where the statements on this change file are."""
    return change.with_name(f"{change.stem}.statements")


def write_statement(folder: Path, signed: Signed) -> Path:
    """Write the statement's file, whole or not at all; return its path. UsageError where that is not possible."""
    one = signed.statement
    who = "".join(char if char.isalnum() else "-" for char in one.person.partition("@")[0])
    name = f"{one.at:%Y%m%dT%H%M%SZ}-{one.kind.value}-{who}-{one.identifier[:12]}.json"
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(f"{signed.body}\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to write the statement "{path}": {reason}') from None
    return path


def read_statements(folder: Path) -> Sequence[StatementFile]:
    """Return what is in the folder, by name; none where it is not there."""
    return [_read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def _read(path: Path) -> StatementFile:
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST_BYTES:
            return StatementFile(path, None, "it is a link, or too large for a statement")
        content = json.loads(path.read_text(encoding="utf-8"))
        return StatementFile(path, read_signed(content))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return StatementFile(path, None, f"it is not a statement: {error}")
