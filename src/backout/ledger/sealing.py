"""Texts that only some people can read: encrypted to the SSH keys that `allowed_signers` gives them, by age's format.

Not for: who these people should be (`project/private.py`). Invariant: clear text is in memory only; a key whose time is
over, or whose owner is a pattern or an authority, is encrypted to by nobody.

Source: https://age-encryption.org/v1 and its README, "SSH keys": ssh-ed25519 and ssh-rsa can be encrypted to; ECDSA and
hardware (sk-) keys cannot, and an agent only signs. Measured with pyrage 1.4.0: a private key's file that is protected
by a passphrase is refused ("ssh key must be decrypted first"), so is an RSA key below 2048 bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from backout.ledger.signers import AllowedKey

_VALIDITY = re.compile(r'\b(valid-after|valid-before)="?(\d{8}(?:\d{4}(?:\d{2})?)?)(Z?)"?', re.IGNORECASE)
_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@cache
def _pyrage() -> Any:
    return import_module("pyrage")  # compiled code that most commands do not need; it has no types


def why_not(key: AllowedKey, now: datetime) -> str | None:
    """Why nothing can, or may, be encrypted to this key; None: it can."""
    if key.has_pattern or key.is_authority:
        return "its key is not one person's own"
    if not _is_valid(key.options, now):
        return "the time of its key is over, or has not come"
    try:
        _pyrage().ssh.Recipient.from_str(key.public)
    except _pyrage().RecipientError:
        kind = key.public.partition(" ")[0]
        return f"nothing can be encrypted to a key of kind {kind}: ssh-ed25519 it can, and ssh-rsa from 2048 bits on"
    return None


def seal(data: bytes, keys: Sequence[AllowedKey]) -> str:
    """Return the data encrypted, so that each of the keys opens it, in age's armour; ValueError where there is no key."""
    if not keys:
        raise ValueError("no key to encrypt to")
    pyrage = _pyrage()
    recipients = [pyrage.ssh.Recipient.from_str(one.public) for one in keys]
    return bytes(pyrage.encrypt(data, recipients, armored=True)).decode("ascii")


def unseal(sealed: str, file: Path) -> bytes | str:
    """Return the data, opened with the private key in the file; or, as text, why this key does not open it."""
    pyrage = _pyrage()
    try:
        identity = pyrage.ssh.Identity.from_buffer(file.read_bytes())
    except OSError as error:
        return f"it cannot be read: {(error.strerror or 'unknown error').lower()}"
    except pyrage.IdentityError as error:
        if "decrypted first" in str(error):
            return "it is protected by a passphrase, and only ssh's own programs can ask for that"
        return "it is not a private key that can decrypt: ssh-ed25519 can, and ssh-rsa"
    try:
        return bytes(pyrage.decrypt(sealed.encode("ascii", "replace"), [identity]))
    except (pyrage.DecryptError, OSError):
        return "it is not one of those that it was encrypted to"


def _is_valid(options: str, now: datetime) -> bool:
    """Whether the time is between what the options say; without a zone they are in UTC, as `signing` has ssh-keygen read them.

    One file has one meaning on every machine. ssh-keygen itself takes the zone of the system, or of $TZ, where there is no
    suffix (ssh-keygen(1), "ALLOWED SIGNERS").
    """
    for name, digits, _zone in _VALIDITY.findall(options):
        at = datetime.strptime(digits, _FORMATS[len(digits)]).replace(tzinfo=UTC)
        if (now < at) if name.lower() == "valid-after" else (now >= at):
            return False
    return "valid-" not in _VALIDITY.sub("", options.lower())  # a time that is not understood is over
