"""One more condition on the SELECT of an `INSERT … SELECT`, for batches: the author's text, with a predicate put in.

`INSERT INTO other SELECT … FROM source … WHERE (what the author wrote) AND (predicate) [ON CONFLICT …]`, where the predicate
is about `source`. The rows of all batches together are those of the statement only where each row that it inserts comes of
one row of `source`; what shows in the text that it is otherwise is refused here, what only the planner can tell by the engine.

Invariant: the limited text was parsed again, and its tree is the author's but for the one condition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from backout.sql.libpg_query import SyntaxProblem, parse
from backout.sql.model import Kind, Statement
from backout.sql.postgres_facts import facts_of
from backout.sql.postgres_subset import bare, conjuncts
from backout.sql.restrict import NotRestrictable, Restrictable, has_limits, quoted_name, restrictable

_PROBE = "'backout' IS NULL"
_PLAINLY = "write it more plainly: INSERT INTO … SELECT … FROM … WHERE …"

#: Parts of the SELECT that look at several rows together, or at their order.
_TOGETHER = {
    "distinct_clause": "it has a DISTINCT", "group_clause": "it has a GROUP BY", "having_clause": "it has a HAVING",
    "window_clause": "it has a WINDOW", "limit_count": "it has a LIMIT", "limit_offset": "it has an OFFSET",
    "locking_clause": "it locks rows (FOR UPDATE and the like)", "with_clause": "its SELECT has a WITH clause",
    "into_clause": "it has an INTO",
}  # fmt: skip

#: The aggregates of PostgreSQL 18 (pg_proc, prokind 'a'). Those of extensions and of users show in the plan.
_AGGREGATES = frozenset({
    "any_value", "array_agg", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "corr", "count", "covar_pop",
    "covar_samp", "every", "json_agg", "json_agg_strict", "json_object_agg", "jsonb_agg", "jsonb_agg_strict",
    "jsonb_object_agg", "max", "min", "mode", "percentile_cont", "percentile_disc", "range_agg", "range_intersect_agg",
    "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy",
    "stddev", "stddev_pop", "stddev_samp", "string_agg", "sum", "var_pop", "var_samp", "variance", "xmlagg",
})  # fmt: skip
_OF_AGGREGATES = ("over", "agg_filter", "agg_order", "agg_star", "agg_distinct", "agg_within_group")


def batchable(statement: Statement, table: str, by: Collection[str]) -> Restrictable:
    """The statement as one that can be limited to the rows of a batch of `table`. Raises NotRestrictable.

    Of an UPDATE or DELETE `table` is its target, of an INSERT … SELECT the table that it reads.
    """
    if statement.targets and statement.targets[0].operation == "insert":
        return _insert(statement, table)
    return restrictable(statement, table, fixed=by)


def _insert(statement: Statement, table: str) -> Restrictable:
    if statement.kind is not Kind.WRITE:
        raise NotRestrictable("it is not one plain INSERT … SELECT", _PLAINLY)
    node = parse(statement.text)
    if node.WhichOneof("node") != "insert_stmt":
        raise NotRestrictable("it is not one plain INSERT … SELECT", _PLAINLY)
    stated = node.insert_stmt
    if stated.HasField("with_clause"):
        raise NotRestrictable("it has a WITH clause, which would be evaluated anew each time", "write it without WITH")
    if not stated.HasField("select_stmt"):
        raise NotRestrictable("it inserts default values", _PLAINLY)
    select = stated.select_stmt.select_stmt
    if select.values_lists:
        raise NotRestrictable("it inserts written values, not rows of a table", _PLAINLY)
    _require_by_rows(select)
    source = _source_of(select, table)
    _require_target_unread(stated, select, source)
    if statement.targets[0].schema == "pg_temp":
        raise NotRestrictable(f'"{stated.relation.relname}" is a temporary table', "use a table that stays")
    name = source.alias.aliasname if source.HasField("alias") else source.relname
    found = Restrictable(statement.text, "insert", quoted_name(name), (source.schemaname or None, source.relname))
    _require_placed(found, node)
    return found


def _require_by_rows(select: Any) -> None:
    """Each row that is inserted comes of one row of the source, as far as the text tells."""
    if type(select).DESCRIPTOR.fields_by_name["op"].enum_type.values_by_number[select.op].name != "SETOP_NONE":
        raise NotRestrictable("it has a UNION, INTERSECT or EXCEPT", "make a change of its own of each part")
    for field, _ in select.ListFields():
        if field.name in _TOGETHER:
            raise NotRestrictable(f"{_TOGETHER[field.name]}: batches would not add up to it", _PLAINLY)
    if select.sort_clause:
        raise NotRestrictable("it has an ORDER BY, and batches go in the order of their key", "leave ORDER BY out")
    for node in _of_its_own(select):
        if type(node).__name__ == "FuncCall":
            name = node.funcname[-1].string.sval.lower()
            marks = [field.name for field, _ in node.ListFields() if field.name in _OF_AGGREGATES]
            if marks or name in _AGGREGATES:
                kind = "a window function" if "over" in marks else "an aggregate"
                raise NotRestrictable(f'"{name}" is {kind}: batches would not add up to it', "run it without @batch")
    if facts_of(select).targets or has_limits(select):
        raise NotRestrictable("a part of it writes, or has a LIMIT", "write it without")


def _of_its_own(select: Any) -> Iterator[Any]:
    """Every node of the SELECT that is in none of its sub-selects."""
    stack = [select]
    while stack:
        node = stack.pop()
        yield node
        for field, value in node.ListFields():
            if field.message_type is not None:
                inner = [value] if hasattr(value, "ListFields") else list(value)
                stack += [one for one in inner if type(one).__name__ != "SelectStmt"]


def _source_of(select: Any, table: str) -> Any:
    """The one place in FROM that names `table`; none of its rows may be made up by an outer join."""
    found = [ranged for part in select.from_clause for ranged in _ranges(part, None)]
    named = [one for one in found if table in (one[0].relname, f"{one[0].schemaname}.{one[0].relname}")]
    hint = "name the table whose rows it goes through in @batch"
    if not named:
        raise NotRestrictable(f'it does not read "{table}" in its FROM', hint)
    if len(named) > 1:
        raise NotRestrictable(f'it reads "{table}" more than once in its FROM', hint)
    source, hidden = named[0]
    if hidden:
        raise NotRestrictable(
            f'"{table}" {hidden}', "write the join the other way round, or name its other table in @batch"
        )
    return source


_OPTIONAL = "stands on the side of an outer join that may be missing: rows without it would be in every batch"


def _ranges(part: Any, hidden: str | None) -> Iterator[tuple[Any, str | None]]:
    """The tables in a part of FROM, each with why not every row of the join has one of its rows to be told by, if so."""
    kind = part.WhichOneof("node")
    if kind == "range_var":
        yield part.range_var, hidden
    elif kind == "join_expr":
        join = part.join_expr
        how = type(join).DESCRIPTOR.fields_by_name["jointype"].enum_type.values_by_number[join.jointype].name
        if join.HasField("alias"):
            hidden = hidden or "is in a join with an alias, which hides its columns"
        yield from _ranges(join.larg, hidden or (None if how in ("JOIN_INNER", "JOIN_LEFT") else _OPTIONAL))
        yield from _ranges(join.rarg, hidden or (None if how in ("JOIN_INNER", "JOIN_RIGHT") else _OPTIONAL))


def _require_target_unread(stated: Any, select: Any, source: Any) -> None:
    target = stated.relation
    if target.relname == source.relname and not (
        target.schemaname and source.schemaname and target.schemaname != source.schemaname
    ):
        raise NotRestrictable(
            "it inserts into the table that it reads: later batches would read what earlier ones inserted",
            "put the rows into a table of their own first",
        )
    parts = [select, stated.on_conflict_clause] if stated.HasField("on_conflict_clause") else [select]
    for part in parts:
        for schema, name in facts_of(part).tables:
            if name == target.relname and not (schema and target.schemaname and schema != target.schemaname):
                raise NotRestrictable(
                    f'it reads "{name}", into which it inserts: later batches would see there what earlier ones inserted',
                    "use ON CONFLICT DO NOTHING for rows that may be there already",
                )


def _require_placed(found: Restrictable, author: Any) -> None:
    """The parser's word that nothing but the condition was added, as the last part of the SELECT's own WHERE."""
    try:
        made = bare(parse(found.with_predicate(_PROBE)))
    except SyntaxProblem:
        raise NotRestrictable("unable to tell where its WHERE ends", _PLAINLY) from None
    meant = bare(author)
    select, written = made.insert_stmt.select_stmt.select_stmt, meant.insert_stmt.select_stmt.select_stmt
    parts, wanted = conjuncts(select), conjuncts(written)
    probe = bare(parse(f"SELECT {_PROBE}")).select_stmt.target_list[0].res_target.val
    placed = parts[:-1] == wanted and parts[-1:] == [probe]
    select.ClearField("where_clause")
    written.ClearField("where_clause")
    if not placed or made != meant:
        raise NotRestrictable("unable to tell where its WHERE ends", _PLAINLY)
