"""The `allowed_signers` file: which public keys are whose.

ssh-keygen verifies by it; this reads it only to find one's own principal by one's key, and to see what is weak in it.
Source: ssh-keygen(1), "ALLOWED SIGNERS": principals, options, key type, base64 key; a line may be a comment or empty.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backout.errors import UsageError
from backout.ledger.signing import key_fingerprint

_KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.-]+)\s+([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class AllowedKey:
    """One line: the principals, and the fingerprint of the key that they sign with."""

    principals: tuple[str, ...]
    fingerprint: str
    line: int
    is_authority: bool = False  # it certifies the keys of others
    public: str = ""  # "ssh-ed25519 AAAA…": what can be encrypted to, see `sealing`
    options: str = ""  # as they are written, e.g. namespaces="…",valid-before="…"

    @property
    def has_pattern(self) -> bool:
        """Whether anybody whose address fits can sign with it: such a key is nobody's in particular."""
        return any(set(one) & set("*?!") for one in self.principals)


def read_allowed_signers(path: Path) -> Sequence[AllowedKey]:
    """Return the lines that ssh-keygen understands; empty where there is no file. UsageError where it is not readable."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        reason = str(getattr(error, "strerror", None) or "not UTF-8").lower()
        raise UsageError(f'unable to read the allowed signers in "{path}": {reason}') from None
    keys = (_line(number, line) for number, line in enumerate(text.split("\n"), start=1))
    return tuple(one for one in keys if one is not None)


def _line(number: int, line: str) -> AllowedKey | None:
    line = line.strip()
    match = None if line.startswith("#") else _KEY.search(line)
    if match is None or not line[: match.start()].strip():
        return None
    first = re.match(r'"([^"]*)"|(\S+)', line)
    assert first is not None, "the line is not empty"
    principals = tuple(one for one in (first[1] or first[2]).split(",") if one)
    found = fingerprint_of(match[2])
    options = line[first.end() : match.start()]
    if found is None:
        return None
    return AllowedKey(principals, found, number, "cert-authority" in options, f"{match[1]} {match[2]}", options.strip())


def fingerprint_of(encoded: str) -> str | None:
    """The fingerprint of a public key in base64, as in a `.pub` file; None: it is none."""
    try:
        return key_fingerprint(base64.b64decode(encoded, validate=True))
    except ValueError:
        return None


def public_fingerprint(text: str) -> str | None:
    """The fingerprint of the public key in a line such as `ssh-ed25519 AAAA… comment`; None: there is none."""
    match = _KEY.search(text)
    return fingerprint_of(match[2]) if match else None
