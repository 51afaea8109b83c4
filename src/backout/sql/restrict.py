"""One more condition on the outermost statement: the author's text, with a predicate put in by offsets.

For batches and subsets on PostgreSQL: `UPDATE t … WHERE (what the author wrote) AND (predicate)`. Everything else of the
text stays as it is, byte for byte. Not for: INSERT … SELECT (`restrict_insert.py`), or whether the statement may run in a
change (`postgres_objections`).

Invariant: what is returned changes only rows that the statement would have changed by itself; where the text alone does
not show that, `NotRestrictable` says why.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from backout.sql.libpg_query import Token, parse, scan
from backout.sql.model import Kind, Statement
from backout.sql.postgres_facts import facts_of

_OPEN, _CLOSE = "([", ")]"
_FIELDS = {"update_stmt": "update", "delete_stmt": "delete"}


class NotRestrictable(Exception):
    """No predicate can be put into this statement; `reason` and `hint` say why and what to write instead."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True)
class Restrictable:
    """A statement that takes one more condition on its target, or on the source of an INSERT … SELECT."""

    text: str
    operation: str  # "update", "delete", "insert"
    reference: str  # what that table's columns are said with: its alias, else its name; as SQL, quoted
    source: tuple[str | None, str] | None = None  # of an INSERT: the table that it reads, as written (schema, name)

    def with_predicate(self, predicate: str) -> str:
        """The statement, limited to the rows of that table for which the predicate is true, too."""
        where, end = _where(self.text, conflicts=self.operation == "insert")
        if where is None:
            return f"{self.text[:end]}\nWHERE ({predicate})\n{self.text[end:]}".rstrip()
        written = self.text[where.end : end].strip()
        # On lines of their own: what the author wrote may end with a comment.
        return f"{self.text[: where.end]} ({written}\n) AND ({predicate})\n{self.text[end:]}".rstrip()


def restrictable(statement: Statement, table: str, *, fixed: Collection[str] = ()) -> Restrictable:
    """The statement as one that can be limited by a predicate over `table`, its target (bare or with its schema).

    `fixed`: columns that it may not SET, since the predicate is about them. Raises NotRestrictable.
    """
    if statement.kind is not Kind.WRITE or len(statement.targets) != 1:
        raise NotRestrictable("it is not one plain UPDATE or DELETE", "write it as an UPDATE or a DELETE of one table")
    node = parse(statement.text)
    which = node.WhichOneof("node")
    if which not in _FIELDS:
        raise NotRestrictable("only UPDATE and DELETE can be limited", "write it as an UPDATE or a DELETE of one table")
    stated = getattr(node, which)
    target = statement.targets[0]
    if table not in (target.table, f"{target.schema}.{target.table}"):
        raise NotRestrictable(f'it writes "{_shown(target.schema, target.table)}", not "{table}"', "name its target")
    if target.schema == "pg_temp":
        raise NotRestrictable(f'"{table}" is a temporary table', "use a table that stays")
    _require_plain(stated)
    _require_unread(stated, target.schema, target.table)
    changed = sorted(set(target.columns) & set(fixed))
    if changed:
        raise NotRestrictable(
            f'it changes "{changed[0]}", by which its rows are told apart', "leave that column as it is"
        )
    relation = stated.relation
    name = relation.alias.aliasname if relation.HasField("alias") else relation.relname
    found = Restrictable(statement.text, _FIELDS[which], quoted_name(name))
    _require_placed(found)
    return found


def restricted(statement: Statement, table: str, predicate: str, *, fixed: Collection[str] = ()) -> str:
    """The statement's text with the predicate; see `restrictable`. Columns in it are the target's where unambiguous."""
    return restrictable(statement, table, fixed=fixed).with_predicate(predicate)


def _require_plain(stated: Any) -> None:
    if stated.HasField("with_clause"):
        raise NotRestrictable("it has a WITH clause, which would be evaluated anew each time", "write it without WITH")
    if stated.HasField("where_clause") and stated.where_clause.WhichOneof("node") == "current_of_expr":
        raise NotRestrictable("it uses WHERE CURRENT OF", "write a condition on the rows")


