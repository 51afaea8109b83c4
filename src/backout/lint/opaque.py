"""Rule `opaque`: code of the database's own (DO, CALL, a function that is not built in) whose writes the text hides.

Not for: functions that are refused (`forbidden`). What they write is captured like everything else; what the text
cannot tell is whether they also act outside of the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.builtin_functions import is_built_in
from backout.lint.model import Finding, Level
from backout.sql.model import Kind, Statement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step

_HINT = "what it writes shows in the ghost run; sequences, messages and programs that it uses are not taken back"
# Built in, but they execute a query that is given to them as text.
_EXECUTES_TEXT = frozenset({
    "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "database_to_xml",
    "schema_to_xml", "ts_stat", "ts_rewrite",
})  # fmt: skip


def check(change: Change, step: Step) -> Iterator[Finding]:
    """Yield one finding per piece of code that the statement runs."""
    statement = step.statement
    if statement.kind is Kind.FORBIDDEN:
        return
    if statement.kind is Kind.WRITE and not statement.targets and not statement.functions:
        yield _finding(statement, "the DO block does nothing outside of the transaction")
    for name in statement.functions:
        if name.removeprefix("pg_catalog.") in _EXECUTES_TEXT:
            yield _finding(statement, f'the query that is given to "{name}" does nothing outside of the transaction')
        elif not is_built_in(change.dialect, name):
            yield _finding(statement, f'"{name}" does nothing outside of the transaction')


def _finding(statement: Statement, condition: str) -> Finding:
    return Finding("opaque", Level.EXACT_IF, condition, _HINT, statement.line, statement.column)
