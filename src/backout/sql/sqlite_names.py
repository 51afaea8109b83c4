"""The names in an SQLite statement's expressions: the functions it calls, the tables it reads, the columns it sets.

Not for: the table that it writes, which `sqlite_facts` reads from the first words.
Invariant: by tokens alone; a table may be reported that is a CTE of the same name elsewhere, never the reverse for a
name that stands after FROM, JOIN, INTO or IN.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Sequence

# Words before "(" that are not functions, and words that cannot be a table's name after FROM.
_NOT_FUNCTIONS = frozenset({
    "ALL", "AND", "AS", "BETWEEN", "BY", "CASE", "CHECK", "COLLATE", "CONFLICT", "DISTINCT", "ELSE", "ESCAPE", "EXCEPT",
    "EXISTS", "FILTER", "FROM", "GLOB", "HAVING", "IN", "INTERSECT", "INTO", "IS", "ISNULL", "JOIN", "KEY", "LIKE",
    "LIMIT", "MATCH", "MATERIALIZED", "NOT", "NOTNULL", "NULL", "OFFSET", "ON", "OR", "ORDER", "OVER", "PARTITION",
    "REFERENCES", "REGEXP", "RETURNING", "SELECT", "SET", "TABLE", "THEN", "UNION", "UNIQUE", "USING", "VALUES", "WHEN",
    "WHERE", "WINDOW", "WITH",
})  # fmt: skip
_ENDS_FROM = (
    "WHERE", "GROUP", "ORDER", "LIMIT", "HAVING", "WINDOW", "UNION", "EXCEPT", "INTERSECT", "SET", "RETURNING",
    "SELECT", "VALUES",
)  # fmt: skip


def top_level(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens outside of all parentheses."""
    found, depth = [], 0
    for token in tokens:
        depth -= token.text == ")"
        if depth <= 0 and token.text not in ("(", ")"):
            found.append(token)
        depth += token.text == "("
    return found


def cte_names(tokens: Sequence[Token]) -> frozenset[str]:
    """Return the names before `AS (` or `(columns) AS (`, in lower case."""
    names: set[str] = set()
    for index, token in enumerate(tokens[:-1]):
        after = tokens[index + 1 : index + 4]
        is_body = after[0].is_word("AS") and any(part.text == "(" for part in after[1:])
        previous = tokens[index - 1] if index else None
        opens = previous is not None and (previous.is_word("WITH", "RECURSIVE") or previous.text == ",")
        if token.name and opens and (is_body or _columns_then_as(tokens, index + 1)):
            names.add(token.name.lower())
    return frozenset(names)


def _columns_then_as(tokens: Sequence[Token], start: int) -> bool:
    if tokens[start].text != "(":
        return False
    for index in range(start, len(tokens) - 1):
        if tokens[index].text == ")":
            return tokens[index + 1].is_word("AS")
    return False


def functions_of(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the lower-case names of the functions called, each once."""
    ctes = cte_names(tokens)
    names: dict[str, None] = {}
    for index, (token, following) in enumerate(pairwise(tokens)):
        if following.text != "(" or token.kind not in (TokenKind.WORD, TokenKind.QUOTED):
            continue
        previous = tokens[index - 1] if index else token
        is_table = previous.is_word("INTO", "TABLE", "ON", "VIEW", "EXISTS") or previous.text == "."
        name = (token.name or "").lower()
        is_keyword = token.kind is TokenKind.WORD and token.text.upper() in _NOT_FUNCTIONS
        if not is_keyword and not is_table and name not in ctes:
            names[name] = None
    return tuple(names)


def tables_of(tokens: Sequence[Token]) -> tuple[tuple[str | None, str], ...]:
    """Return (schema, table) for each table after FROM, JOIN, INTO, UPDATE or IN, CTEs of the statement left out."""
    ctes = cte_names(tokens)
    found: dict[tuple[str | None, str], None] = {}
    expecting = False  # a table's name may stand here
    lists = [False]  # per depth: inside a FROM list, where a comma is followed by another table
    for index, token in enumerate(tokens):
        if token.is_word("FROM", "JOIN", "INTO") or (token.is_word("UPDATE") and index == 0):
            expecting, lists[-1] = True, not token.is_word("INTO")
        elif token.is_word("IN"):
            expecting = True
        elif token.text == "(":
            lists.append(expecting and not _opens_in_list(tokens, index))
            expecting = lists[-1]
        elif token.text == ")":
            expecting = False
            lists = lists[:-1] or [False]
        elif token.text == ",":
            expecting = lists[-1]
        elif token.is_word(*_ENDS_FROM):
            expecting = lists[-1] = False
        elif expecting and token.name is not None:
            expecting = False
            name = _qualified(tokens, index)
            if name is not None and (name[0] is not None or name[1].lower() not in ctes):
                found[name] = None
    return tuple(found)


def _opens_in_list(tokens: Sequence[Token], index: int) -> bool:
    return index > 0 and tokens[index - 1].is_word("IN")


def _qualified(tokens: Sequence[Token], index: int) -> tuple[str | None, str] | None:
    name = tokens[index].name or ""
    after = tokens[index + 1 : index + 4]
    if len(after) > 1 and after[0].text == "." and after[1].name is not None:
        return name, after[1].name
    is_insert = index > 0 and tokens[index - 1].is_word("INTO")
    return (None, name) if is_insert or not after or after[0].text != "(" else None


def set_columns(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the columns of the first SET list among `tokens`: `a = 1, (b, c) = (2, 3)`."""
    start = next((index for index, token in enumerate(tokens) if token.is_word("SET")), len(tokens))
    columns: dict[str, None] = {}
    depth, at_column = 0, True
    for token in tokens[start + 1 :]:
        if depth == 0 and token.is_word("WHERE", "FROM", "RETURNING", "ORDER", "LIMIT"):
            break
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            at_column = True
        elif token.text == "=" and depth == 0:
            at_column = False
        elif at_column and token.name is not None:
            columns[token.name] = None
    return tuple(columns)
