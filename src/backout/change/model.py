"""The change as a value: what a person wrote, parsed and bound to its digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, timedelta
    from pathlib import Path

    from backout.sql.model import Dialect, Statement


#: Line comments of the languages that a change can be written in. Those but .sql and .py say in their metadata how to run.
COMMENTS = {
    ".sql": "--", ".py": "#", ".rb": "#", ".rake": "#", ".sh": "#", ".pl": "#", ".ex": "#", ".exs": "#", ".js": "//",
    ".mjs": "//", ".cjs": "//", ".ts": "//", ".php": "//", ".go": "//", ".kts": "//",
}  # fmt: skip


class DataClass(Enum):
    """How sensitive the rows are; PHI never leaves the database in an insecure form."""

    PHI = "phi"
    INTERNAL = "internal"
    PUBLIC = "public"


@dataclass(frozen=True)
class Expectation:
    """`@expect LOW..HIGH`: how many rows the next writing statement must report.

    A bound is an integer or the name of a parameter (without the colon).
    """

    low: int | str
    high: int | str
    line: int


@dataclass(frozen=True)
class Batching:
    """`@batch TABLE by=KEY[,KEY] [size=auto|N]`: the next statement runs in batches over that key, each committed."""

    table: str  # as written: bare, or with its schema
    by: tuple[str, ...]  # columns, in the order of an index
    size: int | None  # rows that a batch looks at; None: found by the time that they take
    line: int


@dataclass(frozen=True)
class SubsetKey:
    """`@subset TABLE by=KEY`: with `--subset` the next statement is limited to some values of that column."""

    table: str  # as in the catalogue: bare, or with its schema
    by: str
    line: int


class StepKind(Enum):
    """The part that a statement plays in a change."""

    APPLY = "apply"
    ASSERT = "assert"
    PRE = "pre"
    POST = "post"
    AFTER = "after"


@dataclass(frozen=True)
class Step:
    """One statement of the change with the directives bound to it."""

    kind: StepKind
    statement: Statement
    title: str | None = None  # of @assert, @pre, @post, @after
    expectation: Expectation | None = None
    batching: Batching | None = None
    total: Expectation | None = None  # `@expect total LOW..HIGH`: over all batches
    subset: SubsetKey | None = None


@dataclass(frozen=True)
class Declaration:
    """A parameter whose value differs per environment: `name = {type = "date", per_environment = true}`."""

    type: str  # one of `backout.change.parameters.TYPES`


@dataclass(frozen=True)
class OwnTests:
    """`[test]`: what the change's own tests need. Paths are relative to the change.

    `file` is part of the digest: it is the author's claim about the change. `schema` and `seed` are not: they describe
    the database around it, and would void every approval with each migration.
    """

    schema: str
    seed: str | None = None
    file: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # values of those that differ per environment


@dataclass(frozen=True)
class Metadata:
    """The TOML block of the change file."""

    title: str
    request: str | None = None
    requested_by: str | None = None
    author: str | None = None
    data: DataClass = DataClass.INTERNAL
    risk: str | None = None
    mitigation: str | None = None
    backout: str = "generated"
    date: date | None = None  # by when it was asked for, or of the request
    links: tuple[str, ...] = ()  # to tickets, dashboards, logs, earlier results
    dialect: Dialect | None = None
    run: tuple[str, ...] = ()  # how to start a program of another language; "{file}" is the change's own path
    batch: Batching | None = None  # of a program: the table that it goes through by backout.next_batch()
    env: Mapping[str, str] = field(default_factory=dict)  # variables for it; may name {host}, {port} and others
    network: str | None = None  # of the program: "endpoint" is all that it can reach, "open"; None: what works here
    outbound: str | None = None  # "handled": in a ghost run it tells other systems nothing
    limits: Mapping[str, timedelta] = field(default_factory=dict)  # of the program: "total", "idle", "statement"
    idempotent: bool = False  # run again, it changes nothing; a rehearsal checks it
    session: bool = False  # what it does is typed at a prompt, by two people; see docs/how-to/pair.md
    repeat: bool = False  # a temporary task: may run many times on an environment, each time as a run of its own
    tracking: str | None = None  # "files", "summary"; None: files, unless the rows are PHI
    parameters: Mapping[str, Any] = field(default_factory=dict)  # name -> value that is the same everywhere
    declarations: Mapping[str, Declaration] = field(default_factory=dict)  # name -> differs per environment
    tests: OwnTests | None = None
    first_line: int = 1  # of the block in the file: `/// change`
    last_line: int = 1  # of the block in the file: `///`


@dataclass(frozen=True)
class Change:
    """A parsed change; `identifier` is the file's stem."""

    identifier: str
    path: Path
    language: str  # "sql", "python" or "program"
    dialect: Dialect
    text: str  # the canonical text: UTF-8, LF
    digest: str  # sha256, lower-case hexadecimal
    metadata: Metadata
    steps: tuple[Step, ...]  # empty for a Python change
    is_private: bool = False  # it is in the ledger, encrypted, and `path` is where no file is
    batching: Batching | None = None  # of a Python change: its loop over `db.batches(…)`
