"""The folder of the relay's socket: what a killed process leaves behind is removed by the next, and nothing else is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backout.engines.postgres.socket_folder import SocketFolder

NAME = ".s.PGSQL.5432"
HOLD = f"""
import socket, sys
from backout.engines.postgres.socket_folder import SocketFolder
folder = SocketFolder({NAME!r})
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(folder.socket))
listening.listen()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own for what is temporary, with a short path."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as place:
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield


def held() -> tuple[subprocess.Popen[str], Path]:
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    return other, Path(other.stdout.readline().strip())


def age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def end(other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    other, left = held()
    end(other)
    assert (left / NAME).is_socket()
    age(left)

    mine = SocketFolder(NAME)

    assert not left.exists()
    mine.close()
    assert not mine.path.exists()


def test_what_somebody_still_has_is_left_alone() -> None:
    other, theirs = held()
    age(theirs)

    SocketFolder(NAME).close()

    assert (theirs / NAME).is_socket()
    end(other)


def test_what_is_young_or_holds_anything_else_is_left_alone() -> None:
    other, young = held()
    end(other)
    SocketFolder(NAME).close()
    assert young.exists()

    (young / "other").write_text("of somebody")
    age(young)
    SocketFolder(NAME).close()
    assert (young / "other").read_text() == "of somebody"


def test_a_link_with_such_a_name_is_not_followed() -> None:
    elsewhere = Path(tempfile.mkdtemp())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(elsewhere / NAME))
        (Path(tempfile.gettempdir()) / "backout-relay-link").symlink_to(elsewhere)
        age(elsewhere)
        SocketFolder(NAME).close()
        assert (elsewhere / NAME).is_socket()
