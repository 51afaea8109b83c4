"""The values of a change's parameters for one run.

Not for: putting them into statements, which the database does. Invariant: no message carries a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backout.change.nearest import suggest
from backout.change.parameters import describe, parse
from backout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backout.change.model import Change, Expectation


def bind(change: Change, values: Mapping[str, Any], environment: str) -> Mapping[str, Any]:
    """Return the value of every parameter; `values` are those of this environment, as text or already typed.

    Errors: UsageError for a parameter that is missing, unknown, given twice or not of its type; nothing was touched.
    """
    fixed, declared = change.metadata.parameters, change.metadata.declarations
    for name in values:
        if name in fixed:
            hint = f'in the file, make it {name} = {{type = "…", per_environment = true}}'
            raise UsageError(f'parameter "{name}" of change "{change.identifier}" is the same everywhere', hint=hint)
        if name not in declared:
            hint = suggest(name, declared) if declared else "it has no parameters that differ per environment"
            raise UsageError(f'change "{change.identifier}" has no parameter "{name}"', hint=hint)
    bound = dict(fixed)
    for name, declaration in declared.items():
        if name not in values:
            raise UsageError(
                f'parameter "{name}" of change "{change.identifier}" has no value for "{environment}"',
                hint=f"give it {describe(declaration.type)}: --param {name}=…",
            )
        try:
            bound[name] = parse(declaration.type, values[name])
        except ValueError:
            message = f'parameter "{name}" of change "{change.identifier}" is not of type "{declaration.type}"'
            raise UsageError(message, hint=f"give it {describe(declaration.type)}") from None
    return bound


def bounds(expectation: Expectation, values: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the greatest number of rows; UsageError where a parameter is no number of rows."""
    low, high = (_bound(bound, values) for bound in (expectation.low, expectation.high))
    if low > high:
        raise UsageError(
            f'the "@expect" in line {expectation.line} can never be met: its lower bound is above its upper bound',
            hint="give its parameters other values",
        )
    return low, high


def _bound(bound: int | str, values: Mapping[str, Any]) -> int:
    value = bound if isinstance(bound, int) else values[bound]
    if type(value) is not int or value < 0:
        raise UsageError(f'parameter "{bound}" is not a number of rows', hint='declare it with type = "int"')
    return value
