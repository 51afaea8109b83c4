"""The metadata of a change: TOML in the line comments of its first block, in the manner of PEP 723.

Not for: the statements. Invariant: every error names the line and column of the file, not of the TOML inside it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backout.change.durations import parse_duration
from backout.change.model import Batching, DataClass, Declaration, Metadata, OwnTests
from backout.change.nearest import suggest
from backout.change.parameters import NAME, TYPES, describe, is_constant, parse
from backout.errors import InvalidFile, Position
from backout.sql.model import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEXT_KEYS = ("title", "request", "requested_by", "author", "risk", "mitigation", "backout")
_KEYS = (
    *_TEXT_KEYS, "batch", "date", "links", "data", "dialect", "env", "idempotent", "limits", "network", "outbound",
    "parameters",
    "repeat", "run", "session", "test", "tracking",
)  # fmt: skip
_LIMITS = ("total", "idle", "statement")
TRACKING = ("files", "summary")
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class _Block:
    """The lines of the TOML without their comment prefix, and where they stand."""

    file: str
    first_line: int  # of the opening line
    lines: tuple[str, ...]
    widths: tuple[int, ...]  # characters that the comment prefix took from each line

    @property
    def last_line(self) -> int:
        return self.first_line + len(self.lines) + 1

    def error(self, message: str, row: int = -1, column: int = 0, hint: str | None = None) -> InvalidFile:
        """`row` and `column` count from 0 in the TOML; row -1 is the opening line."""
        width = self.widths[row] if 0 <= row < len(self.widths) else 0
        return InvalidFile(message, Position(self.file, self.first_line + 1 + row, width + column + 1), hint=hint)

    def key_error(self, message: str, key: str, hint: str | None = None) -> InvalidFile:
        """Return an error at the line that sets `key`; at the opening line when it is spelled some other way."""
        pattern = re.compile(rf"\s*\[?\s*[\"']?(?={re.escape(key)}\b)")
        for row, line in enumerate(self.lines):
            if match := pattern.match(line):
                return self.error(message, row, match.end(), hint)
        return self.error(message, hint=hint)


def read_metadata(text: str, prefix: str, file: str) -> Metadata:
    """Return the metadata of a change file whose line comments begin with `prefix`; InvalidFile otherwise."""
    block = _find(text, prefix, file)
    table = _toml(block)
    for key in table:
        if key not in _KEYS:
            raise block.key_error(f'unknown key "{key}"', key, suggest(key, _KEYS))
    for key in _TEXT_KEYS:
        if not isinstance(table.get(key, ""), str):
            raise block.key_error(f'key "{key}" must be text', key, f'{key} = "…"')
    if not table.get("title", "").strip():
        hint = f'{prefix} title = "What this change does, in one sentence"'
        raise block.key_error('the metadata has no "title"', "title", hint)
    for key in ("idempotent", "repeat", "session"):
        if not isinstance(table.get(key, False), bool):
            raise block.key_error(f'key "{key}" must be true or false', key, f"{key} = true")
    if "date" in table and (isinstance(table["date"], datetime) or not isinstance(table["date"], date)):
        raise block.key_error('key "date" must be a date', "date", "date = 2026-11-21")
    links = table.get("links", [])
    if not isinstance(links, list) or not all(isinstance(one, str) for one in links):
        raise block.key_error('key "links" must be a list of texts', "links", 'links = ["https://…"]')
    fixed, declared = _parameters(block, table.get("parameters", {}))
    return Metadata(
        **{key: table[key] for key in _TEXT_KEYS if key in table},
        date=table.get("date"),
        links=tuple(links),
        data=DataClass(_choice(block, table, "data", [one.value for one in DataClass], "internal")),
        dialect=Dialect(table["dialect"]) if _choice(block, table, "dialect", [one.value for one in Dialect]) else None,
        run=_command(block, table),
        batch=_batch(block, table),
        env=_variables(block, table),
        network=_choice(block, table, "network", ["endpoint", "open"]) or None,
        outbound=_choice(block, table, "outbound", ["handled"]) or None,
        limits=_limits(block, table.get("limits", {})),
        idempotent=table.get("idempotent", False),
        repeat=table.get("repeat", False),
        session=table.get("session", False),
        tracking=_tracking(block, table),
        parameters=fixed,
        declarations=declared,
        tests=_tests(block, table["test"]) if "test" in table else None,
        first_line=block.first_line,
        last_line=block.last_line,
    )


def _command(block: _Block, table: Mapping[str, Any]) -> tuple[str, ...]:
    words = table.get("run", [])
    if not isinstance(words, list) or not all(isinstance(one, str) and one for one in words):
        raise block.key_error('key "run" must be a list of words', "run", 'run = ["bin/rails", "runner", "{file}"]')
    return tuple(words)


def _batch(block: _Block, table: Mapping[str, Any]) -> Batching | None:
    if "batch" not in table:
        return None
    given = table["batch"]
    hint = 'batch = {table = "referral", by = "id"}; by = ["a", "b"] and size = 1000 are possible'
    if not table.get("run") or table.get("session"):
        hint = "write @batch before the statement, or for batch in db.batches(…) in a change in Python"
        raise block.key_error('key "batch" is for a program, which says `run`', "batch", hint)
    if not isinstance(given, dict) or given.keys() - {"table", "by", "size"}:
        raise block.key_error('key "batch" is not understood', "batch", hint)
    by, name, size = given.get("by"), given.get("table"), given.get("size")
    columns = [one.strip() for one in by.split(",")] if isinstance(by, str) else by
    named = isinstance(columns, list) and all(isinstance(one, str) and one for one in columns)
    sized = size in (None, "auto") or (type(size) is int and size > 0)
    if not isinstance(name, str) or not name.strip() or not named or not columns or not sized:
        raise block.key_error('key "batch" is not understood', "batch", hint)
    if len(set(columns)) < len(columns):
        raise block.key_error('key "batch" names a column twice', "batch", hint)
    row = next((at for at, line in enumerate(block.lines) if re.match(r"\s*\[?\s*batch\b", line)), 0)
    return Batching(name, tuple(columns), size if isinstance(size, int) else None, block.first_line + 1 + row)


def _tracking(block: _Block, table: Mapping[str, Any]) -> str | None:
    if "tracking" not in table:
        return None
    found = _choice(block, table, "tracking", list(TRACKING))
    if table.get("data") == DataClass.PHI.value:
        hint = "take it out: their images stay in the rescue schema"
        raise block.key_error("rows that are PHI are not written into tracking files", "tracking", hint)
    return found


def _variables(block: _Block, table: Mapping[str, Any]) -> Mapping[str, str]:
    found = table.get("env", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise block.key_error(
            'key "env" must be a table of texts', "env", 'env = {DB_HOST = "{host}", DB_PORT = "{port}"}'
        )
    return found


def _limits(block: _Block, table: Any) -> dict[str, timedelta]:
    hint = 'limits = {total = "30 min", idle = "5 min", statement = "1 min"}'
    if not isinstance(table, dict):
        raise block.key_error('key "limits" must be a table', "limits", hint)
    found = {}
    for key, value in table.items():
        duration = parse_duration(value)
        if key not in _LIMITS or duration is None:
            problem = (
                f'"limits" has an unknown key "{key}"' if key not in _LIMITS else f'"{key}" is not a length of time'
            )
            raise block.key_error(problem, "limits", hint)
        found[key] = duration
    return found


def _tests(block: _Block, table: Any) -> OwnTests:
    known = ("schema", "seed", "file", "parameters")
    if not isinstance(table, dict):
        raise block.key_error('key "test" must be a table', "test", 'write [test], then schema = "schema.sql"')
    for key, value in table.items():
        if key not in known:
            raise block.key_error(f'unknown key "{key}" in [test]', key, suggest(key, known))
        if key == "parameters":
            if not isinstance(value, dict) or not all(is_constant(one) for one in value.values()):
                hint = '[test.parameters], then cutoff = "2026-11-14"'
                raise block.key_error('key "parameters" in [test] must be a table of values', key, hint)
        elif not isinstance(value, str) or not value.strip() or value.startswith("/"):
            message = f'key "{key}" in [test] must be a path relative to the change'
            raise block.key_error(message, key, f'{key} = "tests/{key}.sql"')
    if "schema" not in table:
        hint = 'schema = "schema.sql": the tables that the change is about, as CREATE TABLE statements'
        raise block.key_error('[test] has no "schema"', "test", hint)
    return OwnTests(**table)


def minimal_block(prefix: str) -> str:
    """Return the smallest valid block, for a hint."""
    return f'{prefix} /// change\n{prefix} title = "What this change does, in one sentence"\n{prefix} ///'


def _find(text: str, prefix: str, file: str) -> _Block:
    lines = text.split("\n")
    start = _opening(lines, prefix)
    if start is None:
        hint = f"begin the file with:\n{minimal_block(prefix)}"
        raise InvalidFile("no metadata block before the first statement", Position(file, 1, 1), hint=hint)
    content: list[str] = []
    widths: list[int] = []
    for line in lines[start + 1 :]:
        if not line.startswith(prefix):
            break
        inner = line[len(prefix) :]
        if inner.strip() == "///":
            return _Block(file, start + 1, tuple(content), tuple(widths))
        content.append(inner.removeprefix(" "))
        widths.append(len(line) - len(content[-1]))
    hint = f'end it with a line "{prefix} ///"'
    raise InvalidFile("the metadata block has no end", Position(file, start + 1, 1), hint=hint)


def _opening(lines: Sequence[str], prefix: str) -> int | None:
    """Return the index of the line that opens the block; only comments and empty lines may stand before it."""
    pattern = re.compile(rf"{re.escape(prefix)}[ \t]*///[ \t]*change[ \t]*")
    for index, line in enumerate(lines):
        if pattern.fullmatch(line):
            return index
        if line.strip() and not line.startswith(prefix):
            return None
    return None


def _toml(block: _Block) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(block.lines) + "\n")
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = _TOML_PLACE.search(message)
        message = _TOML_PLACE.sub("", message)
        row, column = len(block.lines), 0
        if match and match[1]:
            row, column = int(match[1]) - 1, int(match[2]) - 1
        raise block.error(f"not valid TOML: {message[:1].lower()}{message[1:]}", row, column) from None
    except RecursionError:
        raise block.error("not valid TOML: nested too deeply") from None


def _choice(block: _Block, table: Mapping[str, Any], key: str, known: list[str], default: str = "") -> str:
    value = table.get(key, default)
    if value == default or value in known:
        return str(value)
    raise block.key_error(f'key "{key}" may not be "{value}"', key, suggest(str(value), known))


def _parameters(block: _Block, table: Any) -> tuple[dict[str, Any], dict[str, Declaration]]:
    if not isinstance(table, dict):
        raise block.key_error('key "parameters" must be a table', "parameters", "write [parameters], then name = value")
    fixed: dict[str, Any] = {}
    declared: dict[str, Declaration] = {}
    for name, value in table.items():
        if not NAME.fullmatch(name):
            raise block.key_error(f'parameter "{name}" is not a name', name, "use letters, digits and underscores")
        if not isinstance(value, dict):
            if not is_constant(value):
                raise block.key_error(f'parameter "{name}" is neither a value nor a list of one type', name)
            fixed[name] = value
        elif (declaration := _declaration(block, name, value)) is not None:
            declared[name] = declaration
        else:
            fixed[name] = _fixed(block, name, value)
    return fixed, declared


def _declaration(block: _Block, name: str, table: Mapping[str, Any]) -> Declaration | None:
    """Return the declaration of a value that differs per environment; None for one that is given here."""
    for key in table:
        if key not in ("type", "per_environment", "value"):
            hint = suggest(key, ("type", "per_environment", "value"))
            raise block.key_error(f'parameter "{name}" has an unknown key "{key}"', name, hint)
    if table.get("type") not in TYPES:
        problem = f'the unknown type "{table["type"]}"' if "type" in table else "no type"
        raise block.key_error(f'parameter "{name}" has {problem}', name, suggest(str(table.get("type", "")), TYPES))
    if ("value" in table) == (table.get("per_environment", False) is True):
        hint = f'{name} = {{type = "{table["type"]}", per_environment = true}}, or with value = … instead'
        raise block.key_error(f'parameter "{name}" needs either a value or per_environment = true', name, hint)
    return None if "value" in table else Declaration(table["type"])


def _fixed(block: _Block, name: str, table: Mapping[str, Any]) -> Any:
    try:
        return parse(table["type"], table["value"])
    except ValueError:
        message = f'the value of parameter "{name}" is not of type "{table["type"]}"'
        raise block.key_error(message, name, f"write {describe(table['type'])}") from None
