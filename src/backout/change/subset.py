"""A subset of what a change is about: `--subset "id <= 100"` or `--subset "50 rows"` to a condition on the declared key.

Not for: where the condition stands in a statement (`sql/subset.py`). Invariant: what a person typed is parsed into
comparisons of the one declared key with literals, and written anew from these; no other SQL gets through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.errors import InvalidFile, Position, Refused, UsageError
from backout.sql.words import FIRST, LATER

if TYPE_CHECKING:
    from backout.change.model import Change, Step
    from backout.sql.model import Dialect

MOST_ROWS = 10_000  # keys are written into the statement one by one; beyond, a range says the same in one line
_ROWS = re.compile(r"\s*([\d_]+)\s+rows?\s*", re.IGNORECASE)
_TOKEN = re.compile(
    rf"""\s*(?: (?P<number>[+-]?\d+(?:\.\d+)?(?![\w.])) | (?P<text>'(?:[^'\\]|'')*')
      | (?P<quoted>"(?:[^"]|"")+") | (?P<word>{FIRST}{LATER}*)
      | (?P<sign><=|>=|<>|!=|[=<>(),]) )""",
    re.VERBOSE,
)
_FORMS = 'write "50 rows", or compare the key with literals: id <= 100, id BETWEEN 1 AND 9, id IN (1, 2), joined by AND'


@dataclass(frozen=True)
class Comparison:
    """One comparison of the key: `operator` is =, <>, <, <=, >, >=, BETWEEN or IN; literals as SQL."""

    operator: str
    literals: tuple[str, ...]

    def sql(self, column: str, *, private: bool = False) -> str:
        """The comparison as SQL; with `private` its literals are hidden."""
        literals = ("•••",) * len(self.literals) if private else self.literals
        if self.operator == "IN":
            return f"{column} IN ({'•••' if private else ', '.join(literals)})" if literals else "1 = 0"
        return f"{column} {self.operator} {' AND '.join(literals)}"


@dataclass(frozen=True)
class Subset:
    """Which keys: the `rows` first of those that match, or those of which all `comparisons` are true."""

    key: str
    rows: int | None = None
    comparisons: tuple[Comparison, ...] = ()

    def condition(self, column: str, *, private: bool = False) -> str:
        """The comparisons as SQL."""
        return " AND ".join(one.sql(column, private=private) for one in self.comparisons)

    def described(self, *, private: bool) -> str:
        """The subset as it is recorded; of PHI without a value of the key."""
        if self.rows is None:
            return self.condition(self.key, private=private)
        return f"{self.rows} {'row' if self.rows == 1 else 'rows'} by {self.key}"

    def of(self, literals: Sequence[str]) -> Subset:
        """The subset of exactly these keys."""
        return Subset(self.key, None, (Comparison("IN", tuple(literals)),))


def subset_of(change: Change, text: str) -> Subset:
    """Return the subset that `text` means for this change.

    Errors: Refused where the change does not declare what it is about, UsageError for the text; nothing was touched.
    """
    key = _declared_key(change)
    rows = _ROWS.fullmatch(text)
    if rows is None:
        return Subset(key, None, tuple(_Parser(text, key).comparisons()))
    count = int(rows[1].replace("_", "") or 0)
    if not 0 < count <= MOST_ROWS:
        raise UsageError(f"a subset has 1 to {MOST_ROWS:,} rows, not {count:,}", hint=f'or give a range: "{key} <= …"')
    return Subset(key, count)


def check_subsets(steps: Sequence[Step], dialect: Dialect, file: str) -> None:
    """Raise InvalidFile for a `@subset` whose statement cannot be limited."""
    from backout.sql.restrict import NotRestrictable
    from backout.sql.subset import limitable

    for step in steps:
        if step.subset is None or step.statement.objection is not None:
            continue
        try:
            limitable(dialect, step.statement, step.subset.table, step.subset.by)
        except NotRestrictable as refused:
            place = Position(file, step.statement.line, step.statement.column)
            message = f"this statement cannot be limited to a subset: {refused.reason}"
            raise InvalidFile(message, place, hint=refused.hint) from None


def _declared_key(change: Change) -> str:
    hint = "write -- @subset TABLE by=KEY before each UPDATE and DELETE, or run all of it"
    declared = [step.subset for step in change.steps if step.subset is not None]
    if not declared:
        raise Refused("subset", f'change "{change.identifier}" does not say what a subset of it is', hint=hint)
    for step in change.steps:
        targets = [one for one in step.statement.targets if (one.schema or "").lower() not in ("pg_temp", "temp")]
        if targets and step.subset is None:
            place = f"{change.path}:{step.statement.line}"
            message = f'{place}: this statement writes "{targets[0].table}" and has no @subset: it would run in full'
            raise Refused("subset", message, hint=hint)
        if step.batching is not None:
            raise Refused("subset", f'change "{change.identifier}" runs in batches', hint="use a smaller change")
    keys = dict.fromkeys(one.by for one in declared)
    if len(keys) > 1:
        message = f'the statements of "{change.identifier}" have subsets by several keys: {", ".join(keys)}'
        raise Refused("subset", message, hint="declare one key, or make a change of each")
    return next(iter(keys))


class _Parser:
    """`key <= 100 AND key IN (1, 2)` to comparisons."""

    def __init__(self, text: str, key: str) -> None:
        self._key = key
        self._tokens = list(self._scanned(text))
        self._at = 0

    def comparisons(self) -> Iterator[Comparison]:
        while True:
            yield self._comparison()
            if self._at == len(self._tokens):
                return
            self._take("word", "AND")

    def _scanned(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise UsageError(f"the subset is not understood from character {at + 1} on", hint=_FORMS)
            yield match.lastgroup, match[match.lastgroup]
            at = match.end()

    def _comparison(self) -> Comparison:
        self._column()
        kind, text = self._next()
        if kind == "sign" and text in ("=", "<>", "!=", "<", "<=", ">", ">="):
            return Comparison("<>" if text == "!=" else text, (self._literal(),))
        if kind == "word" and text.upper() == "BETWEEN":
            low = self._literal()
            self._take("word", "AND")
            return Comparison("BETWEEN", (low, self._literal()))
        if kind == "word" and text.upper() == "IN":
            self._take("sign", "(")
            literals = [self._literal()]
            while (separator := self._next()) == ("sign", ","):
                literals.append(self._literal())
            if separator == ("sign", ")"):
                return Comparison("IN", tuple(literals))
        raise UsageError("the subset is not understood after the key", hint=_FORMS)

    def _column(self) -> None:
        kind, text = self._next()
        name = text[1:-1].replace('""', '"') if kind == "quoted" else text.lower() if kind == "word" else None
        if name != self._key and not (kind == "word" and text == self._key):
            raise UsageError(f'the subset is about something else than the declared key "{self._key}"', hint=_FORMS)

    def _literal(self) -> str:
        kind, text = self._next()
        if kind not in ("number", "text"):
            raise UsageError(f'the subset compares "{self._key}" with something else than a literal', hint=_FORMS)
        return text

    def _take(self, kind: str, word: str) -> None:
        found = self._next()
        if (found[0], found[1].upper()) != (kind, word):
            raise UsageError(f'the subset is not understood where "{word}" was expected', hint=_FORMS)

    def _next(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise UsageError("the subset ends too early", hint=_FORMS)
        self._at += 1
        return self._tokens[self._at - 1]
