"""Who holds the right to write here: a row in the journal with process, host and start time.

SQLite has one writer at a time anyway; the lease names it, and outlives the gaps between its transactions. A process
that is gone holds nothing, and a process number that was given out again is recognised by its start time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

_OPEN: set[str] = set()  # tokens of the databases that this process has open


@dataclass(frozen=True)
class Holder:
    """A process that has this database open."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    started: str | None = field(default_factory=lambda: _start_of(os.getpid()))
    change: str = ""
    operator: str = ""
    since: str = ""

    def __str__(self) -> str:
        who = self.operator or "somebody"
        what = f' for change "{self.change}"' if self.change else ""
        since = f" since {self.since}" if self.since else ""
        return f"{who}{what} (process {self.process} on {self.host}){since}"

    def text(self) -> str:
        """As kept in the journal."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_holder(text: str) -> Holder:
    """What `Holder.text` wrote."""
    return Holder(**json.loads(text))


def enter(holder: Holder) -> None:
    """The database of this holder is open in this process."""
    _OPEN.add(holder.token)


def leave(holder: Holder) -> None:
    """The database of this holder is closed."""
    _OPEN.discard(holder.token)


def lives(holder: Holder) -> bool:
    """Whether the holder may still be at work. On another host that cannot be known: it may."""
    if holder.host != socket.gethostname():
        return True
    if holder.process == os.getpid() and holder.started == _start_of(os.getpid()):
        return holder.token in _OPEN
    return _exists(holder.process) and (holder.started is None or holder.started == _start_of(holder.process))


def _exists(process: int) -> bool:
    if sys.platform == "win32":  # os.kill would end it there: https://docs.python.org/3/library/os.html#os.kill
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_of(process: int) -> str | None:
    """Boot and start time in ticks (proc(5), field 22, counted after the name in parentheses); None: unknown."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return f"{boot}/{stat.rpartition(')')[2].split()[19]}"
