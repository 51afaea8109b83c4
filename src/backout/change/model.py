"""The change as a value: what a person wrote, parsed and bound to its digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backout.sql.model import Dialect, Statement


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


@dataclass(frozen=True)
class Declaration:
    """A parameter whose value differs per environment: `name = {type = "date", per_environment = true}`."""

    type: str  # one of `backout.change.parameters.TYPES`


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
    dialect: Dialect | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # name -> value that is the same everywhere
    declarations: Mapping[str, Declaration] = field(default_factory=dict)  # name -> differs per environment
    first_line: int = 1  # of the block in the file: `/// change`
    last_line: int = 1  # of the block in the file: `///`


@dataclass(frozen=True)
class Change:
    """A parsed change; `identifier` is the file's stem."""

    identifier: str
    path: Path
    language: str  # "sql" or "python"
    dialect: Dialect
    text: str  # the canonical text: UTF-8, LF
    digest: str  # sha256, lower-case hexadecimal
    metadata: Metadata
    steps: tuple[Step, ...]  # empty for a Python change
