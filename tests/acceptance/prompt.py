"""A person at the prompt of a session: a program that goes on while others do something.

Not for: what they type. Invariant: nothing is waited for by time; what is waited for is what the program says, and a
program that ends without saying it fails the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from acceptance.program import PROGRAM, environment
from unit.test_as_json import require_valid


class Going:
    """A command that is under way; a resource."""

    def __init__(self, folder: Path, *words: str, key: Path, loud: str = "stderr") -> None:
        """`loud` is what is waited for: "stderr", "stdout", or "terminal", which is standard input and error then."""
        here, there = os.openpty() if loud == "terminal" else (-1, -1)
        of_terminal: int = subprocess.PIPE if there < 0 else there
        self.process = subprocess.Popen(
            [str(PROGRAM), *words], cwd=folder, env=environment(BACKOUT_KEY=str(key), PYTHONUNBUFFERED="1"),
            stdin=of_terminal, stdout=subprocess.PIPE, stderr=of_terminal,
        )  # fmt: skip
        if there >= 0:
            os.close(there)
        self._streams = [
            one for one in (self.process.stdin, self.process.stdout, self.process.stderr) if one is not None
        ]
        self._terminal = here
        heard = self.process.stdout if loud == "stdout" else self.process.stderr
        self._heard = here if heard is None else heard.fileno()
        self._other = self.process.stderr if loud == "stdout" else self.process.stdout
        self.said, self._rest = "", b""
        self._reader = threading.Thread(target=self._read_other, daemon=True)
        self._reader.start()

    def _read_other(self) -> None:
        assert self._other is not None
        self._rest = self._other.read()

    def _read(self) -> bytes:
        """What comes next; nothing at the end, which a terminal tells by an error."""
        try:
            return os.read(self._heard, 1 << 16)
        except OSError:
            return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in self._streams:
            stream.close()
        if self._terminal >= 0:
            os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type something."""
        descriptor = self._terminal if self.process.stdin is None else self.process.stdin.fileno()
        assert os.write(descriptor, text.encode()) == len(text.encode())

    def until(self, words: str) -> str:
        """Wait until it has said this; returns all that it has said so far."""
        while words not in self.said:
            received = self._read()
            assert received, f"it ended without saying {words!r}:\n{self.said}"
            self.said += received.decode()
        return self.said

    def ends(self, status: int) -> str:
        """Wait until it has ended; returns what it said on the other stream."""
        while received := self._read():
            self.said += received.decode()
        assert self.process.wait() == status, self.said
        self._reader.join()
        assert "Traceback" not in self.said, self.said
        return self._rest.decode()

    def reports(self, status: int) -> dict[str, Any]:
        """Wait until it has ended; its one object."""
        said = json.loads(self.ends(status))
        require_valid(said, "run")
        return dict(said)
