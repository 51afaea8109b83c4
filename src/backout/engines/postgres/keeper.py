"""The parent process of an embedded server: starts it, says when it is ready, and ends it when its owner is gone.

Run as a program, by path, with the standard library only: it must start fast and outlive whatever its owner imports.
Its standard input is a pipe that nobody writes to but the owner: "stop" means stop; its end means that the owner is
gone, however it went (`kill -9` included). Invariant: being the parent, it cannot mistake
another process for its server.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_S = 0.01  # between two looks at whether the server is ready: start-up takes about 100 ms
WATCH_S = 0.5  # between two looks at whether a ready server still runs: only affects when we end, not when it does
FAST_STOP_S = 30.0  # a fast stop writes a checkpoint; past this, immediate
IMMEDIATE_STOP_S = 10.0  # the postmaster itself kills its children 5 s after an immediate stop


@dataclass(frozen=True)
class Order:
    """What the owner asks for; passed as JSON in the only argument."""

    command: list[str]
    environment: dict[str, str]
    identity: dict[str, Any]  # user, group and extra_groups of subprocess.Popen, or empty
    cluster: str  # PostgreSQL's data directory
    log: str
    keep_running: bool  # end when the server is ready and leave it to itself
    ready_within_s: float
    remove: str | None  # a directory to remove at the end


def is_ready(cluster: str, pid: int) -> bool:
    """Whether the server `pid` takes connections: line 8 of its lock file says so, and pg_ctl reads it too."""
    try:
        lines = (Path(cluster) / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _start(order: Order) -> subprocess.Popen[bytes]:
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            order.command,
            env=order.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **order.identity,
        )
    finally:
        os.close(log)


def _heard(seconds: float) -> bytes | None:
    """What the owner says within that time: None is nothing, empty that it is gone."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    return os.read(sys.stdin.fileno(), 16) if readable else None


def _end(server: subprocess.Popen[bytes], *, fast: bool) -> None:
    for number, seconds in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S), (signal.SIGKILL, None)):
        if number is signal.SIGINT and not fast:
            continue
        server.send_signal(number)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


def _answer(text: str) -> None:
    with suppress(BrokenPipeError):  # the owner is gone, which standard input tells as well
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _attend(server: subprocess.Popen[bytes], order: Order) -> bytes | None:
    """Stay with the server until somebody ends; returns the owner's last word, None where the server ended first."""
    deadline = time.monotonic() + order.ready_within_s
    ready = False
    while server.poll() is None:
        heard = _heard(WATCH_S if ready else LOOK_S)
        if heard is not None:
            return heard
        if not ready and is_ready(order.cluster, server.pid):
            ready = True
            _answer("ready")
            if order.keep_running:
                os._exit(0)  # the server has no parent to wait for it now, as pg_ctl leaves it
        if not ready and time.monotonic() > deadline:
            _answer("late")
            return b""
    return None


def main(argument: str) -> None:
    """Keep one server."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    order = Order(**json.loads(argument))
    server = _start(order)
    word: bytes | None = b""
    try:
        word = _attend(server, order)
    finally:
        if server.poll() is None:
            _end(server, fast=word == b"stop")
        if order.remove is not None:
            shutil.rmtree(order.remove, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
