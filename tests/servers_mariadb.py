"""Real MariaDB servers for the tests: one per test process, started when first asked for, ended by its process id.

Twin: `servers.py`. Each test gets a database and two accounts of its own; the journal's databases, `backout` and
`rescue`, are the server's, and are dropped after each test, since the tests of one process run one after the other.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from servers import in_memory

PASSWORD = "accounts in throw-away databases"
HOST = "127.0.0.1"
CHOICE = "BACKOUT_TEST_SERVERS"
_READY_S, _STOP_S = 60.0, 20.0

Role = Literal["login", "application", "superuser"]


@cache
def programs() -> tuple[str, str] | None:
    """(mariadbd, mariadb-install-db) of this machine, or None."""
    place = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    server, install = shutil.which("mariadbd", path=place), shutil.which("mariadb-install-db", path=place)
    return (server, install) if server and install else None


@cache
def version() -> str:
    """As the program says it, e.g. "10.11.19"."""
    found = programs()
    assert found is not None
    said = subprocess.run([found[0], "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("Ver ")[1].split("-")[0]


def present() -> bool:
    """Whether this run tests MariaDB."""
    wanted = os.environ.get(CHOICE)
    return programs() is not None and (wanted is None or "mariadb" in wanted.split(","))


def describe() -> list[str]:
    """A line for the head of a test run."""
    if programs() is None:
        return ["MariaDB: NOT TESTED: its programs are not on this machine"]
    if not present():
        return [f"MariaDB: NOT TESTED: ${CHOICE} leaves it out"]
    return [f"MariaDB {version()}: tested"]


@dataclass
class MariaServer:
    """A running server on data of its own; `stop` ends it and removes the data."""

    place: Path
    port: int
    process: subprocess.Popen[bytes]
    log_from: int = 0  # where in the log this start begins

    @classmethod
    def start(cls, options: Sequence[str] = (), place: Path | None = None) -> MariaServer:
        """Make a data directory, unless `place` has one already, and start a server on it."""
        found = programs()
        assert found is not None
        server, install = found
        if place is None:
            reachable = "/tmp" if os.geteuid() == 0 else None
            place = Path(tempfile.mkdtemp(prefix="backout-mariadb-", dir=in_memory() or reachable))
        account = ["--user=mysql"] if os.geteuid() == 0 else []
        if account:
            place.chmod(0o711)
            shutil.chown(place, "mysql", "mysql")
        data = place / "data"
        if not data.exists():
            subprocess.run(
                [install, "--no-defaults", *account, f"--datadir={data}", "--skip-test-db",
                 "--auth-root-authentication-method=normal"],
                check=True, capture_output=True,
            )  # fmt: skip
        scratch = place / "tmp"  # a server that starts removes the temporary tables of any other in the same directory
        if not scratch.exists():
            scratch.mkdir()
            if account:
                shutil.chown(scratch, "mysql", "mysql")
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command = [
            *_ending_with_us(), server, "--no-defaults", f"--datadir={data}", f"--socket={place / 'sock'}", f"--port={port}",
            f"--bind-address={HOST}", f"--tmpdir={scratch}",
            f"--pid-file={place / 'pid'}", f"--log-error={place / 'server.log'}",
            "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve",
            "--innodb-log-file-size=64M", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF",
            "--performance-schema=OFF", "--max-connections=80", "--innodb-use-native-aio=0",
            *options,
        ]  # fmt: skip
        log = place / "server.log"
        said_before = len(log.read_text(errors="replace")) if log.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        running = cls(place, port, process, said_before)
        running.await_ready()
        return running

    def await_ready(self) -> None:
        """Wait until it answers; raises RuntimeError with its log where it does not."""
        until = time.monotonic() + _READY_S
        log = self.place / "server.log"
        while time.monotonic() < until and self.process.poll() is None:
            # Not by trying to connect: a handshake that the server breaks off leaves PyMySQL's socket open.
            if log.exists() and "ready for connections" in log.read_text(errors="replace")[self.log_from :]:
                return
            time.sleep(0.05)
        self.stop(remove=False)
        raise RuntimeError(f"MariaDB did not start: {log.read_text() if log.exists() else 'no log'}")

    def root(self) -> Connection[Any]:
        """A session of the administrator."""
        return pymysql.connect(
            unix_socket=str(self.place / "sock"), user="root", autocommit=True, charset="utf8mb4",
            client_flag=CLIENT.MULTI_STATEMENTS,
        )  # fmt: skip

    def stop(self, *, remove: bool = True) -> None:
        """End this very process, gently first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if remove:
            shutil.rmtree(self.place, ignore_errors=True)


def _ending_with_us() -> list[str]:
    """A prefix that makes the server end when this process is killed; it becomes the server, under the same id.

    The account is changed here, not by the server: that would forget the wish (prctl(2), PR_SET_PDEATHSIG).
    """
    program = shutil.which("setpriv")
    assert program is not None or os.geteuid() != 0, "setpriv of util-linux is needed to start MariaDB as root"
    if program is None:
        return []
    account = ["--reuid=mysql", "--regid=mysql", "--clear-groups"] if os.geteuid() == 0 else []
    return [program, *account, "--pdeathsig=TERM"]


