"""Backups of a project: which provider serves an environment, and what is done with it.

Not for: how a provider works (`recovery/backups`). Invariants: a backup that was made is recorded; nothing is restored
into a production database unless its policy says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from backout.engines.dump import Dump, DumpFacts
from backout.engines.values import Settings
from backout.errors import BackoutError, Refused
from backout.gates.policy import SOLO, STRICT_NAME, BackupPolicy, Policy
from backout.project.config import Config, Environment
from backout.project.engine import dialect_of
from backout.recovery.backups.archive import ArchiveProvider
from backout.recovery.backups.command import CommandProvider
from backout.recovery.backups.files import FileProvider, Safe
from backout.recovery.backups.model import Backup, Provider, Request, identifier_of
from backout.recovery.backups.store import BackupStore
from backout.sql.model import Dialect

FOLDER = Path(".backout") / "backups"  # in the folder of backout.toml
_ENDINGS = {"pg_dump": ".dump", "mariadb-dump": ".sql", "sqlite": ".db"}
_SERVED = {"pg_dump": "postgres", "pitr": "postgres", "mariadb-dump": "mariadb", "sqlite": "sqlite"}
_OWN = {"postgres": "pg_dump", "mariadb": "mariadb-dump", "sqlite": "sqlite"}


@dataclass(frozen=True)
class Backups:
    """The backups of one environment."""

    config: Config
    environment: Environment
    settings: Settings
    identity: Path | None = None

    @property
    def policy(self) -> BackupPolicy:
        """What the environment says, else its database's own tools."""
        return self.environment.policy.backup or BackupPolicy(_OWN[dialect_of(self.settings.url).value])

    @property
    def store(self) -> BackupStore:
        """Where the records are."""
        return store_of(self.config, self.environment)

    def take(self, operator: str, *, private: bool = False) -> Backup:
        """Make a backup and record it. Refused, with the database as it was, where the provider fails."""
        request = Request(self.environment.name, operator, self.environment.keep, private or bool(self.config.phi))
        backup = self._provider(self.policy.provider).take(request)
        self.store.write(backup)
        return backup

    def required(self, operator: str, *, private: bool, of_any_age: bool = False) -> Backup | None:
        """The backup that the policy asks for before a run: a recent one where it accepts that; None: none is asked for.

        `of_any_age`: in an emergency the newest will do, however old it is.
        """
        if self.environment.policy.backup is None:
            return None
        age = timedelta.max if of_any_age else self.policy.max_age
        recent = self._recent(age, private=private or bool(self.config.phi)) if age is not None else None
        return recent or self.take(operator, private=private)

    def _recent(self, age: timedelta, *, private: bool) -> Backup | None:
        facts = self.clock()
        for one in self.store.all(self.environment.name):
            young = timedelta(0) <= facts.now - one.taken_at <= age
            if not young or one.deleted_at is not None or one.provider != self.policy.provider:
                continue
            is_clear_file = one.sha256 is not None and not one.encrypted
            same = (one.product, one.database) == (facts.product, facts.database)
            if same and not (private and is_clear_file) and self._provider(one.provider).holds(one):
                return one
        return None

    def restore(self, backup: Backup, *, replace_all: bool) -> str | None:
        """Make this environment's database what it was; returns a note of the provider's, where there is one."""
        dump = _dump(self.settings)
        if not replace_all and dump.has_tables():
            raise Refused(
                "restore", f'"{self.environment.name}" holds tables, which a restore replaces',
                hint="restore into an empty database, or say --replace",
            )  # fmt: skip
        if backup.deleted_at is not None:
            raise Refused("restore", f'backup "{backup.identifier}" was dropped on {backup.deleted_at:%Y-%m-%d}')
        return self._provider(backup.provider, backup).restore(backup, self.environment.name)

    def expired(self) -> tuple[Backup, ...]:
        """Backups past their time, by the database's clock."""
        kept = [one for one in self.store.all(self.environment.name) if one.deleted_at is None and one.expires_at]
        now = self.clock().now if kept else None
        return tuple(one for one in kept if now is not None and one.expires_at is not None and one.expires_at <= now)

    def delete(self, backup: Backup) -> Backup:
        """Remove a backup wherever it is, and record when."""
        self._provider(backup.provider).delete(backup)
        gone = replace(backup, deleted_at=self.clock().now)
        self.store.write(gone)
        return gone

    def retain(self, identifier: str, until: datetime) -> Backup | None:
        """Keep it until then, if it is still there; None: it is not."""
        for one in self.store.all(self.environment.name):
            if one.identifier == identifier and one.deleted_at is None:
                kept = replace(one, expires_at=until)
                self.store.write(kept)
                return kept
        return None

    def clock(self) -> DumpFacts:
        """What the database says of itself, with its time."""
        return _dump(self.settings).facts()

    def _provider(self, name: str, backup: Backup | None = None) -> Provider:
        engine = dialect_of(self.settings.url).value
        if _SERVED.get(name, engine) != engine:
            raise Refused(
                "backup", f'"{name}" does not serve "{self.environment.name}", which is {engine}',
                hint=f'write backup = "{_OWN[engine]}" for it',
            )  # fmt: skip
        policy, folder = self.policy, self.store.folder
        if name == "pitr":
            return ArchiveProvider(self._restore_point)
        if name == "command":
            commands = policy.commands or (self._home(backup).commands if backup else {})
            safe = Safe(folder, (), policy.recipients, self.identity)
            return CommandProvider(commands, self.clock, safe, policy.mirrors)
        mirrors = tuple(self.config.folder / one for one in policy.mirrors)
        safe = Safe(folder, mirrors, policy.recipients, self.identity)
        return FileProvider(name, _ENDINGS[name], _dump(self.settings), safe)

    def _home(self, backup: Backup) -> BackupPolicy:
        """What the environment that a backup is of says of backups."""
        home = self.config.environments.get(backup.environment)
        return (home.policy.backup if home else None) or BackupPolicy("command")

    def _restore_point(self, request: Request) -> Backup:
        from backout.engines.postgres.archiving import make_restore_point

        point = make_restore_point(self.settings, request.environment)
        return Backup(
            identifier_of(request.environment, point.made_at), request.environment, "pitr", point.made_at, "PostgreSQL",
            point.server_version, point.database, f"PostgreSQL {point.server_version}", request.operator,
            self.policy.mirrors, f"recovery_target_name = '{point.name}' (manual 25.3.5)", restore_point=point.name,
            lsn=point.lsn,
        )  # fmt: skip


