"""An SQLite statement, or the query of a check, limited to keys of a table; by tokens, since there is no tree.

Not for: other dialects. Invariant: only texts whose outermost clauses are told by reserved words, each at most once, are
taken; WHERE, RETURNING, FROM, SET, ORDER, LIMIT cannot be names without quotes (https://sqlite.org/lang_keywords.html
and the `%fallback ID` list of parse.y, in which none of them is).
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.sql.limitable import KeyQuery, Limitable, quoted
from backout.sql.model import Kind, Statement, Trait
from backout.sql.restrict import NotRestrictable
from backout.sql.source import Source
from backout.sql.sqlite_scan import scan
from backout.sql.tokens import Token, TokenKind

_PLAINLY = "write it more plainly: one table, and a WHERE"
_COMMENTS = (TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT)
_CLAUSES = ("UPDATE", "DELETE", "SELECT", "SET", "FROM", "WHERE", "RETURNING")
_NEVER = ("WITH", "ORDER", "LIMIT", "OFFSET", "GROUP", "HAVING", "WINDOW", "UNION", "EXCEPT", "INTERSECT", "DISTINCT")


def limitable(statement: Statement, table: str, key: str) -> Limitable:
    """See `subset.limitable`. Names are compared without regard to case, as SQLite does for ASCII."""
    tokens = [one for one in scan(Source(statement.text, "statement")) if one.kind not in _COMMENTS]
    clauses = _clauses(tokens)
    name, schema, is_query = table.rpartition(".")[2], table.rpartition(".")[0], statement.kind is Kind.READ
    if is_query:
        target = _queried(tokens, clauses)
    else:
        _require_plain_write(statement, key)
        target = _written(tokens, clauses)
    written_schema, written, alias = _target(target)
    if written.lower() != name.lower() or (schema and schema.lower() != (written_schema or "").lower()):
        raise NotRestrictable(f'it {"reads" if is_query else "writes"} "{written}", not "{table}"', "name its table")
    _require_unread(tokens, written)
    column = f"{quoted(alias or written)}.{quoted(key)}"
    place = _Place(statement.text, tokens, clauses)
    return Limitable(column, place.limited, None if is_query else _keys(statement, place, target, column))


def _clauses(tokens: Sequence[Token]) -> dict[str, int]:
    """The index of the word that begins each outermost clause."""
    found: dict[str, int] = {}
    depth = 0
    for index, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        word = token.text.upper()
        before = tokens[index - 1] if index else None
        if depth or token.kind is not TokenKind.WORD or (before and before.text == "."):
            continue
        if word == "FROM" and before and before.is_word("DISTINCT"):
            continue  # IS DISTINCT FROM
        if word in _NEVER and not (word == "DISTINCT" and before and before.is_word("IS", "NOT")):
            raise NotRestrictable(f"it has {word}", "write it without")
        if word in _CLAUSES:
            if word in found:
                raise NotRestrictable(f"it has {word} twice", _PLAINLY)
            found[word] = index
    return found


def _require_plain_write(statement: Statement, key: str) -> None:
    if statement.kind is not Kind.WRITE or [one.operation for one in statement.targets] not in (["update"], ["delete"]):
        raise NotRestrictable("only UPDATE and DELETE can be limited", "write it as an UPDATE or a DELETE of one table")
    target = statement.targets[0]
    if (target.schema or "").lower() == "temp":
        raise NotRestrictable(f'"{target.table}" is a temporary table', "use a table that stays")
    if key.lower() in (one.lower() for one in target.columns):
        raise NotRestrictable(f'it changes "{key}", by which its rows are told apart', "leave that column as it is")
    if Trait.LIMIT_WITHOUT_ORDER in statement.traits or Trait.REPLACE in statement.traits:
        raise NotRestrictable("a part of it has a LIMIT, or replaces other rows", "write it without")


def _written(tokens: Sequence[Token], clauses: dict[str, int]) -> list[Token]:
    """The tokens between UPDATE [OR x] and SET, or between DELETE FROM and what follows."""
    if "UPDATE" in clauses and "SET" in clauses:
        begin = clauses["UPDATE"] + 1
        begin += 2 if tokens[begin].is_word("OR") else 0
        return list(tokens[begin : clauses["SET"]])
    begin = clauses["FROM"] + 1
    return list(
        tokens[begin : min([clauses[word] for word in ("WHERE", "RETURNING") if word in clauses] or [len(tokens)])]
    )


def _queried(tokens: Sequence[Token], clauses: dict[str, int]) -> list[Token]:
    if "SELECT" not in clauses or "FROM" not in clauses or not tokens[0].is_word("SELECT"):
        raise NotRestrictable("it is not a plain SELECT of one table", _PLAINLY)
    return list(tokens[clauses["FROM"] + 1 : clauses.get("WHERE", len(tokens))])


def _target(tokens: Sequence[Token]) -> tuple[str | None, str, str | None]:
    """(schema, table, alias) of `[schema.]table [[AS] alias] [INDEXED BY index | NOT INDEXED]`."""
    rest, schema = list(tokens), None
    if len(rest) > 2 and rest[1].text == ".":
        schema, rest = rest[0].name, rest[2:]
    table = rest.pop(0).name if rest else None
    if rest and rest[0].is_word("AS"):
        rest.pop(0)
    elif rest and rest[0].is_word("INDEXED", "NOT"):
        rest = []
    alias = rest.pop(0).name if rest else None
    if rest and rest[0].is_word("INDEXED", "NOT"):
        rest = []
    if table is None or rest:
        raise NotRestrictable("more than one table, or what cannot be told apart", _PLAINLY)
    return schema, table, alias


def _require_unread(tokens: Sequence[Token], table: str) -> None:
    """The table's name stands once, but for its columns (`table.column`): a second look could see what was changed."""
    seen = 0
    for index, token in enumerate(tokens):
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        seen += (token.name or "").lower() == table.lower() and token.kind is not TokenKind.STRING and after != "."
    if seen > 1:
        raise NotRestrictable(
            f'it reads "{table}" a second time, or has another thing of that name',
            "put what it needs of that table into a table of its own first",
        )


