"""Constants for columns that are declared PHI: such a value belongs into a parameter, not into a text that people keep.

Not a verdict on undoability. It reads tokens, not a tree, and rather refuses too much: a constant in one term with such
a column (`reason = '…'`, `reason IN (…)`, `coalesce(reason, '…')`), or in its place of an INSERT. What a function does
with a constant that stands in no term with the column, it does not see.
Invariant: no message holds the constant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backout.change.model import Change, DataClass, Step
from backout.errors import InvalidFile, Refused
from backout.sql.literals import Part, Piece, pieces

Phi = Mapping[str, tuple[str, ...]]  # table, bare or with its schema -> its columns

_ENDS_OF_TERMS = frozenset({
    "OR", "WHERE", "SET", "FROM", "RETURNING", "ON", "USING", "HAVING", "GROUP", "ORDER", "LIMIT", "OFFSET", "UNION",
    "EXCEPT", "INTERSECT", "JOIN", "SELECT", "VALUES", "UPDATE",
})  # fmt: skip


@dataclass(frozen=True)
class PrivateLiteral:
    """A place where a constant stands for a column that is declared PHI."""

    column: str
    line: int


def require_no_private_literals(change: Change, phi: Phi) -> None:
    """Raise Refused for the first such constant, and for a change of such a table that does not say that it is PHI."""
    for step in change.steps:
        columns = _columns(step, phi)
        if columns and change.metadata.data is not DataClass.PHI:
            raise Refused(
                "phi", f'{change.path}:{step.statement.line}: it is about a table with columns that are declared PHI, '
                f'and the change says data = "{change.metadata.data.value}"', hint='write data = "phi" into its metadata',
            )  # fmt: skip
        for one in private_literals(change, step, columns):
            raise Refused(
                "phi", f'{change.path}:{one.line}: a constant stands for the column "{one.column}", which is declared PHI',
                hint="declare a parameter for the value, and give it when the change runs: --param NAME=…",
            )  # fmt: skip


def private_literals(change: Change, step: Step, columns: Collection[str]) -> Iterator[PrivateLiteral]:
    """Yield the constants of a step that stand for one of these columns (lower-case)."""
    if not columns:
        return
    text = step.statement.text
    try:
        found = [_fixed(one, change, step) for one in pieces(text, change.dialect) if one.part is not Part.COMMENT]
    except (InvalidFile, ValueError):
        return  # whoever cannot be read does not run
    for piece, column in (*_inserted(found, columns), *_terms(found, columns)):
        yield PrivateLiteral(column, step.statement.line + text.count("\n", 0, piece.start))


def _fixed(piece: Piece, change: Change, step: Step) -> Piece:
    """A parameter whose value stands in the change's own metadata is as good as a constant."""
    name = piece.name.lstrip(":$@")
    if piece.part is Part.OTHER and piece.name.startswith("$") and name.isdigit():  # PostgreSQL's $1
        names = step.statement.parameters
        name = names[int(name) - 1] if int(name) <= len(names) else name
    is_fixed = piece.part is Part.OTHER and len(piece.name) > 1 and name in change.metadata.parameters
    return replace(piece, part=Part.LITERAL) if is_fixed else piece


def _columns(step: Step, phi: Phi) -> frozenset[str]:
    names = {(schema or "", table) for schema, table in step.statement.tables}
    names |= {(one.schema or "", one.table) for one in step.statement.targets}
    declared = {name.lower(): columns for name, columns in phi.items()}
    found: set[str] = set()
    for schema, table in names:
        for name in (f"{schema}.{table}".lower(), table.lower()):
            found.update(column.lower() for column in declared.get(name, ()))
        if not schema:  # the name alone may be that of a table declared with its schema
            for name, columns in declared.items():
                if name.rpartition(".")[2] == table.lower():
                    found.update(column.lower() for column in columns)
    return frozenset(found)


# -- INSERT: by the place in the list of columns -----------------------------------------------------------------------


