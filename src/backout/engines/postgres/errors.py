"""psycopg's errors in our words. The only file that knows both.

SQLSTATE codes: PostgreSQL manual, appendix A. What the server says of the rows (DETAIL) is left out unless asked for,
since it carries values.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import errors as pg

from backout.errors import BackoutError, Busy, DatabaseFailed, Interrupted, UsageError

_HINTS: dict[str, str] = {
    "42P01": "check the name and the schema (search_path)",
    "42703": "check the column's name",
    "42501": "grant the right to the role, or name another `role` for this environment",
    "40P01": "run it again: the server ended it to resolve a deadlock",
    "40001": "run it again: another session changed the same rows",
    "53100": "make room on the server's disk, then run it again",
    "57014": "raise `statement_timeout` for this environment, or make the change smaller",
    "25006": "connect to the primary, not to a read-only replica",
}


def translated(error: psycopg.Error, doing: str, *, state: str = "rolled back") -> BackoutError:
    """Our error for the driver's; `doing` reads like "run the statement at line 12"."""
    said = primary_message(error)
    sqlstate = error.sqlstate
    if isinstance(error, pg.LockNotAvailable):
        return Busy(f"unable to {doing}: a lock was not got in time: {said}", state=state, hint=_LOCK_HINT)
    if sqlstate == "42501" and "row-level security" in said:
        return DatabaseFailed(
            f"unable to {doing}: {said}",
            sqlstate=sqlstate,
            state=state,
            hint="row-level security would hide rows from this role: use a role that sees them all (BYPASSRLS, or the "
            "owner where it is not FORCEd), or write the change against what it may see",
        )
    if isinstance(error, pg.QueryCanceled):
        return _cancelled(said, doing, state)
    # Without a code it is the driver's own word: of the connection, or of how it was called (a script's mistake).
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) if sqlstate is None else False
    if lost or (sqlstate or "").startswith("08") or sqlstate in {"57P01", "57P02", "57P03"}:
        return Interrupted(
            f"unable to {doing}: the connection to the server was lost: {said}",
            state=state,
            hint="what was open is rolled back by the server; `backout log` settles the record of the run",
        )
    table, hint = error.diag.table_name, _HINTS.get(sqlstate or "")
    return DatabaseFailed(f"unable to {doing}: {said}", sqlstate=sqlstate, table=table, state=state, hint=hint)


_LOCK_HINT = "wait for that session, end it, or raise `lock_timeout` for this environment"


def _cancelled(said: str, doing: str, state: str) -> BackoutError:
    if "statement timeout" in said:
        return DatabaseFailed(f"unable to {doing}: {said}", sqlstate="57014", state=state, hint=_HINTS["57014"])
    return Interrupted(f"interrupted while trying to {doing}", state=state, hint="run it again when you are ready")


def primary_message(error: psycopg.Error) -> str:
    """The server's first line, without DETAIL, CONTEXT or values."""
    primary = error.diag.message_primary
    return primary or re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__


def connection_failed(error: psycopg.Error, where: str) -> UsageError:
    """For a connection that could not be made: wrong address, password, database."""
    said = re.sub(r"\s+", " ", str(error)).strip()
    hint = "check the environment's url"
    if "password authentication failed" in said or "no password supplied" in said:
        hint = "check the password: it comes from the url, PGPASSWORD or ~/.pgpass"
    elif "does not exist" in said:
        hint = "check the name of the database and of the role"
    elif "refused" in said or "No such file" in said or "could not translate" in said:
        hint = "check host and port, and that the server runs"
    return UsageError(f"unable to connect to {where}: {said}", hint=hint)
