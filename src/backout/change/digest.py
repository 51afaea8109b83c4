"""The digest that approvals, rehearsals and runs bind to: sha256 over everything that decides what a change does.

Not for: run options, which are recorded and not digested. Invariant: each part is preceded by its length, so that no
two different changes are the same bytes; line ends are LF, nothing else is normalised.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def canonical(text: str) -> str:
    """Return the text with LF line ends."""
    return text.replace("\r\n", "\n")


def digest(
    name: str,
    text: str,
    *,
    attachments: Mapping[str, bytes] | None = None,
    parameters: Mapping[str, Any] | None = None,
    key: bytes | None = None,
) -> str:
    """Return the lower-case hexadecimal digest of a change.

    `attachments` are the other files that it uses, by name; `parameters` are the values that are the same everywhere.
    With `key` it is an HMAC: the sha256 of a private change whose values can be guessed would give the values away.
    """
    data = b"".join(
        len(part).to_bytes(8, "big") + part for pair in _pairs(name, text, attachments, parameters) for part in pair
    )
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else hashlib.sha256(data).hexdigest()


def _pairs(
    name: str, text: str, attachments: Mapping[str, bytes] | None, parameters: Mapping[str, Any] | None
) -> Iterator[tuple[bytes, bytes]]:
    yield f"change:{name}".encode(), canonical(text).encode()
    for attachment, content in sorted((attachments or {}).items()):
        yield f"attachment:{attachment}".encode(), content
    yield b"parameters", _json(parameters or {}).encode()


def _json(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(parameters), sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_typed)


def _typed(value: Any) -> dict[str, str]:
    """Give a value that JSON lacks its type's name, so that a date is not the text that spells it."""
    if isinstance(value, date | Decimal) or hasattr(value, "isoformat"):
        return {type(value).__name__: str(value)}
    raise TypeError(f"a parameter cannot be a {type(value).__name__}")