def _inserted(found: Sequence[Piece], columns: Collection[str]) -> Iterator[tuple[Piece, str]]:
    start = next((index for index, one in enumerate(found) if _is(one, "INTO")), None)
    if start is None or not any(_is(one, "INSERT", "REPLACE") for one in found[:start]):
        return
    at = start + 1
    while (
        at < len(found) and not _is(found[at], "VALUES", "SELECT", "WITH", "DEFAULT", "SET") and found[at].name != "("
    ):
        at += 1
    named: list[str] | None = None
    if at < len(found) and found[at].name == "(" and not _is_query(found, at):
        inside, at = _group(found, at)
        named = [one.name.lower() for one in inside if one.name != ","]
    while at < len(found) and not _is(found[at], "VALUES", "SELECT"):
        at += 1
    if at >= len(found):
        return
    rows = _rows(found, at + 1) if _is(found[at], "VALUES") else [_until_from(found, at + 1)]
    for row in rows:
        for place, value in enumerate(_split(row)):
            name = named[place] if named is not None and place < len(named) else None
            literal = next((one for one in value if one.part is Part.LITERAL), None)
            if literal is not None and (name in columns or named is None):
                yield literal, name or "?"


def _rows(found: Sequence[Piece], at: int) -> list[Sequence[Piece]]:
    rows: list[Sequence[Piece]] = []
    while at < len(found) and found[at].name in ("(", ","):
        if found[at].name == ",":
            at += 1
            continue
        inside, at = _group(found, at)
        rows.append(inside)
    return rows


def _until_from(found: Sequence[Piece], at: int) -> Sequence[Piece]:
    depth = 0
    for index in range(at, len(found)):
        depth += {"(": 1, ")": -1}.get(found[index].name, 0)
        if depth == 0 and _is(found[index], "FROM", "UNION"):
            return found[at:index]
    return found[at:]


# -- everything else: by the term --------------------------------------------------------------------------------------


def _terms(found: Sequence[Piece], columns: Collection[str]) -> Iterator[tuple[Piece, str]]:
    """Split into terms at AND, OR, commas and clauses; a group is part of its term, unless it holds terms of its own."""
    term: list[Piece] = []
    between = False
    at = 0
    while at <= len(found):
        one = found[at] if at < len(found) else None
        if one is not None and one.name == "(":
            inside, at = _group(found, at)
            if any(_is(part, "AND", "OR", "SELECT") for part in inside):
                yield from _terms(inside, columns)
                term += [part for part in inside if part.part is Part.NAME and not _holds_query(inside)]
            else:
                term += inside
            continue
        ends = one is None or one.name in (",", ";") or _is(one, *_ENDS_OF_TERMS) or (_is(one, "AND") and not between)
        if ends:
            yield from _in_term(term, columns)
            term = []
        else:
            assert one is not None
            term.append(one)
        between = (between and not ends and not (one is not None and _is(one, "AND"))) or (
            one is not None and _is(one, "BETWEEN")
        )
        at += 1


def _in_term(term: Sequence[Piece], columns: Collection[str]) -> Iterator[tuple[Piece, str]]:
    column = next((one.name for one in term if one.name.lower() in columns), None)
    literal = next((one for one in term if one.part is Part.LITERAL and one.name.lower() not in columns), None)
    if column is not None and literal is not None:
        yield literal, column


def _holds_query(inside: Sequence[Piece]) -> bool:
    return any(_is(part, "SELECT") for part in inside)


def _is(piece: Piece, *words: str) -> bool:
    return piece.part is Part.NAME and piece.name.upper() in words


def _is_query(found: Sequence[Piece], at: int) -> bool:
    return at + 1 < len(found) and _is(found[at + 1], "SELECT", "WITH", "VALUES")


def _group(found: Sequence[Piece], at: int) -> tuple[Sequence[Piece], int]:
    """What is between a parenthesis and its partner, and the place after that."""
    depth = 0
    for index in range(at, len(found)):
        depth += {"(": 1, ")": -1}.get(found[index].name if found[index].part is Part.OTHER else "", 0)
        if depth == 0:
            return found[at + 1 : index], index + 1
    return found[at + 1 :], len(found)


def _split(row: Sequence[Piece]) -> list[list[Piece]]:
    values: list[list[Piece]] = [[]]
    depth = 0
    for one in row:
        depth += {"(": 1, ")": -1}.get(one.name, 0)
        if one.name == "," and depth == 0:
            values.append([])
        else:
            values[-1].append(one)
    return values