@dataclass
class MariaDatabase:
    """One test's own database.

    `login_role` is what an environment's `url` names: it may write the data, read the catalogue's word of it, and owns
    the journal's databases. `application_role` may do all in the test's database, and nothing elsewhere.
    """

    server: MariaServer
    name: str
    login_role: str
    application_role: str
    _connections: list[Connection[Any]] = field(default_factory=list)

    @property
    def superuser_url(self) -> str:
        return self.url("superuser")

    @property
    def login_url(self) -> str:
        return self.url("login")

    @property
    def application_url(self) -> str:
        return self.url("application")

    def url(self, role: Role | str) -> str:
        """As one of the three, or as an account that `create_role` made."""
        user = {"login": self.login_role, "application": self.application_role, "superuser": "root_test"}.get(
            role, role
        )
        return f"mariadb://{quote(user)}:{quote(PASSWORD)}@{HOST}:{self.server.port}/{quote(self.name)}"

    def create_role(self, suffix: str, grants: Sequence[str] = ()) -> str:
        """Make another account, named for this database, with these grants ("SELECT ON db.*")."""
        name = f"{self.name}_{suffix}"
        self.execute(f"CREATE USER `{name}`@`%` IDENTIFIED BY '{PASSWORD}'")
        for grant in grants:
            self.execute(f"GRANT {grant} TO `{name}`@`%`")
        return name

    def connect(self, role: Role | str = "superuser", *, autocommit: bool = True) -> Connection[Any]:
        """A session that is closed at the end of the test."""
        connection = self._open(role, autocommit=autocommit)
        self._connections.append(connection)
        return connection

    def _open(self, role: Role | str, *, autocommit: bool) -> Connection[Any]:
        user = {"login": self.login_role, "application": self.application_role, "superuser": "root_test"}.get(
            role, role
        )
        return pymysql.connect(
            host=HOST, port=self.server.port, user=user, password=PASSWORD, database=self.name, autocommit=autocommit,
            charset="utf8mb4", client_flag=CLIENT.MULTI_STATEMENTS,
        )  # fmt: skip

    def execute(self, statement: str, parameters: Any = None, *, role: Role | str = "superuser") -> list[Any]:
        """Run SQL in a session of its own, each statement committed; returns the rows of the last that has any."""
        connection = self._open(role, autocommit=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                rows: list[Any] = []
                while True:
                    if cursor.description is not None:
                        rows = list(cursor.fetchall())
                    if not cursor.nextset():
                        return rows
        finally:
            connection.close()

    def as_application(self, statement: str, parameters: Any = None) -> list[Any]:
        """`execute` as the application's account."""
        return self.execute(statement, parameters, role="application")

    def close(self) -> None:
        """End the sessions that `connect` made."""
        for connection in self._connections:
            with suppress(pymysql.Error):
                connection.close()
        self._connections.clear()


class MariaServers:
    """The server of this test process, or one that is started with other options; a resource."""

    def __init__(self, worker: str, options: Sequence[str] = ()) -> None:
        self._worker, self._options = worker, options
        self._server: MariaServer | None = None
        self._administrator: Connection[Any] | None = None
        self._numbers = itertools.count(1)

    def server(self) -> MariaServer:
        """The running server."""
        if self._server is None:
            self._server = MariaServer.start(self._options)
            self._administrator = self._server.root()
            self._run(f"CREATE USER root_test@`%` IDENTIFIED BY '{PASSWORD}'")
            self._run("GRANT ALL ON *.* TO root_test@`%` WITH GRANT OPTION")
        return self._server

    def create_database(self) -> MariaDatabase:
        """A fresh database with its two accounts."""
        server = self.server()
        number = f"{self._worker}_{next(self._numbers)}"
        database = MariaDatabase(server, f"test_{number}", f"login_{number}", f"app_{number}")
        self._run(f"CREATE DATABASE `{database.name}` CHARACTER SET utf8mb4")
        for user in (database.login_role, database.application_role):
            self._run(f"CREATE USER `{user}`@`%` IDENTIFIED BY '{PASSWORD}'")
            self._run(f"GRANT ALL ON `{database.name}`.* TO `{user}`@`%`")
        for grant in LOGIN_GRANTS:
            self._run(f"GRANT {grant} TO `{database.login_role}`@`%`")
        return database

    def drop_database(self, database: MariaDatabase) -> None:
        """Drop it, and the journal with it, whoever is still connected."""
        database.close()
        assert self._administrator is not None
        with self._administrator.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE user IN (%s, %s, 'root_test')",
                (database.login_role, database.application_role),
            )
            for (number,) in cursor.fetchall():
                with suppress(pymysql.Error):
                    cursor.execute(f"KILL {int(number)}")
        for name in (database.name, "backout", "rescue"):
            self._run(f"DROP DATABASE IF EXISTS `{name}`")
        for user in (database.login_role, database.application_role):
            self._run(f"DROP USER `{user}`@`%`")

    def stop(self) -> None:
        """End the server and remove its data."""
        if self._administrator is not None:
            self._administrator.close()
        if self._server is not None:
            self._server.stop()

    def _run(self, statement: str) -> None:
        assert self._administrator is not None
        with self._administrator.cursor() as cursor:
            cursor.execute(statement)


#: What docs/how-to/rights.md asks an administrator for, beside rights on the data.
LOGIN_GRANTS = (
    "PROCESS ON *.*",
    "ALL ON backout.*",
    "ALL ON rescue.*",
    "SELECT ON mysql.proc",
)