def _require_unread(stated: Any, schema: str | None, table: str) -> None:
    """The target may stand once: a second look at it would see what earlier parts have changed."""
    names = [stated.relation.relname]
    for part in (*_others(stated),):
        facts = facts_of(part)
        if facts.targets or has_limits(part):
            raise NotRestrictable("a part of it writes, or has a LIMIT", "write it without")
        names += [name for at, name in facts.tables if at is None or schema is None or at == schema]
    if names.count(table) > 1:
        raise NotRestrictable(
            f'it reads "{table}" a second time, and would see there what it has changed itself',
            "put what it needs of that table into a table of its own first",
        )


def _others(stated: Any) -> list[Any]:
    """The parts of the statement in which tables may be read: FROM or USING, SET, WHERE, RETURNING."""
    found: list[Any] = []
    for field, value in stated.ListFields():
        if field.name in ("relation", "with_clause") or field.message_type is None:
            continue
        found += [value] if hasattr(value, "ListFields") else list(value)
    return found


def has_limits(part: Any) -> bool:
    """Whether a LIMIT or OFFSET, a locking clause or TABLESAMPLE stands anywhere in it: then which rows are meant varies."""
    stack = [part]
    while stack:
        node = stack.pop()
        name = type(node).__name__
        if name == "RangeTableSample" or (name == "SelectStmt" and (_has_limit(node) or node.locking_clause)):
            return True
        for field, value in node.ListFields():
            if field.message_type is not None:
                stack += [value] if hasattr(value, "ListFields") else list(value)
    return False


def _has_limit(select: Any) -> bool:
    return bool(select.HasField("limit_count") or select.HasField("limit_offset"))


def _where(text: str, *, conflicts: bool = False) -> tuple[Token | None, int]:
    """The outermost WHERE, and where its condition ends, or would be put: before RETURNING, else after the last token.

    `conflicts`: or before ON CONFLICT, which an INSERT alone can have.
    """
    where, depth, end, previous = None, 0, 0, ""
    tokens = [one for one in scan(text) if not text.startswith(("--", "/*"), one.start)] if conflicts else scan(text)
    for at, token in enumerate(tokens):
        word = text[token.start : token.end].lower()
        if conflicts and depth == 0 and word == "on" and _says_conflict(text, tokens[at + 1 : at + 3]):
            return where, token.start
        if word in _OPEN:
            depth += 1
        elif word in _CLOSE:
            depth -= 1
        elif depth == 0 and word == "where" and previous != ".":  # after a dot it is a column's name
            where = token
        elif depth == 0 and word == "returning" and previous != ".":
            return where, token.start
        if not word.startswith(("--", "/*")):
            end, previous = token.end, word
    return where, end


def _says_conflict(text: str, behind: Sequence[Token]) -> bool:
    """Whether ON CONFLICT is what it says, and not the condition of a join: there a dot follows a table of that name."""
    words = [text[token.start : token.end].lower() for token in behind]
    return words[:1] == ["conflict"] and words[1:] in (["("], ["on"], ["do"])


def _require_placed(found: Restrictable) -> None:
    """The parser's word that the condition stands where it is meant to: a part of the outermost WHERE, at its end."""
    node = parse(found.with_predicate("'backout' IS NULL"))
    stated = getattr(node, node.WhichOneof("node"))
    last = stated.where_clause
    if last.WhichOneof("node") == "bool_expr":
        last = last.bool_expr.args[-1]
    if last.WhichOneof("node") != "null_test" or last.null_test.arg.a_const.sval.sval != "backout":
        raise NotRestrictable("unable to tell where its WHERE ends", "write it more plainly")


def quoted_name(name: str) -> str:
    """As SQL."""
    return '"' + name.replace('"', '""') + '"'


def _shown(schema: str | None, table: str) -> str:
    return f"{schema}.{table}" if schema else table
