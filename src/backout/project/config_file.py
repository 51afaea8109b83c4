"""`backout.toml` to a `Config`: found, read and checked.

Not for: what the values mean. Invariant: whatever is wrong with the file is an InvalidFile with line and column, and an
unknown key is an error, since a mistyped guard rail would silently guard nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backout.change.nearest import suggest
from backout.change.parameters import is_constant
from backout.errors import InvalidFile, Position, UsageError
from backout.gates.people import People
from backout.gates.policy import PROFILE_NAMES, PROFILES, SOLO, default_profile
from backout.project.channels import read_channels
from backout.project.config import (
    FILE_NAME,
    ISOLATIONS,
    PROOF_LEVELS,
    STATEMENT_PLACES,
    Config,
    ConnectCommand,
    Environment,
)
from backout.project.people_file import read_people, require_known_words
from backout.project.policy import POLICY_KEYS, read_policy, read_windows
from backout.project.toml_table import Table

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SECTIONS = ("project", "people", "channels", "undo", "tables", "environments")
PROJECT_KEYS = ("name", "changes", "profile", "people", "allowed_signers", "ledger", "statements", "tracking")
ENVIRONMENT_KEYS = (
    "url", "url_env", "url_file", "connect", "role", "superuser", "lock_timeout", "statement_timeout", "keep", "rescue_schema",
    "min_proof", "isolation", "scan_limit", "arm", "batch_above", "ghost_batches", "batch_time", "replica_lag", "replicas",
    "long_transaction", "pause_file",
    "wal_rate", "archive_backlog", "commit_latency", "quiet_hours", "analyze",
    "program_time", "program_idle", "program_statement", "agree_within", "watcher", "watcher_gone",
    "outbound", "parameters", *POLICY_KEYS,
)  # fmt: skip


def find_config(start: Path) -> Path | None:
    """Return the nearest `backout.toml` in `start` or above it."""
    folder = start.resolve()
    return next((one / FILE_NAME for one in (folder, *folder.parents) if (one / FILE_NAME).is_file()), None)


def load_config(path: Path | None = None, start: Path | None = None) -> Config:
    """Return the configuration in `path`, else the nearest one from `start` upward, else an empty one."""
    found = path or find_config(start or Path.cwd())
    if found is None:
        folder = (start or Path.cwd()).resolve()
        return Config(folder=folder, changes=folder / "changes")
    return read_config(found)


def read_config(path: Path) -> Config:
    """Return the configuration in this file; InvalidFile for its content, UsageError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(f'unable to read "{path}": {reason}', hint="backout init makes one") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidFile("not UTF-8", Position(str(path), line, 1), hint="save the file as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Return the configuration in this text; `path` is named in errors, and relative paths start from its folder."""
    root = Table(text, str(path), (), _toml(text, str(path)))
    root.only(_SECTIONS)
    project, undo = root.table("project"), root.table("undo")
    project.only(PROJECT_KEYS)
    undo.only(("bookkeeping", "append_only"))
    folder = path.resolve().parent
    own = root.tables("tables", ("bookkeeping", "phi"))
    tables = {name: one.names("bookkeeping") for name, one in own if "bookkeeping" in one.content}
    phi = {name: one.names("phi") for name, one in own if "phi" in one.content}
    people_file, signers = project.text("people"), project.text("allowed_signers")
    people = read_people(root, folder / people_file if people_file is not None else None)
    profile = project.choice("profile", PROFILE_NAMES, "") if "profile" in project.content else None
    tables_of = dict(root.tables("environments", ENVIRONMENT_KEYS))
    environments = {name: _environment(name, one, folder, profile, people) for name, one in tables_of.items()}
    rungs = {lower for one in environments.values() for lower in one.policy.after}
    # The project's profile is for the top of the ladder: where one rehearses, nothing has been rehearsed yet.
    environments |= {
        name: _environment(name, tables_of[name], folder, SOLO, people)
        for name in rungs & set(environments)
        if "profile" not in tables_of[name].content
    }
    _require_ladder(root, environments)
    return Config(
        path=path,
        folder=folder,
        name=project.text("name"),
        changes=folder / (project.text("changes") or "changes"),
        bookkeeping=undo.names("bookkeeping"),
        append_only=undo.names("append_only"),
        tables=tables,
        phi=phi,
        channels=read_channels(root, folder),
        environments=environments,
        people=people,
        people_file=folder / people_file if people_file is not None else None,
        allowed_signers=folder / signers if signers is not None else None,
        ledger=project.text("ledger"),
        statements=project.choice("statements", STATEMENT_PLACES, "ledger"),
        tracking=folder / tracking if (tracking := project.text("tracking")) is not None else None,
    )


def _require_ladder(root: Table, environments: Mapping[str, Environment]) -> None:
    """An `after` that is written names environments that there are, and never itself."""
    for name, table in root.tables("environments", ENVIRONMENT_KEYS):
        for lower in environments[name].policy.after if "after" in table.content else ():
            if lower == name or lower not in environments:
                others = [one for one in environments if one != name]
                problem = "itself" if lower == name else f'"{lower}", which is not an environment'
                raise table.error(f'key "after" names {problem}', "after", suggest(lower, others))


def _environment(name: str, table: Table, folder: Path, profile: str | None, people: People) -> Environment:
    if not _NAME.fullmatch(name):
        raise table.error(f'environment "{name}" is not a name', hint="use letters, digits, dots, hyphens, underscores")
    given = [key for key in ("url", "url_env", "url_file") if table.text(key) is not None]
    if len(given) != 1:
        problem = "no URL" if not given else f"more than one URL: {', '.join(given)}"
        raise table.error(
            f'environment "{name}" has {problem}', hint='write url = "…", url_env = "…" or url_file = "…"'
        )
    file = table.text("url_file")
    default = Environment(name)
    parameters = table.table("parameters")
    for key, value in parameters.content.items():
        if not is_constant(value):
            raise parameters.error(f'parameter "{key}" is neither a value nor a list of one type', key)
    policy = read_policy(name, table, profile)
    require_known_words(table, policy, people)
    return Environment(
        name=name,
        url=table.text("url"),
        url_env=table.text("url_env"),
        url_file=folder / file if file is not None else None,
        connect=_connect(table),
        role=table.text("role"),
        superuser_allowed=table.choice("superuser", ("refuse", "allow"), "refuse") == "allow",
        lock_timeout=table.duration("lock_timeout") or default.lock_timeout,
        statement_timeout=table.duration("statement_timeout"),
        keep=table.duration("keep") or default.keep,
        rescue_schema=table.text("rescue_schema") or default.rescue_schema,
        min_proof=table.choice("min_proof", PROOF_LEVELS, default.min_proof),
        isolation=table.choice("isolation", ISOLATIONS, default.isolation),
        scan_limit_bytes=default.scan_limit_bytes if (limit := table.size("scan_limit")) is None else limit,
        arm=table.names("arm"),
        batch_above=table.count("batch_above"),
        ghost_batches=table.count("ghost_batches"),
        batch_time=table.duration("batch_time") or default.batch_time,
        replica_lag=table.duration("replica_lag") or default.replica_lag,
        replicas=table.names("replicas"),
        long_transaction=table.duration("long_transaction"),
        pause_file=table.text("pause_file"),
        wal_rate_bytes=table.size("wal_rate"),
        archive_backlog_bytes=table.size("archive_backlog"),
        commit_latency=table.duration("commit_latency"),
        quiet_hours=read_windows(table, "quiet_hours"),
        analyze=table.flag("analyze"),
        program_time=table.duration("program_time"),
        program_idle=table.duration("program_idle") or default.program_idle,
        program_statement=table.duration("program_statement"),
        agree_within=table.duration("agree_within") or default.agree_within,
        watcher=table.choice("watcher", ("optional", "required"), default.watcher),
        watcher_gone=table.duration("watcher_gone") or default.watcher_gone,
        outbound=table.choice("outbound", ("none", "real"), default.outbound),
        parameters=parameters.content,
        given_policy=None if policy == PROFILES[default_profile(name)] else policy,
    )


def _connect(table: Table) -> ConnectCommand | None:
    if "connect" not in table.content:
        return None
    connect = table.table("connect")
    connect.only(("command", "ready", "timeout"))
    words, ready = connect.names("command"), connect.text("ready")
    if not words:
        raise connect.error('key "connect" has no command', hint='connect = {command = ["ssh", "-N", "…"]}')
    try:
        re.compile(ready or "")
    except re.error as error:
        raise connect.error(f'key "ready" is not a pattern: {error}', "ready", 'ready = "Forwarding from"') from None
    return ConnectCommand(words, ready, connect.duration("timeout") or ConnectCommand(words).timeout)


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = _TOML_PLACE.sub("", str(error))
        match = _TOML_PLACE.search(str(error))
        lines = text.split("\n")
        position = Position(file, len(lines), len(lines[-1]) + 1)
        if match and match[1]:
            position = Position(file, int(match[1]), int(match[2]))
        raise InvalidFile(f"not valid TOML: {message[:1].lower()}{message[1:]}", position) from None
    except RecursionError:
        raise InvalidFile("not valid TOML: nested too deeply", Position(file, 1, 1)) from None
