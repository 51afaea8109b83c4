"""`[channels.NAME]` of `backout.toml`: where announcements go.

Not for: delivering (`integrations`). Invariant: an address that is a secret, and a password, are looked up only when a
message is about to be sent, and are in no text that could be printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from backout.integrations.model import Channel, Secret
from backout.project.toml_table import Table

KINDS = ("webhook", "slack", "email")
_WEB = ("kind", "url_env", "url_file", "timeout", "attempts")
_MAIL = (
    "kind", "host", "port", "starttls", "ca_file", "user", "password_env", "password_file", "from", "to", "timeout",
    "attempts",
)  # fmt: skip
CHANNEL_KEYS = tuple(dict.fromkeys((*_WEB, *_MAIL)))
_HERE = ("localhost", "127.0.0.1", "::1")


def read_channels(root: Table, folder: Path) -> Mapping[str, Channel]:
    """Return the channels by name; InvalidFile for what is wrong there."""
    return {name: _channel(name, table, folder) for name, table in root.tables("channels", CHANNEL_KEYS)}


def _channel(name: str, table: Table, folder: Path) -> Channel:
    kind = table.choice("kind", KINDS, "")
    table.only(_MAIL if kind == "email" else _WEB)
    default = Channel(name, kind)
    default = replace(
        default,
        timeout=table.duration("timeout") or default.timeout,
        attempts=_whole(table, "attempts", default.attempts),
    )
    if kind != "email":
        secret = _secret(table, folder, "url")
        if secret is None:
            raise table.error(
                f'channel "{name}" has no address', hint='url_env = "…" or url_file = "…": it is a secret'
            )
        return replace(default, secret=secret)
    host, sender, recipients = table.text("host"), table.text("from"), table.names("to")
    if host is None or sender is None or not recipients:
        raise table.error(f'channel "{name}" needs host, from and to', hint='host = "…", from = "…", to = ["…"]')
    starttls = table.choice("starttls", ("required", "none"), "required") == "required"
    if not starttls and host not in _HERE:
        raise table.error(
            f'channel "{name}" would send in clear to "{host}"', "starttls", 'leave it out, or write "required"'
        )
    ca_file = table.text("ca_file")
    return replace(
        default, secret=_secret(table, folder, "password"), host=host, port=_whole(table, "port", default.port),
        starttls=starttls, ca_file=folder / ca_file if ca_file else None, user=table.text("user"), sender=sender,
        recipients=recipients,
    )  # fmt: skip


def _secret(table: Table, folder: Path, name: str) -> Secret | None:
    variable, file = table.text(f"{name}_env"), table.text(f"{name}_file")
    if variable and file:
        raise table.error(f'"{name}_env" and "{name}_file" are both there', f"{name}_file", "keep one of them")
    return Secret(variable, folder / file if file else None) if variable or file else None


def _whole(table: Table, key: str, default: int) -> int:
    value = table.content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise table.error(f'key "{key}" must be a whole number above zero', key, f"{key} = {default}")
    return value
