"""A limit on how long a conversation with a server takes as a whole.

A socket's own time-out begins anew with each byte, so that a server that sends one a second would never end.
Source: https://docs.python.org/3/library/socket.html#socket-timeouts.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Timer


@dataclass
class Deadline:
    """Whether the time was up."""

    passed: bool = False


@contextmanager
def deadline(seconds: float, open_socket: Callable[[], socket.socket | None]) -> Iterator[Deadline]:
    """Shut the socket down after so many seconds: whoever waits for it is then told that it ended."""
    found = Deadline()

    def end() -> None:
        found.passed = True
        connection = open_socket()
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield found
    finally:
        timer.cancel()
