"""What a MariaDB statement is and writes, from its tokens.

Not for: reading tokens (`mariadb_scan`), names in expressions (`mariadb_names`), words that are refused and why
(`mariadb_objections`). Invariant: a statement whose first word is not known to be allowed is refused, since most of the
others end the transaction (MariaDB manual, "SQL statements That Cause an Implicit Commit").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.sql.mariadb_names import Name, functions_of, name_at, set_columns, tables_of, top_level
from backout.sql.mariadb_objections import (
    SCHEMA,
    function_objection,
    hidden_objection,
    setting_objection,
    table_objection,
    verb_objection,
)
from backout.sql.model import Kind, Objection, Trait, WriteTarget
from backout.sql.pieces import Facts
from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backout.sql.source import Source


@dataclass
class Scope:
    """The temporary tables that earlier statements of the same change made; a bare name finds them first.

    Letter case counts, as it does on most servers: a name that differs in it means another table, which is captured.
    """

    temporary: frozenset[str] = frozenset()

    def holds(self, name: Name) -> bool:
        """Whether the name means one of them."""
        return name[0] is None and name[1] in self.temporary

    def resolve(self, name: Name) -> Name:
        """The name, under schema "temp" where it means a temporary table."""
        return ("temp", name[1]) if self.holds(name) else name


@dataclass(frozen=True)
class _Case:
    """One statement: its tokens, where the word stands that says what it does, and what came before it."""

    tokens: Sequence[Token]
    at: int
    scope: Scope

    @property
    def rest(self) -> Sequence[Token]:
        """The tokens after that word."""
        return self.tokens[self.at + 1 :]


_Judgement = tuple[Kind, tuple[WriteTarget, ...], Objection | None]


def judge(source: Source, tokens: Sequence[Token], scope: Scope) -> Facts:
    """Return the facts of a statement; InvalidFile when its first word is none of MariaDB's."""
    at = _verb(source, tokens)
    kind, targets, objection = _JUDGES.get(tokens[at].text.upper(), _refused)(_Case(tokens, at, scope))
    functions = functions_of(tokens) if kind is not Kind.TEMPORARY else ()
    named = [(target.schema, target.table) for target in targets]
    tables = tuple(dict.fromkeys([*named, *(scope.resolve(table) for table in tables_of(tokens))]))
    objection = objection or hidden_objection(tokens) or _name_objection([*named, *tables], functions)
    return Facts(
        Kind.FORBIDDEN if objection else kind, targets, objection, _traits(tokens, at, targets), functions, tables
    )


def _verb(source: Source, tokens: Sequence[Token]) -> int:
    """Return where the word stands that says what the statement does: the first, or the one after its WITH."""
    first = tokens[0]
    word = first.text.upper()
    if first.text == "(" or (first.kind is TokenKind.WORD and (word in _JUDGES or verb_objection(tokens))):
        if not first.is_word("WITH"):
            return 0
        depth = 0
        for index, token in enumerate(tokens):
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0 and index and token.is_word("SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"):
                return index
        raise source.error("a WITH without its SELECT", first.start)
    hint = "a statement begins with SELECT, VALUES, WITH, INSERT, REPLACE, UPDATE, DELETE, CALL or SET"
    raise source.error(f'a statement cannot begin with "{first.text}"', first.start, hint)


def _refused(case: _Case) -> _Judgement:
    objection = verb_objection(case.tokens[case.at :])
    if objection is None:  # "(SELECT …)"
        return Kind.READ, (), None
    return Kind.FORBIDDEN, (), objection


def _unreadable(what: str) -> _Judgement:
    return Kind.FORBIDDEN, (), Objection(f"the table that it {what} cannot be read", "write its name first")


