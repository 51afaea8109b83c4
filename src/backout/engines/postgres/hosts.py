"""A URL with several hosts: which of them is used, and that all sessions of a run use that one.

libpq would choose anew for each connection, and a run whose sessions are on two servers could prove nothing. So one is
chosen, and from then on the URL names it alone. Not for: refusing a standby (`gates/judge.py`).

Source: manual 32.1.1.3 (several hosts), 32.1.1.2 (URIs), 32.1.2 (`target_session_attrs`: "read-write" is a server that
is not in recovery and whose sessions are not read-only by default).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

_CONNECT_S = 10  # for each host, where the URL has no `connect_timeout`: a dead one must not keep the others waiting
#: Where the URL does not say: the primary; where no host is one, any, so that looking works and the gate can say why not.
_USUAL = ("read-write", "any")


def pinned(url: str) -> str:
    """The same URL with the one host that was chosen; a URL with one host is returned as it is, and nothing is asked.

    Raises psycopg.Error where none can be connected to.
    """
    given = conninfo_to_dict(url)
    listed = given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST") or ""
    if "," not in str(listed):
        return url
    wanted = given.get("target_session_attrs")
    last: psycopg.Error | None = None
    for attributes in (str(wanted),) if wanted else _USUAL:
        try:
            return _url(given, _found(url, given, attributes), attributes)
        except psycopg.OperationalError as error:
            last = last or error
    assert last is not None, "at least one kind was tried"
    raise last


def _found(url: str, given: Mapping[str, Any], attributes: str) -> Mapping[str, Any]:
    """Where a session with these attributes was let in."""
    patience = given.get("connect_timeout") or _CONNECT_S
    with psycopg.connect(
        url, autocommit=True, target_session_attrs=attributes, connect_timeout=int(patience),
        application_name="backout: which host",
    ) as session:  # fmt: skip
        about = session.info
        return {"host": about.host, "port": about.port, "hostaddr": about.hostaddr if given.get("hostaddr") else None}


def _url(given: Mapping[str, Any], found: Mapping[str, Any], attributes: str) -> str:
    """Put together anew. The password stays in its usual place, where everything that prints a URL hides it."""
    more = {name: value for name, value in {**given, **found, "target_session_attrs": attributes}.items() if value}
    user, password = more.pop("user", None), more.pop("password", None)
    account = f"{_coded(user or '')}{f':{_coded(password)}' if password else ''}@" if user or password else ""
    host, port, database = str(more.pop("host", "")), more.pop("port", ""), more.pop("dbname", "")
    place = f"[{host}]" if ":" in host else _coded(host)
    for name in ("load_balance_hosts",):
        more.pop(name, None)
    query = "&".join(f"{name}={_coded(value)}" for name, value in more.items())
    return f"postgresql://{account}{place}{f':{port}' if port else ''}/{_coded(database)}?{query}"


def _coded(value: Any) -> str:
    return quote(str(value), safe="")
