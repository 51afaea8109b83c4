"""The quick form: one plain UPDATE or DELETE of one big table, its rows read once more by the statement's own condition.

After the statement has run, every row that it wrote is locked by the run, and `aux` still sees that row as the statement
found it: so the row meets the condition for `aux`, if the condition says the same whenever it is asked. Rows that others
have committed meanwhile may meet it as well. The server has counted C rows. A plain statement touches a row once, so
there are exactly C rows of ours; all are among those that `aux` finds, and if `aux` finds C, they are the same rows. So
too for what `main` finds, where the condition does not depend on what was set. Where the counts differ, nothing was
learnt, and the general form runs (`capture.py`).

Only where nothing else can have written: no trigger, no cascade, no generated column, no second statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backout.engines.mariadb import images
from backout.engines.mariadb.capture import Pair
from backout.engines.mariadb.images import column_list, columns_named, key_match, rescue_name
from backout.engines.mariadb.names import comma, qualified, quoted
from backout.engines.mariadb.session import Session, predicate_modes
from backout.engines.values import CapturedTable, Column, Table, TableName
from backout.sql.mariadb import tokens_of
from backout.sql.mariadb_names import name_at, set_columns
from backout.sql.tokens import Token, TokenKind

CAPTURED_BY = "two sessions, quick form"
LEAST_ROWS = 5000  # below, the general form takes a fraction of a second

#: Functions that say the same of the same row, whenever and in whichever session they are asked.
_STEADY = frozenset({
    "abs", "ascii", "ceil", "ceiling", "char_length", "coalesce", "concat", "concat_ws", "crc32", "date", "day",
    "dayofmonth", "dayofweek", "dayofyear", "floor", "greatest", "hex", "hour", "if", "ifnull", "instr", "isnull", "lcase",
    "least", "left", "length", "locate", "lower", "lpad", "ltrim", "md5", "minute", "mod", "month", "nullif", "octet_length",
    "power", "quarter", "repeat", "replace", "reverse", "right", "round", "rpad", "rtrim", "second", "sign", "substr",
    "substring", "trim", "truncate", "ucase", "upper", "week", "year", "json_extract", "json_value",
})  # fmt: skip
_UNSTEADY = frozenset({
    "SELECT", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "UTC_DATE", "UTC_TIME",
    "UTC_TIMESTAMP", "CURRENT_USER", "CURRENT_ROLE", "SESSION_USER", "NEXT", "PREVIOUS", "DEFAULT", "MATCH", "ROWNUM",
})  # fmt: skip
_KEYWORDS = frozenset(
    {"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "XOR", "REGEXP", "RLIKE", "CASE", "WHEN", "THEN"}
)


@dataclass(frozen=True)
class PlainWrite:
    """One statement as it ran: its table, the columns that it sets (none: a DELETE), its condition as SQL."""

    table: TableName
    columns: tuple[str, ...]
    condition: str
    named: frozenset[str]  # names in the condition, lower-case


def plain_write(text: str, database: str) -> PlainWrite | None:
    """What a statement, its parameters put in, is if it is plain enough; else None."""
    tokens = tokens_of(text)
    if not tokens or tokens[-1].text == ";":
        return None
    start = 2 if tokens[0].is_word("DELETE") and len(tokens) > 1 and tokens[1].is_word("FROM") else 1
    name = name_at(tokens, start) if tokens[0].is_word("UPDATE") or start == 2 else None
    if name is None or (name[0] is None and tokens[start].is_word("LOW_PRIORITY", "IGNORE", "QUICK")):
        return None
    after = start + (3 if name[0] is not None else 1)
    where = next((i for i, token in enumerate(tokens) if token.is_word("WHERE") and _depth(tokens, i) == 0), None)
    follows = tokens[after] if after < len(tokens) else None
    if follows is None or where is None or not follows.is_word("SET" if start == 1 else "WHERE"):
        return None
    condition = tokens[where + 1 :]
    if not condition or not _is_steady(condition) or any(token.is_word("SELECT") for token in tokens):
        return None
    names = frozenset((token.name or "").lower() for token in condition)
    columns = set_columns(tokens[:where]) if start == 1 else ()
    schema = database if name[0] is None else name[0]
    return PlainWrite(TableName(schema, name[1]), columns, text[condition[0].start :], names)


def _depth(tokens: Sequence[Token], index: int) -> int:
    return sum({"(": 1, ")": -1}.get(token.text, 0) for token in tokens[:index])


def _is_steady(condition: Sequence[Token]) -> bool:
    for index, token in enumerate(condition):
        following = condition[index + 1].text if index + 1 < len(condition) else ""
        if token.kind is TokenKind.USER_VARIABLE or token.is_word(*_UNSTEADY, "ORDER", "LIMIT", "RETURNING"):
            return False
        calls = following == "(" and token.name is not None and token.text.upper() not in _KEYWORDS
        if calls and (token.text.lower() not in _STEADY or (index and condition[index - 1].text == ".")):
            return False
    return True


def fits(write: PlainWrite, table: Table, counted: int) -> bool:
    """Whether the table, and what the statement did to it, allow the quick form."""
    own = {column.name.lower() for column in table.columns}
    sets = {name.lower() for name in write.columns}
    return (
        counted >= LEAST_ROWS
        and bool(table.key)
        and not table.triggers
        and not any(column.generated for column in table.columns)
        and sets <= own
        and not sets & {name.lower() for name in table.key}
    )


@dataclass(frozen=True)
class Rows:
    """The rows that were written, said in SQL: what comes after `FROM table t`, once for each session.

    `mine` is None where the run's session has to go by the keys of the pre-images; `gone`: a DELETE wrote them.
    """

    theirs: str
    mine: str | None
    changed: frozenset[str]  # columns, lower-case
    gone: bool = False


def rows_of(write: PlainWrite, own_columns: Sequence[str]) -> Rows:
    """Of a plain statement; `own_columns` are those that the server sets by itself (ON UPDATE CURRENT_TIMESTAMP)."""
    changed = frozenset(name.lower() for name in (*write.columns, *own_columns)) if write.columns else frozenset()
    where = f"WHERE {write.condition}"
    return Rows(where, None if changed & write.named or not write.columns else where, changed, gone=not write.columns)


def rows_restored(rescue: str, captured: CapturedTable, own_columns: Sequence[str]) -> Rows:
    """Of an undo that put all rows of a run's quick form back: those with the keys of its post-images."""
    alias = _alias(captured.table)
    rescued = qualified(TableName(rescue, captured.after_rescue or ""))
    joined = f"JOIN {rescued} {alias} ON {_by_key(captured.table, alias)}"
    return Rows(joined, joined, frozenset(column.lower() for column in (*captured.after_columns, *own_columns)))