_MODIFIERS = ("LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "QUICK", "INTO")


def _insert(case: _Case) -> _Judgement:
    rest = list(case.rest)
    while rest and rest[0].is_word(*_MODIFIERS):
        if rest[0].is_word("DELAYED"):
            return Kind.FORBIDDEN, (), Objection("DELAYED writes outside of the transaction", "leave it out")
        rest.pop(0)
    name = name_at(rest, 0) if rest else None
    if name is None:
        return _unreadable("writes")
    schema, table = case.scope.resolve(name)
    targets = [WriteTarget("insert", schema, table)]
    words = [token.text.upper() for token in rest]
    if "DUPLICATE" in words and words[words.index("DUPLICATE") + 1 : words.index("DUPLICATE") + 3] == ["KEY", "UPDATE"]:
        targets.append(WriteTarget("update", schema, table))
    return Kind.WRITE, tuple(targets), None


def _update(case: _Case) -> _Judgement:
    rest = [token for token in case.rest if not token.is_word("LOW_PRIORITY", "IGNORE")]
    names = tables_of(_as_from(_until(rest, "SET")))
    if not names:
        return _unreadable("writes")
    columns = set_columns(rest)
    return Kind.WRITE, tuple(WriteTarget("update", *case.scope.resolve(name), columns) for name in names), None


def _delete(case: _Case) -> _Judgement:
    rest = [token for token in case.rest if not token.is_word("LOW_PRIORITY", "IGNORE", "QUICK", "HISTORY")]
    if len(rest) != len(case.rest) and any(token.is_word("HISTORY") for token in case.rest[:1]):
        return Kind.FORBIDDEN, (), Objection("it removes the history of a system-versioned table", "do it by hand")
    names = tables_of(_as_from(_until([t for t in rest if not t.is_word("FROM", "USING")], "WHERE", "ORDER", "LIMIT")))
    if not names:
        return _unreadable("deletes from")
    if any(token.is_word("USING") for token in rest) or (rest and not rest[0].is_word("FROM")):
        names = tuple(dict.fromkeys([*names, *tables_of(rest)]))
    return Kind.WRITE, tuple(WriteTarget("delete", *case.scope.resolve(name)) for name in names), None


def _until(tokens: Sequence[Token], *words: str) -> list[Token]:
    found: list[Token] = []
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.is_word(*words):
            break
        found.append(token)
    return found


def _as_from(tokens: list[Token]) -> list[Token]:
    return [Token(TokenKind.WORD, "FROM", 0, 0, "FROM"), *tokens]


def _call(case: _Case) -> _Judgement:
    if name_at(case.rest, 0) is None:
        return Kind.FORBIDDEN, (), Objection("the procedure that it calls cannot be read", "write its name")
    return Kind.WRITE, (), None


def _set(case: _Case) -> _Judgement:
    objection = setting_objection(case.rest)
    return (Kind.FORBIDDEN, (), objection) if objection else (Kind.SETTING, (), None)


def _create_or_drop(case: _Case) -> _Judgement:
    """Only temporary tables do not end the transaction (manual, "Implicit Commit")."""
    words = [token for token in case.rest if not token.is_word("OR", "REPLACE", "IF", "NOT", "EXISTS")]
    name = name_at(words, 2) if len(words) > 2 else None
    if len(words) < 3 or not words[0].is_word("TEMPORARY") or not words[1].is_word("TABLE") or name is None:
        return Kind.FORBIDDEN, (), Objection(*SCHEMA)
    created = case.tokens[case.at].is_word("CREATE")
    dropped = {token.name for token in words[2:] if token.name is not None}
    if created and name[0] is not None:
        return (
            Kind.FORBIDDEN,
            (),
            Objection("a temporary table could hide another one", "leave out the database's name"),
        )
    case.scope.temporary = case.scope.temporary | {name[1]} if created else case.scope.temporary - dropped
    return Kind.TEMPORARY, (), None


def _read(_: _Case) -> _Judgement:
    return Kind.READ, (), None


_JUDGES: dict[str, Callable[[_Case], _Judgement]] = {
    **dict.fromkeys(("SELECT", "VALUES", "WITH", "EXPLAIN", "DESC", "DESCRIBE", "SHOW", "DO"), _read),
    **dict.fromkeys(("INSERT", "REPLACE"), _insert),
    **dict.fromkeys(("CREATE", "DROP"), _create_or_drop),
    "UPDATE": _update,
    "DELETE": _delete,
    "CALL": _call,
    "SET": _set,
}


def _name_objection(names: Sequence[Name], functions: Sequence[str]) -> Objection | None:
    for name in names:
        objection = table_objection(name)
        if objection is not None:
            return objection
    return next((found for name in functions if (found := function_objection(name)) is not None), None)


def _traits(tokens: Sequence[Token], at: int, targets: Sequence[WriteTarget]) -> frozenset[Trait]:
    traits: set[Trait] = set()
    verb = tokens[at]
    rest = top_level(tokens[at:])
    if verb.is_word("UPDATE", "DELETE") and not any(token.is_word("WHERE", "USING", "JOIN") for token in rest):
        traits.add(Trait.EVERY_ROW)
    words = [token.text.upper() for token in tokens if token.kind is TokenKind.WORD]
    if targets and "LIMIT" in words and "ORDER" not in words:
        traits.add(Trait.LIMIT_WITHOUT_ORDER)
    if targets and verb.is_word("REPLACE"):
        traits.add(Trait.REPLACE)
    return frozenset(traits)
