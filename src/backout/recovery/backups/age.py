"""Encryption of streams to age recipients, by `pyrage` (https://age-encryption.org/v1).

Not for: where streams come from and go to. Invariant: clear bytes are in memory only, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from backout.engines.dump import Reader, Writer
from backout.errors import Refused, UsageError


@cache
def _pyrage() -> Any:
    return import_module("pyrage")  # compiled code that most commands do not need; it has no types


def read_recipients(texts: Sequence[str]) -> list[Any]:
    """`age1…` or `ssh-ed25519 …`; UsageError for anything else."""
    pyrage = _pyrage()
    found = []
    for text in texts:
        kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
        try:
            found.append(kind.from_str(text))
        except pyrage.RecipientError:
            raise UsageError(
                f'"{text}" is not a recipient of age',
                hint="age-keygen prints one that begins with age1; or ssh-ed25519 …",
            ) from None
    return found


def read_identities(file: Path) -> list[Any]:
    """The secret keys in a file: age's own, one a line, or one of SSH; UsageError where there is none."""
    pyrage = _pyrage()
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to read the identity in "{file}": {reason}') from None
    try:
        if b"PRIVATE KEY" in content:
            return [pyrage.ssh.Identity.from_buffer(content)]
        lines = [line.strip() for line in content.decode().splitlines()]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except (pyrage.IdentityError, UnicodeDecodeError):
        found = []
    if not found:
        raise UsageError(f'there is no identity of age in "{file}"', hint="name the file that age-keygen wrote")
    return found


class _Watched:
    """A stream that remembers what was raised inside of it: the library would pass it on as a text."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.raised: BaseException | None = None

    def _do(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except BaseException as error:
            self.raised = error
            raise

    def read(self, size: int = -1) -> Any:
        return self._do(lambda: self._stream.read(size))

    def write(self, data: bytes) -> Any:
        return self._do(lambda: self._stream.write(data))

    def flush(self) -> Any:
        return self._do(self._stream.flush)


def encrypt(reader: Reader, writer: Writer, recipients: Sequence[Any]) -> None:
    """Pour all of `reader` into `writer`, encrypted. What the streams raise is raised as it was."""
    source, target = _Watched(reader), _Watched(writer)
    pyrage = _pyrage()
    try:
        pyrage.encrypt_io(source, target, list(recipients))
    except (pyrage.EncryptError, OSError) as error:
        raise source.raised or target.raised or error from None


def decrypt(reader: Reader, writer: Writer, identities: Sequence[Any]) -> None:
    """Pour all of `reader` into `writer`, decrypted; Refused where no identity opens it, or it was altered."""
    pyrage = _pyrage()
    source, target = _Watched(reader), _Watched(writer)
    try:
        pyrage.decrypt_io(source, target, list(identities))
    except (pyrage.DecryptError, OSError):  # OSError: a block whose seal is broken [measured with 1.4.0]
        inner = source.raised or target.raised
        if inner is not None:
            raise inner from None
        raise Refused(
            "backup", "the backup cannot be decrypted: it is for other keys, or was altered",
            hint="name the file with a recipient's secret key: --identity FILE",
        ) from None  # fmt: skip
