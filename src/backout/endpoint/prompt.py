"""The built-in prompt: a person types statements, and each is one message to the endpoint, as any client's.

Not for: the terminal (`cli/terminal.py`), or what becomes of the run. Invariant: it is a client like any other; what it
sends passes through the same conversation, and what it has not committed is taken back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from backout.endpoint.frames import Stream, message, text
from backout.endpoint.server import Endpoint
from backout.endpoint.statements import DIFF
from backout.errors import RolledBack

_LOOK_S = 0.2  # how often is asked whether the session has to end, while nothing is typed
_MOST_ROWS = 1000  # that are shown of a query
_STATES = {b"I": "", b"T": "*", b"E": "!"}  # as psql's %x


class Terminal(Protocol):
    """Where the person is."""

    def line(self, prompt: str | None, patience_s: float) -> str | None:
        """The next line with its end, empty at the end of the input; None: nothing yet. None as prompt: shown already."""

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
        """Show what a query found."""

    def say(self, said: str) -> None:
        """Show a line."""


def converse(endpoint: Endpoint, terminal: Terminal, head: str, trouble: Callable[[], str | None]) -> None:
    """Talk until the person ends it. Raises RolledBack where `trouble` has something to say, or they take it back.

    `head` is what every prompt begins with; behind it stands the transaction's state.
    """
    prompt = _Prompt(endpoint, terminal, trouble)
    try:
        prompt.run(head)
    finally:
        prompt.close()


class _Prompt:
    def __init__(self, endpoint: Endpoint, terminal: Terminal, trouble: Callable[[], str | None]) -> None:
        ours, its = socket.socketpair()
        endpoint.serve_known(its)
        self._socket, self._stream = ours, Stream()
        self._terminal, self._trouble = terminal, trouble
        self._status = b"I"
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[str | None, ...]] = []

    def close(self) -> None:
        """Say goodbye."""
        with suppress(OSError):  # the endpoint may have ended the conversation before us
            self._socket.sendall(message(b"X"))
        self._socket.close()

    def run(self, head: str) -> None:
        """Read statements up to a semicolon, and words that begin with a backslash."""
        typed = ""
        while True:
            state = _STATES[self._status]
            line = self._line(f"{head} {'-' if typed else state}> ")
            word = line.strip()
            if not line or (not typed.strip() and word in ("\\q", "\\commit", "\\rollback")):
                self._leave(word)
                return
            if not typed.strip() and word == "\\backout diff":
                self._send(f'SHOW "{DIFF}"')
                continue
            if not typed.strip() and word.startswith("\\"):
                self._terminal.say(
                    "known are \\backout diff (what was changed so far), \\commit and \\q (it is done: let both agree), and "
                    "\\rollback (give it up)"
                )
                continue
            typed += line
            if word.endswith(";"):
                self._send(typed)
                typed = ""

    def _leave(self, word: str) -> None:
        if word == "\\rollback":
            raise RolledBack("given up at the prompt", hint="nothing was changed")
        if self._status == b"T" and word == "\\commit":
            self._send("COMMIT")
        elif self._status != b"I":
            self._terminal.say("note: what your open transaction did is taken back, since it was not committed")

    def _line(self, prompt: str) -> str:
        shown: str | None = prompt
        while True:
            line = self._terminal.line(shown, _LOOK_S)
            if line is not None:
                return line
            shown = None
            self._require_no_trouble()

    def _send(self, said: str) -> None:
        self._socket.sendall(message(b"Q", text(said.strip().replace("\0", ""))))
        self._socket.settimeout(_LOOK_S)
        while True:
            for code, payload in self._stream.messages():
                kind = bytes((code,))
                if kind == b"Z":
                    self._status = payload
                    return
                if kind == b"G":
                    self._socket.sendall(message(b"f", text("COPY needs a client such as psql")))
                else:
                    self._show(kind, payload)
            self._receive()

    def _show(self, kind: bytes, payload: bytes) -> None:
        if kind == b"T":
            self._columns, self._rows = _columns(payload), []
        elif kind == b"D" and len(self._rows) < _MOST_ROWS:
            self._rows.append(_row(payload))
        elif kind == b"C":
            if self._columns:
                self._terminal.rows(self._columns, self._rows)
            self._columns = ()
            self._terminal.say(payload[:-1].decode(errors="replace"))
        elif kind in (b"E", b"N"):
            self._terminal.say(_said(payload))

    def _receive(self) -> None:
        try:
            received = self._socket.recv(1 << 16)
        except TimeoutError:
            self._require_no_trouble()
            return
        if not received:
            self._require_no_trouble()
            raise RolledBack("the endpoint ended the session", hint="nothing was changed; run it again")
        self._stream.add(received)

    def _require_no_trouble(self) -> None:
        problem = self._trouble()
        if problem is not None:
            raise RolledBack(problem, hint="nothing was changed; begin again")


def _columns(payload: bytes) -> tuple[str, ...]:
    """The names in a RowDescription: after each name 18 bytes of numbers (manual 55.7)."""
    count, at = int.from_bytes(payload[:2], "big"), 2
    names = []
    for _ in range(count):
        end = payload.index(b"\0", at)
        names.append(payload[at:end].decode(errors="replace"))
        at = end + 19
    return tuple(names)


def _row(payload: bytes) -> tuple[str | None, ...]:
    """The values of a DataRow, which a simple query sends as text."""
    count, at = int.from_bytes(payload[:2], "big"), 2
    values: list[str | None] = []
    for _ in range(count):
        length = int.from_bytes(payload[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if length < 0 else payload[at : at + length].decode(errors="replace"))
        at += max(length, 0)
    return tuple(values)


def _said(payload: bytes) -> str:
    """An error or a notice in one line, with its detail and hint."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
    lines = [f"{fields.get(b'S', 'ERROR')}: {fields.get(b'M', '?')}"]
    lines += [f"{word}: {fields[key]}" for key, word in ((b"D", "detail"), (b"H", "hint")) if key in fields]
    return "; ".join(lines)
