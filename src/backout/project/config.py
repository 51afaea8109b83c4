"""The configuration as values: the project, its environments, and what they allow.

Not for: reading the file (`config_file`), nor for acting on it. Invariant: a URL is looked up only when an environment
is about to be used, so that a secret that one environment lacks stops no other; no message carries a password.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from backout.change.nearest import suggest
from backout.engines.values import Settings, TableName
from backout.errors import UsageError
from backout.gates.people import People
from backout.gates.policy import PROFILES, Policy, Window, default_profile
from backout.integrations.model import Channel

FILE_NAME = "backout.toml"
LEDGER_FILE = Path(".backout") / "ledger.sqlite"  # in the folder of backout.toml
STATEMENT_PLACES = ("ledger", "files")
PROOF_LEVELS = ("bounded", "repeated", "exact")  # from the loosest to the tightest
ISOLATIONS = ("read committed", "repeatable read")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SQLITE_FILE = re.compile(r".+\.(db|sqlite|sqlite3)", re.IGNORECASE)


@dataclass(frozen=True)
class ConnectCommand:
    """What opens the way to a server, e.g. `kubectl port-forward`; `ready` is a pattern of what it says when it is open."""

    words: tuple[str, ...]
    ready: str | None = None
    timeout: timedelta = timedelta(seconds=30)


@dataclass(frozen=True)
class Environment:
    """A named database and what is allowed there. Exactly one of `url`, `url_env` and `url_file` is set."""

    name: str
    url: str | None = None  # may hold ${VARIABLE}
    url_env: str | None = None  # the process variable that holds the URL
    url_file: Path | None = None  # the file whose first line is the URL
    connect: ConnectCommand | None = None  # started first, and ended last
    role: str | None = None
    superuser_allowed: bool = False
    lock_timeout: timedelta = timedelta(seconds=5)
    statement_timeout: timedelta | None = None
    keep: timedelta = timedelta(days=7)
    rescue_schema: str = "rescue"
    min_proof: str = "bounded"
    isolation: str = "read committed"
    scan_limit_bytes: int = 8 * 2**30  # PostgreSQL: from this size on a table is armed instead of scanned
    arm: tuple[str, ...] = ()  # tables that only triggers or functions of the changes reach, to be armed as well
    batch_above: int | None = None  # rows that a change may write without batches; None: any number
    ghost_batches: int | None = None  # how many batches a ghost run tries; None: all
    batch_time: timedelta = timedelta(milliseconds=100)  # how long a batch should hold the locks on its rows
    replica_lag: timedelta = timedelta(seconds=5)  # from here on a run in batches waits; so it does for the next two
    replicas: tuple[str, ...] = ()  # whose lag counts; empty: all
    long_transaction: timedelta | None = None  # None: an hour, where the login role may see them
    pause_file: str | None = None
    wal_rate_bytes: int | None = None  # a second; from here on a run in batches waits
    archive_backlog_bytes: int | None = None
    commit_latency: timedelta | None = None
    quiet_hours: tuple[Window, ...] = ()
    analyze: bool = False  # before a run in batches, where the planner's statistics are stale
    program_time: timedelta | None = None  # how long a program may take, be idle, and spend on one statement
    program_idle: timedelta = timedelta(minutes=15)
    program_statement: timedelta | None = None
    agree_within: timedelta = timedelta(minutes=10)  # how long a session waits, with its locks, for two people
    watcher: str = "optional"  # "required": nobody types at a prompt without somebody who watches
    watcher_gone: timedelta = timedelta(seconds=30)  # without a sign of life; then a session is rolled back
    outbound: str = "none"  # "real": programs here tell other systems, so that a ghost run of one would as well
    parameters: Mapping[str, Any] = field(default_factory=dict)
    given_policy: Policy | None = None  # None: what an environment of this name has by default

    @property
    def policy(self) -> Policy:
        """What this environment asks of people."""
        return self.given_policy or PROFILES[default_profile(self.name)]

    @property
    def keep_days(self) -> float:
        """How long rescue tables are kept, in days."""
        return self.keep / timedelta(days=1)

    def resolved_url(self, variables: Mapping[str, str] = os.environ) -> str:
        """Return the URL with the secrets put in; UsageError where a variable or the file is missing."""
        if self.url_file is not None:
            return self._first_line(self.url_file)
        if self.url_env is not None:
            return self._variable(self.url_env, variables)
        return _VARIABLE.sub(lambda match: self._variable(match[1], variables), self.url or "")

    def known_url(self, variables: Mapping[str, str] = os.environ) -> str:
        """Return the URL as `resolved_url` does; "" where that needs something which is not there now."""
        try:
            return self.resolved_url(variables)
        except UsageError:
            return ""

    def shown_url(self, variables: Mapping[str, str] = os.environ) -> str:
        """Return the URL as it may be printed: without its password."""
        return shown_url(self.resolved_url(variables))

    def _variable(self, name: str, variables: Mapping[str, str]) -> str:
        value = variables.get(name, "")
        if not value:
            hint = f"set it for this command: {name}=… backout …"
            raise UsageError(f'environment "{self.name}" needs the variable {name}, which is not set', hint=hint)
        return value

    def _first_line(self, path: Path) -> str:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = str(getattr(error, "strerror", None) or "not UTF-8").lower()
            message = f'unable to read the URL of environment "{self.name}" from "{path}": {reason}'
            raise UsageError(message, hint="its first line must be the URL") from None
        if not lines[0].strip():
            raise UsageError(f'the first line of "{path}" is empty', hint=f'write the URL of "{self.name}" there')
        return lines[0].strip()


@dataclass(frozen=True)
class Config:
    """All of `backout.toml`; without a file, a project in the working directory that knows no environment."""

    path: Path | None = None  # None: there is no file
    folder: Path = field(default_factory=Path.cwd)
    name: str | None = None
    changes: Path = field(default_factory=lambda: Path.cwd() / "changes")
    bookkeeping: tuple[str, ...] = ()
    append_only: tuple[str, ...] = ()
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # table -> its own bookkeeping columns
    phi: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # table -> its columns whose values are PHI
    channels: Mapping[str, Channel] = field(default_factory=dict)  # where announcements go, by name
    environments: Mapping[str, Environment] = field(default_factory=dict)
    people: People = field(default_factory=People)
    people_file: Path | None = None  # where people are beside those in backout.toml
    allowed_signers: Path | None = None  # git's file of principals and their public keys; None: beside backout.toml
    ledger: str | None = None  # URL, may hold ${VARIABLE}; None: an SQLite file beside backout.toml
    statements: str = "ledger"  # where people's statements are written: "ledger" | "files"
    tracking: Path | None = None  # the folder of tracking files; None: "tracking" beside backout.toml

    @property
    def signers_file(self) -> Path:
        """Where the public keys of people are."""
        return self.allowed_signers or self.folder / "allowed_signers"

    @property
    def policy_files(self) -> tuple[Path, ...]:
        """The files that decide who may approve and run."""
        return tuple(one for one in (self.path, self.people_file, self.signers_file) if one is not None)

    @property
    def policy_digest(self) -> str:
        """sha256 over these files as they are on this machine; what is not there is empty."""
        contents = (one.read_bytes() if one.is_file() else b"" for one in self.policy_files)
        return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in contents)).hexdigest()

    @property
    def tracking_folder(self) -> Path:
        """Where the files of `@pre`, `@post` and of the change itself are written."""
        return self.tracking or self.folder / "tracking"

    def ledger_url(self, variables: Mapping[str, str] = os.environ) -> str:
        """Return the ledger's URL with the secrets put in; UsageError where a variable is missing."""
        if self.ledger is None:
            return f"sqlite:///{self.folder / LEDGER_FILE}"
        return _VARIABLE.sub(lambda match: _ledger_variable(match[1], variables), self.ledger)

    def policy_for(self, stamp: str) -> Policy:
        """Return the policy of a database that says it is `stamp`, by whatever URL it was reached."""
        known = self.environments.get(stamp)
        return (known or Environment(stamp)).policy

    def environment(self, name: str) -> Environment:
        """Return the environment of this name, or a nameless one for a URL or an SQLite file; UsageError otherwise."""
        if name in self.environments:
            return self.environments[name]
        url = _as_url(name)
        if url is not None:
            return Environment(name=database_name(url), url=url)
        if self.path is None:
            hint = "name a database by its URL, or make a backout.toml: backout init"
            raise UsageError(f'no environment "{name}": there is no {FILE_NAME} here or above', hint=hint)
        if not self.environments:
            raise UsageError(
                f'no environment "{name}" in {self.path}', hint=f"write [environments.{name}] with its url"
            )
        raise UsageError(f'no environment "{name}" in {self.path}', hint=suggest(name, self.environments))

    def bookkeeping_of(self, table: TableName) -> tuple[str, ...]:
        """Return the columns of this table in which a difference alone is no conflict."""
        for name in (f"{table.schema}.{table.name}", table.name):
            if name in self.tables:
                return self.tables[name]
        return self.bookkeeping

    def settings(self, environment: Environment, variables: Mapping[str, str] = os.environ) -> Settings:
        """Return what an engine needs to connect there; UsageError where the URL cannot be had."""
        timeout = environment.statement_timeout
        return Settings(
            url=environment.resolved_url(variables),
            environment=environment.name,
            role=environment.role,
            superuser_allowed=environment.superuser_allowed,
            lock_timeout_s=environment.lock_timeout.total_seconds(),
            statement_timeout_s=timeout.total_seconds() if timeout is not None else None,
            isolation=environment.isolation,
            rescue_schema=environment.rescue_schema,
            scan_limit_bytes=environment.scan_limit_bytes,
            arm=environment.arm,
            append_only=self.append_only,
            bookkeeping=self.bookkeeping,
        )


