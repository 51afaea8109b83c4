"""The names in a MariaDB statement: tables, functions, the columns that it sets, and every name at all.

Not for: what a statement is (`mariadb_facts`). Invariant: by tokens alone; `all_names` leaves out no identifier, so that
what is looked up by it in the catalogue is never too little.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_FUNCTIONS = frozenset({
    "ALL", "AND", "ANY", "AS", "BETWEEN", "BY", "CASE", "COLLATE", "DISTINCT", "ELSE", "EXCEPT", "EXISTS", "FROM",
    "HAVING", "IN", "INDEX", "INTERSECT", "INTO", "IS", "JOIN", "KEY", "LIKE", "LIMIT", "NOT", "ON", "OR", "ORDER",
    "OVER", "PARTITION", "REGEXP", "RETURNING", "RLIKE", "SELECT", "SET", "SOME", "TABLE", "THEN", "UNION", "USING",
    "VALUE", "WHEN", "WHERE", "WITH", "XOR", "DIV", "MOD", "CHAR", "VARCHAR", "DECIMAL", "BINARY", "VARBINARY",
    "INTERVAL", "ROWS", "RANGE", "PRIMARY", "UNIQUE", "REFERENCES", "CHECK", "FORCE", "IGNORE", "USE",
})  # fmt: skip
_ENDS_FROM = (
    "WHERE", "GROUP", "ORDER", "LIMIT", "HAVING", "WINDOW", "UNION", "EXCEPT", "INTERSECT", "SET", "RETURNING",
    "SELECT", "VALUES", "VALUE", "FOR",
)  # fmt: skip

Name = tuple[str | None, str]


def top_level(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens outside of all parentheses."""
    found, depth = [], 0
    for token in tokens:
        depth -= token.text == ")"
        if depth <= 0 and token.text not in ("(", ")"):
            found.append(token)
        depth += token.text == "("
    return found


def name_at(tokens: Sequence[Token], index: int) -> Name | None:
    """The possibly qualified name that begins there."""
    first = tokens[index].name if index < len(tokens) else None
    if first is None:
        return None
    after = tokens[index + 1 : index + 3]
    if len(after) == 2 and after[0].text == "." and after[1].name is not None:
        return first, after[1].name
    return None, first


def all_names(tokens: Sequence[Token]) -> frozenset[Name]:
    """Every identifier, bare and with the one before its dot; also inside of strings that are a single word.

    For looking up what a body of a trigger or a routine could mean: too many names do no harm, one missing does.
    """
    names: set[Name] = set()
    for index, token in enumerate(tokens):
        name = token.name
        if token.kind is TokenKind.STRING:  # a routine made under ANSI_QUOTES has its names in double quotes
            name = token.text[1:-1].replace('""', '"')
        if name is None:
            continue
        names.add((None, name))
        if index > 1 and tokens[index - 1].text == "." and tokens[index - 2].kind is not TokenKind.OTHER:
            qualifier = tokens[index - 2].name or tokens[index - 2].text.strip("\"'`")
            names.add((qualifier, name))
    return frozenset(names)


def functions_of(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the lower-case names of the functions called, each once; qualified if written so."""
    names: dict[str, None] = {}
    for index, (token, following) in enumerate(pairwise(tokens)):
        if following.text != "(" or token.name is None:
            continue
        qualified = index > 2 and tokens[index - 1].text == "."
        previous = tokens[index - 3 if qualified else index - 1] if index else token
        if token.kind is TokenKind.WORD and token.text.upper() in _NOT_FUNCTIONS and not qualified:
            continue
        if previous.is_word("INTO", "TABLE", "AS", "WITH", "RECURSIVE", "INSERT", "REPLACE", "IGNORE"):
            continue
        name = token.name.lower()
        if index > 1 and tokens[index - 1].text == "." and tokens[index - 2].name:
            name = f"{(tokens[index - 2].name or '').lower()}.{name}"
        names[name] = None
    return tuple(names)


def cte_names(tokens: Sequence[Token]) -> frozenset[str]:
    """Return, in lower case, the names that stand after WITH, or after a comma of it, before AS or a column list."""
    names: set[str] = set()
    for index, token in enumerate(tokens[:-1]):
        previous = tokens[index - 1] if index else None
        opens = previous is not None and (previous.is_word("WITH", "RECURSIVE") or previous.text == ",")
        following = tokens[index + 1]
        if token.name and opens and (following.is_word("AS") or following.text == "("):
            close = _closing(tokens, index + 1) if following.text == "(" else index
            if close + 2 < len(tokens) and tokens[close + 1].is_word("AS") and tokens[close + 2].text == "(":
                names.add(token.name.lower())
    return frozenset(names)


def _closing(tokens: Sequence[Token], start: int) -> int:
    depth = 0
    for index in range(start, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    return len(tokens)


def tables_of(tokens: Sequence[Token]) -> tuple[Name, ...]:
    """Return (schema, table) for each table after FROM, JOIN, INTO, UPDATE or a comma of such a list, without CTEs."""
    ctes = cte_names(tokens)
    found: dict[Name, None] = {}
    expecting = False
    lists = [False]  # per depth: inside of a FROM list, where a comma is followed by another table
    for index, token in enumerate(tokens):
        if token.is_word("FROM", "JOIN", "INTO", "STRAIGHT_JOIN") or (token.is_word("UPDATE") and index == 0):
            expecting, lists[-1] = True, not token.is_word("INTO")
        elif token.text == "(":
            lists.append(expecting)
        elif token.text == ")":
            lists, expecting = lists[:-1] or [False], False
        elif token.text == ",":
            expecting = lists[-1]
        elif token.is_word(*_ENDS_FROM):
            expecting = lists[-1] = False
        elif expecting and token.is_word("LOW_PRIORITY", "IGNORE", "ONLY", "LATERAL"):
            continue
        elif expecting and (name := name_at(tokens, index)) is not None:
            expecting = False
            is_function = len(tokens) > index + 1 and tokens[index + 1].text == "(" and not _after_into(tokens, index)
            if not is_function and (name[0] is not None or name[1].lower() not in ctes):
                found[name] = None
    return tuple(found)


def _after_into(tokens: Sequence[Token], index: int) -> bool:
    return index > 0 and tokens[index - 1].is_word("INTO")


def set_columns(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the columns of the first SET list among `tokens`."""
    start = next((index for index, token in enumerate(tokens) if token.is_word("SET")), len(tokens))
    columns: dict[str, None] = {}
    depth, last = 0, ""
    at_column = True
    for token in tokens[start + 1 :]:
        if depth == 0 and token.is_word("WHERE", "ORDER", "LIMIT", "RETURNING"):
            break
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.text == ",":
            at_column = True
        elif depth == 0 and token.text == "=" and at_column:
            columns[last] = None
            at_column = False
        elif at_column and token.name is not None:
            last = token.name
    return tuple(columns)
