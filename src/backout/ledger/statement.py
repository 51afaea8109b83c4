"""A statement: what one person says about one digest on one environment, and the bytes of it that they sign.

Not for: signing (`signing`) or judging (`gates`). Invariant: the canonical bytes say everything that a statement means,
so that nothing outside of them (a ledger's row, a file's name) can change it; reading them back gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Any

from backout.ledger.entry import STATEMENT, canonical

FORMAT = "backout statement 1"


class Kind(Enum):
    """What can be said."""

    SUBMIT = "submit"  # this is the text to be reviewed; who says so wrote it or edited it last
    APPROVE = "approve"  # details: approval, checklist
    REJECT = "reject"  # details: approval, why; stands until the same person approves
    CONSENT = "consent"  # of the product owner
    ANNOUNCE = "announce"  # the receipt: details: to, database_at
    OBJECT = "object"  # details: why
    WITHDRAW = "withdraw"  # details: statement; of one's own objection
    OVERRULE = "overrule"  # details: statement, why; of another's objection
    CLAIM = "claim"  # details: why, take_over
    RELEASE = "release"
    CERTIFICATE = "certificate"  # details: see `gates.evidence.Certificate`
    ATTEST = "attest"  # details: run, saw
    AGREE = "agree"  # to what a session has done: details: run, content
    REFUSE = "refuse"  # the same, no: details: run, content, why
    REVIEW = "review"  # of an emergency: details: run
    REVEAL = "reveal"  # of rows that are PHI, to whoever says so: details: run
    RESTORE = "restore"  # a backup takes the place of a database: details: backup
    RESTAMP = "restamp"  # a database is told which environment it is: details: from, identity
    RETAIN = "retain"  # details: run, until, why
    RUN = "run"  # details: see `project.run_entries`; says the operator


@dataclass(frozen=True)
class Statement:
    """`person` is an address of `allowed_signers`, or an account's name; `at` is the speaker's clock, in UTC."""

    kind: Kind
    change: str
    digest: str
    environment: str
    person: str
    at: datetime
    details: Mapping[str, Any] = field(default_factory=dict)
    project: str | None = None

    @cached_property
    def text(self) -> str:
        """The canonical text, which is signed as UTF-8."""
        return canonical(
            {
                "format": FORMAT,
                "kind": self.kind.value,
                "change": self.change,
                "digest": self.digest,
                "environment": self.environment,
                "person": self.person,
                "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                "details": dict(self.details),
                "project": self.project,
            }
        )

    @property
    def identifier(self) -> str:
        """By which other statements name this one: sha256 of the canonical text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Signed:
    """A statement with its signature, in the armour of `ssh-keygen -Y sign`; None: it is unsigned."""

    statement: Statement
    signature: str | None

    @property
    def body(self) -> str:
        """The body of its entry in the ledger, and the content of its file."""
        return canonical({"kind": STATEMENT, "statement": self.statement.text, "signature": self.signature})


def read_statement(text: str) -> Statement:
    """Return the statement that this canonical text is; ValueError where it is none, or not the canonical one."""
    try:
        value = json.loads(text)
        statement = Statement(
            Kind(value["kind"]), _text(value, "change"), _text(value, "digest"), _text(value, "environment"),
            _text(value, "person"), datetime.fromisoformat(_text(value, "at")), dict(value["details"]),
            None if value["project"] is None else _text(value, "project"),
        )  # fmt: skip
        is_canonical = statement.at.tzinfo is not None and statement.text == text
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a statement: {type(error).__name__}") from None
    if not is_canonical:
        raise ValueError("not the canonical text of a statement")
    text.encode()  # ValueError for half a character, which JSON can hold and nobody can have signed
    return statement


def read_signed(content: Mapping[str, Any]) -> Signed:
    """Return the statement of a body; ValueError where it is none."""
    text, signature = content.get("statement"), content.get("signature")
    if content.get("kind") != STATEMENT or not isinstance(text, str) or not isinstance(signature, str | None):
        raise ValueError("not the body of a statement")
    return Signed(read_statement(text), signature)


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise TypeError(key)
    return text
