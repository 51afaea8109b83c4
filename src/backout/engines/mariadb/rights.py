"""Which rights the account has, by its own grants; and which of those that backout needs are missing.

Source: manual, "GRANT" and "SHOW GRANTS". Rights that come from a default role are not in SHOW GRANTS of the account
itself, but in that of the role, which is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from backout.engines.mariadb.names import qualified, quoted
from backout.engines.mariadb.session import Session
from backout.engines.values import TableName

#: On the journal's and the rescue's databases.
_OWN = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "INDEX", "ALTER")
#: For a dump. A trigger, a routine or an event that is not shown is left out of it without a word, and exit status 0
#: (measured with mariadb-dump 10.11.19); without EVENT it fails where it comes to them.
_DUMPED = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")
#: On the data: to read it, and to see what writes to it can set off.
_DATA = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRIGGER", "SHOW VIEW", "CREATE TEMPORARY TABLES")

_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<where>(?:`(?:[^`]|``)*`|\*)\.(?:`(?:[^`]|``)*`|\*)) TO ")
_ROLE = re.compile(r"GRANT (`(?:[^`]|``)*`) TO ")


#: The rights of one GRANT, and on what: `*.*`, `` `database`.* `` or `` `database`.`table` ``.
Grant = tuple[frozenset[str], str]


def has_right(session: Session, right: str, database: str | None = None) -> bool:
    """Whether the account has a right on everything, or on all of a database."""
    return any(_covers(grant, right, database) for grant in _grants(session))


def grants_of(session: Session) -> list[Grant]:
    """All rights of the account, those of its roles included."""
    return list(_grants(session))


def covers(grants: Iterable[Grant], right: str, table: TableName) -> bool:
    """Whether there is that right on the table, on its database or on everything."""
    alone = qualified(table)
    return any(_covers(grant, right, table.schema) or (grant[1] == alone and _names(grant, right)) for grant in grants)


def _covers(grant: Grant, right: str, database: str | None) -> bool:
    where = grant[1]
    scope = where.rpartition(".")[0].strip("`").replace("``", "`").replace("\\_", "_").replace("\\%", "%")
    fits = where == "*.*" or (where.endswith(".*") and database is not None and _like(scope, database))
    return fits and _names(grant, right)


def _names(grant: Grant, right: str) -> bool:
    return right in grant[0] or "ALL PRIVILEGES" in grant[0]


def _like(pattern: str, name: str) -> bool:
    return pattern == name or (pattern.endswith("%") and name.startswith(pattern[:-1]))


def _grants(session: Session) -> Iterator[Grant]:
    waiting, seen = ["CURRENT_USER()"], set()
    while waiting:
        who = waiting.pop()
        if who in seen:
            continue
        seen.add(who)
        for (text,) in session.rows(f"SHOW GRANTS FOR {who}"):
            match = _GRANT.match(text)
            if match:
                rights = re.sub(r"\([^)]*\)", "", match["rights"])
                yield frozenset(right.strip() for right in rights.split(",")), match["where"]
            elif role := _ROLE.match(text):
                waiting.append(role[1])


def missing_rights(session: Session, database: str, rescue: str) -> list[str]:
    """The GRANT statements that an administrator must run; empty: nothing is missing."""
    account = _account(session)
    missing = []
    if not has_right(session, "PROCESS"):
        missing.append(f"GRANT PROCESS ON *.* TO {account};")
    missing += [
        f"GRANT ALL ON {quoted(name)}.* TO {account};"
        for name in ("backout", rescue)
        if not all(has_right(session, right, name) for right in _OWN)
    ]
    lacking = [right for right in _DATA if not has_right(session, right, database)]
    if lacking:
        missing.append(f"GRANT {', '.join(lacking)} ON {quoted(database)}.* TO {account};")
    return missing


def missing_for_a_dump(session: Session, database: str) -> list[str]:
    """The same for a dump that leaves nothing out; the bodies of routines are in mysql.proc."""
    account, grants, missing = _account(session), grants_of(session), []
    lacking = [right for right in _DUMPED if not has_right(session, right, database)]
    if lacking:
        missing.append(f"GRANT {', '.join(lacking)} ON {quoted(database)}.* TO {account};")
    if not covers(grants, "SELECT", TableName("mysql", "proc")):
        missing.append(f"GRANT SELECT ON mysql.proc TO {account};")
    return missing


def _account(session: Session) -> str:
    return "@".join(quoted(part) for part in str(session.value("SELECT CURRENT_USER()")).rsplit("@", 1))
