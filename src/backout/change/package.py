"""A private change without a folder: its files as they were handed in, in memory only, and the key of its digest.

Not for: encrypting (`ledger/sealing.py`) or finding one (`project/private.py`). Invariant: reading the bytes back gives
the same files and key, and so the same digest; nothing here touches a disk.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMAT = "backout private change 1"
_KEY_BYTES = 32  # as long as the digest that it makes: RFC 2104, section 3


@dataclass(frozen=True)
class Package:
    """`name` is the change file's own ("close.sql"), `files` have that one and what its digest is of: name -> text.

    `key` is that of the digest (an HMAC), since the sha256 of an UPDATE with a guessable value gives the value away.
    """

    name: str
    files: Mapping[str, str]
    key: bytes

    @property
    def path(self) -> Path:
        """What stands for its place in messages: no file of that name is ever there."""
        return Path(f"private:{self.name}")

    def to_bytes(self) -> bytes:
        """What is encrypted."""
        content = {"format": FORMAT, "name": self.name, "files": dict(self.files), "key": self.key.hex()}
        return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def packed(name: str, files: Mapping[str, str], *, like: Package | None = None) -> Package:
    """Return the package of these files; with the key of `like` where that one holds the same, so that its digest stays."""
    if like is not None and (like.name, dict(like.files)) == (name, dict(files)):
        return like
    return Package(name, dict(files), secrets.token_bytes(_KEY_BYTES))


def read_package(data: bytes) -> Package:
    """Return the package that these bytes are; ValueError where they are none."""
    try:
        value = json.loads(data)
        name, files, key = value["name"], value["files"], bytes.fromhex(value["key"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a private change: {type(error).__name__}") from None
    texts = isinstance(files, dict) and all(isinstance(one, str) for one in files.values())
    if value.get("format") != FORMAT or not isinstance(name, str) or not texts or name not in files or not key:
        raise ValueError("not a private change")
    return Package(name, files, key)
