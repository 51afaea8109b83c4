"""A MariaDB database as a stream: `mariadb-dump --single-transaction`, and back by the client `mariadb`.

The dump is of one moment for InnoDB tables, which are the only ones that a run writes to (mariadb-dump's manual,
`--single-transaction`). The password goes by the variable MYSQL_PWD, never by a command line. Journal and rescue are
databases of their own, so that they are in no dump and no restore touches them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC

from backout.engines.dump import Arrival, DumpFacts, Pour, Reader
from backout.engines.mariadb.address import address_of, pinned
from backout.engines.mariadb.names import literal
from backout.engines.mariadb.rights import missing_for_a_dump
from backout.engines.mariadb.session import Session
from backout.engines.program import Program, answer_of, pour_into, reading_from
from backout.engines.values import Settings
from backout.errors import Refused, RestoreFailed

#: `--no-tablespaces`: they need the right PROCESS, and are of the server, not of the database.
_DUMP = (
    "--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob", "--no-tablespaces",
    "--skip-lock-tables", "--default-character-set=utf8mb4", "--tz-utc",
)  # fmt: skip


class MariaDump:
    """See `engines.dump.Dump`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def facts(self) -> DumpFacts:
        """See the protocol."""
        session = Session(self._settings.url)
        try:
            now, version, database = session.one("SELECT UTC_TIMESTAMP(6), VERSION(), DATABASE()")
        finally:
            session.close()
        return DumpFacts(now.replace(tzinfo=UTC), "MariaDB", str(version).split("-")[0], str(database))

    def made_with(self) -> str:
        """See the protocol."""
        said = answer_of(Program((_place("mariadb-dump"), "--version"), "ask mariadb-dump for its version"))
        match = re.search(r"Distrib ([\d.]+)|from ([\d.]+)", said)
        return f"mariadb-dump {(match[1] or match[2]) if match else 'of an unknown version'}"

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """See the protocol. Refused where the account does not see all: mariadb-dump leaves that out, and says nothing."""
        session = Session(self._settings.url)
        try:
            missing = missing_for_a_dump(session, session.address.database)
        finally:
            session.close()
        if missing:
            raise Refused("backup", "the dump would leave out what this account is not shown",
                          hint="let an administrator run:\n  " + "\n  ".join(missing))  # fmt: skip
        with reading_from(self._program("mariadb-dump", "dump the database", _DUMP)) as stream:
            yield stream

    def restore(self, pour: Pour, arrival: Arrival) -> None:
        """See the protocol, except that MariaDB cannot roll back DDL: RestoreFailed where it ends half-way."""
        server = self.facts().server_version
        if _series(server) < _series(arrival.server_version):
            raise Refused(
                "backup",
                f"the backup is of MariaDB {arrival.server_version}, and this server is {server}",
                hint="restore into a server of the same or a newer series",
            )
        options = ("--batch", "--default-character-set=utf8mb4")
        program = self._program("mariadb", "restore the database", options, private=arrival.private)
        try:
            pour_into(program, pour)
        except Refused as error:
            raise RestoreFailed(
                error.message, state="partly restored",
                hint="mend it, and restore again with --replace: MariaDB cannot take back what is done so far",
            ) from None  # fmt: skip

    def has_tables(self) -> bool:
        """See the protocol."""
        session = Session(self._settings.url)
        try:
            name = literal(session.address.database)
            return bool(session.value(f"SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {name}"))
        finally:
            session.close()

    def _program(self, name: str, doing: str, options: tuple[str, ...], *, private: bool = False) -> Program:
        address = address_of(pinned(self._settings.url))
        given = dict(address.options)
        file = given.get("read_default_file")
        words = [_place(name), f"--defaults-file={file}" if file else "--no-defaults", *options]
        if "unix_socket" in given:
            words.append(f"--socket={given['unix_socket']}")
        else:
            words += ["--protocol=TCP", f"--host={given['host']}", f"--port={given['port']}"]
        words += [
            f"--{key.replace('_', '-')}={given[key]}" for key in ("ssl_ca", "ssl_cert", "ssl_key") if key in given
        ]
        words += [f"--user={given['user']}"] if given["user"] else []
        variables = {"MYSQL_PWD": str(given["password"])} if given["password"] else {}
        return Program((*words, address.database), doing, variables, private=private)


def _place(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Refused(
            "backup", f"the program {name} is not on this machine",
            hint="install MariaDB's client programs (Debian: mariadb-client)",
        )  # fmt: skip
    return found


def _series(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
