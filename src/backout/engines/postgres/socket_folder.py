"""A folder for one socket, which only our account can enter. What a killed process has left behind the next one removes.

Whoever has a folder holds a lock on it, which the kernel gives back with the process's end, however that comes (Linux
flock(2); it is the kernel's, and so the same in every container that shares the folder above). Invariant: nothing is removed
but the socket and its folder, nothing of another account, and nothing whose owner lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from time import time

_PREFIX = "backout-relay-"
_YOUNG_S = 60.0  # between its making and its lock


class SocketFolder:
    """Made with it, removed by `close`."""

    def __init__(self, name: str) -> None:
        """`name` is the socket's."""
        _remove_left_behind(name)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # 0700 (Python manual, `mkdtemp`)
        self.socket = self.path / name
        self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a file system without locks: there nobody removes what is left behind
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove it; a second time this does nothing."""
        if self._held >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held)
            self._held = -1


def _remove_left_behind(name: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it has gone, it is somebody else's, or its owner holds it
            _remove(folder, name)


def _remove(folder: Path, name: str) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(held)
        if facts.st_uid != os.geteuid() or time() - facts.st_mtime < _YOUNG_S:
            return
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=held)
        folder.rmdir()  # refused by the system where there is anything else in it
    finally:
        os.close(held)
