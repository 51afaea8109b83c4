"""What an SQLite statement is and writes, from its tokens: SQLite has no writing CTEs, so that its first words tell.

Not for: reading tokens (`sqlite_scan`), or names in expressions (`sqlite_names`).
Invariant: a statement whose first words are not known to be allowed is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from backout.sql.model import Kind, Objection, Trait, WriteTarget
from backout.sql.pieces import Facts
from backout.sql.sqlite_names import functions_of, set_columns, tables_of, top_level
from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backout.sql.source import Source

_TRANSACTION = ("a change may not control the transaction",
                "leave it out: backout begins, commits and rolls back the one transaction of the run")  # fmt: skip
_SCHEMA = ("a change of the schema is not a change of rows", "use a schema migration, or a TEMP table")
_ATTACH = ("a change may not attach or detach a database", "make a change for that database")
_PRAGMA = ("this PRAGMA changes how the database works, which is not undone", "set it by hand, outside of a change")

_REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"), _TRANSACTION),
    **dict.fromkeys(("ATTACH", "DETACH"), _ATTACH),
    "VACUUM": ("VACUUM rewrites the whole file and cannot be undone", "run it by hand after the change"),
    "ANALYZE": ("ANALYZE changes no rows and cannot be undone", "run it by hand after the change"),
    "REINDEX": ("REINDEX changes no rows and cannot be undone", "run it by hand after the change"),
}
_READING_PRAGMAS = frozenset({
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "foreign_key_check", "integrity_check", "quick_check", "database_list", "collation_list", "function_list",
    "compile_options",
})  # fmt: skip
_FUNCTIONS = {
    "load_extension": ("it brings code into the process", "leave it out"),
    "writefile": ("it writes a file, which is not undone", "leave it out"),
    "readfile": ("it reads a file of the machine that runs the change", "put the data into the change file"),
    "edit": ("it starts a program", "leave it out"),
}


@dataclass
class Scope:
    """The temporary tables that earlier statements of the same change made; a bare name finds them first."""

    temporary: frozenset[str] = frozenset()

    def resolve(self, schema: str | None, table: str) -> tuple[str | None, str]:
        return ("temp", table) if schema is None and table.lower() in self.temporary else (schema, table)

    def holds(self, schema: str | None, table: str) -> bool:
        return (self.resolve(schema, table)[0] or "").lower() == "temp"


def judge(source: Source, tokens: Sequence[Token], scope: Scope) -> Facts:
    """Return the facts of a statement; InvalidFile when its first word is none of SQLite's."""
    verb = _verb(source, tokens)
    kind, targets, objection = _JUDGES[verb.text.upper()](_Case(tokens, verb, scope))
    functions = functions_of(tokens)
    named = [(target.schema, target.table) for target in targets]
    tables = tuple(dict.fromkeys([*named, *(scope.resolve(*table) for table in tables_of(tokens))]))
    objection = objection or _name_objection(targets, functions)
    return Facts(
        Kind.FORBIDDEN if objection else kind, targets, objection, _traits(tokens, verb, targets), functions, tables
    )


def _verb(source: Source, tokens: Sequence[Token]) -> Token:
    """Return the word that says what the statement does: its first, or the one after its WITH."""
    first = tokens[0]
    if not first.is_word("WITH"):
        if first.text.upper() in _JUDGES:
            return first
        hint = "a statement begins with SELECT, VALUES, WITH, INSERT, REPLACE, UPDATE or DELETE"
        raise source.error(f'a statement cannot begin with "{first.text}"', first.start, hint)
    outer = top_level(tokens)
    for previous, token in pairwise(outer):
        # After WITH, RECURSIVE and a comma stands a CTE's name, which may be spelled like a verb.
        is_name = previous.is_word("WITH", "RECURSIVE") or previous.text == ","
        if token.is_word("SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE") and not is_name:
            return token
    raise source.error("a WITH without its SELECT, INSERT, UPDATE or DELETE", first.start)


_Judgement = tuple[Kind, tuple[WriteTarget, ...], Objection | None]


@dataclass(frozen=True)
class _Case:
    """One statement: its tokens, the word that says what it does, and what came before it."""

    tokens: Sequence[Token]
    verb: Token
    scope: Scope


def _refused(case: _Case) -> _Judgement:
    return Kind.FORBIDDEN, (), Objection(*_REFUSED[case.verb.text.upper()])


