"""What a Python change must look like before it is run: it parses, and defines `apply(db)`.

Not for: running it. Invariant: nothing of the file is executed.
"""

from __future__ import annotations

import ast
import warnings

from backout.errors import InvalidFile, Position

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
