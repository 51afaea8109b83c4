"""PyMySQL's errors in our words. The only file that knows both.

Codes: MariaDB manual, "MariaDB Error Codes". The messages of some codes quote values of rows ("Duplicate entry 'x'"):
those values are cut out, since no value of a row goes into a message.
"""

from __future__ import annotations

import re
from typing import Any

import pymysql

from backout.errors import BackoutError, Busy, DatabaseFailed, Interrupted, UsageError

_LOCK_WAIT, _DEADLOCK, _LOCK_NOWAIT = 1205, 1213, 3572
_STOPPED = {1317, 1028}  # KILL QUERY; a sort that was aborted
_TIMED_OUT = {1969, 3024}  # max_statement_time; MySQL's max_execution_time
_LOST = {0, 1053, 1080, 1152, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2055, 4031}

_HINTS: dict[int, str] = {
    1146: "check the name and the database",
    1054: "check the column's name",
    1142: "grant the right to this account",
    1143: "grant the right to this account",
    1044: "grant the right to this account",
    1370: "grant EXECUTE on it to this account",
    1153: "raise max_allowed_packet on the server, or write the change in smaller statements",
    1301: "raise max_allowed_packet on the server",
    1290: "connect to the primary, not to a read-only replica",
    1792: "connect to the primary, not to a read-only replica",
    1836: "connect to the primary, not to a read-only replica",
    1021: "make room on the server's disk, then run it again",
    1114: "make room on the server's disk, then run it again",
    1665: "set binlog_format to MIXED or ROW on the server",
}
_DEADLOCK_HINT = "run it again: the server ended it to resolve a deadlock"
_LOCK_HINT = "wait for that session, end it, or raise `lock_timeout` for this environment"

# What holds values of rows: 1062 duplicate entry, 1366 incorrect value, 1292 incorrect value, 1264 names only.
_VALUES = re.compile(r"(entry|value:?|truncated:?) '(?:[^']|'(?! for| at))*'(?= for| at|$)|: '(?:[^'])*'")


def code_of(error: BaseException) -> int | None:
    """The server's or the client's error number."""
    found: Any = error.args[0] if error.args else None
    return found if isinstance(found, int) else None


def said(error: pymysql.Error) -> str:
    """The message without the values of rows."""
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    return _VALUES.sub(lambda match: f"{match[1]} '…'" if match[1] else ": '…'", re.sub(r"\s+", " ", text)).strip()


def translated(error: pymysql.Error, doing: str, *, state: str = "rolled back") -> BackoutError:
    """Our error for the driver's; `doing` reads like "run the statement"."""
    code, text = code_of(error), said(error)
    if code in (_LOCK_WAIT, _LOCK_NOWAIT):
        return Busy(f"unable to {doing}: a lock was not got in time: {text}", state=state, hint=_LOCK_HINT)
    if code == _DEADLOCK:
        return DatabaseFailed(f"unable to {doing}: {text}", sqlstate="40001", state=state, hint=_DEADLOCK_HINT)
    if code in _TIMED_OUT:
        return DatabaseFailed(
            f"unable to {doing}: {text}",
            sqlstate="70100",
            state=state,
            hint="raise `statement_timeout` for this environment, or make the change smaller",
        )
    if code in _STOPPED:
        return Interrupted(f"interrupted while trying to {doing}", state=state, hint="run it again when you are ready")
    if code in _LOST or (code is None and isinstance(error, pymysql.InterfaceError)):
        return Interrupted(
            f"unable to {doing}: the connection to the server was lost: {text}",
            state=state,
            hint="what was open is rolled back by the server; `backout log` settles the record of the run",
        )
    sqlstate = None if code is None else str(code)
    return DatabaseFailed(f"unable to {doing}: {text}", sqlstate=sqlstate, state=state, hint=_HINTS.get(code or 0))


def connection_failed(error: Exception, where: str) -> UsageError:
    """For a connection that could not be made: wrong address, password, database."""
    text = re.sub(r"\s+", " ", str(error.args[1] if len(error.args) > 1 else error)).strip()
    hint = "check the environment's url"
    code = code_of(error)
    if code == 1045:
        hint = "check the account and its password"
    elif code in (1044, 1049):
        hint = "check the name of the database, and the account's rights on it"
    elif code in (2002, 2003, 2005):
        hint = "check host and port, and that the server runs"
    return UsageError(f"unable to connect to {where}: {text}", hint=hint)
