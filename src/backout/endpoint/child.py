"""The command whose writes are supervised: its environment, its life, its end.

The environment is not inherited but for what is named here, so that a password of the real database in it cannot lead
past the endpoint. Standard output is for the result of the run: what the command prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from typing import Any

from backout.endpoint import closed
from backout.errors import Interrupted, RolledBack, UsageError

#: What a program needs to find itself and its libraries. Nothing that names a database.
INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ", "TMPDIR", "VIRTUAL_ENV",
    "PYTHONPATH", "PYTHONUNBUFFERED", "DJANGO_SETTINGS_MODULE", "RAILS_ENV", "RACK_ENV", "GEM_*", "BUNDLE_*", "RBENV_*",
    "RUBYLIB", "RUBYOPT", "NODE_ENV", "NODE_PATH", "NVM_*", "JAVA_HOME", "LD_LIBRARY_PATH", "SSL_CERT_*",
)  # fmt: skip
_LOOK_S = 0.1
_GRACE_S = 5.0


def environment(
    own: Mapping[str, str], templates: Mapping[str, str], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What the command gets: the endpoint's variables, the change's own, and of ours only what is harmless.

    `templates` may name {host}, {port}, {user}, {password}, {database} and {url}.
    """
    places = {
        "host": own["PGHOST"], "port": own["PGPORT"], "user": own["PGUSER"], "password": own["PGPASSWORD"],
        "database": own["PGDATABASE"], "url": own["DATABASE_URL"],
    }  # fmt: skip
    kept = {name: value for name, value in inherited.items() if any(fnmatch(name, one) for one in INHERITED)}
    return {**kept, **own, **{name: _filled(name, text, places) for name, text in templates.items()}}


def _filled(name: str, text: str, places: Mapping[str, str]) -> str:
    try:
        return text.format_map(places)
    except (KeyError, ValueError, IndexError, AttributeError):
        hint = "write {host}, {port}, {user}, {password}, {database} or {url}"
        raise UsageError(f'unable to fill in "{text}" for the variable {name}', hint=hint) from None


Wait = Callable[[subprocess.Popen[bytes]], None]


def wait_for(child: subprocess.Popen[bytes]) -> None:
    """For its end, and not for long."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(_LOOK_S)


def run(
    command: Sequence[str], variables: Mapping[str, str], folder: str, trouble: Callable[[], str | None],
    wait: Wait = wait_for,
) -> None:  # fmt: skip
    """Run the command to its end. Raises RolledBack where it fails, or `trouble` has something to say."""
    try:
        child = subprocess.Popen(list(command), env=dict(variables), cwd=folder, **_APART)
    except OSError as error:
        raise _not_started(command[0], error) from None
    _attend(child, command[0], trouble, wait)


def start_closed(
    command: Sequence[str], variables: Mapping[str, str], folder: str, port: int, listens: Callable[[socket.socket], None],
    **how: Any,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a command in a network of its own; `listens` is given the socket on which its connections arrive.

    `how` are options of Popen. Raises RolledBack.
    """
    ours, its = socket.socketpair()
    with ours:
        with its:
            child = subprocess.Popen(
                [*_CLOSED, str(its.fileno()), str(port), *command], env=dict(variables), cwd=folder,
                pass_fds=[its.fileno()], **how,
            )  # fmt: skip
        try:
            listens(closed.received(ours))
            problem = ours.recv(1024)  # nothing, when it has become the command
            if problem:
                raise OSError(0, problem.decode(errors="replace"))
        except OSError as error:
            _end(child)
            raise _not_started(command[0], error) from None
    return child


def run_closed(
    command: Sequence[str], variables: Mapping[str, str], folder: str, trouble: Callable[[], str | None], port: int,
    listens: Callable[[socket.socket], None], wait: Wait = wait_for,
) -> None:  # fmt: skip
    """As `run`, in a network of its own; `listens` is given the socket on which its connections arrive."""
    _attend(start_closed(command, variables, folder, port, listens, **_APART), command[0], trouble, wait)


_CLOSED = (sys.executable, "-I", "-S", closed.__file__)
#: In a process group of its own; what it prints goes to standard error.
_APART: dict[str, Any] = {"stdin": None, "stdout": sys.__stderr__, "start_new_session": True}


@cache
def why_not_closed() -> str | None:
    """Why a command cannot be given a network of its own here; None where it can."""
    if sys.platform != "linux":
        return "that is possible on Linux only"
    ours, its = socket.socketpair()
    with ours, its, subprocess.Popen([*_CLOSED, str(its.fileno()), "0"], pass_fds=[its.fileno()]):
        try:
            closed.received(ours).close()
        except OSError as error:
            return error.strerror
    return None


def _not_started(name: str, error: OSError) -> RolledBack:
    reason = (error.strerror or "unknown error").lower()
    return RolledBack(f'unable to start "{name}": {reason}', hint="name a program that is here")


def _attend(child: subprocess.Popen[bytes], name: str, trouble: Callable[[], str | None], wait: Wait) -> None:
    try:
        while True:
            wait(child)
            if child.returncode is not None:
                break
            problem = trouble()
            if problem is not None:
                raise RolledBack(problem, hint="nothing was changed; mend it, and run it again")
    except KeyboardInterrupt:
        raise Interrupted(f'interrupted while "{name}" was running', hint="nothing was changed") from None
    finally:
        _end(child)
    if child.returncode:
        how = f"exit status {child.returncode}" if child.returncode > 0 else f"signal {-child.returncode}"
        raise RolledBack(f'"{name}" ended with {how}', hint="nothing was changed; its own words are above")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command and what it has started, if anything of it is left: all are in its own process group."""
    for kind, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        if child.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(child.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # a daemon that it left behind must not write after the proof
