"""What generated programs may be made of on an engine: keys, triggers, statements. See `programs.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Key:
    """One kind of key: its columns with their types, literals of the first column, more of that column's definition."""

    columns: Sequence[tuple[str, str]]
    literals: Sequence[str]
    more: str = ""
    declared: bool = True  # PRIMARY KEY (columns)
    identifies: bool = True  # what backout tells rows by; False: it has to take them as a multiset
    lines: Sequence[str] = ()  # more lines of the table
    numbered: bool = False  # the database numbers the rows, and the column may be left out
    overriding: str = ""  # between columns and VALUES, where the number is said all the same
    referable: bool = True  # foreign keys can name it


@dataclass(frozen=True)
class Grammar:
    """The vocabulary of one engine."""

    keys: Mapping[str, Key]
    usual: Sequence[str]  # kinds of keys that are drawn more often
    text: str  # {column} as text
    third: str  # a condition on {column} that holds for about every third value; {rest} is 0, 1 or 2
    set_target: str  # {table}, {column} on the left of "=" in SET
    assignable: Sequence[str] = ()  # what may be on the right of it beside literals
    empty: str = "INSERT INTO {table} DEFAULT VALUES"
    table_options: Sequence[str] = ("",)
    triggers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # name -> statements on {table}
    trigger_states: Sequence[str] = ("",)  # {table}, {trigger}
    preamble: Sequence[str] = ()
    unique: Sequence[str] = ("",)  # what may follow "u INTEGER UNIQUE"
    doubled: Sequence[str] = ()  # definitions of a generated column that is twice the column "n"
    more: Sequence[str] = ()  # statements: {into}, {table}, {sets}, {where}
    check_now: Sequence[str] = ()  # has deferred constraints checked at once
    refusals: str = r"(?!)"  # messages with which a program may be refused, nothing being written; the default: none
