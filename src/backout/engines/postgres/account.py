"""Under which account of this machine an embedded PostgreSQL runs: our own, or an ordinary one when we are root.

PostgreSQL refuses to run as root (src/backend/main/main.c, `check_root`), so root lends it an account that has no
rights of its own. Nothing is created or opened up for that: no new account, no mode of anybody's directory.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from backout.errors import UsageError

# In the order of preference: Debian's server account where PostgreSQL is installed, then accounts that own nothing.
CANDIDATES = ("postgres", "nobody", "daemon")


class Identity(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that say who runs the program."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """An ordinary account that root can run programs as."""

    name: str
    uid: int
    gid: int

    def may(self, test: str, path: Path) -> bool:
        """Whether `test -x PATH` (or -r, -w) is true for this account; asks the kernel, which knows ACLs as well."""
        command = ["/bin/sh", "-c", f'test -{test} "$1"', "sh", str(path)]
        finished = subprocess.run(command, check=False, cwd="/", **identity(self))
        return finished.returncode == 0


def identity(account: Account | None) -> Identity:
    """What to give to `subprocess` so that the program runs as `account`; None: as ourselves."""
    if account is None:
        return Identity()
    return Identity(user=account.uid, group=account.gid, extra_groups=[])


def server_account() -> Account | None:
    """The account to run servers under: None where we are not root, and can be it ourselves.

    Raises UsageError where we are root and there is no ordinary account, or no right to run as one.
    """
    if os.geteuid() != 0:
        return None
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            account = Account(name, entry.pw_uid, entry.pw_gid)
            _require_switch(account)
            return account
    names = ", ".join(f'"{name}"' for name in CANDIDATES)
    raise UsageError(
        f"unable to start PostgreSQL as root: none of the accounts {names} is on this machine",
        hint="run as an ordinary user",
    )


def _require_switch(account: Account) -> None:
    try:
        reached = account.may("x", Path("/"))
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f'unable to start PostgreSQL as root: may not run programs as "{account.name}": {error}',
            hint="run as an ordinary user",
        ) from error
    if not reached:
        raise UsageError(
            f'unable to start PostgreSQL as root: the account "{account.name}" cannot enter "/"',
            hint="run as an ordinary user",
        )
