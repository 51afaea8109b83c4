"""apsw's exceptions as backout's: what happened, what is true of the database now, what to do.

Source of the codes: https://sqlite.org/rescode.html. Invariant: no apsw exception leaves this folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from backout.errors import ROLLED_BACK, UNTOUCHED, BackoutError, Busy, DatabaseFailed, Interrupted, UsageError


def code_of(error: apsw.Error) -> str | None:
    """SQLite's name of the error, e.g. `SQLITE_CONSTRAINT_UNIQUE`; None where apsw itself objected."""
    number = getattr(error, "extendedresult", None)
    if number is None:
        return None
    extended = apsw.mapping_extended_result_codes.get(number)
    plain = apsw.mapping_result_codes.get(number & 0xFF)
    name = extended if extended is not None else plain
    return None if name is None else str(name)


def seconds(duration_s: float) -> str:
    """A duration as people write it: `5 s`, `0.2 s`."""
    return f"{duration_s:g} s"


def as_backout_error(error: apsw.Error, database: str, *, state: str, lock_timeout_s: float) -> BackoutError:
    """The error of ours that says the same."""
    text = str(error).removeprefix(f"{type(error).__name__}: ")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Busy(
            f'unable to lock database "{database}" within {seconds(lock_timeout_s)}: another connection holds it',
            state=state,
            hint="wait until that program has finished, or raise lock_timeout for this change",
        )
    if isinstance(error, apsw.InterruptError):
        return Interrupted("the statement was interrupted", state=state)
    if isinstance(error, apsw.NotADBError):
        return UsageError(f'"{database}" is not a SQLite database', hint="is it encrypted, or another kind of file?")
    if isinstance(error, apsw.CantOpenError | apsw.PermissionsError):
        return UsageError(
            f'unable to open database "{database}": {text}',
            hint="check the rights on the file and its folder: SQLite writes its journal beside it",
        )
    hint = None
    if isinstance(error, apsw.ReadOnlyError):
        hint = "the file, its folder or its disk is read-only for this user; grant write access"
    elif isinstance(error, apsw.FullError):
        hint = "free some space on the disk of the database: the rescue needs about twice the rows that change"
    elif isinstance(error, apsw.CorruptError):
        hint = 'the file is damaged: run "PRAGMA integrity_check" on a copy and restore a backup'
    elif isinstance(error, apsw.IOError):
        hint = "the disk or the network drive failed; SQLite wants a local disk"
    return DatabaseFailed(f"the database refused: {text}", sqlstate=code_of(error), state=state, hint=hint)


@contextmanager
def translated(database: str, *, state: str = ROLLED_BACK, lock_timeout_s: float = 0.0) -> Iterator[None]:
    """Translate what apsw raises inside of the block."""
    try:
        yield
    except apsw.Error as error:
        raise as_backout_error(error, database, state=state, lock_timeout_s=lock_timeout_s) from error
    except UnicodeDecodeError as error:
        raise DatabaseFailed(
            f"the database has text that is not valid {error.encoding}: {error.reason}",
            state=state,
            hint="repair the text, or store it as BLOB: CAST(column AS BLOB)",
        ) from error
    except (TypeError, KeyError, apsw.BindingsError) as error:
        raise DatabaseFailed(
            f"the parameters do not fit the statement: {error}",
            state=state,
            hint="give every parameter a value that SQLite stores: None, int, float, str or bytes",
        ) from error


__all__ = ["ROLLED_BACK", "UNTOUCHED", "as_backout_error", "code_of", "seconds", "translated"]
