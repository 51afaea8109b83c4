"""What a client's message asks for: transaction control, which is the run's, or a statement that may or may not run.

Statements are judged by the same rules as those of a change file (`sql/postgres_objections.py`), with what only a live
client can do allowed as well: COPY from and to itself, PREPARE and EXECUTE, DEALLOCATE.

Invariant: what our parser cannot read is never forwarded, since the two could understand it differently; and no text
that begins, ends or prepares a transaction is ever forwarded, not even to be prepared: SQL's EXECUTE, or Execute of a
portal that outlived its Sync, would run it unseen [measured on 18.4: both committed the supervised transaction].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from backout.endpoint.pieces import (
    ACTIVE_TRANSACTION,
    GUARD,
    NOT_SUPPORTED,
    NOT_UTF8,
    RESERVED,
    SYNTAX,
    Control,
    Piece,
    Refusal,
    Setting,
)
from backout.sql.libpg_query import SyntaxProblem, parse_all, scan, token_kind
from backout.sql.model import Trait
from backout.sql.postgres_facts import Facts, facts_of
from backout.sql.postgres_objections import Scope, judge
from backout.sql.reserved import function_objection, schema_objection, setting_objection

#: What is prepared in place of transaction control, and never executed by us. It may be prepared and bound in a failed
#: transaction as ROLLBACK may (xact.c, IsTransactionExitStmt), and does no harm if it runs all the same.
STAND_IN = f"ROLLBACK TO SAVEPOINT {GUARD}"
#: A setting that no server has: what SHOW of it answers is what the session has changed so far.
DIFF = "backout.diff"
#: Has the command tag SET and no effect: what the run has decided already.
_NOTHING = "SET LOCAL backout.nothing = ''"
_OURS = re.compile(r"_backout|backout_|c[0-9]+_")  # prepared statements: our controls, and those of clients by messages
_NEXT_BATCH = "backout.next_batch"
_CURSORS = ("declare_cursor_stmt", "close_portal_stmt", "fetch_stmt")
_KEPT = 2048


_CONTROLS = {  # TransactionStmtKind, parsenodes.h
    "TRANS_STMT_BEGIN": Control.BEGIN, "TRANS_STMT_START": Control.BEGIN, "TRANS_STMT_COMMIT": Control.COMMIT,
    "TRANS_STMT_ROLLBACK": Control.ROLLBACK, "TRANS_STMT_SAVEPOINT": Control.SAVEPOINT,
    "TRANS_STMT_RELEASE": Control.SAVEPOINT, "TRANS_STMT_ROLLBACK_TO": Control.SAVEPOINT,
}  # fmt: skip
#: What drivers and ORMs put into the queries that only read.
_COMPUTING = frozenset({
    "count", "sum", "min", "max", "avg", "lower", "upper", "length", "coalesce", "now", "current_timestamp",
    "current_date", "version", "current_schema", "current_database", "array_agg", "string_agg", "bool_and", "bool_or",
})  # fmt: skip


class Reader:
    """Reads the statements of one client; it remembers the temporary tables that this client has made.

    What was made in a transaction that was rolled back is not there: a name that is forgotten is refused, never mistaken.
    """

    def __init__(self, isolation: str = "read committed", bounds: str | None = None) -> None:
        """`bounds`: SQL that says the bounds of the batch at hand; None: the change has no batches."""
        self._bounds = bounds
        self._scope = Scope()
        self._at_begin: frozenset[str] = frozenset()
        self._known: dict[bytes, tuple[Piece, ...]] = {}
        self._stronger = _LEVELS[_LEVELS.index(isolation) + 1 :]

    def begin(self) -> None:
        """A transaction begins."""
        self._at_begin = self._scope.temporary_tables

    def back(self) -> None:
        """It was rolled back, as a whole or to a savepoint: only what was there before it is there for certain."""
        if self._scope.temporary_tables != self._at_begin:
            self._scope.temporary_tables &= self._at_begin
            self._known.clear()

    def forget(self, name: str) -> None:
        """This temporary table has gone."""
        self._scope.temporary_tables -= {name}
        self._known.clear()

    def search_path_is_set(self) -> None:
        """A bare name may mean a permanent table even where a temporary one has it."""
        if not self._scope.search_path_is_set:
            self._scope.search_path_is_set = True
            self._known.clear()

    def read(self, text: bytes) -> tuple[Piece, ...]:
        """The statements of a message; a single piece with a refusal where it cannot be read."""
        known = self._known.get(text)
        if known is None:
            before = (self._scope.temporary_tables, self._scope.search_path_is_set)
            known = self._read(text)
            if before != (self._scope.temporary_tables, self._scope.search_path_is_set):
                self._known.clear()  # names may mean something else from now on
            elif len(self._known) < _KEPT and len(text) < 65_536:
                self._known[text] = known
        return known

    def _read(self, text: bytes) -> tuple[Piece, ...]:
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            return (_refused("", Refusal(NOT_UTF8, "the statement is not UTF-8", "set client_encoding to UTF8")),)
        try:
            parsed = parse_all(decoded)
        except SyntaxProblem as problem:
            hint = f"backout passes on only what it can read; at character {problem.offset + 1}"
            return (_refused(decoded, Refusal(SYNTAX, problem.message, hint)),)
        return tuple(self._piece(text[one.start : one.end].decode().strip(), one.node) for one in parsed)

    def _piece(self, text: str, node: Any) -> Piece:
        which = node.WhichOneof("node")
        of_batches = self._of_batches(text, which, node) if self._bounds is not None else None
        if of_batches is not None:
            return of_batches
        if which == "transaction_stmt":
            return self._control(text, node.transaction_stmt)
        if which in ("deallocate_stmt", "execute_stmt", "prepare_stmt"):
            return self._prepared(text, which, node)
        if which == "discard_stmt":
            hint = "use RESET ALL, CLOSE ALL, DEALLOCATE ALL, or DROP for what is temporary"
            return _refused(
                text, Refusal(NOT_SUPPORTED, "DISCARD would reset the session that all clients share", hint)
            )
        if which == "unlisten_stmt":
            return Piece(_NOTHING, said=text)  # LISTEN is refused: there is nothing to end
        if which == "copy_stmt" and not node.copy_stmt.is_program and not node.copy_stmt.filename:
            return self._copy(text, node)
        if which == "variable_set_stmt":
            return self._set(text, node)
        if which == "variable_show_stmt" and node.variable_show_stmt.name == DIFF:
            return Piece(text, only_reads=True, looks=True)
        if which == "declare_cursor_stmt" and node.declare_cursor_stmt.options & _CURSOR_HOLD:
            return self._held(text, node)
        return self._judged(text, node)

    def _of_batches(self, text: str, which: str, node: Any) -> Piece | None:
        """What means something else in a change in batches: who asks for the next, and cursors, of which one is ours."""
        if which == "select_stmt" and _is_next_batch(node):
            return Piece(self._bounds or "", only_reads=True, said=text, asks=True)
        if which in _CURSORS and _OURS.match(getattr(node, which).portalname or "backout_"):
            hint = "name the cursor, with a name that does not begin with backout_"
            return _refused(text, Refusal(RESERVED, "the cursors of the run are backout's own", hint))
        return None

    def _prepared(self, text: str, which: str, node: Any) -> Piece:
        name = getattr(node, which).name
        if _OURS.match(name):
            hint = "use the messages of the protocol for what they have prepared, or choose another name"
            return _refused(
                text, Refusal(RESERVED, f'the name "{name}" of a prepared statement is backout\'s own', hint)
            )
        if which == "deallocate_stmt":
            return Piece(text, deallocates=name)
        if which == "execute_stmt":
            problem = _objection(facts_of(node, self._scope.resolvable))  # judged when it was prepared, but for these
            return Piece(text) if problem is None else replace(problem, text=text)
        piece = replace(self._judged(text, node.prepare_stmt.query), prepares=name)
        if piece.settings:
            hint = "call it by itself"
            return _refused(text, Refusal(NOT_SUPPORTED, "set_config() in PREPARE would set unseen", hint))
        return piece

    def _copy(self, text: str, node: Any) -> Piece:
        facts = facts_of(node, self._scope.resolvable)
        problem = _objection(facts)
        if problem:
            return replace(problem, text=text)
        inner = node.copy_stmt.query
        if inner.WhichOneof("node"):
            return self._judged(text, inner)
        return Piece(text, copies_in=node.copy_stmt.is_from, tables=_written(facts))

    def _set(self, text: str, node: Any) -> Piece:
        setting = node.variable_set_stmt
        if not setting.name:
            return Piece(_NOTHING, resets_all=True, said=text)
        if setting.name == "TRANSACTION":
            return self._set_transaction(text, setting)
        if _sets_what_is(node):
            return Piece(text)
        return self._judged(text, node)

    def _set_transaction(self, text: str, setting: Any) -> Piece:
        """The level that the run has, or a weaker one, is what it is already."""
        names = {one.def_elem.defname for one in setting.args}
        if names == {"transaction_isolation"}:
            return self._too_strong(text, setting.args) or Piece(_NOTHING, said=text)
        hint = "write BEGIN READ ONLY; the run's isolation is the environment's"
        return _refused(text, Refusal(ACTIVE_TRANSACTION, "the transaction is the run's, and has begun", hint))

    def _held(self, text: str, node: Any) -> Piece:
        """A cursor WITH HOLD outlives the client's COMMIT as every cursor would: the run's transaction goes on."""
        without = _without_hold(text)
        plain = type(node)()
        plain.CopyFrom(node)
        plain.declare_cursor_stmt.options &= ~_CURSOR_HOLD
        return replace(self._judged(without, plain), portal=None, said=text)

    def _judged(self, text: str, node: Any) -> Piece:
        facts = facts_of(node, self._scope.resolvable)
        if any(call.name == _NEXT_BATCH for call in facts.calls):
            problem = "backout.next_batch() in another statement than the one that it is"
            hint = (
                "send it by itself: SELECT * FROM backout.next_batch(); "
                'and say batch = {table = "…", by = "…"} in the metadata'
            )
            return _refused(text, Refusal(NOT_SUPPORTED, problem, hint))
        _, objection = judge(node, facts, self._scope)
        if objection is not None:
            return _refused(text, Refusal(NOT_SUPPORTED, objection.reason, objection.hint))
        if Trait.SEARCH_PATH in facts.traits and _may_put_temporary_last(node, facts):
            self.search_path_is_set()
        which = node.WhichOneof("node")
        table, on_commit = _on_commit(node)
        if on_commit == "ONCOMMIT_DELETE_ROWS":
            hint = "delete the rows at the end of the transaction, or say ON COMMIT DROP"
            return _refused(text, Refusal(NOT_SUPPORTED, "ON COMMIT DELETE ROWS is not passed on", hint))
        settings = _settings(node, facts)
        if settings is None:
            hint = "write true or false as its third argument"
            return _refused(text, Refusal(NOT_SUPPORTED, "set_config() that does not say for how long", hint))
        return Piece(
            text,
            only_reads=which == "select_stmt" and not facts.targets and _is_plain(node.select_stmt, facts),
            settings=settings,
            defers=which == "constraints_set_stmt",
            portal=node.declare_cursor_stmt.portalname if which == "declare_cursor_stmt" else None,
            tables=_written(facts),
            drops=table if on_commit == "ONCOMMIT_DROP" else None,
        )

    def _control(self, text: str, node: Any) -> Piece:
        kind = type(node).DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number[node.kind].name
        control = _CONTROLS.get(kind)
        if control is None:
            hint = "leave it out: backout commits what is proven"
            return _refused(text, Refusal(NOT_SUPPORTED, "two-phase commit cannot be part of a run", hint))
        if control is Control.SAVEPOINT and node.savepoint_name.startswith("_backout"):
            hint = "choose a name that does not begin with _backout"
            return _refused(text, Refusal(RESERVED, f'savepoint "{node.savepoint_name}" is backout\'s own', hint))
        if control is Control.SAVEPOINT:
            return Piece(text, control, rolls_back=kind == "TRANS_STMT_ROLLBACK_TO")
        refused = self._too_strong(text, node.options)
        if refused:
            return refused
        read_only = any(one.a_const.ival.ival for one in _values(node.options, "transaction_read_only"))
        return Piece(STAND_IN, control, chain=node.chain, read_only=read_only, said=text)

    def _too_strong(self, text: str, options: Sequence[Any]) -> Piece | None:
        wanted = [value.a_const.sval.sval.lower() for value in _values(options, "transaction_isolation")]
        stronger = next((one for one in wanted if one in self._stronger), None)
        if stronger is None:
            return None
        hint = 'set isolation = "repeatable read" for the environment, or ask for less'
        return _refused(text, Refusal(ACTIVE_TRANSACTION, f"the run's isolation level is not {stronger}", hint))


#: Settings that decide how text is read, and the values that they have in a run; drivers set them to be sure.
_AS_THEY_ARE = {"client_encoding": ("utf8", "unicode"), "standard_conforming_strings": ("on", "true", "1")}
_LEVELS = ("read uncommitted", "read committed", "repeatable read", "serializable")
_CURSOR_HOLD = 0x0020  # CURSOR_OPT_HOLD, parsenodes.h


def is_as_it_is(name: str, value: str) -> bool:
    """Whether this setting decides how text is read, and has this value in every run.

    Of an encoding's name letters and digits alone count (`clean_encoding_name`, encnames.c): asyncpg says 'utf-8', quoted.
    """
    if name.lower() == "client_encoding":
        value = "".join(letter for letter in value if letter.isascii() and letter.isalnum())
    return value.lower() in _AS_THEY_ARE.get(name.lower(), ())


def decides_how_text_is_read(name: str) -> bool:
    """Whether statements mean something else with another value of this setting."""
    return name.lower() in _AS_THEY_ARE


def _is_next_batch(node: Any) -> bool:
    """SELECT * FROM backout.next_batch(), and nothing else."""
    select = node.select_stmt
    given = {field.name for field, _ in select.ListFields()}
    if given - {"limit_option", "op"} != {"target_list", "from_clause"} or len(select.from_clause) != 1:
        return False
    shown = [one.res_target for one in select.target_list]
    if len(shown) != 1 or shown[0].indirection or shown[0].name:
        return False
    fields = shown[0].val.column_ref.fields
    source = select.from_clause[0]
    if [one.WhichOneof("node") for one in fields] != ["a_star"] or source.WhichOneof("node") != "range_function":
        return False
    if {field.name for field, _ in source.range_function.ListFields()} != {"functions"}:
        return False
    parts = source.range_function.functions
    calls = parts[0].list.items if len(parts) == 1 else ()
    if not calls or calls[0].WhichOneof("node") != "func_call":
        return False
    call = calls[0].func_call
    name = ".".join(one.string.sval for one in call.funcname)
    only = {field.name for field, _ in call.ListFields()} <= {"funcname", "location", "funcformat"}
    return name == _NEXT_BATCH and only and not any(one.WhichOneof("node") for one in calls[1:])


def _may_put_temporary_last(node: Any, facts: Facts) -> bool:
    """Temporary tables are searched first, unless the path names pg_temp (manual 20.11.1)."""
    if node.WhichOneof("node") == "variable_set_stmt":
        return any("pg_temp" in one.a_const.sval.sval.lower() for one in node.variable_set_stmt.args)
    values = [
        call.arguments[1] for call in facts.calls if call.arguments[:1] == ("search_path",) and call.arguments[1:]
    ]
    return any(one is None or "pg_temp" in one.lower() for one in values)


def _sets_what_is(node: Any) -> bool:
    setting = node.variable_set_stmt
    words = [one.a_const.sval.sval for one in setting.args]
    return bool(words) and all(is_as_it_is(setting.name, word) for word in words)


def _settings(node: Any, facts: Facts) -> tuple[Setting, ...] | None:
    """What the statement sets; None where it does not say whether for the transaction only."""
    found = []
    if node.WhichOneof("node") == "variable_set_stmt":
        found.append(Setting(node.variable_set_stmt.name.lower(), node.variable_set_stmt.is_local))
    for call in facts.calls:
        if call.name.removeprefix("pg_catalog.") == "set_config":
            name, _, local = (*call.arguments, None, None, None)[:3]
            if name is None or local is None or local.lower() not in _TRUTH:
                return None
            found.append(Setting(name.lower(), _TRUTH[local.lower()]))
    return tuple(found)


_TRUTH = {"true": True, "t": True, "on": True, "1": True, "false": False, "f": False, "off": False, "0": False}


def _objection(facts: Facts) -> Piece | None:
    """What it may not name: for statements that are not judged as a whole."""
    found = [schema_objection(target.schema, target.table) for target in facts.targets]
    found += [function_objection(call.name) for call in facts.calls]
    found += [
        setting_objection(call.arguments[0] or "role")
        for call in facts.calls
        if call.name.removeprefix("pg_catalog.") == "set_config" and call.arguments
    ]
    objection = next((one for one in found if one), None)
    return _refused("", Refusal(NOT_SUPPORTED, objection.reason, objection.hint)) if objection else None


def _written(facts: Facts) -> tuple[tuple[str | None, str], ...]:
    return tuple(dict.fromkeys((target.schema, target.table) for target in facts.targets))


def _on_commit(node: Any) -> tuple[str, str]:
    """The temporary table that the statement makes, and its OnCommitAction (primnodes.h)."""
    which = node.WhichOneof("node")
    if which == "create_stmt":
        return node.create_stmt.relation.relname, _enum(node.create_stmt, "oncommit")
    if which == "create_table_as_stmt":
        into = node.create_table_as_stmt.into
        return into.rel.relname, _enum(into, "on_commit")
    return "", ""


def _enum(message: Any, field: str) -> str:
    kind = type(message).DESCRIPTOR.fields_by_name[field].enum_type
    return str(kind.values_by_number[getattr(message, field)].name)


def _without_hold(text: str) -> str:
    """The DECLARE without its WITH HOLD, which stands before FOR."""
    tokens = scan(text)
    for one, two in pairwise(tokens):
        if one.kind in (token_kind("WITH"), token_kind("WITH_LA")) and two.kind == token_kind("HOLD"):
            return text[: one.start] + text[two.end :]
    return text


def _is_plain(select: Any, facts: Facts) -> bool:
    """Nothing but computing; no FOR UPDATE. (An operator or a view of the user's could call what writes.)"""
    return not select.locking_clause and _COMPUTING.issuperset(facts.functions)


def _values(options: Iterable[Any], name: str) -> list[Any]:
    return [one.def_elem.arg for one in options if one.def_elem.defname == name]


def _refused(text: str, refusal: Refusal) -> Piece:
    return Piece(text, refusal=refusal)