def _ledger_variable(name: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name, "")
    if not value:
        raise UsageError(
            f"the ledger needs the variable {name}, which is not set",
            hint=f"set it for this command: {name}=… backout …",
        )
    return value


def shown_url(url: str) -> str:
    """Return the URL with `***` for its password, wherever one can stand: user part, query, or libpq's key=value."""
    url = re.sub(r"(://[^/?#]*?:)[^/?#]*(@)", r"\1***\2", url)
    return re.sub(r"(?i)((?:^|[?&\s])(?:ssl)?password=)('(?:[^'\\]|\\.)*'|[^&\s#]*)", r"\1***", url)


def database_name(url: str) -> str:
    """Return the name that runs on this URL carry: the database's, or the file's without its ending."""
    if url.startswith("sqlite:"):
        name = Path(unquote(url.removeprefix("sqlite:").partition("?")[0])).stem.strip(":") or "memory"
    else:
        parts = urlsplit(url)
        name = unquote(parts.path.strip("/")) or parts.username or "database"
    return re.sub(r"[^\w.-]", "_", name)


def _as_url(name: str) -> str | None:
    if "://" in name or name.startswith("sqlite:"):
        return name
    if _SQLITE_FILE.fullmatch(name) and Path(name).is_file():
        return f"sqlite:{name}"
    return None
