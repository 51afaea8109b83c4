"""The types of parameters, and the values that a text on the command line or in the file stands for.

Not for: which parameters a change has (`metadata`), nor which values a run gets (`bind`).
Invariant: no message carries a value, since a parameter may be private.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _numeric(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError("not finite")
    return value


_TYPES: dict[str, tuple[type, str, Callable[[str], Any]]] = {
    "bool": (bool, "true or false", _bool),
    "date": (date, "a date such as 2026-11-14", date.fromisoformat),
    "int": (int, "an integer such as 42", int),
    "numeric": (Decimal, "a number such as 1.50", _numeric),
    "text": (str, "text", str),
    "timestamp": (datetime, "a time such as 2026-11-14T09:30:00+01:00", datetime.fromisoformat),
}
TYPES = tuple(_TYPES) + tuple(f"{name}[]" for name in _TYPES)


def describe(type_name: str) -> str:
    """Return what a value of this type looks like."""
    if type_name.endswith("[]"):
        return f"a list with commas, each {_TYPES[type_name[:-2]][1]}"
    return _TYPES[type_name][1]


def parse(type_name: str, value: Any) -> Any:
    """Return `value` as this type: text is parsed, a value of the type is kept; ValueError otherwise."""
    if type_name.endswith("[]"):
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("not a list")
        return [parse(type_name[:-2], item.strip() if isinstance(item, str) else item) for item in items]
    python_type, _, from_text = _TYPES[type_name]
    if isinstance(value, str):
        try:
            return from_text(value)
        except (KeyError, InvalidOperation) as error:
            raise ValueError("not of this type") from error
    if type_name == "numeric" and type(value) in (int, float):
        return _numeric(str(value))
    if type(value) is not python_type:  # exactly: a bool is an int, and a datetime is a date
        raise ValueError("not of this type")
    return value


def is_constant(value: Any) -> bool:
    """Whether a TOML value can be bound as it is: a scalar, or a list of scalars of one type."""
    if isinstance(value, list):
        return bool(value) and len({type(item) for item in value}) == 1 and is_constant(value[0])
    return isinstance(value, bool | int | float | str | date | datetime)
