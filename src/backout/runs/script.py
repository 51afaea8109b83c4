"""Python changes: `apply(db)`, and `check(db)` where there is one, run inside of the supervised transaction.

The code that runs is the text that the digest was taken of, never the file as it may be by now.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import MappingProxyType, TracebackType
from typing import Any

from backout.change.model import Change, DataClass
from backout.engines.protocol import Transaction
from backout.engines.values import Mode
from backout.errors import ROLLED_BACK, UNTOUCHED, AssertionFailed, BackoutError, InvalidFile, Refused, RolledBack
from backout.runs.report import AssertionReport, shown
from backout.sql.model import Dialect, Kind
from backout.sql.read import read_script

_PLACEHOLDER = re.compile(r"%\(\w+\)[sbt]|%[sbt]")
# SQLite's, and what they may stand in without being one: texts, quoted names, comments.
_SQLITE_PLACEHOLDER = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/)|\?\d*|[:@$][A-Za-z_]\w*""", re.DOTALL
)
# Savepoints by their names alone: nothing may follow, least of all a COMMIT.
_SAVEPOINT = re.compile(
    r"""\s*(SAVEPOINT|RELEASE(\s+SAVEPOINT)?|ROLLBACK(\s+(WORK|TRANSACTION))?\s+TO(\s+SAVEPOINT)?)\s+(\w+|"[^"]+")\s*;?\s*""",
    re.IGNORECASE,
)


def run_script(
    change: Change, transaction: Transaction, mode: Mode, values: Mapping[str, Any], assertions: list[AssertionReport]
) -> None:
    """Run the change. Raises RolledBack with the script's own line where it raises.

    What the script prints goes to standard error: standard output is for the result of the run. Where the rows are PHI
    it goes nowhere, since it can be rows.
    """
    private = change.metadata.data is DataClass.PHI
    database = transaction.script(guard_for(change.dialect))
    database.mode, database.parameters = mode.value, MappingProxyType(values)
    with played(change) as (apply, check):
        apply(database)
        if check is not None:
            answer = check(database)
            assertions.append(AssertionReport("check(db)", answer is not False, shown(answer, private=private)))
    if assertions and not assertions[-1].passed:
        raise AssertionFailed(f"{change.path}: check(db) returned False", hint="look at the rows with `backout ghost`")


@contextmanager
def played(change: Change) -> Iterator[tuple[Callable[[Any], object], Callable[[Any], object] | None]]:
    """The script's `apply` and `check`, to be called in here: what they raise is told with the script's own line."""
    namespace: dict[str, Any] = {"__name__": "backout_change", "__file__": str(change.path)}
    with _blamed(change), _printing(private=change.metadata.data is DataClass.PHI):
        exec(compile(change.text, str(change.path), "exec", dont_inherit=True), namespace)  # noqa: S102 -- running it is the purpose
        yield namespace["apply"], namespace.get("check")


@contextmanager
def _printing(*, private: bool) -> Iterator[None]:
    """Where the script's print, warnings and logging go."""
    if not private:
        with redirect_stdout(sys.stderr):
            yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123 -- a device
        yield


def guard_for(dialect: Dialect) -> Callable[[str], None]:
    """A judge of single statements: raises Refused for what may not stand in a change."""

    def guard(text: str) -> None:
        if _SAVEPOINT.fullmatch(text):
            return
        readable = _without_placeholders(text, dialect)
        try:
            statements = read_script(dialect, readable, (), "script").statements
        except InvalidFile as error:
            raise Refused(
                "script", f"unable to read a statement of the script: {error.message}", state="rolled back",
                hint="backout runs only what it can read",
            ) from None  # fmt: skip
        for statement in statements:
            if statement.kind is Kind.FORBIDDEN and statement.objection is not None:
                raise Refused(
                    "script", f"a statement of the script may not run: {statement.objection.reason}",
                    state="rolled back", hint=statement.objection.hint,
                )  # fmt: skip

    return guard


def _without_placeholders(text: str, dialect: Dialect) -> str:
    if dialect is Dialect.POSTGRES:
        return _PLACEHOLDER.sub("NULL", text).replace("%%", "%")
    if dialect is Dialect.MARIADB:
        from backout.sql.mariadb import without_parameters

        return without_parameters(text)
    return _SQLITE_PLACEHOLDER.sub(lambda match: match[1] or "NULL", text)


class _blamed:  # noqa: N801 -- a context manager reads like a function
    """Translate what the script raises, with the line of the script where it happened."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception | SystemExit):  # a script's sys.exit() ends no run of ours
            return
        lines = [f.lineno for f in traceback.extract_tb(trace) if f.filename == str(self._change.path)]
        place = f"{self._change.path}:{lines[-1]}" if lines else str(self._change.path)
        if isinstance(error, BackoutError):
            _place(error, place)
            return
        raise RolledBack(
            f"{place}: the script raised {type(error).__name__}: {error}", hint="mend the script; nothing was changed"
        ) from error


def _place(error: BackoutError, place: str) -> None:
    """Say where, as with a statement of a file. The script may have written before: the run rolls that back."""
    error.message = f"{place}: {error.message}" if isinstance(error, RolledBack) else f"{error.message} ({place})"
    error.args = (error.message,)
    error.state = ROLLED_BACK if error.state == UNTOUCHED else error.state
