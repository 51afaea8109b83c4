"""A PostgreSQL of our own, for `backout demo` and for tests: started from its programs alone, gone when we are.

It listens on 127.0.0.1 only, takes scram-sha-256 passwords only, and keeps everything in one directory (mode 0700):
`password` (0600) of its superuser, `server.log`, `lock`, and PostgreSQL's own data in `cluster`. Not for production.

Invariants: only a server that was started by this module on that very directory is ever ended, and at most one
owner has a directory at a time (`lock`). A server ends with its owner, however the owner ends (see `keeper.py`),
unless it was started with `keep_running`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from backout.engines.postgres import keeper
from backout.engines.postgres.account import Account, Identity, identity, server_account
from backout.engines.postgres.programs import SHARED_PLACE, Programs, find_programs, within_reach
from backout.errors import Busy, UsageError

SUPERUSER = "postgres"
HOST = "127.0.0.1"
DISPOSABLE: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
    }
)
"""Settings for a server whose data may be lost with the machine: three times faster for small commits."""

_MARK = "made-by-backout"
_MARK_TEXT = "A PostgreSQL server that backout made for itself. Remove this directory when no process uses it.\n"
_PORT_TRIES = 5  # between our finding a free port and the server's taking it, somebody else can be faster
_LOCK_S = 15.0  # a keeper whose owner was killed ends within this: 10 s for the server, see keeper.IMMEDIATE_STOP_S
_READY_S = 60.0  # start-up takes 0.1 s; recovery after a kill some seconds
_STOP_S = keeper.FAST_STOP_S + keeper.IMMEDIATE_STOP_S + 5.0


class EmbeddedServer:
    """A running server. `stop` it, or use it as a context manager.

    `data_directory` is where it really is, which `note` explains where that is not what was asked for.
    """

    def __init__(
        self, data_directory: Path, programs: Programs, port: int, password: str, *, note: str | None = None
    ) -> None:
        self.data_directory = data_directory
        self.programs = programs
        self.port = port
        self.password = password
        self.note = note
        self._keeper: subprocess.Popen[str] | None = None

    @classmethod
    def start(
        cls,
        data_directory: Path,
        *,
        programs: Programs | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        keep_running: bool = False,
        ephemeral: bool = False,
    ) -> Self:
        """Start a server on `data_directory`, which is made where it is not there yet.

        `programs` are the newest on this machine where not given. With `keep_running` the server goes on when this
        process ends, and a later `start` with `keep_running` finds it (with the settings that it has). With `ephemeral`
        the directory is removed when the server ends. As root the server runs under an ordinary account; where that
        cannot reach `data_directory`, another place is taken and `note` says which.

        Raises UsageError (nothing is left running), Busy where another process owns the directory.
        """
        account = server_account()
        programs = within_reach(programs or find_programs(), account)
        home, note = _place(data_directory.absolute(), account)
        _make_home(home, account)
        with _locked(home) as lock:
            password = _make_cluster(home, programs, account)
            running = _running_server(home)
            if running is not None and keep_running:
                return cls(home, programs, running[1], password, note=note)
            if running is not None:  # its keeper was killed: nobody else would end it
                _end(running[0], home)
            server = cls(home, programs, 0, password, note=note)
            server._launch(dict(settings), lock, account, keep_running=keep_running, ephemeral=ephemeral)
            return server

    def url(self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """A connection URL; the superuser's has its password, another role's has `password` if any."""
        secret = self.password if user == SUPERUSER and password is None else password
        login = quote(user, safe="") + (f":{quote(secret, safe='')}" if secret else "")
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}"

    def stop(self) -> None:
        """End the server: open transactions are rolled back. Does nothing where it ended already."""
        if self._keeper is not None:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._keeper.communicate("stop", timeout=_STOP_S)
            self._keeper = None
            return
        running = _running_server(self.data_directory)
        if running is not None:
            _end(running[0], self.data_directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(
        self, settings: dict[str, str], lock: int, account: Account | None, *, keep_running: bool, ephemeral: bool
    ) -> None:
        log = self.data_directory / "server.log"
        for _ in range(_PORT_TRIES):
            self.port = _free_port()
            order = keeper.Order(
                command=_command(self.programs, self.data_directory, self.port, settings),
                environment=_environment(),
                identity=dict(identity(account)),
                cluster=str(_cluster(self.data_directory)),
                log=str(log),
                keep_running=keep_running,
                ready_within_s=_READY_S,
                remove=str(self.data_directory) if ephemeral else None,
            )
            process = _start_keeper(order, None if keep_running else lock)
            if process is not None:
                self._keeper = None if keep_running else process
                return
            if "could not bind" not in _read(log):
                break
        raise UsageError(
            f'unable to start PostgreSQL {self.programs.version} in "{self.data_directory}": {_last_line(_read(log))}',
            hint=f'its whole log is "{log}"',
        )


def _cluster(home: Path) -> Path:
    return home / "cluster"


# ------------------------------------------------------------------ the place


def _place(asked: Path, account: Account | None) -> tuple[Path, str | None]:
    """Where the server's directory can be, and why it is not where it was asked for."""
    parent = asked.parent
    while not parent.exists():
        parent = parent.parent
    if account is None or account.may("x", parent):
        return asked, None
    name = hashlib.sha256(str(asked).encode()).hexdigest()[:16]  # the next start has to find it
    place = SHARED_PLACE / f"backout-{os.getuid()}-{name}"
    return place, f'the data is in "{place}": "{account.name}", under which PostgreSQL runs, cannot enter "{parent}"'


