"""Triggers cannot be switched off on MariaDB: which of them would spoil the undo of a table's rows.

A trigger does no harm where all that it does is to add to append-only tables, or to set bookkeeping columns; those are
named in the project's configuration. Everything else is in the way: the undo would not be exact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backout.engines.mariadb import catalogue
from backout.engines.mariadb.session import Session
from backout.engines.values import Settings, TableName
from backout.errors import InvalidFile
from backout.sql.mariadb import tokens_of
from backout.sql.mariadb_names import functions_of, name_at
from backout.sql.tokens import Token


def undo_obstacle(session: Session, names: Collection[TableName], settings: Settings) -> str | None:
    """The first trigger in the way, in words, with what would let it pass; None: nothing."""
    for trigger in catalogue.triggers_on(session, names):
        reason = _objection(session, trigger, settings)
        if reason is not None:
            return f'trigger "{trigger.name}" on {trigger.table} cannot be switched off on MariaDB, and {reason}'
    return None


def _objection(session: Session, trigger: catalogue.Trigger, settings: Settings) -> str | None:
    if trigger.body == catalogue.BACKSLASHES:
        return "its body cannot be read"
    try:
        tokens = tokens_of(trigger.body)
    except InvalidFile:
        return "its body cannot be read"
    for table in _written(tokens, trigger.schema):
        if table.name not in settings.append_only and str(table) not in settings.append_only:
            return f"it writes table {table} (where that is only added to, name it in `append_only`)"
    for column in _set_columns(tokens):
        if column not in settings.bookkeeping:
            return f'it sets column "{column}" (where the application may set it anew, name it in `bookkeeping`)'
    if any(token.is_word("CALL") for token in tokens):
        return "it calls a procedure"
    called = {TableName(trigger.schema, name.rpartition(".")[2]) for name in functions_of(tokens)}
    routines = catalogue.routine_bodies(session, called)
    return f"it calls function {next(iter(routines))}" if routines else None


def _written(tokens: Sequence[Token], schema: str) -> list[TableName]:
    found = []
    for index, token in enumerate(tokens):
        if not token.is_word("INSERT", "REPLACE", "UPDATE", "DELETE"):
            continue
        if index and tokens[index - 1].is_word("KEY"):  # ON DUPLICATE KEY UPDATE
            continue
        if token.is_word("INSERT", "REPLACE") and index + 1 < len(tokens) and tokens[index + 1].text == "(":
            continue  # the functions of that name
        place = index + 1
        while place < len(tokens) and tokens[place].is_word("INTO", "FROM", "IGNORE", "LOW_PRIORITY", "QUICK"):
            place += 1
        name = name_at(tokens, place)
        found.append(
            TableName(schema if name is None or name[0] is None else name[0], "?" if name is None else name[1])
        )
    return found


def _set_columns(tokens: Sequence[Token]) -> list[str]:
    """Columns after `NEW.` that something is assigned to."""
    found = []
    for index, token in enumerate(tokens[:-3]):
        if token.name is not None and token.name.upper() == "NEW" and tokens[index + 1].text == ".":
            before = tokens[index - 1] if index else token
            follows = tokens[index + 3]
            assigned = follows.text in ("=", ":") and (before.is_word("SET") or before.text == ",")
            if assigned or before.is_word("INTO"):
                found.append(tokens[index + 2].name or "?")
    return found
