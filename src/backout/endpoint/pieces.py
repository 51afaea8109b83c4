"""One statement of a client's message, as far as the endpoint needs to know it.

Not for: how it is found out (`statements.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NOT_SUPPORTED, SYNTAX, NOT_UTF8, ACTIVE_TRANSACTION, NO_TRANSACTION, RESERVED, NOT_NOW = (
    "0A000", "42601", "22021", "25001", "25P01", "42939", "55000",
)  # fmt: skip
#: The savepoint behind which a client's own transaction lives. Names that begin so are ours.
GUARD = "_backout_guard"


class Control(Enum):
    """What a statement does to the transaction."""

    NONE = "none"
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"  # of the client, inside its transaction: passed on


@dataclass(frozen=True)
class Refusal:
    """Why a statement is not passed on, as the client's driver will see it."""

    sqlstate: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Setting:
    """A setting that a statement changes: until the end of the client's transaction, or of its session."""

    name: str
    local: bool


@dataclass(frozen=True)
class Piece:
    """One statement of a message. `text` is what is forwarded, `said` what the client wrote where that is another."""

    text: str
    control: Control = Control.NONE
    chain: bool = False  # AND CHAIN
    refusal: Refusal | None = None
    deallocates: str | None = None  # the prepared statement, "" for all
    copies_in: bool = False  # COPY … FROM STDIN: the client's data follow
    only_reads: bool = False  # for certain: no function of the user's is called, no row is locked
    read_only: bool = False  # BEGIN READ ONLY
    settings: tuple[Setting, ...] = ()
    resets_all: bool = False  # RESET ALL: the settings of this client
    defers: bool = False  # SET CONSTRAINTS
    rolls_back: bool = False  # ROLLBACK TO, of the client's
    portal: str | None = None  # DECLARE CURSOR: its name; it ends with the client's transaction
    prepares: str | None = None  # PREPARE: its name
    tables: tuple[tuple[str | None, str], ...] = ()  # that it writes, as it names them
    drops: str | None = None  # CREATE TEMP TABLE … ON COMMIT DROP: its name
    said: str | None = None
    asks: bool = False  # for the bounds of the next batch; `text` says them once there are any
    looks: bool = False  # SHOW "backout.diff", which the endpoint answers where it can

    @property
    def original(self) -> str:
        """The statement as the client wrote it."""
        return self.text if self.said is None else self.said
