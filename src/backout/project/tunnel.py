"""The `connect` command of an environment (a port-forward, an ssh tunnel): started, waited for, watched, stopped [C5].

Not for: the connection through it (`engines`). Invariant: nothing connects to a port that this command has not opened: one
that something else listens on already is refused. When the command ends, so does everything that it started, and with it
the sessions of a run, which then says why.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from backout.errors import UsageError
from backout.project.config import ConnectCommand

_LOOK_S = 0.02  # between two looks at the port
_END_S = 1.0  # between its last sign of life and its end
_STOP_S = 5.0  # for the command to end by itself, before it is killed
_KEPT_LINES = 20  # of what it says, for an error


@dataclass
class Tunnel:
    """A running `connect` command, in a process group of its own: the terminal's Ctrl-C is for the run, not for it."""

    command: ConnectCommand
    place: tuple[str, int]
    folder: Path
    _process: subprocess.Popen[bytes] | None = None
    _said: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _ready: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _status: int | None = None
    _stopping: bool = False
    _last_end: str | None = None

    @property
    def obituary(self) -> str | None:
        """How it ended, where it has by itself, be it started again since; None: it did not.

        Waits a moment for it: its connections break a little before its end is known.
        """
        if self._process is not None and self._last_end is None:
            self._ended.wait(_END_S)
        return self._end() or self._last_end

    def _end(self) -> str | None:
        if self._process is None or self._stopping or not self._ended.is_set():
            return None
        last = f": {self._said[-1]}" if self._said else ""
        return f"the connect command {self._name} ended with status {self._status}{last}"

    def open(self) -> None:
        """Start it and wait until its port accepts; again where it has ended. UsageError where that fails."""
        if self._process is not None and _accepts(self.place) and not self._ended.is_set():
            return
        self._last_end = self.obituary
        if self._process is not None and not self._ended.is_set():
            self._await()  # it is there, and its port is not: it may be about to end
            return
        if _accepts(self.place):
            raise UsageError(
                f"something listens on {self._where} already, and it is not our connect command",
                hint="end it, or give this environment another port, in its url and in its connect command",
            )
        self._start()
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it and all that it has started: told first, killed after a while."""
        if self._process is None:
            return
        self._stopping = True
        _signal(self._process.pid, signal.SIGTERM)
        if not self._ended.wait(_STOP_S):
            _signal(self._process.pid, signal.SIGKILL)
            self._ended.wait(2 * _STOP_S)
        self._process = None

    def _start(self) -> None:
        self._said.clear()
        self._ready, self._ended = threading.Event(), threading.Event()
        self._status, self._stopping = None, False
        try:
            self._process = subprocess.Popen(
                self.command.words, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            reason = (error.strerror or "unknown error").lower()
            raise UsageError(
                f"unable to start the connect command {self._name}: {reason}",
                hint="see `connect` of this environment in backout.toml",
            ) from None
        assert self._process.stdout is not None, "it is a pipe"
        threading.Thread(target=self._listen, args=(self._process.stdout, self._ready), daemon=True).start()
        threading.Thread(target=self._watch, args=(self._process, self._ended), daemon=True).start()

    def _await(self) -> None:
        """Until it says that it is ready, where that is asked for, and its port accepts."""
        until = monotonic() + self.command.timeout.total_seconds()
        while monotonic() < until:
            if (ended := self._end()) is not None:
                raise UsageError(
                    f"{ended}, before {self._where} accepted a connection", hint="run it by hand to see why"
                )
            if (self.command.ready is None or self._ready.is_set()) and _accepts(self.place):
                return
            self._ended.wait(_LOOK_S)
        missing = f"{self._where} does not accept a connection"
        if self.command.ready is not None and not self._ready.is_set():
            missing = f'it has not said "{self.command.ready}"'
        last = f'; it said "{self._said[-1]}"' if self._said else ""
        raise UsageError(
            f"the connect command {self._name} is not ready after {self.command.timeout.total_seconds():g} s: "
            f"{missing}{last}",
            hint="run it by hand; give it more time: connect = {timeout = …}",
        )

    def _listen(self, output: IO[bytes], ready: threading.Event) -> None:
        """Read what it says, for as long as it says anything: a full pipe would stop it."""
        with output:
            for raw in output:
                line = raw.decode("utf-8", "replace").strip()
                if line:
                    self._said.append(line)
                if self.command.ready is not None and re.search(self.command.ready, line):
                    ready.set()

    def _watch(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        """Wait for its end, and then end what it has left behind, which could keep a connection of nobody's open.

        WNOWAIT: as long as it is not reaped, its number, which is that of the group, is nobody else's (waitid(2)).
        """
        if hasattr(os, "waitid"):  # not before Python 3.13 on macOS
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
        _signal(process.pid, signal.SIGKILL)
        self._status = process.wait()
        until = monotonic() + _STOP_S
        while _accepts(self.place) and monotonic() < until:
            sleep(_LOOK_S)  # a child of it is killed, and has not ended yet
        ended.set()

    @property
    def _name(self) -> str:
        """Its program; the other words may be secret."""
        return f'"{self.command.words[0]}"'

    @property
    def _where(self) -> str:
        host, port = self.place
        return f"{host}:{port}"


def tunnel_of(command: ConnectCommand, places: Sequence[tuple[str, int]], folder: Path) -> Tunnel:
    """The tunnel to the one place that the URL names. UsageError where it names none, or several."""
    if len(places) != 1:
        raise UsageError(
            "a connect command opens one port, and the url names " + ("none" if not places else "several hosts"),
            hint="write the host and the port that it opens into the url: …@127.0.0.1:15432/…",
        )
    return Tunnel(command, places[0], folder)


def _accepts(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=1):
            return True
    except OSError:
        return False


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
