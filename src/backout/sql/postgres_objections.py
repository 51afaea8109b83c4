"""Which PostgreSQL statements may stand in a change, and what each is to a run: the kind or the objection.

Not for: what a function or a trigger does when it runs; that shows in the ghost run.
Invariant: a statement that is not known to be allowed is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backout.sql.model import Kind, Objection
from backout.sql.postgres_facts import Facts
from backout.sql.reserved import function_objection, schema_objection, setting_objection

if TYPE_CHECKING:
    from collections.abc import Callable

Judgement = tuple[Kind, Objection | None]

_SHARE_ROW_EXCLUSIVE = 6  # lock mode number (storage/lockdefs.h): from here on every writer waits
_CURSOR_HOLD = 0x0020  # CURSOR_OPT_HOLD (nodes/parsenodes.h)
_DROPPABLE = ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_INDEX", "OBJECT_SEQUENCE")

_TRANSACTION_HINT = "leave it out: backout begins, commits and rolls back the one transaction of the run"
_SCHEMA = ("a change of the schema is not a change of rows", "use a schema migration, or a TEMP table")
_BY_HAND = "do it by hand, outside of a change"

_REFUSED: dict[str, tuple[str, str]] = {
    "transaction_stmt": ("a change may not control the transaction", _TRANSACTION_HINT),
    "truncate_stmt": ("TRUNCATE cannot be captured: it removes rows without touching each", "use DELETE"),
    "grant_stmt": ("GRANT and REVOKE are changes of the schema, not of rows", "use a schema migration"),
    "grant_role_stmt": ("GRANT and REVOKE are changes of the schema, not of rows", "use a schema migration"),
    "vacuum_stmt": ("VACUUM and ANALYZE change no rows and cannot be undone", "run it by hand after the change"),
    "cluster_stmt": ("CLUSTER rewrites the table and locks it", _BY_HAND),
    "reindex_stmt": ("REINDEX locks the table and cannot be undone", _BY_HAND),
    "refresh_mat_view_stmt": ("REFRESH MATERIALIZED VIEW cannot be captured", "refresh it by hand after the change"),
    "notify_stmt": ("NOTIFY cannot be taken back", "send it by hand after the run, or in a trigger"),
    "listen_stmt": ("LISTEN has no meaning in a change", "leave it out"),
    "unlisten_stmt": ("UNLISTEN has no meaning in a change", "leave it out"),
    "discard_stmt": ("DISCARD resets the session that the run depends on", "leave it out"),
    "load_stmt": ("LOAD brings code into the server, which cannot be undone", _BY_HAND),
    "alter_system_stmt": ("ALTER SYSTEM changes the whole server and cannot be undone", _BY_HAND),
    "check_point_stmt": ("CHECKPOINT acts on the whole server", _BY_HAND),
    "prepare_stmt": ("PREPARE outlives the transaction", "write the statement itself"),
    "execute_stmt": ("EXECUTE hides which statement runs", "write the statement itself"),
    "deallocate_stmt": ("DEALLOCATE outlives the transaction", "leave it out"),
}


@dataclass
class Scope:
    """What earlier statements of the same change made: its temporary tables, indexes and sequences."""

    temporary_tables: frozenset[str] = frozenset()
    search_path_is_set: bool = False  # `SET search_path = public, pg_temp` makes a bare name mean the permanent table

    @property
    def resolvable(self) -> frozenset[str]:
        """The names that mean the temporary table when they stand bare."""
        return frozenset() if self.search_path_is_set else self.temporary_tables

    def add(self, name: str) -> None:
        """Remember a temporary table, index or sequence."""
        self.temporary_tables |= {name}

    def holds(self, schema: str | None, name: str) -> bool:
        """Whether this name is surely temporary; `pg_temp` is searched first, so that a bare name cannot be another."""
        return schema == "pg_temp" or (not schema and name in self.resolvable)


@dataclass(frozen=True)
class _Case:
    """One statement: its concrete node, what it names, and what came before it."""

    node: Any
    facts: Facts
    scope: Scope


_ALLOWED = {
    "insert_stmt": Kind.WRITE,
    "update_stmt": Kind.WRITE,
    "delete_stmt": Kind.WRITE,
    "merge_stmt": Kind.WRITE,
    "do_stmt": Kind.WRITE,
    "call_stmt": Kind.WRITE,
    "variable_show_stmt": Kind.READ,
    "fetch_stmt": Kind.READ,
    "constraints_set_stmt": Kind.SETTING,
    "close_portal_stmt": Kind.SETTING,
}


def judge(node: Any, facts: Facts, scope: Scope) -> Judgement:
    """Return the kind of a statement (a protobuf `Node`), and the objection if it is forbidden."""
    which = node.WhichOneof("node")
    objection = _names_objection(facts)
    if objection:
        return Kind.FORBIDDEN, objection
    if which in _REFUSED:
        return _refuse(*_REFUSED[which])
    if which in _ALLOWED:
        return _ALLOWED[which], None
    return _JUDGES[which](_Case(getattr(node, which), facts, scope)) if which in _JUDGES else _refuse(*_SCHEMA)


def _refuse(reason: str, hint: str) -> Judgement:
    return Kind.FORBIDDEN, Objection(reason, hint)


def _names_objection(facts: Facts) -> Objection | None:
    found = [schema_objection(target.schema, target.table) for target in facts.targets]
    for call in facts.calls:
        found.append(function_objection(call.name))
        if call.name.removeprefix("pg_catalog.") == "set_config" and call.arguments:
            found.append(_set_config_objection(call.arguments[0]))
    return next((objection for objection in found if objection), None)


def _set_config_objection(setting: str | None) -> Objection | None:
    if setting is None:
        return Objection("set_config() of a setting that the text does not name", "write its name as a literal")
    return setting_objection(setting)


def _select(case: _Case) -> Judgement:
    node = case.node
    while node.HasField("larg"):  # INTO stands in the outermost left part of a UNION
        node = node.larg
    if node.HasField("into_clause"):
        return _new_table(node.into_clause.rel, case)
    return (Kind.WRITE if case.facts.targets else Kind.READ), None  # a CTE may write


def _new_table(relation: Any, case: _Case) -> Judgement:
    if relation.relpersistence != "t" and relation.schemaname != "pg_temp":
        return _refuse(*_SCHEMA)
    case.scope.add(relation.relname)
    return (Kind.WRITE if case.facts.targets else Kind.TEMPORARY), None


def _create_table_as(case: _Case) -> Judgement:
    if case.node.query.WhichOneof("node") == "execute_stmt":
        return _refuse(*_REFUSED["execute_stmt"])
    return _new_table(case.node.into.rel, case)


def _view(case: _Case) -> Judgement:
    if case.node.view.relpersistence != "t":
        return _refuse(*_SCHEMA)
    # A write to a view of this kind goes to the permanent table behind it, under a temporary name.
    return _refuse("a temporary view hides which table is written", "use a CTE, or a TEMP table")


def _on_temporary(relation: Any, case: _Case) -> Judgement:
    if case.scope.holds(relation.schemaname or None, relation.relname):
        return Kind.TEMPORARY, None
    return _refuse(*_SCHEMA)


def _index(case: _Case) -> Judgement:
    judgement = _on_temporary(case.node.relation, case)
    if judgement[0] is Kind.TEMPORARY and case.node.idxname:
        case.scope.add(case.node.idxname)
    return judgement


def _drop(case: _Case) -> Judgement:
    kinds = type(case.node).DESCRIPTOR.fields_by_name["remove_type"].enum_type.values_by_number
    if kinds[case.node.remove_type].name in _DROPPABLE:
        names = [[item.string.sval for item in dropped.list.items] for dropped in case.node.objects]
        if all(case.scope.holds(parts[-2] if len(parts) > 1 else None, parts[-1]) for parts in names):
            # From here on the bare name means a permanent table again.
            case.scope.temporary_tables -= {parts[-1] for parts in names}
            return Kind.TEMPORARY, None
    return _refuse(*_SCHEMA)


def _set(case: _Case) -> Judgement:
    if not case.node.name:
        return _refuse("RESET ALL resets the session that the run depends on", "reset the one setting by its name")
    name = "transaction" if case.node.name == "SESSION CHARACTERISTICS" else case.node.name
    objection = setting_objection(name)
    return (Kind.FORBIDDEN, objection) if objection else (Kind.SETTING, None)


def _lock(case: _Case) -> Judgement:
    if case.node.mode >= _SHARE_ROW_EXCLUSIVE:
        hint = "lock the rows instead: SELECT … FOR UPDATE, or LOCK TABLE … IN SHARE MODE"
        return _refuse("LOCK TABLE in this mode makes every writer wait until the end of the run", hint)
    return Kind.SETTING, None


def _copy(case: _Case) -> Judgement:
    if case.node.is_program:
        return _refuse("COPY … PROGRAM runs a program on the server, which cannot be undone", "use INSERT … VALUES")
    if case.node.filename:
        return _refuse("COPY of a server's file reaches outside the database", "use INSERT … VALUES")
    if case.node.is_from:
        return _refuse("COPY FROM STDIN has no input in a change file", "use INSERT … VALUES, or a Python change")
    return _refuse("COPY TO STDOUT would carry rows out of the database", "use SELECT, with @pre or @post")


def _declare_cursor(case: _Case) -> Judgement:
    if case.node.options & _CURSOR_HOLD:
        return _refuse("a cursor WITH HOLD runs its query at COMMIT, after the proof", "declare it without HOLD")
    return Kind.READ, None


def _explain(case: _Case) -> Judgement:
    if case.facts.targets and any(option.def_elem.defname == "analyze" for option in case.node.options):
        return _refuse("EXPLAIN ANALYZE executes the statement that it explains", "write the statement itself")
    kind, objection = judge(case.node.query, Facts((), case.facts.calls, (), frozenset()), case.scope)
    return (kind, objection) if objection else (Kind.READ, None)


_JUDGES: dict[str, Callable[[_Case], Judgement]] = {
    "select_stmt": _select,
    "copy_stmt": _copy,
    "create_stmt": lambda case: _new_table(case.node.relation, case),
    "create_seq_stmt": lambda case: _new_table(case.node.sequence, case),
    "view_stmt": _view,
    "create_table_as_stmt": _create_table_as,
    "alter_table_stmt": lambda case: _on_temporary(case.node.relation, case),
    "index_stmt": _index,
    "drop_stmt": _drop,
    "variable_set_stmt": _set,
    "lock_stmt": _lock,
    "declare_cursor_stmt": _declare_cursor,
    "explain_stmt": _explain,
}
