"""What an `allowed_signers` file allows, read in this process as far as its lines are plain.

Not for: saying that somebody may not sign: False means "ask ssh-keygen", whose reading of the file decides. Invariant:
what is allowed here ssh-keygen allows. The first line that is not plain ends the reading: patterns, authorities, escapes,
options that are not known here. What ssh-keygen makes of such a line, and of those after it, is for it to say.

Source: ssh-keygen(1), "ALLOWED SIGNERS"; held against OpenSSH 9.2 by `tests/integration/ledger/test_signatures.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_PRINCIPAL = r"[A-Za-z0-9._%+@-]{1,200}"
_LINE = re.compile(
    rf"(?P<principals>{_PRINCIPAL}(?:,{_PRINCIPAL})*)[ \t]+"
    r'(?:(?P<options>[a-z-]+="[^"\\]*"(?:,[a-z-]+="[^"\\]*")*)[ \t]+)?'
    r"(?P<kind>ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521))[ \t]+(?P<key>[A-Za-z0-9+/]+={0,2})"
    r"(?:[ \t]+[\x20-\x7e]*)?"
)
_OPTION = re.compile(r'(namespaces|valid-after|valid-before)="([^"]*)"')
_NAMESPACE = re.compile(r"[A-Za-z0-9._@-]+")
_TIMES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True)
class PlainLine:
    """One key of some people. Times without a zone are UTC, as `signing` has ssh-keygen read them."""

    principals: tuple[str, ...]
    key: bytes
    namespaces: tuple[str, ...] | None = None  # None: any
    after: datetime | None = None
    before: datetime | None = None

    def allows(self, person: str, key: bytes, namespace: str, at: datetime) -> bool:
        """Whether this person signs with this key, for that, at that time; not where a time is the very limit."""
        return (
            key == self.key
            and person in self.principals
            and (self.namespaces is None or namespace in self.namespaces)
            and (self.after is None or self.after < at)
            and (self.before is None or at < self.before)
        )


def plain_lines(path: Path) -> tuple[PlainLine, ...]:
    """The lines before the first one that is not plain; none where there is no file that can be read."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ()
    return tuple(_lines(text))


def _lines(text: str) -> Iterator[PlainLine]:
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        found = _plain(match) if match is not None else None
        if found is None:
            return
        yield found


def _plain(match: re.Match[str]) -> PlainLine | None:
    try:
        key = base64.b64decode(match["key"], validate=True)
        options = _options(match["options"] or "")
        after, before = (_time(options[one]) if one in options else None for one in ("valid-after", "valid-before"))
    except ValueError:
        return None
    kind = match["kind"].encode()
    if key[: 4 + len(kind)] != len(kind).to_bytes(4, "big") + kind:
        return None
    namespaces = tuple(options["namespaces"].split(",")) if "namespaces" in options else None
    if namespaces is not None and not all(map(_NAMESPACE.fullmatch, namespaces)):
        return None
    return PlainLine(tuple(match["principals"].split(",")), key, namespaces, after, before)


def _options(text: str) -> dict[str, str]:
    """By name; ValueError for one that is not known, or there twice."""
    found = _OPTION.findall(text)
    if ",".join(f'{name}="{value}"' for name, value in found) != text or len(dict(found)) != len(found):
        raise ValueError("not plain options")
    return dict(found)


def _time(text: str) -> datetime:
    digits = text.removesuffix("Z")
    if not (digits.isascii() and digits.isdigit() and len(digits) in _TIMES):
        raise ValueError("not a time")
    return datetime.strptime(digits, _TIMES[len(digits)]).replace(tzinfo=UTC)
