"""What a client's message asks for: transaction control, which is the run's, or a statement that may or may not run.

Statements are judged by the same rules as those of a change file (`sql/postgres_objections.py`), with what only a live
client can do allowed as well: COPY from and to itself, PREPARE and EXECUTE, DEALLOCATE.

Invariant: what our parser cannot read is never forwarded, since the two could understand it differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from backout.sql.libpg_query import SyntaxProblem, parse_all
from backout.sql.postgres_facts import Facts, facts_of
from backout.sql.postgres_objections import Scope, judge

NOT_SUPPORTED, SYNTAX, NOT_UTF8, ACTIVE_TRANSACTION, NO_TRANSACTION, RESERVED = (
    "0A000", "42601", "22021", "25001", "25P01", "42939",
)  # fmt: skip
#: The savepoint behind which a client's own transaction lives. Names that begin so are ours.
GUARD = "_backout_guard"
_KEPT = 2048


class Control(Enum):
    """What a statement does to the transaction."""

    NONE = "none"
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"  # of the client, inside its transaction: passed on


@dataclass(frozen=True)
class Refusal:
    """Why a statement is not passed on, as the client's driver will see it."""

    sqlstate: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Piece:
    """One statement of a message."""

    text: str
    control: Control = Control.NONE
    chain: bool = False  # AND CHAIN
    refusal: Refusal | None = None
    deallocates: str | None = None  # the prepared statement, "" for all
    copies_in: bool = False  # COPY … FROM STDIN: the client's data follow
    only_reads: bool = False  # for certain: no function of the user's is called, no row is locked


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
_STRONGER = ("repeatable read", "serializable")


class Reader:
    """Reads the statements of one client; it remembers the temporary tables that this client has made."""

    def __init__(self) -> None:
        self._scope = Scope()
        self._known: dict[bytes, tuple[Piece, ...]] = {}

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
        if which == "transaction_stmt":
            return _control(text, node.transaction_stmt)
        if which == "deallocate_stmt":
            return Piece(text, deallocates=node.deallocate_stmt.name)
        if which == "discard_stmt":
            return _refused(text, Refusal(NOT_SUPPORTED, "DISCARD would reset the session that all clients share"))
        if which == "prepare_stmt":
            return self._judged(text, node.prepare_stmt.query)
        if which == "execute_stmt":
            return Piece(text)  # judged when it was prepared
        if which == "copy_stmt" and not node.copy_stmt.is_program and not node.copy_stmt.filename:
            return self._copy(text, node)
        if which == "variable_set_stmt" and not node.variable_set_stmt.name:
            return Piece("SELECT pg_catalog.now() WHERE false")  # RESET ALL: nothing of a client's outlives it
        return self._judged(text, node)

    def _copy(self, text: str, node: Any) -> Piece:
        facts = facts_of(node, self._scope.resolvable)
        own = [target for target in facts.targets if target.schema in ("backout", "pg_catalog")]
        if own:
            return _refused(text, Refusal(NOT_SUPPORTED, f'COPY may not write to schema "{own[0].schema}"'))
        inner = node.copy_stmt.query
        if inner.WhichOneof("node"):
            return self._judged(text, inner)
        return Piece(text, copies_in=node.copy_stmt.is_from)

    def _judged(self, text: str, node: Any) -> Piece:
        if _sets_what_is(node):
            return Piece(text)
        facts = facts_of(node, self._scope.resolvable)
        _, objection = judge(node, facts, self._scope)
        return (
            Piece(text)
            if objection is None
            else _refused(text, Refusal(NOT_SUPPORTED, objection.reason, objection.hint))
        )


#: Settings that decide how text is read, and the values that they have in a run; drivers set them to be sure.
_AS_THEY_ARE = {"client_encoding": ("utf8", "unicode"), "standard_conforming_strings": ("on", "true", "1")}


def _sets_what_is(node: Any) -> bool:
    if node.WhichOneof("node") != "variable_set_stmt":
        return False
    allowed = _AS_THEY_ARE.get(node.variable_set_stmt.name.lower(), ())
    words = [one.a_const.sval.sval.lower().replace("-", "") for one in node.variable_set_stmt.args]
    return bool(words) and all(word in allowed for word in words)


def _is_plain(select: Any, facts: Facts) -> bool:
    """Nothing but computing; no FOR UPDATE. (An operator or a view of the user's could call what writes.)"""
    return not select.locking_clause and _COMPUTING.issuperset(facts.functions)


def _control(text: str, node: Any) -> Piece:
    kind = type(node).DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number[node.kind].name
    control = _CONTROLS.get(kind)
    if control is None:
        return _refused(text, Refusal(NOT_SUPPORTED, "two-phase commit cannot be part of a run"))
    if control is Control.SAVEPOINT and node.savepoint_name.startswith("_backout"):
        return _refused(text, Refusal(RESERVED, f'savepoint "{node.savepoint_name}" is backout\'s own'))
    wanted = [value.a_const.sval.sval for value in _values(node.options, "transaction_isolation")]
    stronger = next((one for one in wanted if one.lower() in _STRONGER), None)
    if stronger is not None:
        hint = 'set isolation = "repeatable read" for the environment'
        return _refused(text, Refusal(ACTIVE_TRANSACTION, f"the run's isolation level is not {stronger}", hint))
    return Piece(text, control, chain=node.chain)


def _values(options: Sequence[Any], name: str) -> list[Any]:
    return [one.def_elem.arg for one in options if one.def_elem.defname == name]


def _refused(text: str, refusal: Refusal) -> Piece:
    return Piece(text, refusal=refusal)