def capture_rows(pair: Pair, run: int, place: int, rows: Rows, table: Table, counted: int) -> CapturedTable | None:
    """The images of these rows, or None (with nothing kept) where the counts do not prove them."""
    names = {part: rescue_name(run, place, part) for part in ("before", "after")}
    changed = tuple(column.name for column in table.columns if column.name.lower() in rows.changed)
    kept = columns_named(table, (*table.key, *changed))
    images.create_rescue(pair.control, pair.rescue, table, names["before"], table.restorable)
    if not rows.gone:
        images.create_rescue(pair.control, pair.rescue, table, names["after"], kept)
    before, after = _fill(pair, names, rows, table, kept)
    if before != counted or after != (0 if rows.gone else counted):
        pair.aux.run(f"DELETE FROM {qualified(TableName(pair.rescue, names['before']))}")
        if not rows.gone:
            pair.main.run(f"DELETE FROM {qualified(TableName(pair.rescue, names['after']))}")
        return None
    if rows.gone:
        every = tuple(column.name for column in table.restorable)
        return CapturedTable(table, None, before, 0, every, CAPTURED_BY, names["before"], None)
    return CapturedTable(
        table, None, before, after, changed, CAPTURED_BY, names["before"], names["after"], both_rows=before
    )


def _fill(pair: Pair, names: dict[str, str], rows: Rows, table: Table, kept: Sequence[Column]) -> tuple[int, int]:
    """(rows that `aux` found, rows that `main` has of them); at the same time where neither needs the other."""
    source, doing = qualified(table.name), f"read the changed rows of {table.name}"
    before, after = (qualified(TableName(pair.rescue, names[part])) for part in ("before", "after"))
    own = quoted(table.name.name)  # no alias: the condition may say the table's name

    def copy(session: Session, into: str, columns: Sequence[Column], which: str) -> int:
        with predicate_modes(session, pair.main):
            values = comma(f"{own}.{quoted(column.name)}" for column in columns)
            text = f"INSERT INTO {into} ({column_list(columns)}) SELECT {values} FROM {source} {which}"
            return session.write(text, doing=doing)

    if rows.gone:  # none of them may be there any more
        found = copy(pair.aux, before, table.restorable, rows.theirs)
        left = f"SELECT COUNT(*) FROM {before} b JOIN {source} t ON {key_match(table.key, 't', 'b')}"
        return (found, 0) if pair.main.value(left) == 0 else (-1, 0)
    if rows.mine is None:
        found = copy(pair.aux, before, table.restorable, rows.theirs)
        alias = _alias(table)
        return found, copy(pair.main, after, kept, f"JOIN {before} {alias} ON {_by_key(table, alias)}")
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(copy, pair.aux, before, table.restorable, rows.theirs)
        made = copy(pair.main, after, kept, rows.mine)
        return other.result(), made


def _alias(table: Table) -> str:
    """For a rescue table that is joined: the user's table keeps its own name, and that may be `k`."""
    return "k_" if table.name.name.lower() == "k" else "k"


def _by_key(table: Table, alias: str) -> str:
    own = quoted(table.name.name)
    return " AND ".join(f"{own}.{quoted(name)} = {alias}.{quoted(name)}" for name in table.key)