class _Place:
    """Where the condition stands in the text."""

    def __init__(self, text: str, tokens: Sequence[Token], clauses: dict[str, int]) -> None:
        self.text = text
        last = clauses["RETURNING"] - 1 if "RETURNING" in clauses else len(tokens) - 1
        self.end = tokens[last].end
        self.where = tokens[clauses["WHERE"]].end if "WHERE" in clauses else None
        self.others = ""
        if "FROM" in clauses and "SET" in clauses:
            stop = clauses["WHERE"] - 1 if "WHERE" in clauses else last
            self.others = text[tokens[clauses["FROM"]].end : tokens[stop].end].strip()

    def limited(self, condition: str) -> str:
        if self.where is None:
            return f"{self.text[: self.end]}\nWHERE ({condition}){self.text[self.end :]}"
        written = self.text[self.where : self.end].strip()
        return f"{self.text[: self.where]} ({written}\n) AND ({condition}){self.text[self.end :]}"

    @property
    def condition(self) -> str:
        return "" if self.where is None else f" WHERE ({self.text[self.where : self.end].strip()}\n)"


def _keys(statement: Statement, place: _Place, target: Sequence[Token], column: str) -> KeyQuery:
    source = statement.text[target[0].start : target[-1].end] + (f", {place.others}" if place.others else "")
    rows = f"SELECT DISTINCT {column} AS key FROM {source}{place.condition}"
    used = {one.text[1:] for one in scan(Source(rows, "statement")) if one.kind is TokenKind.PARAMETER}
    names = tuple(name for name in statement.parameters if name in used)
    return KeyQuery(f"SELECT quote(key) FROM ({rows}) WHERE key IS NOT NULL ORDER BY key", names)
