"""What came through the endpoint: each statement with its parameters, its time, its rows and how it ended.

Lines of JSON, each with the SHA-256 of the line before it and itself, so that none can be changed, left out or added
without all that follow. Where they are kept is the engine's (`Loan.keep`): in the database, since they hold values.

Not for: what is shown of them (`runs/emitted.py`). Invariant: at most `_WAITING` bytes wait to be kept.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import gmtime, perf_counter, strftime, time

from backout.endpoint.frames import Malformed

#: Takes lines with their hashes, durably.
Keep = Callable[[Sequence[tuple[int, str, str]]], None]
_WAITING = 8 << 20
_DATA = 1 << 20  # of a COPY: what is kept of it, for `replay`
START = "0" * 64
_SHORT, _SIGNED = struct.Struct("!H"), struct.Struct("!i")
#: One encoder for all: json.dumps makes a new one where it is told how, which takes as long as the rest [measured].
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Noted:
    """The statements of one message, which are answered one after the other; `parameters` is the rest of a Bind."""

    transcript: Transcript
    client: int
    texts: tuple[str, ...]
    parameters: bytes = b""
    types: bytes = b""  # of Parse: the oids of the parameters' types
    at: float = field(default_factory=time)
    began: float = field(default_factory=perf_counter)
    answered: int = 0
    data: bytearray | None = None  # what a COPY sends
    size: int = 0
    covers: int = 0  # BEGIN, ROLLBACK: so many lines before it belong to its transaction, which no BEGIN stands before

    def complete(self, tag: str) -> None:
        """The statement at hand has ended well; `tag` as in CommandComplete."""
        if self.answered < len(self.texts):
            self.transcript.done += 1
        self._end(tag)

    def fail(self, sqlstate: str) -> None:
        """It has not, and nothing of the message comes after it."""
        self._end(f"ERROR {sqlstate}")
        self.answered = len(self.texts)

    def refuse(self, sqlstate: str) -> None:
        """It was not passed on."""
        self._end(f"refused {sqlstate}")

    def copied(self, sent: bytes) -> None:
        """Data of a COPY; whole messages."""
        self.size += len(sent)
        if self.data is None:
            self.data = bytearray()
        if len(self.data) <= _DATA:
            self.data += sent

    def _end(self, outcome: str) -> None:
        if self.answered >= len(self.texts):
            return
        text = self.texts[self.answered]
        self.answered += 1
        now = perf_counter()
        self.transcript.add(_Ended(self, text, outcome, (now - self.began) * 1000))
        self.began = now


@dataclass(slots=True)
class _Ended:
    noted: Noted
    text: str
    outcome: str
    milliseconds: float

    @property
    def size(self) -> int:
        return 200 + len(self.text) + len(self.noted.parameters) + len(self.noted.data or b"")


class Transcript:
    """Grows while clients talk; `flush` is called by any thread."""

    def __init__(self, keep: Keep) -> None:
        self.statements = 0
        self.done = 0  # of them, that ended well
        self.tables: set[tuple[str | None, str]] = set()  # that the statements named and wrote
        self.names: dict[int, str] = {}  # what the clients call themselves
        self.head = START
        self._keep = keep
        self._ended: deque[_Ended] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._number = 0

    def go_on_behind(self, number: int, head: str) -> None:
        """A run that is resumed has lines already."""
        self._number = self.statements = number
        self.head = head

    def add(self, ended: _Ended) -> None:
        """What was done."""
        self.statements += 1
        self._ended.append(ended)
        self._waiting += ended.size
        if self._waiting > _WAITING:
            self.flush()

    def flush(self) -> None:
        """Keep what waits. Raises what `Keep` raises."""
        with self._lock:
            lines = []
            while self._ended:
                ended = self._ended.popleft()
                self._waiting -= ended.size
                self._number += 1
                line = _line(self._number, ended)
                self.head = chained(self.head, line)
                lines.append((self._number, line, self.head))
            if lines:
                self._keep(lines)


def chained(before: str, line: str) -> str:
    """The hash of a line that follows the one with the hash `before`."""
    return hashlib.sha256(f"{before}\n{line}".encode()).hexdigest()


def _line(number: int, ended: _Ended) -> str:
    """By hand, since it is on the way of every statement: what repeats itself is encoded once (21 µs, now 4 [measured]).

    PostgreSQL's text takes no NUL; a statement has none either, and JSON escapes it where a parameter has one.
    """
    noted = ended.noted
    second, fraction = divmod(noted.at, 1)
    rows = rows_of(ended.outcome)
    name = noted.transcript.names.get(noted.client)
    line = (
        f'{{"n":{number},"at":"{_second(int(second))}.{int(fraction * 1000):03d}Z","client":{noted.client},'
        f'"statement":{_text_as_json(ended.text)},"outcome":{_text_as_json(ended.outcome)},'
        f'"rows":{"null" if rows is None else rows},"ms":{ended.milliseconds:.3f}'
    )
    if name:
        line += f',"name":{_text_as_json(name)}'
    if noted.parameters:
        values = ",".join(map(_value_as_json, parameters_of(noted.parameters)))
        line += f',"parameters":[{values}],"types":{_types(noted.types)}'
    if noted.covers:
        line += f',"covers":{noted.covers}'
    if noted.data is not None:
        data = noted.data.hex() if noted.size <= _DATA else None
        line += f',"copied":{noted.size},"data":{_as_json(data)}'
    return line + "}"


def _value_as_json(value: str | dict[str, str] | None) -> str:
    """A list would be encoded by an encoder that is made for it: 3 µs more [measured]."""
    return "null" if value is None else _as_json(value)


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))


@lru_cache(maxsize=1024)
def _text_as_json(text: str) -> str:
    return _as_json(text)


@lru_cache(maxsize=1024)
def rows_of(outcome: str) -> int | None:
    """The number of rows in a command tag such as `INSERT 0 5`; None where it has none."""
    last = outcome.rpartition(" ")[2]
    return int(last) if last.isdigit() and not outcome.startswith(("ERROR", "refused")) else None


def parameters_of(bound: bytes) -> list[str | dict[str, str] | None]:
    """The values in the rest of a Bind (formats, values, formats of the answer): text, or hexadecimal where binary."""
    try:
        (formats_count,) = _SHORT.unpack_from(bound)
        formats = struct.unpack_from(f"!{formats_count}H", bound, 2) if formats_count else ()
        at = 2 + 2 * formats_count
        (count,) = _SHORT.unpack_from(bound, at)
        at += 2
        found: list[str | dict[str, str] | None] = []
        for place in range(count):
            (length,) = _SIGNED.unpack_from(bound, at)
            at += 4
            if length < 0:
                found.append(None)
                continue
            value = bound[at : at + length]
            at += length
            kind = 0 if not formats else formats[place if len(formats) > 1 else 0]
            found.append({"binary": value.hex()} if kind else _text(value))
        return found
    except (struct.error, IndexError):
        raise Malformed("a Bind that ends too early") from None


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"text": value.hex()}


@lru_cache(maxsize=1024)
def _types(rest: bytes) -> list[int]:
    """Not to be changed by who gets it."""
    try:
        (count,) = struct.unpack_from("!H", rest)
        return list(struct.unpack_from(f"!{count}I", rest, 2))
    except struct.error:
        return []