def _make_home(home: Path, account: Account | None) -> None:
    """Make the directory, or make sure that an existing one is ours; gives it to `account`."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            home.mkdir(mode=0o700)
        status = home.lstat()
        owners = {os.getuid(), account.uid if account else os.getuid()}
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise UsageError(f'unable to keep data in "{home}": it belongs to somebody else')
        mark = home / _MARK
        if not mark.exists():
            if any(home.iterdir()):
                raise UsageError(
                    f'unable to keep data in "{home}": it holds files that backout did not make',
                    hint="name a directory that is empty or does not exist",
                )
            home.chmod(0o700)
            _write_new(mark, _MARK_TEXT, None)
        if account is not None:
            os.chown(home, account.uid, account.gid)
    except OSError as error:
        raise UsageError(f'unable to keep data in "{home}": {error}') from error


@contextmanager
def _locked(home: Path) -> Iterator[int]:
    """Hold the directory's lock; whoever inherits the descriptor holds it as well."""
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        f'unable to start PostgreSQL in "{home}": another process uses it',
                        hint="end that process, or name another directory",
                    ) from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_new(path: Path, text: str, account: Account | None) -> None:
    """Write a file that only its owner can read; never through a link that somebody left there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)


# ------------------------------------------------------------------ the data


def _make_cluster(home: Path, programs: Programs, account: Account | None) -> str:
    """Make PostgreSQL's data where there is none; returns the superuser's password."""
    cluster = _cluster(home)
    if cluster.exists():
        _require_same_major(cluster, programs)
        return _read(home / "password").strip()
    making = home / "cluster.new"  # renamed when whole: `cluster` is never half made
    shutil.rmtree(making, ignore_errors=True)
    password = secrets.token_urlsafe(24)
    _write_new(home / "password", password + "\n", account)
    command = [
        str(programs.path("initdb")),
        f"--pgdata={making}",
        f"--username={SUPERUSER}",
        f"--pwfile={home / 'password'}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",  # on every platform, whatever locales it has
        "--no-sync",
        "--no-instructions",
    ]
    try:
        _run(command, identity(account))
        making.rename(cluster)
    except (OSError, subprocess.SubprocessError) as error:
        cause = _last_line(error.stderr) if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise UsageError(
            f'unable to make a PostgreSQL {programs.version} data directory in "{home}": {cause}'
        ) from error
    return password


def _run(command: list[str], who: Identity) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, cwd="/", env=_environment(), timeout=300, **who)


def _require_same_major(cluster: Path, programs: Programs) -> None:
    made_with = _read(cluster / "PG_VERSION").strip()
    if made_with != str(programs.major):
        raise UsageError(
            f'unable to start PostgreSQL {programs.version} in "{cluster.parent}": its data is of version {made_with}',
            hint="name another directory, or remove that one",
        )


# ------------------------------------------------------------------ the process


def _environment() -> dict[str, str]:
    """No PG* variable of ours may reach the server; its messages are in English, as `_launch` reads them."""
    kept = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in kept if name in os.environ}


def _command(programs: Programs, home: Path, port: int, settings: dict[str, str]) -> list[str]:
    chosen = settings | {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": ""}
    options = [f"--{name}={value}" for name, value in chosen.items()]
    return [str(programs.path("postgres")), "-D", str(_cluster(home)), *options]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _start_keeper(order: keeper.Order, lock: int | None) -> subprocess.Popen[str] | None:
    """Start the server's parent and wait until the server is ready; None: it did not become so, and has ended."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, json.dumps(asdict(order))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,  # Ctrl-C in a terminal is for us alone: we stop the server in our own time
        pass_fds=() if lock is None else (lock,),
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().strip() == "ready"
    except BaseException:
        process.communicate()
        raise
    if order.keep_running or not ready:
        process.communicate()
    return process if ready else None


def _running_server(home: Path) -> tuple[int, int] | None:
    """The process and the port of a live server on this directory, started earlier by this module."""
    lines = _read(_cluster(home) / "postmaster.pid").splitlines()
    if len(lines) < 4 or not _is_server(int(lines[0]), home):
        return None
    return int(lines[0]), int(lines[3])


def _is_server(pid: int, home: Path) -> bool:
    """Whether `pid` is a postmaster on this directory: its lock file may be old and the number somebody else's now."""
    return f"-D {_cluster(home)} " in _command_line(pid) + " "


def _command_line(pid: int) -> str:
    """The words of a process's command; empty where there is no such process (a zombie has no words either)."""
    if Path("/proc/self/cmdline").exists():
        return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]  # macOS
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def _end(pid: int, home: Path) -> None:
    """End a server that is not our child: fast, and then immediately."""
    for number, seconds in ((signal.SIGINT, keeper.FAST_STOP_S), (signal.SIGQUIT, keeper.IMMEDIATE_STOP_S)):
        deadline = time.monotonic() + seconds
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        while time.monotonic() < deadline:
            if not _is_server(pid, home):
                return
            time.sleep(0.02)
    raise UsageError(
        f'unable to stop PostgreSQL in "{home}": process {pid} goes on', hint=f"end it with: kill -QUIT {pid}"
    )


# ------------------------------------------------------------------ files


def _read(path: Path) -> str:
    """The text of a file; empty where it is not there."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _last_line(text: str) -> str:
    """The line that tells most: PostgreSQL's first fatal or error line, else the last one."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL:" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[0 if telling else -1].strip()
