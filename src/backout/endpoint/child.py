"""The command whose writes are supervised: its environment, its life, its end.

The environment is not inherited but for what is named here, so that a password of the real database in it cannot lead
past the endpoint. Standard output is for the result of the run: what the command prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from time import monotonic

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


def run(command: Sequence[str], variables: Mapping[str, str], folder: str, limit_s: float | None,
        trouble: Callable[[], str | None]) -> None:  # fmt: skip
    """Run the command to its end. Raises RolledBack where it fails, takes too long, or `trouble` has something to say."""
    try:
        child = subprocess.Popen(
            list(command),
            env=dict(variables),
            cwd=folder,
            stdin=None,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise RolledBack(f'unable to start "{command[0]}": {reason}', hint="name a program that is here") from None
    began = monotonic()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
            if child.returncode is not None:
                break
            problem = trouble()
            if problem is None and limit_s is not None and monotonic() - began > limit_s:
                problem = f'"{command[0]}" took longer than {limit_s:g} s'
            if problem is not None:
                raise RolledBack(problem, hint="nothing was changed; mend it, and run it again")
    except KeyboardInterrupt:
        raise Interrupted(f'interrupted while "{command[0]}" was running', hint="nothing was changed") from None
    finally:
        _end(child)
    if child.returncode:
        how = f"exit status {child.returncode}" if child.returncode > 0 else f"signal {-child.returncode}"
        raise RolledBack(f'"{command[0]}" ended with {how}', hint="nothing was changed; its own words are above")


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
