"""SQLite text to statements. Parameters stay `:name`, which SQLite binds itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.sql.model import Script, Statement
from backout.sql.pieces import script_of
from backout.sql.source import Source
from backout.sql.sqlite_facts import Scope, judge
from backout.sql.sqlite_scan import scan
from backout.sql.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def read(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> list[Statement]:
    """Return the statements of `text`; InvalidFile, with the place, where one cannot be classified."""
    return list(read_script(text, parameters, file, first_line).statements)


def read_script(text: str, parameters: Collection[str], file: str, first_line: int = 1) -> Script:
    """Return the statements of `text` and the comments that follow the last one."""
    source, scope = Source(text, file, first_line), Scope()
    source.check_characters()
    return script_of(source, scan(source), lambda tokens: judge(source, tokens, scope), parameters, _ends)


def _ends(tokens: Sequence[Token]) -> bool:
    """Whether a semicolon here ends the statement: a trigger ends only at `; END` (sqlite3_complete)."""
    words = [token for token in tokens[:3] if not token.is_word("TEMP", "TEMPORARY")]
    is_trigger = len(words) > 1 and words[0].is_word("CREATE") and words[1].is_word("TRIGGER")
    return not is_trigger or (tokens[-1].is_word("END") and tokens[-2].text == ";")
