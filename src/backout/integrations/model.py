"""What is sent, where to, and what came of it: plain values.

Not for: sending. Invariant: no text of these values holds a secret; an address that is one is named by its channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from backout.errors import UsageError


@dataclass(frozen=True)
class Secret:
    """Where a secret is: in a variable of the process, or in the first line of a file."""

    variable: str | None = None
    file: Path | None = None

    def read(self, variables: Mapping[str, str]) -> str:
        """Return it; UsageError, which names the place and never the secret, where it is not there."""
        if self.variable is not None:
            value = variables.get(self.variable, "").strip()
            problem = f"the variable {self.variable} is not set"
        else:
            value, problem = _first_line(self.file), f'the first line of "{self.file}" cannot be read, or is empty'
        if not value:
            raise UsageError(problem)
        return value


def _first_line(file: Path | None) -> str:
    try:
        return file.read_text(encoding="utf-8").split("\n")[0].strip() if file else ""
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True)
class Channel:
    """One place that is told. Of a webhook `secret` is the address; of e-mail the password, None where nobody logs in."""

    name: str
    kind: str  # "webhook" | "slack" | "email"
    secret: Secret | None = None
    timeout: timedelta = timedelta(seconds=10)  # of one attempt, from its beginning to its end
    attempts: int = 3
    host: str = ""
    port: int = 587
    starttls: bool = True
    ca_file: Path | None = None
    user: str | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Message:
    """What is said. `event` is "announce", "done", "cleanup" or "emergency"; `facts` are for programs."""

    event: str
    subject: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the subject and the text, as every recipient gets them."""
        return hashlib.sha256(f"{self.subject}\n\n{self.text}".encode()).hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What came of telling one recipient: a channel, or one address of its e-mail. `at` is this machine's clock, in UTC."""

    channel: str
    recipient: str
    event: str
    at: datetime
    delivered: bool
    answer: str  # the server's status, or why there was none
    attempts: int
    text_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return the receipt as it is printed and stored."""
        return {
            "channel": self.channel,
            "recipient": self.recipient,
            "event": self.event,
            "at": self.at.isoformat(timespec="seconds"),
            "delivered": self.delivered,
            "answer": self.answer,
            "attempts": self.attempts,
            "text_sha256": self.text_sha256,
        }


@dataclass(frozen=True)
class Answer:
    """What one attempt came to, for one recipient. `again`: another attempt may do better."""

    delivered: bool
    text: str
    again: bool = False
    wait_s: float | None = None  # what the server asked for
