"""A PostgreSQL statement, or the query of a check, limited to keys of a table.

Not for: whether an UPDATE or DELETE can be limited at all (`restrict`). Invariant: each text that is made here was
parsed again, and its tree is the author's but for the one condition; a text with another tree is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backout.sql.libpg_query import SyntaxProblem, parse, scan, token_kind
from backout.sql.limitable import KeyQuery, Limitable, quoted
from backout.sql.model import Kind, Statement
from backout.sql.restrict import NotRestrictable, restrictable

_PLAINLY = "write it more plainly: one table, and a WHERE"
_PROBE = "'backout' IS NULL"
_ALLOWED_IN_CHECK = frozenset({"target_list", "from_clause", "where_clause", "limit_option", "op"})


def limitable(statement: Statement, table: str, key: str) -> Limitable:
    """See `subset.limitable`."""
    if statement.kind is Kind.READ:
        return _check(statement, table, key)
    found = restrictable(statement, table, fixed=(key,))
    column = f"{found.reference}.{quoted(key)}"
    node = parse(statement.text)
    _require_placed(found.with_predicate(_PROBE), getattr(node, str(node.WhichOneof("node"))))
    return Limitable(column, found.with_predicate, _keys(statement, found.operation, column))


# -- the keys of the rows that a statement would write -----------------------------------------------------------------


def _keys(statement: Statement, operation: str, column: str) -> KeyQuery:
    """`SELECT … FROM target, others WHERE …` out of the parts of the UPDATE or DELETE."""
    text, clauses = statement.text, _clauses(statement.text)
    from_word = "from" if operation == "update" else "using"
    target_begin = clauses["update" if operation == "update" else "from"].end
    ends = [clauses[word].start for word in ("set", from_word, "where", "returning") if word in clauses]
    target = text[target_begin : min([end for end in ends if end > target_begin], default=clauses[""].end)]
    rows = f"SELECT DISTINCT {column} AS key FROM {target.strip()}"
    if from_word in clauses:
        others = _until(text, clauses, clauses[from_word].end, ("where", "returning"))
        rows += f", {others}"
    if "where" in clauses:
        rows += f" WHERE {_until(text, clauses, clauses['where'].end, ('returning',))}"
    _require_same_rows(statement, rows)
    numbered, parameters = _renumbered(rows, statement.parameters)
    return KeyQuery(
        f"SELECT pg_catalog.quote_literal(key) FROM ({numbered}) AS found WHERE key IS NOT NULL ORDER BY key",
        parameters,
    )


@dataclass(frozen=True)
class _Clause:
    start: int
    end: int


def _clauses(text: str) -> dict[str, _Clause]:
    """The words that begin the outermost clauses, each at its first place; under "" where the last token ends."""
    found: dict[str, _Clause] = {}
    depth, end, previous = 0, 0, ""
    for token in scan(text):
        if token.kind in (token_kind("SQL_COMMENT"), token_kind("C_COMMENT")):
            continue
        word = text[token.start : token.end].lower()
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        # After a dot or AS a word is a name; IS DISTINCT FROM has a FROM of its own.
        is_clause = word in ("update", "set", "from", "using", "where", "returning") and previous not in (".", "as")
        if depth == 0 and is_clause and not (word == "from" and previous == "distinct"):
            found.setdefault(word, _Clause(token.start, token.end))
        previous, end = word, token.end
    return found | {"": _Clause(end, end)}


def _until(text: str, clauses: dict[str, _Clause], begin: int, words: tuple[str, ...]) -> str:
    end = min((clauses[word].start for word in words if word in clauses), default=clauses[""].end)
    return text[begin:end].strip() + "\n"  # it may end with a comment


def _require_same_rows(statement: Statement, rows: str) -> None:
    """The query reads the statement's own target and others, under its own condition: by the parser's word."""
    try:
        select = parse(rows).select_stmt
    except SyntaxProblem:
        raise NotRestrictable("unable to tell which rows it writes", _PLAINLY) from None
    node = parse(statement.text)
    stated = getattr(node, node.WhichOneof("node"))
    others = stated.from_clause if node.WhichOneof("node") == "update_stmt" else stated.using_clause
    meant = [bare(stated.relation), *map(bare, others), bare(stated.where_clause)]
    found = [bare(select.from_clause[0].range_var), *map(bare, select.from_clause[1:]), bare(select.where_clause)]
    if meant != found or select.HasField("with_clause") or select.group_clause or select.sort_clause:
        raise NotRestrictable("unable to tell which rows it writes", _PLAINLY)


def _renumbered(text: str, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The parameters that this part uses, counted from $1: the server refuses one that stands nowhere."""
    used: list[str] = []
    made, at = "", 0
    for token in scan(text):
        if token.kind == token_kind("PARAM"):
            name = names[int(text[token.start + 1 : token.end]) - 1]
            if name not in used:
                used.append(name)
            made += f"{text[at : token.start]}${used.index(name) + 1}"
            at = token.end
    return made + text[at:], tuple(used)


