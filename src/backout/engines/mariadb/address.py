"""A URL of MariaDB taken apart, and, where it names several hosts, the one that is used.

`mariadb://user@a,b:3307/clinic`: PyMySQL knows one host only, and all sessions of a run must reach the same server. The
first that is not read-only is used. Not for: refusing a replica (`gates/judge.py`).

Source: MariaDB manual, "Replication and Binary Log System Variables", `read_only`: replicas have it on, by their
administrators' convention; nothing else in a session tells a replica from a primary.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from backout.engines.mariadb.errors import connection_failed
from backout.errors import UsageError

_CONNECT_S = 15
_CONNECT_OF_SEVERAL_S = 10  # a dead one must not keep the others waiting


@dataclass(frozen=True)
class Address:
    """A URL taken apart; `shown` is it without its password."""

    shown: str
    database: str
    options: Mapping[str, Any]


def address_of(url: str) -> Address:
    """Take `mariadb://user:password@host:port/database?unix_socket=…&ssl_ca=…` apart; UsageError where it cannot be."""
    parts = urlsplit(url)
    database = unquote(parts.path.strip("/"))
    shown = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}/{database}"
    if not database:
        raise UsageError(f'the URL "{shown}" names no database', hint="write mariadb://user@host/database")
    options: dict[str, Any] = {
        "host": unquote(parts.hostname or "127.0.0.1"),
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": database,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": _CONNECT_S,
        "local_infile": False,
        "client_flag": CLIENT.FOUND_ROWS,  # an UPDATE tells the rows that matched, as on the other engines
    }
    for name, value in parse_qsl(parts.query):
        if name not in ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "read_default_file"):
            raise UsageError(f'the URL "{shown}" has an option "{name}" that is not known', hint="take it out")
        options[name] = value
    if "unix_socket" in options:
        del options["host"], options["port"]
    return Address(shown, database, options)


def pinned(url: str) -> str:
    """The same URL with the one host that was chosen; a URL with one host is returned as it is, and nothing is asked.

    Where all are read-only it is the first that answers, so that looking works and the gate can say why not. UsageError
    where none does.
    """
    urls = _one_by_one(url)
    if len(urls) == 1:
        return url
    first: str | None = None
    problems: list[UsageError] = []
    for one in urls:
        address = address_of(one)
        try:
            if not _is_read_only({**address.options, "connect_timeout": _CONNECT_OF_SEVERAL_S}):
                return one
            first = first or one
        except (pymysql.Error, OSError) as error:
            problems.append(connection_failed(error, address.shown))
    if first is None:
        raise problems[0]
    return first


def _one_by_one(url: str) -> list[str]:
    """A URL for each host of the list."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{account}{at}{host.strip()}").geturl() for host in hosts.split(",")]


def _is_read_only(options: Mapping[str, Any]) -> bool:
    session: Connection[Any] = pymysql.connect(**options)
    try:
        cursor = session.cursor()
        cursor.execute("SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only")
        return any(int(one) for one in cursor.fetchone() or ())
    finally:
        with suppress(pymysql.Error, OSError):
            session.close()
