"""How the writes of a table that triggers followed are done once more, so that the session sees them.

A session knows a row's old values only if it was there when they were replaced. So the rows go back to what they were
while it looks away, and then to what they are now while it looks. Nothing else notices: the table has no triggers
(`intent.plainness`), foreign keys are off meanwhile, and both states have satisfied every constraint already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from backout.engines.sqlite.logged import Logged, same_key
from backout.engines.sqlite.statements import main_table, quote_name

_NOW = "temp.backout_now"


@contextmanager
def quiet(connection: apsw.Connection) -> Iterator[None]:
    """No foreign keys inside of the block: this also works inside of a transaction (measured, 3.54)."""
    enforced = connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, -1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
    try:
        yield
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, enforced)


def restore(connection: apsw.Connection, logged: Logged) -> None:
    """Put the pre-images back, of which each row has one, and remember what is there now."""
    table, key = logged.table, _listed(logged.table.key)
    now = _listed((*table.key, *logged.written))
    connection.execute(f"CREATE TEMP TABLE {_NOW.removeprefix('temp.')} ({now}, PRIMARY KEY ({key}))")
    shown = ", ".join("T." + quote_name(name) for name in (*table.key, *logged.written))
    connection.execute(
        f"INSERT INTO {_NOW} ({now}) SELECT {shown} FROM {main_table(logged.before)} AS I"
        f" CROSS JOIN {main_table(table.name.name)} AS T ON {same_key(table, 'T', 'I')}"
    )
    _set(connection, logged, main_table(logged.before))
    every = _listed(tuple(column.name for column in table.restorable))
    connection.execute(
        f"INSERT INTO {main_table(table.name.name)} ({every}) SELECT {every} FROM {main_table(logged.before)}"
        f" WHERE ({key}) NOT IN (SELECT {key} FROM {_NOW})"
    )


def repeat(connection: apsw.Connection, logged: Logged) -> None:
    """Do again what the statements did."""
    key = _listed(logged.table.key)
    _set(connection, logged, _NOW)
    connection.execute(
        f"DELETE FROM {main_table(logged.table.name.name)}"
        f" WHERE ({key}) IN (SELECT {key} FROM {main_table(logged.before)} EXCEPT SELECT {key} FROM {_NOW})"
    )
    connection.execute(f"DROP TABLE {_NOW}")


def _set(connection: apsw.Connection, logged: Logged, source: str) -> None:
    if logged.written:
        values = ", ".join(f"{quote_name(name)} = I.{quote_name(name)}" for name in logged.written)
        connection.execute(
            f"UPDATE {main_table(logged.table.name.name)} AS T SET {values} FROM {source} AS I"
            f" WHERE {same_key(logged.table, 'T', 'I')}"
        )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(quote_name, names))
