"""PostgreSQL's own scanner and parser (libpg_query 18, by postgast): the one place that imports it, when first used.

Not for: what tokens and trees mean. Invariant: offsets are in characters, whatever the library counts in; the only
error is `SyntaxProblem`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

_CONSTANTS = ("SCONST", "USCONST", "BCONST", "XCONST", "FCONST", "ICONST")
_LISTS = re.compile(r"\?(?: ?, ?\?)+")  # of any length: an object mapper's IN (…)


class SyntaxProblem(Exception):
    """The text is not PostgreSQL's at the character `offset`."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True)
class Token:
    """One token; for a single character, `kind` is its ASCII code."""

    kind: int
    start: int
    end: int


@cache
def _postgast() -> Any:
    # By name, not by an import statement: postgast's stub has a field named None, which mypy cannot read.
    return import_module("postgast")


@cache
def token_kind(name: str) -> int:
    """Return the number of a token of PostgreSQL's grammar, such as "IDENT"."""
    return int(_postgast().pg_query_pb2.Token.Value(name))


def scan(text: str) -> list[Token]:
    """Return the tokens of `text`, comments included."""
    postgast = _postgast()
    try:
        tokens = postgast.scan(text).tokens
    except postgast.PgQueryError as error:
        raise _problem(error) from None
    characters = _CharacterOffsets(text)
    return [Token(int(token.token), characters.at(token.start), characters.at(token.end)) for token in tokens]


def parse(text: str) -> Any:
    """Return the tree of the one statement in `text`: a protobuf `Node`."""
    postgast = _postgast()
    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        try:
            tree = postgast.parse(text)
        except decode_error:
            tree = _parse_deep(text)
    except postgast.PgQueryError as error:
        raise _problem(error) from None
    except decode_error:
        raise SyntaxProblem("a statement nested too deeply to be read", 0) from None
    if len(tree.stmts) != 1:
        # `SELECT begin atomic; DELETE …` looks like a function's body to whoever splits by tokens alone.
        raise SyntaxProblem("unable to tell where this statement ends: it has the words begin atomic", 0)
    return tree.stmts[0].stmt


@dataclass(frozen=True)
class Parsed:
    """One statement of several: its text, in bytes of UTF-8, and its tree."""

    start: int
    end: int
    node: Any


def parse_all(text: str) -> list[Parsed]:
    """Return the statements of `text`, as the server itself would cut them apart."""
    postgast = _postgast()
    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        tree = postgast.parse(text)
    except postgast.PgQueryError as error:
        raise _problem(error) from None
    except decode_error:
        raise SyntaxProblem("a statement nested too deeply to be read", 0) from None
    length = len(text.encode())
    # A length of 0 means "to the end of the text" (parsenodes.h, RawStmt).
    return [
        Parsed(one.stmt_location, one.stmt_location + one.stmt_len if one.stmt_len else length, one.stmt)
        for one in tree.stmts
    ]


def without_values(text: str) -> str:
    """The text on one line with `?` for each constant, and without comments; "" where it cannot be read.

    By tokens, not by the tree: the body of a DO block, or the value in a SET, is a constant to the scanner alone.
    """
    try:
        tokens = scan(text)
    except SyntaxProblem:
        return ""
    constants = {token_kind(name) for name in _CONSTANTS}
    comments = {token_kind("SQL_COMMENT"), token_kind("C_COMMENT")}
    parts, at = [], 0
    for token in tokens:
        parts.append(text[at : token.start])
        if token.kind not in comments:
            parts.append("?" if token.kind in constants else text[token.start : token.end])
        at = token.end
    return _LISTS.sub("?, …", " ".join("".join([*parts, text[at:]]).split()))


def _problem(error: Any) -> SyntaxProblem:
    # The cursor counts characters from 1 [measured; postgast's page says bytes]; 0 means that it is not known.
    return SyntaxProblem(error.message, max(error.cursorpos - 1, 0))


def _parse_deep(text: str) -> Any:
    """Parse with protobuf's limit of 100 nested messages lifted: `a || b || …` with 50 terms exceeds it [measured].

    PostgreSQL's parser limits the depth itself. The switch is process-wide, so it is set for this call only.
    """
    try:
        allow = import_module("google._upb._message").SetAllowOversizeProtos
    except ImportError:
        return _postgast().parse(text)
    allow(True)  # noqa: FBT003 - a C function without keywords
    try:
        return _postgast().parse(text)
    finally:
        allow(False)  # noqa: FBT003


class _CharacterOffsets:
    """Translates ascending byte offsets of a text's UTF-8 into character offsets, in one pass."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        self._is_ascii = len(self._bytes) == len(text)
        self._byte = self._character = 0

    def at(self, byte: int) -> int:
        if self._is_ascii:
            return byte
        self._character += len(self._bytes[self._byte : byte].decode())
        self._byte = byte
        return self._character
