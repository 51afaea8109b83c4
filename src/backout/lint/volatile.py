"""Rule `volatile`: a write whose rows may differ from one run to the next, so that a ghost run foretells less.

Not for: the undo, which is exact: it takes back what was changed, not what the predicate would match again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level
from backout.sql.model import Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step

_RANDOM = frozenset({
    "random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "randomblob", "uuid_generate_v1",
    "uuid_generate_v4", "rand", "uuid", "uuid_short", "random_bytes", "sys_guid",
})  # fmt: skip
_CLOCK = frozenset({
    "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "current_date",
    "current_time", "current_timestamp", "localtime", "localtimestamp", "age", "unixepoch",
    "sysdate", "curdate", "curtime", "utc_date", "utc_time", "utc_timestamp", "unix_timestamp",
})  # fmt: skip
_TRAITS = {Trait.SAMPLE: "TABLESAMPLE", Trait.LIMIT_WITHOUT_ORDER: "LIMIT without ORDER BY"}


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield a note for each part of a write that may come out differently."""
    statement = step.statement
    if statement.kind is not Kind.WRITE:
        return
    bare = {name.removeprefix("pg_catalog."): None for name in statement.functions}
    parts = [f"{name}()" for name in bare if name in _RANDOM | _CLOCK]
    parts += [text for trait, text in _TRAITS.items() if trait in statement.traits]
    for part in parts:
        yield Finding("volatile", Level.EXACT, f"{part} may give another result in each run",
                      "the undo is exact; but a ghost run may touch other rows or values than the run",
                      statement.line, statement.column)  # fmt: skip
