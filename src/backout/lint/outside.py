"""Rule `outside`: functions of known extensions that act outside of the database, and cannot be taken back.

Not for: `dblink` and functions of PostgreSQL itself, which the room `sql` refuses (`forbidden`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backout.lint.model import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backout.change.model import Change, Step

# Bare names, since an extension can be installed into any schema; pg_net and pg_cron own theirs.
_BARE = re.compile(r"http|http_(get|post|put|patch|delete|head)|aws_(s3|lambda)\w*|lambda_invoke|pg_background_\w+")
_QUALIFIED = re.compile(r"(net\.http_\w+|cron\.\w+|aws_s3\.\w+|aws_lambda\.\w+|pgmq\.\w+|pgagent\.\w+)")


def check(_change: Change, step: Step) -> Iterator[Finding]:
    """Yield one finding per function that reaches outside."""
    statement = step.statement
    for name in statement.functions:
        if _QUALIFIED.fullmatch(name) or _BARE.fullmatch(name.rpartition(".")[2]):
            yield Finding("outside", Level.NOT_UNDOABLE, f'function "{name}" acts outside of the database',
                          "do it by hand after the run", statement.line, statement.column)  # fmt: skip