# -- the query of a check ----------------------------------------------------------------------------------------------


def _check(statement: Statement, table: str, key: str) -> Limitable:
    """`SELECT … FROM table [WHERE …]` and nothing else."""
    node = parse(statement.text)
    if node.WhichOneof("node") != "select_stmt":
        raise NotRestrictable("it is not a plain SELECT", _PLAINLY)
    select = node.select_stmt
    more = {field.name for field, _ in select.ListFields()} - _ALLOWED_IN_CHECK
    if more or len(select.from_clause) != 1 or select.from_clause[0].WhichOneof("node") != "range_var":
        raise NotRestrictable("it is not a plain SELECT of one table", _PLAINLY)
    relation = select.from_clause[0].range_var
    if table not in (relation.relname, f"{relation.schemaname}.{relation.relname}"):
        raise NotRestrictable(f'it reads "{relation.relname}", not "{table}"', "name its table")
    if [name for _, name in statement.tables].count(relation.relname) > 1 or _reads_again(select, relation.relname):
        raise NotRestrictable(f'it reads "{table}" a second time', _PLAINLY)
    name = relation.alias.aliasname if relation.HasField("alias") else relation.relname
    clauses = _clauses(statement.text)

    def limited(condition: str) -> str:
        end = clauses[""].end
        if "where" not in clauses:
            return f"{statement.text[:end]}\nWHERE ({condition})"
        begin = clauses["where"].end
        return f"{statement.text[:begin]} ({statement.text[begin:end].strip()}\n) AND ({condition})"

    _require_placed(limited(_PROBE), select)
    return Limitable(f"{quoted(name)}.{quoted(key)}", limited, None)


def _reads_again(select: Any, table: str) -> bool:
    stack, seen = [select], 0
    while stack:
        node = stack.pop()
        seen += type(node).__name__ == "RangeVar" and node.relname == table
        for field, value in node.ListFields():
            if field.message_type is not None:
                stack += [value] if hasattr(value, "ListFields") else list(value)
    return seen > 1


def _require_placed(text: str, author: Any) -> None:
    """The parser's word that nothing but the condition was added, as the last part of the outermost WHERE."""
    try:
        node = parse(text)
    except SyntaxProblem:
        raise NotRestrictable("unable to tell where its WHERE ends", _PLAINLY) from None
    made = bare(getattr(node, str(node.WhichOneof("node"))))
    meant = bare(author)
    parts, written = conjuncts(made), conjuncts(meant)
    made.ClearField("where_clause")
    meant.ClearField("where_clause")
    probe = bare(parse(f"SELECT {_PROBE}")).select_stmt.target_list[0].res_target.val
    if made != meant or parts[:-1] != written or parts[-1] != probe:
        raise NotRestrictable("unable to tell where its WHERE ends", _PLAINLY)


def conjuncts(stated: Any) -> list[Any]:
    """What the outermost WHERE joins with AND; the grammar makes one list of `(a AND b) AND c`."""
    if not stated.HasField("where_clause"):
        return []
    where = stated.where_clause
    is_and = where.WhichOneof("node") == "bool_expr" and where.bool_expr.boolop == 1  # AND_EXPR
    return list(where.bool_expr.args) if is_and else [where]


def bare(node: Any) -> Any:
    """A copy of the tree without the places in the text."""
    copy = type(node)()
    copy.CopyFrom(node)
    stack = [copy]
    while stack:
        one = stack.pop()
        for field, value in list(one.ListFields()):
            if field.name in ("location", "stmt_location", "stmt_len", "name_location", "list_start", "list_end"):
                one.ClearField(field.name)
            elif field.message_type is not None:
                stack += [value] if hasattr(value, "ListFields") else list(value)
    return copy
