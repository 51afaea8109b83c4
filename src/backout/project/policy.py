"""The keys of an environment that say what people must have done, as a `Policy`.

The values themselves are in `gates/policy.py`, below every room that reads them; they can be imported from here too.

Not for: judging by them. Invariant: a key that is left out has the profile's value, one that is written has its own;
whatever is wrong is an InvalidFile with line and column. Twin: `cli/configuration.py`, which documents each key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import time
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backout.change.nearest import suggest
from backout.gates.policy import (
    BACKUP_COMMANDS,
    BACKUP_PROVIDERS,
    DOCUMENTS,
    IDENTITIES,
    PROFILE_NAMES,
    PROFILES,
    AnnouncePolicy,
    BackupPolicy,
    Policy,
    Window,
    default_profile,
)
from backout.project.toml_table import Table

__all__ = ["POLICY_KEYS", "AnnouncePolicy", "BackupPolicy", "Policy", "Window", "read_policy", "read_window"]

POLICY_KEYS = (
    "profile", "identity", "after", "rehearsals", "accept_ghost_undo", "approvals", "roles", "consent", "documents",
    "announce", "overrule", "window", "operators", "emergency", "subset", "reveal", "attest", "hosts", "backup",
)  # fmt: skip

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*)\s+)?"
    r"(?P<since>\d\d:\d\d)-(?P<until>\d\d:\d\d)(?:\s+(?P<zone>\S+))?",
    re.IGNORECASE,
)
_WINDOW_HINT = 'write days, hours and a time zone: {key} = ["Mon-Thu 09:00-17:00 Europe/Berlin"]'


def read_policy(name: str, table: Table, default: str | None) -> Policy:
    """Return the policy of environment `name`; `default` is the project's profile. InvalidFile for a wrong value."""
    profile = table.choice("profile", PROFILE_NAMES, default or default_profile(name))
    policy = PROFILES[profile]
    policy = replace(policy, after=tuple(one for one in policy.after if one != name))
    readers: Mapping[str, Callable[[Table, str], Any]] = {
        "identity": lambda t, k: t.choice(k, IDENTITIES, policy.identity),
        "after": lambda t, k: t.names(k),
        "rehearsals": lambda t, k: _count(t, k, least=1),
        "accept_ghost_undo": _flag,
        "approvals": lambda t, k: _distinct(t, k, t.names(k)),
        "consent": _flag,
        "documents": _documents,
        "announce": _announce,
        "overrule": _words,
        "window": _windows,
        "operators": _words,
        "emergency": _words,
        "subset": _flag,
        "reveal": _words,
        "attest": lambda t, k: _count(t, k, least=0),
        "hosts": lambda t, k: t.names(k),
        "backup": _backup,
    }
    given = {key: read(table, key) for key, read in readers.items() if key in table.content}
    policy = replace(policy, **given)
    return replace(policy, roles=_roles(table, policy.approvals)) if "roles" in table.content else policy


def _flag(table: Table, key: str) -> bool:
    value = table.content[key]
    if not isinstance(value, bool):
        raise table.error(f'key "{key}" must be true or false', key, f"{key} = true")
    return value


def _count(table: Table, key: str, least: int) -> int:
    value = table.content[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise table.error(f'key "{key}" must be a whole number, at least {least}', key, f"{key} = {max(least, 2)}")
    return value


def _words(table: Table, key: str) -> tuple[str, ...]:
    """A list of people, roles and teams, or one of them as text."""
    return _as_words(table, key, table.content[key])


def _as_words(table: Table, key: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(one, str) and one.strip() for one in words):
        raise table.error(f'key "{key}" must name people, roles or teams', key, f'{key} = ["…"]')
    return tuple(words)


def _distinct(table: Table, key: str, names: Sequence[str]) -> tuple[str, ...]:
    twice = next((one for index, one in enumerate(names) if one in names[:index]), None)
    if twice is not None:
        hint = 'give each its own name: approvals = ["first", "second"]'
        raise table.error(f'key "{key}" names "{twice}" twice', key, hint)
    return tuple(names)


def _documents(table: Table, key: str) -> tuple[str, ...]:
    names = table.names(key)
    for name in names:
        if name not in DOCUMENTS:
            raise table.error(f'key "{key}" may not name "{name}"', key, suggest(name, DOCUMENTS))
    return names


def _roles(table: Table, approvals: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    roles = table.table("roles")
    for kind in roles.content:
        if kind not in approvals:
            raise roles.error(f'key "roles" names the approval "{kind}", which is not asked for', kind,
                              suggest(kind, approvals) if approvals else 'approvals = ["…"] names them')  # fmt: skip
    return {kind: _as_words(roles, kind, value) for kind, value in roles.content.items()}


def _announce(table: Table, key: str) -> AnnouncePolicy | None:
    if table.content[key] == "none":
        return None
    announce = table.table(key)
    announce.only(("to", "before"))
    default = AnnouncePolicy()
    return AnnouncePolicy(announce.names("to"), announce.duration("before") or default.before)


def _backup(table: Table, key: str) -> BackupPolicy | None:
    value = table.content[key]
    if value == "none":
        return None
    if isinstance(value, str):
        return BackupPolicy(table.choice(key, (*BACKUP_PROVIDERS, "none"), ""))
    backup = table.table(key)
    backup.only(("provider", "folder", "recipients", "max_age", "mirrors", "restore_into", *BACKUP_COMMANDS))
    provider = backup.choice("provider", BACKUP_PROVIDERS, "")
    commands = {name: text for name in BACKUP_COMMANDS if (text := backup.text(name)) is not None}
    if provider == "command" and "take" not in commands:
        raise backup.error('backup by provider "command" has no "take"', "provider", 'take = "tool backup --of …"')
    return BackupPolicy(
        provider, backup.text("folder"), backup.names("recipients"), backup.duration("max_age"),
        backup.names("mirrors"), commands,
        backup.choice("restore_into", ("refuse", "allow"), "refuse") == "allow",
    )  # fmt: skip


def read_windows(table: Table, key: str) -> tuple[Window, ...]:
    """The hours under this key; none where it is not there."""
    return _windows(table, key) if key in table.content else ()


def _windows(table: Table, key: str) -> tuple[Window, ...]:
    texts = [table.content[key]] if isinstance(table.content[key], str) else table.names(key)
    windows = []
    for text in texts:
        window = read_window(text)
        if window is None:
            raise table.error(f'key "{key}" may not hold "{text}"', key, _WINDOW_HINT.format(key=key))
        windows.append(window)
    return tuple(windows)


def read_window(text: str) -> Window | None:
    """Return what `Mon-Thu 09:00-17:00 Europe/Berlin` stands for (no days: all; no zone: UTC); None: nothing."""
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        return None
    try:
        days = _days(match["days"]) if match["days"] else frozenset(range(7))
        zone = ZoneInfo(match["zone"] or "UTC")
        return Window(days, time.fromisoformat(match["since"]), time.fromisoformat(match["until"]), zone, text)
    except (ValueError, ZoneInfoNotFoundError, OSError):  # OSError: a zone's name that is a folder of the database
        return None


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)
