"""The records of backups: one JSON file each, beside the backups themselves, so that they are found without a database.

Not for: the backups' content. Invariant: a record is written whole or not at all, and never removed: of a backup that
was dropped it says when.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backout.errors import Refused, UsageError
from backout.recovery.backups.model import Backup, as_json, from_json

_ENDING = ".backup.json"


class BackupStore:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, backup: Backup) -> None:
        """Record a backup, or what has become of it; Refused where the folder cannot be written."""
        path = self.folder / f"{backup.identifier}{_ENDING}"
        making = path.with_suffix(".partial")
        text = json.dumps(as_json(backup), indent=2, ensure_ascii=False) + "\n"
        with written_to(self.folder, "record the backup"):
            making.unlink(missing_ok=True)
            with os.fdopen(create_private(making), "w", encoding="utf-8") as file:
                file.write(text)
            making.replace(path)

    def all(self, environment: str | None = None) -> tuple[Backup, ...]:
        """The backups of an environment, or all of them, the newest first; dropped ones too."""
        found = (_read(path) for path in sorted(self.folder.glob(f"*{_ENDING}")))
        wanted = [one for one in found if environment in (None, one.environment)]
        return tuple(sorted(wanted, key=lambda one: one.taken_at, reverse=True))

    def find(self, identifier: str) -> Backup:
        """The backup of that name; UsageError where there is none."""
        for one in self.all():
            if one.identifier == identifier:
                return one
        raise UsageError(
            f'there is no backup "{identifier}" in "{self.folder}"', hint="list them: backout backups --on ENV"
        )


def _read(path: Path) -> Backup:
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError):
        raise UsageError(
            f'"{path}" is not a record of a backup', hint="bring it back from where it was copied from, or remove it"
        ) from None


def create_private(path: Path) -> int:
    """Open a new file that only its owner reads, and never through a link that somebody left there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


@contextmanager
def written_to(folder: Path, doing: str) -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise Refused(
            "backup", f'unable to {doing} in "{folder}": {reason}', hint="name another `folder` for this backup"
        ) from None


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        path.unlink()
