"""What `backout init` writes into a folder; never over anything that is there."""

from __future__ import annotations

from pathlib import Path

from backout.errors import UsageError
from backout.project.config import FILE_NAME
from backout.project.config_template import TEMPLATE


def init_folder(folder: Path) -> tuple[Path, ...]:
    """Write `backout.toml` and `changes/`. Returns what was written; UsageError where the folder cannot be written."""
    written = []
    try:
        config = folder / FILE_NAME
        if not config.exists():
            config.write_text(TEMPLATE, encoding="utf-8")
            written.append(config)
        changes = folder / "changes"
        if not changes.exists():
            changes.mkdir()
            written.append(changes)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f'unable to write to "{folder}": {reason}', hint="choose another folder") from None
    return tuple(written)