def store_of(config: Config, environment: Environment) -> BackupStore:
    """Where the records of an environment's backups are."""
    backup = environment.policy.backup
    return BackupStore(config.folder / (backup.folder if backup and backup.folder else FOLDER))


def find_backup(config: Config, identifier: str) -> Backup:
    """The backup of that name, of whatever environment; UsageError where there is none."""
    stores = {store_of(config, one).folder: store_of(config, one) for one in config.environments.values()}
    stores.setdefault(config.folder / FOLDER, BackupStore(config.folder / FOLDER))
    missing: BackoutError | None = None
    for store in stores.values():
        try:
            return store.find(identifier)
        except BackoutError as error:
            missing = missing or error
    assert missing is not None
    raise missing


def require_replaceable(stamp: str | None, environment: Environment, policy: Policy) -> None:
    """A production database is not replaced by a backup, unless its policy says so. `stamp`: what the database says."""
    is_production = STRICT_NAME in (stamp, environment.name) or policy.profile != SOLO
    if is_production and not (policy.backup and policy.backup.restore_into):
        raise Refused(
            "restore", f'"{stamp or environment.name}" is a production database, and its policy allows no restore',
            hint=f'restore into another environment, or write backup.restore_into = "allow" for "{environment.name}"',
        )  # fmt: skip


def _dump(settings: Settings) -> Dump:
    dialect = dialect_of(settings.url)
    if dialect is Dialect.POSTGRES:
        from backout.engines.postgres.dump import PostgresDump

        return PostgresDump(settings)
    if dialect is Dialect.SQLITE:
        from backout.engines.sqlite.dump import SqliteDump

        return SqliteDump(settings)
    from backout.engines.mariadb.dump import MariaDump

    return MariaDump(settings)
