"""A PostgreSQL database as a stream: `pg_dump --format=custom` and `pg_restore`, from the PATH or from `programs.py`.

`pg_dump` refuses servers of a newer major version (manual, pg_dump, Notes), so the program is chosen by the server's
version. The password goes by the variable PGPASSWORD, never by a command line.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backout.engines.dump import Arrival, DumpFacts, Pour, Reader
from backout.engines.postgres.programs import available_programs
from backout.engines.postgres.session import Session, reached
from backout.engines.program import Program, pour_into, reading_from
from backout.engines.values import Settings
from backout.errors import Refused, UsageError

_OURS = "backout"  # the journal's schema


@dataclass(frozen=True)
class Tool:
    """`pg_dump` or `pg_restore` with its version."""

    path: str
    version: str  # "18.4"

    @property
    def major(self) -> int:
        """The number that has to fit the server's."""
        return int(self.version.partition(".")[0])


class PostgresDump:
    """See `engines.dump.Dump`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def facts(self) -> DumpFacts:
        """See the protocol."""
        session = Session(self._settings.url, "backup")
        try:
            now, version, database = session.one(
                "SELECT pg_catalog.clock_timestamp(), current_setting('server_version'), current_database()"
            )
        finally:
            session.close()
        return DumpFacts(now, "PostgreSQL", version.split(" ")[0], database)

    def made_with(self) -> str:
        """See the protocol."""
        return f"pg_dump {self._tool('pg_dump', self.facts().server_version).version}"

    def _tool(self, name: str, server: str, least: int = 0) -> Tool:
        wanted = max(_major(server), least)
        tool = fitting(tools(name), wanted)
        if tool is None:
            there = ", ".join(sorted({one.version for one in tools(name)})) or "none"
            raise Refused(
                "backup", f"no {name} of version {wanted} or newer is on this machine: there is {there}",
                hint=f"install postgresql-client-{wanted}, or put its programs on the PATH",
            )  # fmt: skip
        return tool

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """See the protocol: one snapshot of the server."""
        tool = self._tool("pg_dump", self.facts().server_version)
        # pg_dump sets lock_timeout itself: 0 unless this option is given (pg_dump.c, setup_connection).
        wait = f"--lock-wait-timeout={round(self._settings.lock_timeout_s * 1000)}"
        with reading_from(self._program(tool, "dump the database", ("--format=custom", wait))) as stream:
            yield stream

    def restore(self, pour: Pour, arrival: Arrival) -> None:
        """See the protocol: in one transaction, so that a failure leaves everything as it was."""
        server = self.facts().server_version
        if _major(server) < _major(arrival.server_version):
            raise Refused(
                "backup",
                f"the backup is of PostgreSQL {arrival.server_version}, and this server is {server}",
                hint="restore into a server of the same or a newer major version",
            )
        tool = self._tool("pg_restore", server, _major(arrival.made_with.removeprefix("pg_dump ")))
        options = ["--single-transaction", "--exit-on-error", "--clean", "--if-exists"]
        with tempfile.TemporaryDirectory(prefix="backout-restore-") as folder:
            if not arrival.at_home:
                options += ["--no-owner", "--no-acl"]
                options += [f"--role={self._settings.role}"] if self._settings.role else []
            if not arrival.at_home or self._has_journal():
                options += [f"--use-list={self._contents(tool, pour, Path(folder))}"]
            pour_into(self._program(tool, "restore the database", options, private=arrival.private), pour)

    def _contents(self, tool: Tool, pour: Pour, folder: Path) -> Path:
        """The dump's list of contents without journal and rescue: names only, no rows.

        Not `--exclude-schema`: that leaves out what is in a schema, and would still drop and make the schema itself.
        """
        everything, wanted = folder / "everything", folder / "wanted"
        with everything.open("wb") as file:
            pour_into(Program((tool.path, "--list"), "read the dump's list of contents"), pour, file.fileno())
        ours = {_OURS, self._settings.rescue_schema}
        lines = everything.read_text(encoding="utf-8").splitlines(keepends=True)
        wanted.write_text("".join(line for line in lines if not _is_of(line, ours)), encoding="utf-8")
        return wanted

    def _program(self, tool: Tool, doing: str, options: Sequence[str], *, private: bool = False) -> Program:
        given: dict[str, Any] = conninfo_to_dict(reached(self._settings.url))
        wait = f"-c lock_timeout={round(self._settings.lock_timeout_s * 1000)}"
        variables = {"LC_ALL": "C", "PGOPTIONS": f"{os.environ.get('PGOPTIONS', '')} {wait}".strip()}
        password = given.pop("password", None)
        if password is not None:
            variables["PGPASSWORD"] = str(password)
        if given.pop("sslpassword", None) is not None:
            raise UsageError(
                "the URL has `sslpassword`, which cannot be handed to a program without showing it",
                hint="use a client key without a passphrase for backups",
            )
        target = f"--dbname={make_conninfo(**given)}"
        return Program((tool.path, "--no-password", *options, target), doing, variables, private=private)

    def _has_journal(self) -> bool:
        session = Session(self._settings.url, "backup")
        try:
            return session.value("SELECT pg_catalog.to_regclass('backout.journal')") is not None
        finally:
            session.close()

    def has_tables(self) -> bool:
        """See the protocol."""
        session = Session(self._settings.url, "backup")
        try:
            return bool(
                session.value(
                    "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
                    "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' "
                    "AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'backout', $1))",
                    [self._settings.rescue_schema],
                )
            )
        finally:
            session.close()


def tools(name: str) -> tuple[Tool, ...]:
    """Every program of that name that runs: the one on the PATH first, then PostgreSQL's installations."""
    places = [shutil.which(name), *(str(one.path(name)) for one in available_programs())]
    found = [Tool(place, version) for place in places if place and (version := _version(place))]
    return tuple(found)


def fitting(found: Sequence[Tool], major: int) -> Tool | None:
    """The one for a server of that major version: of the same, else of the next newer; None where all are older."""
    return min((one for one in found if one.major >= major), key=lambda one: one.major, default=None)


def _version(place: str) -> str | None:
    try:
        answer = subprocess.run([place, "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # of another platform, or broken: as good as none
    match = re.search(r"\d+(\.\d+|\w+)", answer)
    return match.group() if match else None


def _major(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match.group()) if match else 0


def _is_of(line: str, schemas: set[str]) -> bool:
    """Whether a line of the list is of one of these schemas, or the schema itself.

    Lines read `215; 1259 16385 TABLE public t owner`, `6; 2615 16400 SCHEMA - backout owner` and
    `3500; 0 0 ACL - SCHEMA backout owner` (manual, pg_restore, Examples; measured with 18.4).
    """
    names = "|".join(re.escape(name) for name in schemas)
    return re.match(rf"\d+; \d+ \d+ [A-Z ]+? (?:- )?(?:SCHEMA )?(?:{names}) ", line) is not None
