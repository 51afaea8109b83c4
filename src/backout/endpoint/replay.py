"""The statements of a recorded session once more, on another database, as a run of its own.

Each of the recorded clients is one here as well. A statement is sent as it was recorded, with its parameters; whether
it is compared with what it did then is the caller's word (`exact`). COMMIT and ROLLBACK are sent as what they were
answered with, since a failed transaction answers COMMIT with ROLLBACK. What stood or fell together without a BEGIN before it
(several statements in one query, a pipeline) has one here where it fell, or became part of a transaction (`covers`). A
client leaves behind its last statement, and what it has not committed goes with it.

Not for: where the lines are from. Invariant: a line without all that it needs is refused before anything is written.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from backout.endpoint import frames
from backout.endpoint.frames import Stream, message, text
from backout.endpoint.serve import lending
from backout.endpoint.server import Endpoint
from backout.endpoint.transcript import rows_of
from backout.engines.protocol import Transaction
from backout.errors import Refused, RolledBack
from backout.runs.recorder import Served
from backout.sql.libpg_query import without_values

Line = Mapping[str, Any]
_MOST_TOLD = 10


def require_replayable(lines: Sequence[Line]) -> None:
    """Raises Refused where a statement cannot be sent again as it was."""
    for line in lines:
        if line.get("copied") is not None and line.get("data") is None:
            raise Refused(
                "replay", f"statement {line['n']} copied {line['copied']} bytes, of which the transcript has the number alone",
                hint="run the change itself there; data of COPY are kept up to 1 MB",
            )  # fmt: skip


def replay(transaction: Transaction, run: int, lines: Sequence[Line], *, exact: bool) -> Served:
    """Send them. Raises RolledBack where one does something else than it did, and `exact` asks for that."""
    lends = lending(transaction)
    with lends.lend() as loan:
        endpoint = Endpoint(loan, user="backout", keep=lambda kept: lends.transcribe(run, kept))
        with endpoint:
            try:
                differing = _played(endpoint, lines)
            finally:
                endpoint.close()
                endpoint.transcript.flush()
    if differing and exact:
        raise RolledBack(
            f"{len(differing)} of {len(lines)} statements did not do what they did when they were recorded: {differing[0]}",
            hint="look at the rows that they are about; without --exact it is reported, and goes on",
        )
    transcript = endpoint.transcript
    notes = [f"{len(differing)} of {len(lines)} statements did not do what they did when they were recorded"]
    notes += differing[:_MOST_TOLD]
    if not differing:
        notes = [f"all of {len(lines)} statements did what they did when they were recorded"]
    head = {"statements": transcript.statements, "sha256": transcript.head}
    return Served(tuple(notes), head, frozenset(transcript.tables))


def _played(endpoint: Endpoint, lines: Sequence[Line]) -> list[str]:
    """What did something else than it did. Raises RolledBack."""
    players: dict[int, _Player] = {}
    differing = []
    begun = {line["n"] - line["covers"] for line in lines if "covers" in line}
    last = {line["client"]: line["n"] for line in lines}
    try:
        for line in lines:
            if line["client"] not in players:
                players[line["client"]] = _Player(endpoint)
            player = players[line["client"]]
            if line["n"] in begun:
                player.begin()
            difference = player.play(line)
            if difference is not None:
                differing.append(difference)
            if line["n"] == last[line["client"]]:
                players.pop(line["client"]).close()
            if endpoint.record.problems:
                raise RolledBack(endpoint.record.problems[0], hint="nothing was changed; run it again")
    finally:
        for player in players.values():
            player.close()
    return differing


def _compared(line: Line, outcome: str) -> str | None:
    then, now = line["outcome"], outcome
    if then == now or (rows_of(then) is not None and rows_of(then) == rows_of(now)):
        return None
    what = without_values(line["statement"])
    return f'statement {line["n"]} ended with "{now}", and with "{then}" when it was recorded: {what}'


class _Player:
    """One client of the endpoint, in our own process."""

    def __init__(self, endpoint: Endpoint) -> None:
        ours, its = socket.socketpair()
        ours.settimeout(None)
        endpoint.serve_known(its)
        self._socket, self._stream = ours, Stream()

    def close(self) -> None:
        """Say goodbye, and wait until what it has left is gone."""
        with self._socket, suppress(OSError):
            self._socket.sendall(message(b"X"))
            while self._socket.recv(1 << 16):
                pass

    def begin(self) -> None:
        """A transaction that had no BEGIN of its own."""
        self._socket.sendall(message(b"Q", text("BEGIN")))
        self._outcome({})

    def play(self, line: Line) -> str | None:
        """Send one statement; what was different, in words, or None."""
        if line["outcome"].startswith("refused"):  # another version may refuse something else: what nobody can read
            self._socket.sendall(message(b"Q", text(f"refused: {line['statement']}")))
            self._outcome(line)
            return None
        if "covers" in line and line["outcome"] == "BEGIN":
            return None  # it has begun before what it covers
        return _compared(line, self._sent(line))

    def _sent(self, line: Line) -> str:
        """How the statement has ended, in the words of the transcript."""
        said = line["statement"]
        if line["outcome"] == "ROLLBACK" and said.lower().startswith(("commit", "end")):
            said = "ROLLBACK AND CHAIN" if " chain" in said.lower() else "ROLLBACK"
        if "parameters" in line:
            bound = _bound(line["parameters"])
            types = b"".join(struct.pack("!I", one) for one in line["types"])
            parse = message(b"P", b"\0" + text(said) + struct.pack("!H", len(line["types"])) + types)
            execute = message(b"E", b"\0" + struct.pack("!I", 0))
            self._socket.sendall(parse + message(b"B", b"\0\0" + bound) + execute + frames.SYNC)
        else:
            self._socket.sendall(message(b"Q", text(said)))
        return self._outcome(line)

    def _outcome(self, line: Line) -> str:
        outcome = ""
        while True:
            for code, payload in self._stream.messages():
                kind = bytes((code,))
                if kind == b"Z":
                    return outcome
                if kind == b"C" and not outcome:
                    outcome = payload[:-1].decode()
                elif kind == b"E":
                    fields = {part[:1]: part[1:] for part in payload.split(b"\0") if part}
                    outcome = f"ERROR {fields.get(b'C', b'?').decode()}"
                elif kind == b"G":
                    self._socket.sendall(bytes.fromhex(line.get("data") or "") + message(b"c"))
            received = self._socket.recv(1 << 16)
            if not received:
                return outcome or "nothing"
            self._stream.add(received)


def _bound(parameters: Sequence[Any]) -> bytes:
    formats, values = [], []
    for one in parameters:
        formats.append(1 if isinstance(one, Mapping) and "binary" in one else 0)
        if one is None:
            values.append(struct.pack("!i", -1))
            continue
        raw = one.encode() if isinstance(one, str) else bytes.fromhex(next(iter(one.values())))
        values.append(struct.pack("!i", len(raw)) + raw)
    counted = struct.pack("!H", len(formats))
    return counted + struct.pack(f"!{len(formats)}H", *formats) + counted + b"".join(values) + struct.pack("!H", 0)
