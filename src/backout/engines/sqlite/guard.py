"""The tripwire: SQLite's authorizer, asked for every access of every statement when it is prepared.

It sees what triggers and foreign key actions would write as well (measured with 3.54: `DELETE FROM parent` also asks
for the child of a CASCADE and for the tables of that child's triggers), so that a table which the session cannot follow
is refused before anything is written. Source: https://sqlite.org/c3ref/set_authorizer.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

from backout.engines.sqlite.catalogue import is_own
from backout.engines.sqlite.handle import Handle
from backout.errors import ROLLED_BACK, UNTOUCHED, Refused

_WRITES = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_READS = frozenset({apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE, apsw.SQLITE_FUNCTION})
_TEMPORARY = frozenset(
    {
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_DROP_TEMP_TABLE,
        apsw.SQLITE_DROP_TEMP_INDEX,
        apsw.SQLITE_DROP_TEMP_VIEW,
    }
)
# Pragmas that only tell; with an argument too. data_version and table_xinfo are also asked for by fts5 and the session.
_TELLING = frozenset(
    [
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "foreign_key_check",
        "integrity_check",
        "quick_check",
        "database_list",
        "collation_list",
        "function_list",
        "module_list",
        "pragma_list",
        "compile_options",
        "data_version",
    ]
)
# Pragmas that tell without an argument, and set with one.
_TELLING_ALONE = frozenset(
    [
        "user_version",
        "application_id",
        "schema_version",
        "page_count",
        "freelist_count",
        "page_size",
        "encoding",
        "foreign_keys",
        "recursive_triggers",
        "defer_foreign_keys",
        "journal_mode",
    ]
)


@dataclass(frozen=True)
class Write:
    """One access that would write, as the authorizer was asked about it."""

    code: int  # apsw.SQLITE_INSERT, SQLITE_UPDATE or SQLITE_DELETE
    table: str
    column: str | None  # of an UPDATE
    database: str | None
    inner: str | None  # the trigger or view that asks for it


class Guard:
    """Watches the statements of one change; `reason` says why the last one was denied."""

    def __init__(self, handle: Handle, unfollowed: Mapping[str, str]) -> None:
        self._handle = handle
        self._unfollowed = unfollowed
        self._passing = False
        self._heard: list[Write] | None = None
        self.own_triggers: set[str] = set()  # triggers of ours: they alone may write the rescue
        self.reason: str | None = None

    def arm(self) -> None:
        """From now on every statement is asked about; also ends what is in the statement cache."""
        self._handle.connection.authorizer = self._judge

    def disarm(self) -> None:
        """The change's part is over."""
        self._handle.connection.authorizer = None

    def let_own(self, *, passing: bool) -> None:
        """Statements of ours, such as the savepoint around a check, pass."""
        self._passing = passing

    @contextmanager
    def listening(self) -> Iterator[list[Write]]:
        """The writes of the statements that are prepared inside of the block; those of our own triggers left out."""
        heard: list[Write] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None

    def refused(self, *, wrote: bool) -> Refused | None:
        """The error for a statement that was just denied, or None if none was."""
        if self.reason is None:
            return None
        reason, self.reason = self.reason, None
        return Refused(
            "capture",
            f"the change {reason}",
            state=ROLLED_BACK if wrote else UNTOUCHED,
            hint="a change writes rows, which can be taken back; do the rest in a migration of your application",
        )

    def _judge(self, code: int, one: str | None, two: str | None, database: str | None, inner: str | None) -> int:
        if self._passing or code in _READS or code in _TEMPORARY or inner in self.own_triggers:
            return apsw.SQLITE_OK
        if self._heard is not None and code in _WRITES:
            self._heard.append(Write(code, one or "", two, database, inner))
        objection = self._objection(code, one or "", two, database)
        if objection is None:
            return apsw.SQLITE_OK
        self.reason = objection
        return apsw.SQLITE_DENY

    def _objection(self, code: int, one: str, two: str | None, database: str | None) -> str | None:
        if code in _WRITES:
            return None if database == "temp" else self._about_write(one)
        if code == apsw.SQLITE_PRAGMA:
            name = one.lower()
            harmless = name in _TELLING or (name in _TELLING_ALONE and two is None) or name == "defer_foreign_keys"
            return None if harmless else f"sets pragma {name}, which no undo takes back"
        if code in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            return f"says {one if code == apsw.SQLITE_TRANSACTION else 'SAVEPOINT'}; the transaction is backout's"
        if code in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
            return "attaches or detaches a database, in which nothing would be captured"
        name = str(apsw.mapping_authorizer_function.get(code, code))
        words = name.removeprefix("SQLITE_").replace("_", " ")
        return f'changes the schema ({words} "{one}")' if one else f"changes the schema ({words})"

    def _about_write(self, table: str) -> str | None:
        if table.lower() in ("sqlite_master", "sqlite_schema"):
            return "changes the schema"
        if is_own(table):
            owner = "SQLite's" if table.lower().startswith("sqlite_") else "backout's"
            return f'writes {owner} own table "{table}"'
        reason = self._unfollowed.get(table.lower())
        return None if reason is None else f'writes table "{table}", which {reason}'
