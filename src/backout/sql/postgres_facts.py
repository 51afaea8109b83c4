"""What a parsed PostgreSQL statement names: the tables it writes and reads, the functions it calls, its traits.

Not for: whether the statement may run. Invariant: the whole tree is walked, CTEs and subqueries included, without
recursion, so that depth costs memory and never a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backout.sql.model import Trait, WriteTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WRITING = {"InsertStmt": "insert", "UpdateStmt": "update", "DeleteStmt": "delete", "MergeStmt": "merge"}


@dataclass(frozen=True)
class Call:
    """A function call with the constants among its arguments; None where an argument is not text or a truth value."""

    name: str
    arguments: tuple[str | None, ...]


@dataclass(frozen=True)
class Facts:
    """Everything that a statement's tree names."""

    targets: tuple[WriteTarget, ...]
    calls: tuple[Call, ...]
    tables: tuple[tuple[str | None, str], ...]
    traits: frozenset[Trait]

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions, each once."""
        return tuple(dict.fromkeys(call.name for call in self.calls))


def facts_of(statement: Any, temporary_tables: frozenset[str] = frozenset()) -> Facts:
    """Return the facts of a statement's tree (a protobuf `Node`)."""
    targets: list[WriteTarget] = []
    calls: list[Call] = []
    tables: dict[tuple[str | None, str], None] = {}
    traits: set[Trait] = set()
    for node, scope in _walk(statement):
        name = type(node).__name__
        if name in _WRITING:
            targets += _targets(node, _WRITING[name], temporary_tables)
        elif name == "CopyStmt" and node.is_from:
            targets.append(WriteTarget("copy", *_name(node.relation, temporary_tables)))
        elif name == "RangeVar" and (node.schemaname or node.relname not in scope):
            tables[_name(node, temporary_tables)] = None
        elif name == "FuncCall":
            calls.append(_call(node))
        elif name == "SQLValueFunction":
            calls.append(Call(_value_function(node), ()))
        traits |= {trait for trait, has in _TRAITS.get(name, ()) if has(node)}
    return Facts(tuple(targets), tuple(calls), tuple(tables), frozenset(traits))


def _sets_search_path(node: Any) -> bool:
    call = _call(node)
    return call.name.removeprefix("pg_catalog.") == "set_config" and call.arguments[:1] == ("search_path",)


_EVERY_ROW = (Trait.EVERY_ROW, lambda node: not node.HasField("where_clause"))
_TRAITS: dict[str, tuple[tuple[Trait, Callable[[Any], bool]], ...]] = {
    "UpdateStmt": (_EVERY_ROW,),
    "DeleteStmt": (_EVERY_ROW,),
    "RangeTableSample": ((Trait.SAMPLE, lambda _: True),),
    "SelectStmt": ((Trait.LIMIT_WITHOUT_ORDER, lambda node: node.HasField("limit_count") and not node.sort_clause),),
    "VariableSetStmt": ((Trait.SEARCH_PATH, lambda node: node.name == "search_path"),),
    "FuncCall": ((Trait.SEARCH_PATH, _sets_search_path),),
}


def _walk(root: Any) -> Iterator[tuple[Any, frozenset[str]]]:
    """Yield each message of the tree, in the order of its fields, with the names of the CTEs that it can see."""
    stack: list[tuple[Any, frozenset[str]]] = [(root, frozenset())]
    while stack:
        node, scope = stack.pop()
        if type(node).__name__ != "Node":
            yield node, scope
        children: list[tuple[Any, frozenset[str]]] = []
        inner = scope | _cte_names(node)
        for field, value in node.ListFields():
            if field.message_type is None:
                continue
            repeated = not hasattr(value, "ListFields")
            visible = scope if field.name == "with_clause" else inner
            if type(node).__name__ == "WithClause" and field.name == "ctes":
                children += _ctes(node, scope)
            else:
                # A write never targets a CTE: its target is the table, even where a CTE has the same name.
                is_target = field.name == "relation" and type(node).__name__ in _WRITING
                scope_here = frozenset() if is_target else visible
                children += [(child, scope_here) for child in (value if repeated else [value])]
        stack.extend(reversed(children))


def _cte_names(node: Any) -> frozenset[str]:
    if "with_clause" not in type(node).DESCRIPTOR.fields_by_name or not node.HasField("with_clause"):
        return frozenset()
    return frozenset(cte.common_table_expr.ctename for cte in node.with_clause.ctes)


def _ctes(with_clause: Any, scope: frozenset[str]) -> list[tuple[Any, frozenset[str]]]:
    """A CTE sees those before it; with RECURSIVE it sees all of its WITH."""
    names = [cte.common_table_expr.ctename for cte in with_clause.ctes]
    return [
        (cte, scope | frozenset(names if with_clause.recursive else names[:index]))
        for index, cte in enumerate(with_clause.ctes)
    ]


def _targets(node: Any, operation: str, temporary_tables: frozenset[str]) -> list[WriteTarget]:
    schema, table = _name(node.relation, temporary_tables)
    if operation == "update":
        return [WriteTarget("update", schema, table, _columns(node.target_list))]
    targets = [WriteTarget(operation, schema, table)]
    if operation == "insert" and node.on_conflict_clause.target_list:
        targets.append(WriteTarget("update", schema, table, _columns(node.on_conflict_clause.target_list)))
    return targets


def _columns(target_list: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(target.res_target.name for target in target_list))


def _name(relation: Any, temporary_tables: frozenset[str]) -> tuple[str | None, str]:
    """Return (schema, name); a bare name of a temporary table, made before or here, is in `pg_temp`, searched first."""
    if not relation.schemaname and (relation.relname in temporary_tables or relation.relpersistence == "t"):
        return "pg_temp", relation.relname
    return relation.schemaname or None, relation.relname


def _call(node: Any) -> Call:
    parts = [part.string.sval for part in node.funcname]
    from_syntax = node.funcformat == 4  # COERCE_SQL_SYNTAX: the parser, not the author, wrote "pg_catalog"
    name = ".".join(parts[1:] if from_syntax and len(parts) > 1 else parts).lower()
    return Call(name, tuple(_constant(argument) for argument in node.args))


def _constant(argument: Any) -> str | None:
    while argument.WhichOneof("node") == "type_cast":
        argument = argument.type_cast.arg
    if argument.WhichOneof("node") == "named_arg_expr":
        return None
    if argument.WhichOneof("node") == "a_const" and argument.a_const.WhichOneof("val") == "sval":
        return str(argument.a_const.sval.sval)
    if argument.WhichOneof("node") == "a_const" and argument.a_const.WhichOneof("val") == "boolval":
        return "true" if argument.a_const.boolval.boolval else "false"
    return None


def _value_function(node: Any) -> str:
    """Return `current_timestamp` for SVFOP_CURRENT_TIMESTAMP and for SVFOP_CURRENT_TIMESTAMP_N."""
    enum = type(node).DESCRIPTOR.fields_by_name["op"].enum_type
    name: str = enum.values_by_number[node.op].name
    return name.removeprefix("SVFOP_").removesuffix("_N").lower()
