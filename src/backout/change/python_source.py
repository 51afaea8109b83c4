"""What a Python change must look like before it is run: it parses, and defines `apply(db)`.

Not for: running it. Invariant: nothing of the file is executed.
"""

from __future__ import annotations

import ast
import warnings

from backout.change.model import Batching
from backout.errors import InvalidFile, Position

_BATCHES_HINT = 'write what it says out: for batch in db.batches("table", by="id"): …, by=("a", "b") or size=1000'
_APPLY_HINT = "define it at the top level:\ndef apply(db):\n    db.execute(…)"


def check_python(text: str, file: str) -> None:
    """Raise InvalidFile, with the place, when `text` is not a Python change."""
    module = _parse(text, file)
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if "apply" not in functions:
        raise InvalidFile('the change does not define "apply"', Position(file, 1, 1), hint=_APPLY_HINT)
    for name in ("apply", "check"):
        if name in functions:
            _check_function(functions[name], file)


def batching_of(text: str, file: str) -> Batching | None:
    """What `apply` says of its batches, in its one call of `db.batches(…)`; None: it has none. InvalidFile for another."""
    functions = [node for node in _parse(text, file).body if isinstance(node, ast.FunctionDef) and node.name == "apply"]
    arguments = [one.arg for function in functions for one in (*function.args.posonlyargs, *function.args.args)][:1]
    calls = [
        node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "batches"
        and isinstance(node.func.value, ast.Name) and [node.func.value.id] == arguments
    ]  # fmt: skip
    for call in calls[1:]:
        place = Position(file, call.lineno, call.col_offset + 1)
        raise InvalidFile("a second call of db.batches", place, hint="make a change of its own of it")
    return _batching(calls[0], file) if calls else None


def _batching(call: ast.Call, file: str) -> Batching:
    place = Position(file, call.lineno, call.col_offset + 1)
    given: dict[str, object] = {}
    try:
        given = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
        given |= {name: ast.literal_eval(one) for name, one in zip(("table", "by", "size"), call.args, strict=False)}
    except (ValueError, TypeError):  # what is no literal, or cannot be one
        raise InvalidFile("db.batches is not understood", place, hint=_BATCHES_HINT) from None
    by = (given.get("by"),) if isinstance(given.get("by"), str) else given.get("by")
    table, size = given.get("table"), given.get("size")
    named = isinstance(by, tuple | list) and all(isinstance(one, str) for one in by) and len({*by}) == len(by) > 0
    sized = size is None or (type(size) is int and size > 0)
    too_much = given.keys() - {"table", "by", "size"} or len(call.args) > 3
    if not isinstance(table, str) or not named or not sized or too_much:
        raise InvalidFile("db.batches is not understood", place, hint=_BATCHES_HINT)
    assert isinstance(by, tuple | list)
    return Batching(table, tuple(by), size if isinstance(size, int) else None, call.lineno)


def _parse(text: str, file: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # what a linter says of the file is not ours to repeat
            return ast.parse(text, filename=file)
    except SyntaxError as error:
        place = Position(file, max(error.lineno or 1, 1), max(error.offset or 1, 1))
        raise InvalidFile(f"not valid Python: {error.msg}", place) from None
    except (RecursionError, MemoryError, ValueError):
        raise InvalidFile("not valid Python: nested too deeply", Position(file, 1, 1)) from None


def _check_function(function: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> None:
    place = Position(file, function.lineno, function.col_offset + 1)
    if isinstance(function, ast.AsyncFunctionDef):
        raise InvalidFile(f'function "{function.name}" is async', place, hint=f"write def {function.name}(db):")
    arguments = function.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    takes_one = (arguments.posonlyargs or arguments.args or arguments.vararg) and required <= 1
    if not takes_one or len(arguments.kwonlyargs) > sum(default is not None for default in arguments.kw_defaults):
        message = f'function "{function.name}" must take the database as its one argument'
        raise InvalidFile(message, place, hint=f"write def {function.name}(db):")
