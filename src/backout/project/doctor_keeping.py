"""`backout doctor` on backups and announcements: what would fail, or leave PHI in clear, is said before it is needed.

Not for: trying it out; nothing is sent and nothing is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backout.errors import UsageError
from backout.gates.policy import SOLO
from backout.project.advice import Advice

if TYPE_CHECKING:
    from backout.project.config import Config, Environment


def advise_on_keeping(config: Config, variables: Mapping[str, str]) -> Iterator[Advice]:
    """Say what is wrong or weak about channels and backups."""
    for environment in config.environments.values():
        yield from _backup(config, environment)
        for name in environment.policy.announce.to if environment.policy.announce else ():
            if name not in config.channels:
                text = f'"{environment.name}" announces to "{name}", which is not a channel'
                yield Advice("wrong", text, f'write [channels.{name}] with its kind: "webhook", "slack" or "email"')
    for channel in config.channels.values():
        try:
            if channel.secret is not None:
                channel.secret.read(variables)
        except UsageError as error:
            yield Advice("weak", f'channel "{channel.name}" cannot be used here: {error.message}')


def _backup(config: Config, environment: Environment) -> Iterator[Advice]:
    backup = environment.policy.backup
    if backup is None:
        if environment.policy.profile != SOLO:
            text = f'no backup precedes the runs on "{environment.name}"'
            yield Advice("weak", text, 'write backup = "pg_dump", "mariadb-dump", "sqlite" or a table')
        return
    makes_files = backup.provider not in ("pitr", "command") or "{file}" in backup.commands.get("take", "")
    if makes_files and not backup.recipients:
        level = "wrong" if config.phi else "weak"
        why = ", and columns are declared PHI: every run is refused" if config.phi else ""
        text = f'the backups of "{environment.name}" are in clear{why}'
        yield Advice(level, text, 'make a key with age-keygen, and name its public part: backup.recipients = ["age1…"]')
    if backup.provider == "command" and "restore" not in backup.commands:
        yield Advice("weak", f'the backups of "{environment.name}" have no `restore` command', 'backup.restore = "…"')
