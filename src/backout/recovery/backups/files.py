"""Backups that are files: a dump of the database, encrypted on its way, copied to its mirrors, and checked.

Not for: making dumps (`engines/*/dump.py`). Invariants: what is at its final name is whole, and its sha256 is recorded;
with recipients, and for PHI always, no clear byte of a dump is ever in a file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from backout.engines.dump import Arrival, Dump, DumpFacts, Pour, Reader, Writer
from backout.errors import Interrupted, Refused
from backout.recovery.backups.age import decrypt, encrypt, read_identities, read_recipients
from backout.recovery.backups.model import Backup, Request, identifier_of
from backout.recovery.backups.store import create_private, remove, written_to

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Safe:
    """Where files go, and for whom they are encrypted. `mirrors` are folders, the fastest to read first."""

    folder: Path
    mirrors: tuple[Path, ...] = ()
    recipients: tuple[str, ...] = ()
    identity: Path | None = None  # the file with a secret key; needed for restoring only


class FileProvider:
    """See `model.Provider`; for every engine that has a `Dump`."""

    def __init__(self, name: str, ending: str, dump: Dump, safe: Safe) -> None:
        self.name = name
        self._ending, self._dump, self._safe = ending, dump, safe

    def take(self, request: Request) -> Backup:
        """See the protocol."""
        recipients = recipients_for(request, self._safe.recipients)
        facts = self._dump.facts()
        backup = described(self.name, request, facts, self._dump.made_with())
        name = f"{backup.identifier}{self._ending}{'.age' if recipients else ''}"
        path = self._safe.folder / name
        with written_to(self._safe.folder, "write the backup"):
            size, digest = write_whole(path, lambda writer: self._pour(writer, recipients))
            places = [str(path), *(str(_copied(path, mirror / name, digest)) for mirror in self._safe.mirrors)]
        return filed(backup, places, size, digest, encrypted=bool(recipients))

    def _pour(self, writer: Writer, recipients: Sequence[Any]) -> None:
        with self._dump.reading() as reader:
            seal(reader, writer, recipients)

    def holds(self, backup: Backup) -> bool:
        """See the protocol; by name and size."""
        return any(_is_there(Path(place), backup) for place in backup.places)

    def restore(self, backup: Backup, environment: str) -> str | None:
        """See the protocol: from the first place whose file is the one that was recorded."""
        path, note = intact(backup)
        arrival = Arrival(backup.made_with, backup.server_version, backup.at_home_on(environment), backup.encrypted)
        identities = identities_for(backup, self._safe.identity)

        def pour(writer: Writer) -> None:
            with path.open("rb") as file:
                unseal(file, writer, identities)

        self._dump.restore(pour, arrival)
        return note

    def delete(self, backup: Backup) -> None:
        """See the protocol: everywhere, mirrors included."""
        with written_to(self._safe.folder, "remove the backup"):
            for place in backup.places:
                remove(Path(place))


def described(provider: str, request: Request, facts: DumpFacts, made_with: str) -> Backup:
    """A backup as far as it is known before it is made."""
    identifier = identifier_of(request.environment, facts.now)
    return Backup(
        identifier, request.environment, provider, facts.now, facts.product, facts.server_version, facts.database,
        made_with, request.operator, (), f"backout restore {identifier} --to ENV", expires_at=facts.now + request.keep,
    )  # fmt: skip


def filed(backup: Backup, places: Sequence[str], size: int, digest: str, *, encrypted: bool) -> Backup:
    """The backup with where it is."""
    restore = backup.restore + (" --identity FILE" if encrypted else "")
    return replace(backup, places=tuple(places), size_bytes=size, sha256=digest, encrypted=encrypted, restore=restore)


def recipients_for(request: Request, texts: Sequence[str]) -> list[Any]:
    """Whom to encrypt to. Refused for PHI without anybody: it is never left in clear."""
    if request.private and not texts:
        raise Refused(
            "backup", "the rows are PHI, and the backup would be a file in clear: there are no recipients",
            hint='make a key with age-keygen, and name its public part: backup.recipients = ["age1…"]',
        )  # fmt: skip
    return read_recipients(texts)


def identities_for(backup: Backup, file: Path | None) -> list[Any]:
    """The secret keys to open it with; none for a backup in clear."""
    if not backup.encrypted:
        return []
    if file is None:
        raise Refused(
            "backup",
            f'backup "{backup.identifier}" is encrypted',
            hint="name the file with a secret key: --identity FILE",
        )
    return read_identities(file)


def seal(reader: Reader, writer: Writer, recipients: Sequence[Any]) -> None:
    """All of the one into the other, encrypted where somebody is named."""
    if recipients:
        encrypt(reader, writer, recipients)
    else:
        shutil.copyfileobj(reader, writer, _BLOCK)


def unseal(reader: Reader, writer: Writer, identities: Sequence[Any]) -> None:
    """The way back of `seal`."""
    if identities:
        decrypt(reader, writer, identities)
    else:
        shutil.copyfileobj(reader, writer, _BLOCK)


class Measuring:
    """A file to write that knows what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.size += len(data)
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def write_whole(path: Path, pour: Pour) -> tuple[int, str]:
    """Write a file that is at its name only when it is whole and on the disk; returns its size and sha256."""
    making = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(create_private(making), "wb") as file:
            measuring = Measuring(file)
            pour(measuring)
            file.flush()
            os.fsync(file.fileno())
        making.rename(path)
    except KeyboardInterrupt:
        raise Interrupted("interrupted while the backup was made", state="untouched") from None
    finally:
        remove(making)
    return measuring.size, measuring.digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def intact(backup: Backup) -> tuple[Path, str | None]:
    """The first place whose file is the recorded one, with a note on those before it; Refused where there is none."""
    missed: list[str] = []
    for place in map(Path, backup.places):
        if _is_there(place, backup) and sha256_of(place) == backup.sha256:
            return place, f"not taken from {', '.join(missed)}" if missed else None
        missed.append(f'"{place}" ({"it was altered" if place.exists() else "it is not there"})')
    raise Refused(
        "backup", f'backup "{backup.identifier}" cannot be used: {", ".join(missed) or "it is no file"}',
        hint="bring the file back from where it was copied to, or take another backup: backout backups --on ENV",
    )  # fmt: skip


def _is_there(path: Path, backup: Backup) -> bool:
    return path.is_file() and path.stat().st_size == backup.size_bytes


def _copied(source: Path, target: Path, digest: str) -> Path:
    """Copy to a mirror, and read it back: a copy that was never read is a hope."""
    making = target.with_name(f"{target.name}.partial")
    try:
        with source.open("rb") as reader, os.fdopen(create_private(making), "wb") as writer:
            shutil.copyfileobj(reader, writer, _BLOCK)
        if sha256_of(making) != digest:
            raise Refused("backup", f'the copy in "{target.parent}" differs from the backup')
        making.rename(target)
    finally:
        remove(making)
    return target
