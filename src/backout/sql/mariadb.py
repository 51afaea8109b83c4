"""MariaDB text to statements. Parameters stay `:name`; the engine puts their values in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.sql.mariadb_facts import Scope, judge
from backout.sql.mariadb_scan import scan
from backout.sql.model import Script, Statement
from backout.sql.pieces import script_of
from backout.sql.source import Source
from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Collection


def read(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> list[Statement]:
    """Return the statements of `text`; InvalidFile, with the place, where one cannot be classified."""
    return list(read_script(text, parameters, file, first_line).statements)


def read_script(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> Script:
    """Return the statements of `text` and the comments that follow the last one."""
    source, scope = Source(text, file, first_line), Scope()
    source.check_characters()
    return script_of(source, scan(source), lambda tokens: judge(source, tokens, scope), parameters)


def tokens_of(text: str) -> list[Token]:
    """The tokens of one statement, without comments; for the engine. InvalidFile where it cannot be read."""
    comments = (TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT)
    return [token for token in scan(Source(text, "statement")) if token.kind not in comments]


def without_parameters(text: str) -> str:
    """The text with NULL in the place of each placeholder of a script; InvalidFile where it cannot be read."""
    parts, at = [], 0
    for token in tokens_of(text):
        if token.kind is TokenKind.PARAMETER:
            parts += [text[at : token.start], "NULL"]
            at = token.end
    return "".join([*parts, text[at:]])