def _write(case: _Case) -> _Judgement:
    rest = case.tokens[case.tokens.index(case.verb) + 1 :]
    skip = 2 if rest and rest[0].is_word("OR") else 0
    skip += 1 if len(rest) > skip and rest[skip].is_word("INTO", "FROM") else 0
    name = _name(rest[skip:])
    if name is None:
        return (
            Kind.FORBIDDEN,
            (),
            Objection("the table that it writes cannot be read", "write its name after the case.verb"),
        )
    schema, table = case.scope.resolve(*name)
    operation = {"UPDATE": "update", "DELETE": "delete"}.get(case.verb.text.upper(), "insert")
    if operation == "update":
        return Kind.WRITE, (WriteTarget("update", schema, table, set_columns(rest)),), None
    targets = [WriteTarget(operation, schema, table)]
    for index, token in enumerate(rest):
        if operation == "insert" and token.is_word("UPDATE") and rest[index - 1].is_word("DO"):
            targets.append(WriteTarget("update", schema, table, set_columns(rest[index:])))
    return Kind.WRITE, tuple(targets), None


def _create(case: _Case) -> _Judgement:
    words = [token for token in case.tokens if not token.is_word("IF", "NOT", "EXISTS", "UNIQUE")]
    is_temporary = len(words) > 1 and words[1].is_word("TEMP", "TEMPORARY")
    words = words[2:] if is_temporary else words[1:]
    name = _name(words[1:])
    is_known = bool(words) and words[0].is_word("TABLE", "VIEW", "INDEX")
    if is_known and name and (is_temporary or case.scope.holds(name[0], "")):
        case.scope.temporary |= {name[1].lower()}
        return Kind.TEMPORARY, (), None
    return Kind.FORBIDDEN, (), Objection(*_SCHEMA)


def _drop_or_alter(case: _Case) -> _Judgement:
    words = [token for token in case.tokens[1:] if not token.is_word("IF", "EXISTS")]
    name = _name(words[1:])
    if words and words[0].is_word("TABLE", "VIEW", "INDEX") and name and case.scope.holds(*name):
        if case.verb.is_word("DROP"):
            case.scope.temporary -= {name[1].lower()}
        return Kind.TEMPORARY, (), None
    return Kind.FORBIDDEN, (), Objection(*_SCHEMA)


def _pragma(case: _Case) -> _Judgement:
    words = case.tokens[3:] if len(case.tokens) > 3 and case.tokens[2].text == "." else case.tokens[1:]
    name = (words[0].name or "").lower() if words else ""
    if name in _READING_PRAGMAS:
        return Kind.READ, (), None
    if name == "defer_foreign_keys":  # ends with the transaction, like SET CONSTRAINTS
        return Kind.SETTING, (), None
    return Kind.FORBIDDEN, (), Objection(*_PRAGMA)


_JUDGES: dict[str, Callable[[_Case], _Judgement]] = {
    **dict.fromkeys(_REFUSED, _refused),
    **dict.fromkeys(("SELECT", "VALUES", "EXPLAIN"), lambda _: (Kind.READ, (), None)),
    **dict.fromkeys(("INSERT", "REPLACE", "UPDATE", "DELETE"), _write),
    **dict.fromkeys(("DROP", "ALTER"), _drop_or_alter),
    "CREATE": _create,
    "PRAGMA": _pragma,
}


def _name(tokens: Sequence[Token]) -> tuple[str | None, str] | None:
    first = tokens[0].name if tokens else None
    if first is None:
        return None
    if len(tokens) > 2 and tokens[1].text == ".":
        second = tokens[2].name
        return (first, second) if second is not None else None
    return None, first


def _name_objection(targets: Sequence[WriteTarget], functions: Sequence[str]) -> Objection | None:
    for target in targets:
        table = target.table.lower()
        if table.startswith("backout_"):
            return Objection(f'table "{target.table}" is backout\'s own', "use the verbs: backout undo, backout clean")
        if table.startswith("sqlite_"):
            hint = "use a schema migration, or insert without the key"
            return Objection(f'table "{target.table}" belongs to SQLite: writes to it cannot be undone', hint)
    for function in functions:
        if function in _FUNCTIONS:
            reason, hint = _FUNCTIONS[function]
            return Objection(f'function "{function}" may not be called: {reason}', hint)
    return None


def _traits(tokens: Sequence[Token], verb: Token, targets: Sequence[WriteTarget]) -> frozenset[Trait]:
    traits: set[Trait] = set()
    outer = top_level(tokens)
    rest = outer[outer.index(verb) :]
    if verb.is_word("UPDATE", "DELETE") and not any(token.is_word("WHERE") for token in rest):
        traits.add(Trait.EVERY_ROW)
    words = [token.text.upper() for token in tokens if token.kind is TokenKind.WORD]
    if "LIMIT" in words and "ORDER" not in words:
        traits.add(Trait.LIMIT_WITHOUT_ORDER)
    if targets and (verb.is_word("REPLACE") or (len(rest) > 2 and rest[2].is_word("REPLACE"))):
        traits.add(Trait.REPLACE)
    return frozenset(traits)
